use std::mem;
use std::task::{Context, Poll};

use buttress::BoxError;
use bytes::Bytes;
use http_body::Body;
use reqwest::{ResponseBuilderExt, Url};
use tower_service::Service;

use crate::body::request_body;
use crate::error::judged;
use crate::future::ResponseFuture;

/// A `reqwest::Client` as the innermost service of a stack: `http::Request` in, `http::Response` out.
///
/// It is always ready. Redirects, cookies, TLS and proxies stay reqwest's, beneath the stack: a chain of redirects is one
/// attempt, and reqwest's own time-outs bound an attempt each. `reqwest::Response::from(response)` gives reqwest's response
/// with its URL.
///
/// Bodies that are in memory are handed over as bytes, so that reqwest can repeat them; others stream.
///
/// ```
/// use buttress_reqwest::ReqwestService;
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # async fn run() -> Result<(), buttress::BoxError> {
/// let stack = buttress::http("datadog").datadog().build()?;
/// let client = ServiceBuilder::new().layer(stack).service(ReqwestService::new(reqwest::Client::new()));
///
/// let request = http::Request::get("http://127.0.0.1:8126/api/v1/validate").body(reqwest::Body::default())?;
/// let response = reqwest::Response::from(client.oneshot(request).await?);
/// println!("{} {}", response.status(), response.url());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// reqwest's own, found with `find::<reqwest::Error>(&*error)`.
#[derive(Clone, Debug, Default)]
pub struct ReqwestService {
    client: reqwest::Client,
}

impl ReqwestService {
    /// A service over this client.
    pub fn new(client: reqwest::Client) -> Self {
        Self { client }
    }

    /// The client.
    pub fn get_ref(&self) -> &reqwest::Client {
        &self.client
    }

    /// The client.
    pub fn into_inner(self) -> reqwest::Client {
        self.client
    }
}

impl From<reqwest::Client> for ReqwestService {
    fn from(client: reqwest::Client) -> Self {
        Self::new(client)
    }
}

impl<B> Service<http::Request<B>> for ReqwestService
where
    B: Body + Send + Sync + Unpin + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<reqwest::Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> ResponseFuture {
        match request.map(request_body).try_into() {
            Ok(request) => ResponseFuture::calling(self.client.call(request)),
            Err(error) => ResponseFuture::failed(judged(error)),
        }
    }
}

/// The response as `http` has it, and its URL with it.
pub(crate) fn into_http(response: reqwest::Response) -> http::Response<reqwest::Body> {
    let url = response.url().clone();
    with_url(http::Response::from(response), url)
}

/// The response with this URL for `reqwest::Response::from`, unless it has one.
pub(crate) fn with_url<B>(mut response: http::Response<B>, url: Url) -> http::Response<B> {
    let mut builder = http::Response::builder().url(url);
    if let Some(extensions) = builder.extensions_mut() {
        extensions.extend(mem::take(response.extensions_mut()));
        *response.extensions_mut() = mem::take(extensions);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_the_last_hop_stays() {
        let url = |path: &str| Url::parse(&format!("http://api{path}")).unwrap();
        let response = with_url(http::Response::new("x"), url("/last"));
        let response = with_url(response, url("/first"));
        assert_eq!(*reqwest::Response::from(response).url(), url("/last"));
    }
}
