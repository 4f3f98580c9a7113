use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::{Backoff, BoxError, Carried};
use buttress_http::ReplayBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

/// Gives a transport of tonic's the bodies that it takes: what lies above works with bodies that can be sent again. Put it
/// below everything else.
#[derive(Clone, Copy, Debug, Default)]
pub struct TonicBodyLayer;

impl<S> Layer<S> for TonicBodyLayer {
    type Service = TonicBody<S>;

    fn layer(&self, inner: S) -> TonicBody<S> {
        TonicBody(inner)
    }
}

/// Boxes request bodies as tonic does; made by [`TonicBodyLayer`].
#[derive(Clone, Debug)]
pub struct TonicBody<S>(S);

impl<S, B> Service<Request<ReplayBody<B>>> for TonicBody<S>
where
    S: Service<Request<Body>>,
    B: http_body::Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<ReplayBody<B>>) -> S::Future {
        let (head, body) = request.into_parts();
        let body = match body.try_into_bytes() {
            Ok(message) => Body::new(Whole(Some(message))),
            Err(body) => Body::new(body),
        };
        self.0.call(Request::from_parts(head, body))
    }
}

/// A request's body that is in memory. Its length is not told: that would become a header, which gRPC has no use for.
struct Whole(Option<Bytes>);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let message = self.get_mut().0.take().filter(|message| !message.is_empty());
        Poll::Ready(message.map(|message| Ok(Frame::data(message))))
    }

    /// Not before it has been asked for, if it is empty: gRPC ends a request in a frame of data.
    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// A stack under a client that tonic generates, with a name that is short: `GreeterClient<GrpcStack>`.
///
/// It boxes the stack, its futures and its response bodies, as tonic's own `Channel` does. Cloning it clones the stack.
pub struct GrpcStack(Box<dyn Boxed>);

type BoxFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

/// A service that can be cloned in its box.
trait Boxed: Send + Sync {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>>;
    fn call(&mut self, request: Request<Body>) -> BoxFuture;
    fn cloned(&self) -> Box<dyn Boxed>;
}

impl GrpcStack {
    /// Boxes this service. Its errors are turned into statuses, unless they are already.
    pub fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Box::new(crate::StatusLayer.layer(service)))
    }
}

impl<S, B> Boxed for crate::StatusService<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Service::poll_ready(self, cx)
    }

    fn call(&mut self, request: Request<Body>) -> BoxFuture {
        let future = Service::call(self, request);
        Box::pin(async { Ok(future.await?.map(Body::new)) })
    }

    fn cloned(&self) -> Box<dyn Boxed> {
        Box::new(self.clone())
    }
}

impl Clone for GrpcStack {
    fn clone(&self) -> Self {
        Self(self.0.cloned())
    }
}

impl fmt::Debug for GrpcStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GrpcStack")
    }
}

impl Service<Request<Body>> for GrpcStack {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> BoxFuture {
        self.0.call(request)
    }
}

/// Limits and a key of a call's own, for the stack that it will pass through.
///
/// ```
/// use buttress_grpc::CallExt;
///
/// let request = tonic::Request::new("a message").repeatable().with_max_retries(4);
/// # let _ = request;
/// ```
pub trait CallExt: Sized {
    /// Retries this call at most so often, in place of the stack's own limit, which may be lower; 0 sends it once.
    #[must_use]
    fn with_max_retries(self, max_retries: u32) -> Self;

    /// Waits so before retries of this call, in place of the stack's own delays; what the server asks for still counts.
    #[must_use]
    fn with_backoff(self, backoff: Backoff) -> Self;

    /// Gives this call so much time in all, in place of the total deadline's own limit. The server is not told; of
    /// `tonic::Request::set_timeout` it is, and the stack obeys that, too.
    #[must_use]
    fn with_time_limit(self, limit: Duration) -> Self;

    /// Gives each attempt at this call so much time, in place of the attempt deadline's own limit.
    #[must_use]
    fn with_attempt_limit(self, limit: Duration) -> Self;

    /// Says that applying this call several times is the same as applying it once.
    #[must_use]
    fn repeatable(self) -> Self;

    /// Says that the server recognises a repetition of this call by this key, wherever in the message it is. No metadata is
    /// set.
    #[must_use]
    fn with_idempotency_key(self, key: impl Into<Arc<str>>) -> Self;
}

impl<T> CallExt for tonic::Request<T> {
    fn with_max_retries(self, max_retries: u32) -> Self {
        carrying(self, |carried| carried.max_retries = Some(max_retries))
    }

    fn with_backoff(self, backoff: Backoff) -> Self {
        carrying(self, |carried| carried.backoff = Some(Arc::new(backoff)))
    }

    fn with_time_limit(self, limit: Duration) -> Self {
        carrying(self, |carried| carried.time_limit = Some(limit))
    }

    fn with_attempt_limit(self, limit: Duration) -> Self {
        carrying(self, |carried| carried.attempt_limit = Some(limit))
    }

    fn repeatable(self) -> Self {
        carrying(self, |carried| carried.repeatable = true)
    }

    fn with_idempotency_key(self, key: impl Into<Arc<str>>) -> Self {
        carrying(self, |carried| carried.idempotency_key = Some(key.into()))
    }
}

fn carrying<T>(mut request: tonic::Request<T>, change: impl FnOnce(&mut Carried)) -> tonic::Request<T> {
    change(request.extensions_mut().get_or_insert_default());
    request
}

/// How many attempts it took to get this response. Of a call that failed without an answer of the server
/// `find::<Exhausted>(&status)` says it.
pub fn attempts<T>(response: &tonic::Response<T>) -> u32 {
    response.extensions().get::<Carried>().map_or(1, |carried| carried.attempt.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;

    /// What reads a body asks after each frame: then the end of the stream goes with the message.
    #[test]
    fn a_message_ends_its_stream_and_an_empty_request_has_a_frame_of_its_own() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (message, frame) in [("message", Some("message")), ("", None)] {
            let mut body = Whole(Some(Bytes::from_static(message.as_bytes())));
            assert!(!body.is_end_stream() && body.size_hint().exact().is_none(), "{message:?}");
            let Poll::Ready(polled) = Pin::new(&mut body).poll_frame(&mut cx) else { panic!("it is there") };
            let polled = polled.map(|frame| frame.unwrap().into_data().unwrap());
            assert_eq!(polled.as_deref(), frame.map(str::as_bytes));
            assert!(body.is_end_stream());
            assert!(matches!(Pin::new(&mut body).poll_frame(&mut cx), Poll::Ready(None)));
        }
    }
}
