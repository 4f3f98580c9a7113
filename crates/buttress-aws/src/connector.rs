use std::fmt;
use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};

use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use buttress::BoxError;
use bytes::Bytes;
use http_body::Body;
use tower_service::Service;

use crate::body::sdk_body;
use crate::code::unnamed;
use crate::error::to_connector_error;

/// A stack as the SDK calls it.
pub(crate) struct StackConnector<S> {
    /// Behind a lock, since a service need not be `Sync`.
    service: Mutex<S>,
}

impl<S> StackConnector<S> {
    pub(crate) fn new(service: S) -> Self {
        Self { service: Mutex::new(service) }
    }
}

impl<S> fmt::Debug for StackConnector<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackConnector").finish_non_exhaustive()
    }
}

impl<S, B> HttpConnector for StackConnector<S>
where
    S: Service<http::Request<SdkBody>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError> + 'static,
{
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let service = self.service.lock().unwrap_or_else(PoisonError::into_inner).clone();
        HttpConnectorFuture::new(call(service, request))
    }
}

/// Makes the service ready and calls it.
async fn call<S, B>(mut service: S, request: HttpRequest) -> Result<HttpResponse, ConnectorError>
where
    S: Service<http::Request<SdkBody>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError> + 'static,
{
    let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
    let ready = poll_fn(|cx| service.poll_ready(cx)).await;
    ready.map_err(|error| to_connector_error(error.into()))?;
    let response = service.call(request).await.map_err(|error| to_connector_error(error.into()))?;
    let response = HttpResponse::try_from(unnamed(response).map(sdk_body));
    response.map_err(|error| ConnectorError::other(error.into(), None))
}
