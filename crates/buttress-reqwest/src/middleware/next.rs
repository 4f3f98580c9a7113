use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress::core::Judged;
use buttress::{BoxError, Verdict};
use bytes::Bytes;
use http_body::Body;
use tower_service::Service;

use super::courier::{Courier, Waiting};
use super::error::Detached;
use crate::body::request_body;

/// The innermost service of a [`StackMiddleware`](crate::StackMiddleware): what lies beneath the stack, which are further
/// middlewares and the client.
///
/// It is always ready, holds nothing, and works within a call of its middleware only: elsewhere it fails with
/// [`Detached`].
#[derive(Clone, Copy, Debug)]
pub struct NextService {
    _made_here: (),
}

impl NextService {
    pub(crate) fn new() -> Self {
        Self { _made_here: () }
    }
}

impl<B> Service<http::Request<B>> for NextService
where
    B: Body + Send + Sync + Unpin + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<reqwest::Body>;
    type Error = BoxError;
    type Future = NextFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<B>) -> NextFuture {
        let courier = request.extensions_mut().remove::<Courier>();
        NextFuture { waiting: courier.and_then(|courier| courier.send(request.map(request_body))) }
    }
}

/// The response of a [`NextService`]. Dropping it ends the attempt.
#[derive(Debug)]
pub struct NextFuture {
    waiting: Option<Waiting>,
}

impl Future for NextFuture {
    type Output = Result<http::Response<reqwest::Body>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = match &mut self.waiting {
            Some(waiting) => ready!(waiting.poll(cx)),
            None => None,
        };
        Poll::Ready(match reply {
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => resume_unwind(panic),
            None => Err(Judged::new(Verdict::Ignored, Detached::new()).into()),
        })
    }
}
