use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::{Backoff, BoxError, ConfigError, within};
use buttress_heal::BoxFuture;
use buttress_http::{ReplayBody, RequestExt, Vendor};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use tower_layer::Layer;
use tower_service::Service;

use crate::stack::HttpLayer;

/// Sends JSON to one URL, through a stack of its own.
#[derive(Clone)]
pub(super) struct Post {
    name: &'static str,
    url: Uri,
    headers: HeaderMap,
    secret: Option<Arc<str>>,
    send: Arc<Sending>,
}

/// What becomes of a request: `None` once it was taken, else what the answer says.
type Sending =
    dyn Fn(Request<Full<Bytes>>) -> BoxFuture<'static, Result<Option<String>, BoxError>> + Send + Sync;

/// The whole of a call; a supervisor gives a pager 10 s.
const TOTAL: Duration = Duration::from_secs(8);
const ATTEMPT: Duration = Duration::from_millis(3500);

/// What is read of an answer.
const READ: usize = 4096;

impl Post {
    /// With hyper, over TLS with Mozilla's roots, or plain where the URL says so.
    pub(super) fn with_hyper(name: &'static str, url: &str, vendor: Vendor) -> Result<Self, ConfigError> {
        // The provider is named, because rustls has no default one where a build has two.
        let provider = rustls::crypto::ring::default_provider();
        let tls = HttpsConnectorBuilder::new().with_provider_and_webpki_roots(provider);
        let tls = tls.map_err(|error| ConfigError::new("tls", name, format!("cannot be set up: {error}")))?;
        let connector: HttpsConnector<HttpConnector> = tls.https_or_http().enable_http1().build();
        let mut client = Client::builder(TokioExecutor::new());
        // Pages are rare: a connection of the last one is more likely dead than not.
        client.pool_timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(30));
        Self::over(client.build::<_, ReplayBody<Full<Bytes>>>(connector), name, url, vendor)
    }

    pub(super) fn over<S, B>(
        client: S,
        name: &'static str,
        url: &str,
        vendor: Vendor,
    ) -> Result<Self, ConfigError>
    where
        S: Service<Request<ReplayBody<Full<Bytes>>>, Response = Response<B>, Error: Into<BoxError>>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let url = parse(url)?;
        let client = stack(name, vendor)?.layer(client);
        let send = move |request| -> BoxFuture<'static, Result<Option<String>, BoxError>> {
            let mut client = client.clone();
            Box::pin(async move {
                poll_fn(|cx| client.poll_ready(cx)).await?;
                Ok(judge(client.call(request).await?).await)
            })
        };
        Ok(Self { name, url, headers: HeaderMap::new(), secret: None, send: Arc::new(send) })
    }

    pub(super) fn set_url(&mut self, url: &str) -> Result<(), ConfigError> {
        self.url = parse(url)?;
        Ok(())
    }

    /// Sends this header with each request.
    pub(super) fn add_header(&mut self, name: http::HeaderName, mut value: HeaderValue) {
        value.set_sensitive(true);
        self.headers.append(name, value);
    }

    /// Never shows this in an error, should an answer repeat it.
    pub(super) fn hide(&mut self, secret: Arc<str>) {
        self.secret = Some(secret);
    }

    /// `Ok` once it was taken. `key` is that of the event: its repetitions do nothing.
    pub(super) async fn send(
        &self,
        kind: &'static str,
        key: String,
        headers: HeaderMap,
        event: &Value,
    ) -> Result<(), BoxError> {
        let mut request = Request::new(Full::from(event.to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.headers_mut().extend(self.headers.clone());
        request.headers_mut().extend(headers);
        let refused = match (self.send)(request.with_idempotency_key(key)).await {
            Ok(None) => return Ok(()),
            Ok(Some(text)) => match &self.secret {
                Some(secret) => text.replace(&**secret, "[not shown]").into(),
                None => text.into(),
            },
            Err(error) => error,
        };
        Err(Box::new(NotTaken { by: self.name, kind, source: refused }))
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").field("host", &self.url.host()).finish_non_exhaustive()
    }
}

/// A pager did not take what it was told.
#[derive(Debug)]
struct NotTaken {
    by: &'static str,
    kind: &'static str,
    source: BoxError,
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} pager did not get a {} through", self.by, self.kind)
    }
}

impl Error for NotTaken {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

fn parse(url: &str) -> Result<Uri, ConfigError> {
    let absolute = url
        .parse::<Uri>()
        .ok()
        .filter(|url| url.host().is_some() && matches!(url.scheme_str(), Some("http" | "https")));
    // Not shown: a webhook's URL is often all that it takes to use it.
    absolute.ok_or_else(|| {
        ConfigError::new(
            "url",
            format_args!("[not shown]"),
            "must begin with https:// or http:// and name a host",
        )
    })
}

fn stack(name: &'static str, vendor: Vendor) -> Result<HttpLayer, ConfigError> {
    let backoff = Backoff::exponential(Duration::from_millis(500), 2.0, Duration::from_secs(2))?;
    crate::http(name)
        .pagerduty()
        .vendor(vendor)
        .total(TOTAL)
        .attempt(ATTEMPT)
        .map_retry(|retry| retry.max_retries(3).backoff(backoff).retry_refused(false).rate_gate(true))
        .build()
}

/// What the answer says, if it is not that the event was taken.
async fn judge<B>(response: Response<B>) -> Option<String>
where
    B: Body<Error: Into<BoxError>>,
{
    let status = response.status();
    let body = within(Duration::from_secs(1), Limited::new(response.into_body(), READ).collect()).await;
    if status.is_success() {
        return None;
    }
    let text = match body {
        Some(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).trim().chars().take(300).collect(),
        _ => String::new(),
    };
    let says = if text.is_empty() { "" } else { ": " };
    Some(format!("it answered HTTP {status}{says}{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_about_the_stack_looks_wrong() {
        let stack = stack("pagerduty", Vendor::PagerDuty).unwrap();
        assert!(stack.explain().warnings().is_empty(), "{}", stack.explain());
    }

    #[test]
    fn a_url_without_a_host_is_an_error_that_does_not_show_it() {
        for url in ["", "hooks.example/secret", "/secret", "ftp://secret.example/", "https://"] {
            let error = Post::with_hyper("webhook", url, Vendor::Generic).unwrap_err().to_string();
            assert_eq!(
                error,
                "`url` is [not shown], but must begin with https:// or http:// and name a host"
            );
        }
        let post = Post::with_hyper("webhook", "https://hooks.example/secret", Vendor::Generic).unwrap();
        assert_eq!(format!("{post:?}"), r#"Post { host: Some("hooks.example"), .. }"#);
    }
}
