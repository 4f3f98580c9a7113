use std::task::{Context, Poll};

use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use buttress::BoxError;
use bytes::Bytes;
use http_body::Body;
use tower_service::Service;

use crate::body::sdk_body;
use crate::error::judged;
use crate::future::ResponseFuture;

/// A connector of the SDK's as the innermost service of a stack: `http::Request` in, `http::Response` out.
///
/// It is always ready. Where the body of an error names its code and no header does, it adds the `x-amzn-errortype` header
/// for the layers; [`StackHttpClient`](crate::StackHttpClient) takes it off again.
///
/// # Errors
///
/// A `ConnectorError`, found with `find::<ConnectorError>(&*error)`.
#[derive(Clone, Debug)]
pub struct ConnectorService {
    connector: SharedHttpConnector,
}

impl ConnectorService {
    /// A service over this connector.
    pub fn new(connector: SharedHttpConnector) -> Self {
        Self { connector }
    }
}

impl<B> Service<http::Request<B>> for ConnectorService
where
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Response = http::Response<SdkBody>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> ResponseFuture {
        match HttpRequest::try_from(request.map(sdk_body)) {
            Ok(request) => ResponseFuture::calling(self.connector.call(request)),
            Err(error) => ResponseFuture::failed(judged(ConnectorError::user(error.into()))),
        }
    }
}
