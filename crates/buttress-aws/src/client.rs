use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError as SdkBoxError;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::runtime_components::{RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_runtime_api::shared::IntoShared;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::retry::RetryConfig;
use buttress::{BoxError, Explanation, HttpLayer};
use bytes::Bytes;
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::connector::StackConnector;
use crate::service::ConnectorService;

/// An HTTP client of the AWS SDK with a stack around it.
///
/// The SDK asks for a connector before every attempt; this client has one for each pair of connect and read time-outs, and
/// the stack is built once for each of those. State that lives in the layer, as that of all Buttress's layers does, is
/// shared by all of them, and by all clones: one circuit for each `StackHttpClient`, however many SDK clients use it.
///
/// ```
/// # fn build(client: aws_smithy_runtime_api::client::http::SharedHttpClient) -> Result<(), buttress::ConfigError> {
/// use buttress_aws::StackHttpClient;
///
/// let http_client = StackHttpClient::new(client, buttress::http("sqs").aws_sdk().build()?);
/// # Ok(())
/// # }
/// ```
pub struct StackHttpClient<L> {
    shared: Arc<Shared<L>>,
}

struct Shared<L> {
    inner: SharedHttpClient,
    layer: L,
    connectors: Mutex<HashMap<Settings, SharedHttpConnector>>,
    /// How many attempts the SDK makes, as far as it has said.
    sdk_attempts: AtomicU32,
}

/// Connect and read time-out.
type Settings = (Option<Duration>, Option<Duration>);

impl<L> StackHttpClient<L> {
    /// This layer around the client that the SDK would use otherwise.
    pub fn new(client: impl IntoShared<SharedHttpClient>, layer: L) -> Self {
        let sdk_attempts = AtomicU32::new(RetryConfig::standard().max_attempts());
        let shared =
            Shared { inner: client.into_shared(), layer, connectors: Mutex::default(), sdk_attempts };
        Self { shared: Arc::new(shared) }
    }

    /// The layer.
    pub fn layer(&self) -> &L {
        &self.shared.layer
    }
}

impl<B, A, C> StackHttpClient<HttpLayer<B, A, C>> {
    /// What the stack does, and what looks wrong about it: above all that the SDK retries too (`B008`).
    ///
    /// How often the SDK retries is known from the last client that was built, or operation that was called, with this HTTP
    /// client. Before that the SDK's default is assumed: three attempts.
    pub fn explain(&self) -> Explanation {
        let attempts = self.shared.sdk_attempts.load(Ordering::Relaxed);
        self.shared.layer.explain().beneath("AWS's SDK", attempts)
    }
}

impl<L> Clone for StackHttpClient<L> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<L> fmt::Debug for StackHttpClient<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackHttpClient").field("inner", &self.shared.inner).finish_non_exhaustive()
    }
}

impl<L> Shared<L> {
    fn note(&self, config: &ConfigBag) {
        if let Some(retry) = config.load::<RetryConfig>() {
            let attempts = if retry.has_retry() { retry.max_attempts() } else { 1 };
            self.sdk_attempts.store(attempts, Ordering::Relaxed);
        }
    }
}

impl<L, B> HttpClient for StackHttpClient<L>
where
    L: Layer<ConnectorService> + Send + Sync,
    L::Service: Service<http::Request<SdkBody>, Response = http::Response<B>> + Clone + Send + 'static,
    <L::Service as Service<http::Request<SdkBody>>>::Error: Into<BoxError>,
    <L::Service as Service<http::Request<SdkBody>>>::Future: Send,
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError> + 'static,
{
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let Shared { inner, layer, connectors, .. } = &*self.shared;
        let key = (settings.connect_timeout(), settings.read_timeout());
        let mut connectors = connectors.lock().unwrap_or_else(PoisonError::into_inner);
        let connector = connectors.entry(key).or_insert_with(|| {
            let service = ConnectorService::new(inner.http_connector(settings, components));
            SharedHttpConnector::new(StackConnector::new(layer.layer(service)))
        });
        connector.clone()
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), SdkBoxError> {
        self.shared.note(config);
        self.shared.inner.validate_base_client_config(components, config)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), SdkBoxError> {
        self.shared.note(config);
        self.shared.inner.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.shared.inner.connector_metadata()
    }
}
