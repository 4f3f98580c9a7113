//! Layers of a test's own over what lies beneath a stack that works in place.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use buttress::BoxError;
use buttress_reqwest::{InPlaceBody, InPlaceService, StackMiddleware};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware};
use tower::{Layer, Service};

pub(crate) type Request = http::Request<reqwest::Body>;
pub(crate) type Response = http::Response<InPlaceBody>;
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Over a bare client.
pub(crate) fn over<L>(layer: L) -> ClientWithMiddleware
where
    L: Layer<InPlaceService>,
    StackMiddleware<L::Service>: Middleware,
{
    ClientBuilder::new(reqwest::Client::new()).with(StackMiddleware::in_place(layer)).build()
}

/// A layer that does this with the service inside and a request.
#[derive(Clone)]
pub(crate) struct By<F>(pub(crate) F);

impl<F: Clone> Layer<InPlaceService> for By<F> {
    type Service = Does<F>;

    fn layer(&self, inner: InPlaceService) -> Does<F> {
        Does(self.0.clone(), inner)
    }
}

#[derive(Clone)]
pub(crate) struct Does<F>(F, InPlaceService);

impl<F, B> Service<Request> for Does<F>
where
    F: FnMut(InPlaceService, Request) -> BoxFuture<http::Response<B>>,
{
    type Response = http::Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<http::Response<B>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        (self.0)(self.1, request)
    }
}
