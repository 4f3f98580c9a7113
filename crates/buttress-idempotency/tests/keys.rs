//! Keys of parallel attempts, and keys in bodies.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::Backoff;
use buttress_idempotency::{IdempotencyKeyLayer, Stamp, stamp_fn};
use buttress_retry::{Budget, Config, RetryLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceExt, service_fn};

/// What was received, by whom.
type Received = Arc<Mutex<Vec<(String, String)>>>;

/// Sends each request to two replicas of one target at once, and to another target as well, and takes the first answer.
fn hedging<S>(
    server: S,
) -> impl Service<Request<Full<Bytes>>, Response = Response<()>, Error = S::Error> + Clone
where
    S: Service<Request<Full<Bytes>>, Response = Response<()>> + Clone,
{
    service_fn(move |request: Request<Full<Bytes>>| {
        let (server, mut other) = (server.clone(), request.clone());
        *other.uri_mut() = "https://fallback.example.org/charges".parse().unwrap();
        async move {
            let (first, second, third) = tokio::join!(
                server.clone().oneshot(request.clone()),
                server.clone().oneshot(request),
                server.clone().oneshot(other)
            );
            first.or(second).or(third)
        }
    })
}

/// IB-4
#[tokio::test(start_paused = true)]
async fn parallel_attempts_at_one_target_have_one_key_and_another_target_has_its_own() {
    let received = Received::default();
    let seen = Arc::clone(&received);
    let server = service_fn(move |request: Request<Full<Bytes>>| {
        let key = request.headers()["idempotency-key"].to_str().unwrap().to_owned();
        seen.lock().unwrap().push((request.uri().host().unwrap().to_owned(), key));
        async { Ok::<_, Infallible>(Response::new(())) }
    });
    // One layer makes the key of the call; one before each target looks after what goes there.
    let keys = IdempotencyKeyLayer::http();
    let stack = keys.layer(hedging(keys.layer(server)));
    let post = || Request::post("https://api.example.com/charges").body(Full::from("100")).unwrap();
    stack.clone().oneshot(post()).await.unwrap();
    stack.oneshot(post()).await.unwrap();
    let received = received.lock().unwrap();
    let of = |host: &str| -> Vec<&String> {
        received.iter().filter(|(at, _)| at == host).map(|(_, key)| key).collect()
    };
    let (target, fallback) = (of("api.example.com"), of("fallback.example.org"));
    assert_eq!((target.len(), fallback.len()), (4, 2));
    assert_eq!((target[0], target[2]), (target[1], target[3]), "the replicas of a target know one key");
    assert_ne!(target[0], target[2], "the next call has another");
    assert!(fallback.iter().all(|key| !target.contains(key)), "{received:?}");
    assert_ne!(fallback[0], fallback[1]);
}

/// A key in a field of a JSON body.
fn field(name: &'static str) -> impl Stamp<Value> + Clone {
    stamp_fn(
        move |body: &Value| body.get(name)?.as_str(),
        move |body: &mut Value, key| body[name] = key.into(),
    )
}

/// IB-1, IB-3, in bodies: PagerDuty's `dedup_key`, AWS's `ClientToken` and `ClientRequestToken`.
#[tokio::test(start_paused = true)]
async fn a_key_in_a_body_is_the_same_at_each_attempt_and_never_overwritten() {
    for name in ["dedup_key", "ClientToken", "ClientRequestToken"] {
        let received: Arc<Mutex<Vec<Value>>> = Arc::default();
        let seen = Arc::clone(&received);
        let api = service_fn(move |body: Value| {
            seen.lock().unwrap().push(body);
            let first = seen.lock().unwrap().len() == 1;
            async move { if first { Err(std::io::Error::other("reset")) } else { Ok(()) } }
        });
        let config = Config::background()
            .backoff(Backoff::constant(Duration::from_millis(10)))
            .budget(Budget::unlimited());
        let stack =
            IdempotencyKeyLayer::new(field(name)).layer(RetryLayer::new("api", config).unwrap().layer(api));
        stack.clone().oneshot(json!({ "summary": "disk full" })).await.unwrap();
        stack.oneshot(json!({ "summary": "disk full", name: "incident-42" })).await.unwrap();
        let received = received.lock().unwrap();
        let key = |at: usize| received[at][name].as_str().unwrap();
        assert_eq!((received.len(), key(0).len(), key(0)), (3, 36, key(1)), "{name}");
        assert_eq!(key(2), "incident-42");
    }
}
