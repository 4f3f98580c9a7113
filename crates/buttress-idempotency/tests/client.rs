//! Keys on the client's side.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use buttress_core::{Backoff, find};
use buttress_http::{Http, HttpReplay, RequestExt};
use buttress_idempotency::{HeaderKey, IdempotencyKeyLayer, KeyTooOld};
use buttress_retry::{Budget, Config, RetryLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

/// Fails so often, and then answers; remembers the keys.
#[derive(Clone, Default)]
struct Server {
    keys: Arc<Mutex<Vec<Option<String>>>>,
    failures: usize,
}

impl Server {
    fn failing(failures: usize) -> Self {
        Self { keys: Arc::default(), failures }
    }

    fn keys(&self) -> Vec<Option<String>> {
        self.keys.lock().unwrap().clone()
    }
}

impl<B> Service<Request<B>> for Server {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut keys = self.keys.lock().unwrap();
        keys.push(request.headers().get("idempotency-key").map(|key| key.to_str().unwrap().to_owned()));
        let status = if keys.len() <= self.failures { 503 } else { 201 };
        std::future::ready(Ok(Response::builder().status(status).body(Full::default()).unwrap()))
    }
}

fn retry() -> RetryLayer<Http, HttpReplay> {
    let config = Config::background()
        .backoff(Backoff::constant(Duration::from_millis(10)))
        .budget(Budget::unlimited());
    RetryLayer::new("api", config).unwrap().policy(Http::new()).replay(HttpReplay::new())
}

fn post() -> Request<Full<Bytes>> {
    Request::post("https://api.example.com/charges").body(Full::from("100")).unwrap()
}

/// IB-1, and IB-5: with a key it is retried.
#[tokio::test(start_paused = true)]
async fn all_attempts_of_a_call_have_one_key_and_the_next_call_another() {
    let server = Server::failing(2);
    let stack =
        ServiceBuilder::new().layer(IdempotencyKeyLayer::http()).layer(retry()).service(server.clone());
    assert_eq!(stack.clone().oneshot(post()).await.unwrap().status(), 201);
    stack.oneshot(post()).await.unwrap();
    let keys = server.keys();
    assert_eq!((keys.len(), &keys[0], &keys[1]), (4, &keys[1], &keys[2]));
    assert_ne!(keys[2], keys[3]);
}

/// IB-5
#[tokio::test(start_paused = true)]
async fn without_a_key_a_post_is_not_sent_again() {
    let server = Server::failing(2);
    let answer = retry().layer(server.clone()).oneshot(post()).await.unwrap();
    assert_eq!((answer.status().as_u16(), server.keys().len()), (503, 1));
}

/// IB-1: inside of a retry, too, whatever it is that lets the retry send again.
#[tokio::test(start_paused = true)]
async fn inside_of_a_retry_all_attempts_have_the_key_of_the_first() {
    let every = retry().replay(HttpReplay::new().every_method());
    for (retry, request) in [(retry(), post().repeatable()), (every, post())] {
        let server = Server::failing(2);
        let stack =
            ServiceBuilder::new().layer(retry).layer(IdempotencyKeyLayer::http()).service(server.clone());
        assert_eq!(stack.clone().oneshot(request).await.unwrap().status(), 201);
        stack.oneshot(post()).await.unwrap();
        let keys = server.keys();
        assert_eq!((keys.len(), &keys[0], &keys[1]), (4, &keys[1], &keys[2]));
        assert!(keys[0].is_some() && keys[2] != keys[3], "{keys:?}");
    }
}

