//! Where a client's keys go, and which keys go anywhere.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::{Backoff, find};
use buttress_http::{Http, HttpReplay, ReplayBody, RequestExt};
use buttress_idempotency::{Error, HeaderKey, IdempotencyKeyLayer, InvalidKey};
use buttress_retry::{Budget, Config, RetryLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

type Sent = Request<Full<Bytes>>;

/// What arrives behind a layer of keys.
async fn through(layer: IdempotencyKeyLayer<HeaderKey>, request: Sent) -> Sent {
    layer.layer(service_fn(async |request| Ok::<Sent, Infallible>(request))).oneshot(request).await.unwrap()
}

fn post(uri: &str) -> Sent {
    Request::post(uri).body(Full::default()).unwrap()
}

/// The same request, to another place: what follows a redirect makes of it.
fn moved(request: &Sent, uri: &str) -> Sent {
    let mut request = request.clone();
    *request.uri_mut() = uri.parse().unwrap();
    request
}

fn key(request: &Sent) -> String {
    request.headers()["idempotency-key"].to_str().unwrap().to_owned()
}

async fn key_at(request: &Sent, uri: &str) -> String {
    key(&through(IdempotencyKeyLayer::http(), moved(request, uri)).await)
}

/// IB-4: an origin is scheme, host and port (RFC 9110 § 4.3.1).
#[tokio::test]
async fn another_scheme_host_or_port_is_another_origin_and_a_default_port_is_none() {
    let first = through(IdempotencyKeyLayer::http(), post("https://api.example.com/charges")).await;
    for same in
        ["https://api.example.com:443/v2", "https://API.example.com/charges", "https://u:p@api.example.com/"]
    {
        assert_eq!(key_at(&first, same).await, key(&first), "{same}");
    }
    let mut keys = vec![key(&first)];
    for other in [
        "http://api.example.com/charges",
        "https://api.example.com:8443/",
        "https://example.com/",
        "/charges",
    ] {
        keys.push(key_at(&first, other).await);
        assert_eq!(key_at(&first, other).await, *keys.last().unwrap(), "{other}");
    }
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 5);
}

/// IB-3, IB-4: it is the caller's, and not to be told to others either.
#[tokio::test]
async fn a_callers_own_key_stays_within_its_origin_too() {
    let mut own = post("https://api.example.com/charges");
    own.headers_mut().insert("idempotency-key", "order-42".parse().unwrap());
    let first = through(IdempotencyKeyLayer::http(), own).await;
    assert_eq!(key(&first), "order-42");
    assert_eq!(key_at(&first, "https://api.example.com/v2").await, "order-42");
    assert_ne!(key_at(&first, "https://example.org/charges").await, "order-42");
    let mut another = first.clone();
    another.headers_mut().insert("idempotency-key", "order-43".parse().unwrap());
    assert_eq!(key(&through(IdempotencyKeyLayer::http(), another).await), "order-43");
}

/// IB-4
#[tokio::test]
async fn a_request_that_comes_back_to_its_origin_has_the_key_that_is_known_there() {
    let first = through(IdempotencyKeyLayer::http(), post("https://a.example/")).await;
    let there = through(IdempotencyKeyLayer::http(), moved(&first, "https://b.example/")).await;
    let mut bare = there.clone();
    assert_ne!(key(&there), key(&first));
    assert_eq!(key_at(&there, "https://a.example/").await, key(&first));
    // Clients that follow redirects take it off.
    bare.headers_mut().remove("idempotency-key");
    assert_eq!(key_at(&bare, "https://a.example/").await, key(&first));
    assert_eq!(key_at(&bare, "https://b.example/").await, key(&there));
}

/// IB-4: a fallback to another target inside of a retry.
#[tokio::test(start_paused = true)]
async fn each_target_of_a_call_has_one_key_of_its_own_at_all_attempts() {
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&keys);
    let keyed = IdempotencyKeyLayer::http().layer(service_fn(move |request: Request<()>| {
        log.lock().unwrap().push(request.headers()["idempotency-key"].to_str().unwrap().to_owned());
        std::future::ready(Ok::<_, Infallible>(
            Response::builder().status(503).body(Full::<Bytes>::default()).unwrap(),
        ))
    }));
    let fallback = service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
        let keyed = keyed.clone();
        async move {
            let (parts, _) = request.into_parts();
            let at = |uri: &str| {
                let mut request = Request::new(());
                *request.method_mut() = parts.method.clone();
                *request.uri_mut() = uri.parse().unwrap();
                *request.extensions_mut() = parts.extensions.clone();
                request
            };
            keyed.clone().oneshot(at("https://a.example/")).await?;
            keyed.oneshot(at("https://b.example/")).await
        }
    });
    let config = Config::background()
        .max_retries(1)
        .backoff(Backoff::constant(Duration::from_millis(10)))
        .budget(Budget::unlimited());
    let retry = RetryLayer::new("api", config).unwrap().policy(Http::new()).replay(HttpReplay::new());
    ServiceBuilder::new()
        .layer(retry)
        .service(fallback)
        .oneshot(post("https://a.example/").repeatable())
        .await
        .unwrap();
    let keys = keys.lock().unwrap();
    assert_eq!((keys.len(), &keys[0], &keys[1]), (4, &keys[2], &keys[3]));
    assert_ne!(keys[0], keys[1]);
}

/// Without a key that the receiver can read, the call would be carried out at each attempt.
#[tokio::test]
async fn a_call_whose_made_key_is_none_is_not_made() {
    for (made, why) in [
        (String::new(), InvalidKey::Empty),
        ("k".repeat(256), InvalidKey::TooLong),
        ("order-1\n".into(), InvalidKey::Malformed),
        ("bestellung-ä".into(), InvalidKey::Malformed),
    ] {
        let keyed = IdempotencyKeyLayer::http()
            .made_by(move || made.clone())
            .layer(service_fn(async |_: Sent| Ok::<(), Infallible>(())));
        let error = keyed.oneshot(post("https://api.example.com/")).await.unwrap_err();
        assert!(matches!(find(&*error), Some(Error::KeyInvalid(is)) if *is == why), "{error}");
    }
}
