//! What stands below the layers, and the loop that drives them.

use std::future::Future;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::task::{Context, Poll, Waker};

use buttress_degrade::Degraded;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use tower::Service;

/// An error as small as they come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Down;

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("down")
    }
}

impl std::error::Error for Down {}

/// Answers after so many polls: at once, or after one [`Poll::Pending`], the honest stand-in for a network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf {
    pub(crate) pending: bool,
}

pub(crate) const READY: Leaf = Leaf { pending: false };
pub(crate) const PENDING: Leaf = Leaf { pending: true };

impl<Req> Service<Req> for Leaf {
    type Response = Req;
    type Error = Down;
    type Future = Answer<Req>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Down>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Answer<Req> {
        Answer { request: Some(request), pending: self.pending }
    }
}

#[derive(Debug)]
pub(crate) struct Answer<Req> {
    request: Option<Req>,
    pending: bool,
}

impl<Req> Unpin for Answer<Req> {}

impl<Req> Future for Answer<Req> {
    type Output = Result<Req, Down>;

    // As a client's is: code of somebody else's, which is not merged with the layers.
    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if self.pending {
            self.pending = false;
            return Poll::Pending;
        }
        Poll::Ready(self.request.take().ok_or(Down))
    }
}

/// Answers a request of HTTP as services do: with ten fields, and a body that it has already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpLeaf(pub(crate) Leaf);

impl<B> Service<Request<B>> for HttpLeaf {
    type Response = Response<Full<Bytes>>;
    type Error = Down;
    type Future = Answer<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Down>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, _: Request<B>) -> Self::Future {
        let mut response = Response::new(Full::new(Bytes::from_static(b"{\"status\":\"ok\"}")));
        let fields = [
            (header::CACHE_CONTROL, "private, max-age=60"),
            (header::CONTENT_ENCODING, "identity"),
            (header::CONTENT_LANGUAGE, "en"),
            (header::CONTENT_TYPE, "application/json"),
            (header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (header::ETAG, "\"6f1c2a9e\""),
            (header::SERVER, "bench"),
            (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
            (header::VARY, "accept-encoding"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        for (name, value) in fields {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        Answer { request: Some(response), pending: self.0.pending }
    }
}

/// Boxes the future of the service inside, as layers do that cannot name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boxed<S>(pub(crate) S);

impl<S, Req> Service<Req> for Boxed<S>
where
    S: Service<Req, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        Box::pin(self.0.call(request))
    }
}

/// What one would write by hand: another answer in the place of an error, and the answer in the type that says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped<S, T>(pub(crate) S, pub(crate) T);

impl<S, Req, T> Service<Req> for Mapped<S, T>
where
    S: Service<Req, Future: Unpin>,
    T: Fn(Option<S::Response>) -> Degraded<S::Response> + Copy,
{
    type Response = Degraded<S::Response>;
    type Error = S::Error;
    type Future = MappedAnswer<S::Future, T>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        MappedAnswer { inner: self.0.call(request), map: self.1 }
    }
}

#[derive(Debug)]
pub(crate) struct MappedAnswer<F, T> {
    inner: F,
    map: T,
}

impl<F, T> Unpin for MappedAnswer<F, T> {}

impl<F, T, Res, E> Future for MappedAnswer<F, T>
where
    F: Future<Output = Result<Res, E>> + Unpin,
    T: Fn(Option<Res>) -> Degraded<Res>,
{
    type Output = Result<Degraded<Res>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
        Poll::Ready(Ok((self.map)(result.ok())))
    }
}

/// What one would write by hand: an atomic, looked at before and after each call.
#[derive(Clone, Debug)]
pub(crate) struct AtomicCheck<S> {
    pub(crate) inner: S,
    pub(crate) failures: Arc<AtomicU64>,
}

impl<S: Service<Req>, Req> Service<Req> for AtomicCheck<S>
where
    S::Future: Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Checked<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        assert!(self.failures.load(Acquire) < 5, "open");
        Checked { inner: self.inner.call(request), failures: Arc::clone(&self.failures) }
    }
}

#[derive(Debug)]
pub(crate) struct Checked<F> {
    inner: F,
    failures: Arc<AtomicU64>,
}

impl<F: Future<Output = Result<Res, E>> + Unpin, Res, E> Future for Checked<F> {
    type Output = Result<Res, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
        if result.is_err() {
            self.failures.fetch_add(1, Release);
        } else if self.failures.load(Acquire) != 0 {
            self.failures.store(0, Release);
        }
        Poll::Ready(result)
    }
}

/// Calls a service so many times, with requests made on the spot; all of them end as expected.
pub(crate) fn calls<S, Req>(
    mut service: S,
    mut request: impl FnMut(u64) -> Req + 'static,
    succeed: bool,
) -> impl FnMut(u64) + 'static
where
    S: Service<Req> + 'static,
{
    move |calls| {
        let mut cx = Context::from_waker(Waker::noop());
        for call in 0..calls {
            assert!(service.poll_ready(&mut cx).is_ready());
            let outcome = finish(service.call(black_box(request(call))), &mut cx);
            assert_eq!(black_box(outcome).is_ok(), succeed);
        }
    }
}

/// The same with futures that do not come from a service.
pub(crate) fn futures<F, Res, E>(
    mut make: impl FnMut(u64) -> F + 'static,
    succeed: bool,
) -> impl FnMut(u64) + 'static
where
    F: Future<Output = Result<Res, E>>,
{
    move |calls| {
        let mut cx = Context::from_waker(Waker::noop());
        for call in 0..calls {
            let outcome = finish(make(black_box(call)), &mut cx);
            assert_eq!(black_box(outcome).is_ok(), succeed);
        }
    }
}

/// Pins the future where it was made, as `.await` does.
#[inline(always)]
fn finish<F: Future>(future: F, cx: &mut Context<'_>) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return output;
        }
    }
}