/// IB-3
#[tokio::test(start_paused = true)]
async fn a_callers_own_key_is_left_alone() {
    let server = Server::default();
    let stack = IdempotencyKeyLayer::http().layer(server.clone());
    let mut own = post();
    own.headers_mut().insert("idempotency-key", "mine".parse().unwrap());
    stack.clone().oneshot(own).await.unwrap();
    stack.clone().oneshot(post().with_idempotency_key("in the body")).await.unwrap();
    stack.clone().oneshot(Request::get("/").body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(server.keys(), [Some("mine".to_owned()), None, None]);
}

/// IB-4, and a redirect: within the origin the same key, at another one a key of its own.
#[tokio::test(start_paused = true)]
async fn a_key_stays_within_the_origin_it_was_made_for() {
    let server = Server::default();
    let seen: Arc<Mutex<Option<Request<Full<Bytes>>>>> = Arc::default();
    let kept = Arc::clone(&seen);
    let keep = tower::service_fn(move |request: Request<Full<Bytes>>| {
        *kept.lock().unwrap() = Some(request.clone());
        server.clone().oneshot(request)
    });
    let stack = IdempotencyKeyLayer::http().layer(keep);
    let key = |request: &Request<Full<Bytes>>| request.headers()["idempotency-key"].clone();
    let sent = async |request: Request<Full<Bytes>>| {
        stack.clone().oneshot(request).await.unwrap();
        seen.lock().unwrap().take().unwrap()
    };
    let first = sent(post()).await;
    let to = |uri: &'static str| {
        let mut request = first.clone();
        *request.uri_mut() = uri.parse().unwrap();
        request
    };
    assert_eq!(key(&sent(to("https://api.example.com/v2/charges")).await), key(&first));
    let elsewhere = sent(to("https://replica.example.org/charges")).await;
    assert_ne!(key(&elsewhere), key(&first));
    assert_eq!(key(&sent(elsewhere.clone()).await), key(&elsewhere), "and again the same there");
}

/// IB-7
#[tokio::test(start_paused = true)]
async fn a_key_that_was_kept_before_sending_is_sent_again_after_a_restart() {
    let server = Server::default();
    let kept = buttress_idempotency::new_key();
    for _process in 0..2 {
        let stack = IdempotencyKeyLayer::http().layer(server.clone());
        let mut resumed = post();
        resumed.headers_mut().insert("idempotency-key", kept.parse().unwrap());
        stack.oneshot(resumed).await.unwrap();
    }
    assert_eq!(server.keys(), [Some(kept.clone()), Some(kept)]);
    let layer = IdempotencyKeyLayer::new(HeaderKey::new()).made_by(|| String::from("run-7/charge/1"));
    layer.layer(server.clone()).oneshot(post()).await.unwrap();
    assert_eq!(server.keys()[2].as_deref(), Some("run-7/charge/1"));
}

/// The service that was refused lives on, idle, with what it had reserved.
#[tokio::test(start_paused = true)]
async fn a_call_whose_key_is_refused_gives_back_what_readiness_had_reserved() {
    let inner = ConcurrencyLimitLayer::new(1).layer(Server::default());
    let layer = IdempotencyKeyLayer::new(HeaderKey::new()).made_by(|| String::from("no key\n"));
    let mut service = layer.layer(inner);
    let mut other = service.clone();
    let refused = ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).await.unwrap().call(post());
    let ready = ServiceExt::<Request<Full<Bytes>>>::ready(&mut other);
    let ready = tokio::time::timeout(Duration::from_millis(100), ready).await;
    assert!(ready.is_ok(), "still reserved");
    refused.await.unwrap_err();
}

/// IB-9
#[tokio::test(start_paused = true)]
async fn a_key_that_the_receiver_may_have_forgotten_is_not_sent() {
    let server = Server::default();
    let layer = IdempotencyKeyLayer::http().max_key_age(Duration::from_secs(86_400)).unwrap();
    let stack = layer.layer(server.clone());
    let made = |ago: u64| {
        let now = buttress_core::clock::wall().duration_since(UNIX_EPOCH).unwrap();
        let made = now - Duration::from_secs(ago);
        let time = uuid::Timestamp::from_unix(uuid::NoContext, made.as_secs(), made.subsec_nanos());
        let mut request = post();
        request
            .headers_mut()
            .insert("idempotency-key", uuid::Uuid::new_v7(time).to_string().parse().unwrap());
        request
    };
    let error = stack.clone().oneshot(made(86_500)).await.unwrap_err();
    assert!(find::<KeyTooOld>(&*error).unwrap().age >= Duration::from_secs(86_400), "{error}");
    stack.clone().oneshot(made(80_000)).await.unwrap();
    let mut other = post();
    other.headers_mut().insert("idempotency-key", "of unknown age".parse().unwrap());
    stack.oneshot(other).await.unwrap();
    assert_eq!(server.keys().len(), 2);
    let _: SystemTime = UNIX_EPOCH;
}
