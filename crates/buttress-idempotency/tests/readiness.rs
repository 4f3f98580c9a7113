//! What becomes of a key if the service inside is not ready after all.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use buttress_core::BoxError;
use buttress_idempotency::{Config, HttpKeys, Idempotency};
use buttress_store::Memory;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use http_body_util::channel::Channel;
use tower::{Layer, Service, ServiceExt};

#[derive(Clone, Default)]
struct Breakable {
    is_broken: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
}

impl<B> Service<Request<B>> for Breakable {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(if self.is_broken.load(Ordering::SeqCst) { Err("it is broken".into()) } else { Ok(()) })
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::SeqCst);
        ready(Ok(Response::new(Full::default())))
    }
}

/// For a request whose body comes in pieces.
async fn made_ready<S>(service: &mut S) -> &mut S
where
    S: Service<Request<Channel<Bytes, BoxError>>, Error: std::fmt::Debug>,
{
    service.ready().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_no_longer_ready_was_not_called_and_the_key_is_free_at_once() {
    let service = Breakable::default();
    let layer =
        Idempotency::new("readiness", Memory::new(), Config::new()).unwrap().layer(HttpKeys::http_default());
    let mut guarded = layer.layer(service.clone());
    let request = |body| Request::post("/charges").header("idempotency-key", "k1").body(body).unwrap();

    let (mut sender, slow) = Channel::<Bytes, BoxError>::new(1);
    let call = tokio::spawn(made_ready(&mut guarded).await.call(request(slow)));
    // It waits for the body, and has let go of the service, which breaks meanwhile.
    tokio::task::yield_now().await;
    service.is_broken.store(true, Ordering::SeqCst);
    sender.send_data("100".into()).await.unwrap();
    drop(sender);
    assert_eq!(call.await.unwrap().unwrap_err().to_string(), "it is broken");

    service.is_broken.store(false, Ordering::SeqCst);
    let (mut sender, again) = Channel::<Bytes, BoxError>::new(1);
    sender.send_data("100".into()).await.unwrap();
    drop(sender);
    let answer = made_ready(&mut guarded).await.call(request(again)).await.unwrap();
    assert_eq!((answer.status().as_u16(), service.calls.load(Ordering::SeqCst)), (200, 1));
}
