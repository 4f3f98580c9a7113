//! Layers of one's own in a stack: around each attempt, around each call.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::circuit_breaker::CircuitState;
use buttress::core::Carried;
use buttress::http::{BodyDeadlineLayer, ReplayBody};
use buttress::{BoxError, Elapsed, Exhausted, find};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::util::MapRequestLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Body = Full<Bytes>;
type Log = Arc<Mutex<Vec<String>>>;

/// Answers with these statuses in turn, the last one for ever, and notes the header `trail` and which attempt it is.
fn server(
    statuses: &'static [u16],
    log: &Log,
) -> impl Service<Request<ReplayBody<Body>>, Response = Response<Body>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let log = Arc::clone(log);
    service_fn(move |request: Request<ReplayBody<Body>>| {
        let mut log = log.lock().unwrap();
        let status = statuses[log.len().min(statuses.len() - 1)];
        let trail = request.headers().get("trail").map_or("", |trail| trail.to_str().unwrap());
        let attempt = request.extensions().get::<Carried>().map_or(0, |carried| carried.attempt);
        log.push(format!("{trail} {attempt}"));
        async move { Ok(Response::builder().status(status).body(Body::default())?) }
    })
}

/// Adds this to the header `trail`, and how often it has done so.
fn adds<B>(what: &'static str) -> MapRequestLayer<impl FnMut(Request<B>) -> Request<B> + Clone> {
    let times = Arc::new(Mutex::new(0));
    MapRequestLayer::new(move |mut request: Request<B>| {
        let mut times = times.lock().unwrap();
        *times += 1;
        let before = request.headers().get("trail").map_or("", |trail| trail.to_str().unwrap());
        let trail = HeaderValue::from_str(&format!("{before}{what}{times}")).unwrap();
        request.headers_mut().insert("trail", trail);
        request
    })
}

fn get() -> Request<Body> {
    Request::get("http://api/").body(Body::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_done_per_attempt_is_done_anew_and_what_is_done_per_call_is_done_once() {
    let log = Log::default();
    let layer = buttress::http("api")
        .background()
        .per_attempt(adds("c"))
        .per_call(adds::<Body>("a"))
        .per_attempt(adds("d"))
        .per_call(adds::<Body>("b"))
        .build()
        .unwrap();
    let client = layer.layer(server(&[503, 503, 200], &log));
    assert_eq!(client.clone().oneshot(get()).await.unwrap().status(), 200);
    assert_eq!(*log.lock().unwrap(), ["a1b1c1d1 0", "a1b1c2d2 2", "a1b1c3d3 3"]);
    let names: Vec<_> = layer.explain().layers().iter().map(|(name, _)| *name).collect();
    let order =
        ["per call", "deadline (total)", "retry", "per attempt", "circuit breaker", "deadline (attempt)"];
    assert_eq!(names, order);
    assert!(layer.explain().to_string().contains("MapRequestLayer, then MapRequestLayer"));
    let plain = buttress::http("api").build().unwrap();
    assert_eq!(plain.explain().layers().len(), 4, "nothing is said of what is not there");
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_attempts_is_not_held_while_a_call_waits_for_its_next_one() {
    let log = Log::default();
    let layer =
        buttress::http("api").background().per_attempt(ConcurrencyLimitLayer::new(1)).build().unwrap();
    let client = layer.layer(server(&[503, 200], &log));
    let first = tokio::spawn(client.clone().oneshot(get()));
    buttress_testkit::clock::settle().await;
    assert_eq!(log.lock().unwrap().len(), 1, "the first one waits for its second attempt");
    assert_eq!(client.clone().oneshot(get()).await.unwrap().status(), 200);
    assert!(!first.is_finished());
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    assert_eq!(log.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_a_layer_per_attempt_refuses_opens_no_circuit_and_a_dropped_call_gives_its_place_back() {
    let shed = ServiceBuilder::new().layer(LoadShedLayer::new()).layer(ConcurrencyLimitLayer::new(1));
    let layer = buttress::http("api").per_attempt(shed).build().unwrap();
    let client = layer.layer(service_fn(|_: Request<ReplayBody<Body>>| async {
        sleep(Duration::from_secs(1)).await;
        Ok::<_, BoxError>(Response::new(Body::default()))
    }));
    let first = tokio::spawn(client.clone().oneshot(get()));
    buttress_testkit::clock::settle().await;
    for _ in 0..10 {
        let error = client.clone().oneshot(get()).await.unwrap_err();
        assert!(find::<tower::load_shed::error::Overloaded>(&*error).is_some(), "{error}");
    }
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Closed);
    assert_eq!(layer.circuit_breaker().handle().metrics().consecutive_failures, 0);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(client.clone().oneshot(get()).await.unwrap().status(), 200, "the place is free");
}

/// An open circuit beneath it takes no place for longer than a refusal takes.
#[tokio::test(start_paused = true)]
async fn refusals_of_the_circuit_give_the_limits_place_back() {
    let layer = buttress::http("api").per_attempt(ConcurrencyLimitLayer::new(1)).build_per_host().unwrap();
    let client = layer.layer(server(&[200], &Log::default()));
    client.clone().oneshot(get()).await.unwrap();
    layer.circuit_breaker().get("api").unwrap().isolate();
    let mut one = client;
    for _ in 0..3 {
        one.ready().await.unwrap().call(get()).await.unwrap_err();
    }
    layer.circuit_breaker().get("api").unwrap().close();
    one.ready().await.unwrap().call(get()).await.unwrap();
}

type Streaming = Channel<Bytes, BoxError>;

#[tokio::test(start_paused = true)]
async fn a_circuit_that_watches_bodies_opens_when_they_break_off() {
    for (watch, state) in [(true, CircuitState::Open), (false, CircuitState::Closed)] {
        let client = service_fn(|_: Request<ReplayBody<Body>>| async {
            let (sender, body) = Streaming::new(1);
            sender.abort("connection reset".into());
            Ok::<_, BoxError>(Response::new(body))
        });
        let builder = buttress::http("api");
        let seen = if watch {
            let layer = builder.watch_bodies().build().unwrap();
            for _ in 0..5 {
                let response = layer.layer(client).oneshot(get()).await.unwrap();
                response.into_body().collect().await.unwrap_err();
            }
            layer.circuit_breaker().handle().state()
        } else {
            let layer = builder.build().unwrap();
            for _ in 0..5 {
                let response = layer.layer(client).oneshot(get()).await.unwrap();
                response.into_body().collect().await.unwrap_err();
            }
            layer.circuit_breaker().handle().state()
        };
        assert_eq!(seen, state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_for_bodies_stands_around_the_call_and_a_watched_circuit_hears_of_it() {
    let bodies = BodyDeadlineLayer::new("api", Duration::from_secs(30)).unwrap();
    let layer = buttress::http("api").watch_bodies().per_call(bodies).build_per_host().unwrap();
    let client = layer.layer(service_fn(|_: Request<ReplayBody<Body>>| async {
        let (sender, body) = Streaming::new(1);
        tokio::spawn(async move {
            sleep(Duration::from_secs(3600)).await;
            drop(sender);
        });
        Ok::<_, BoxError>(Response::new(body))
    }));
    for _ in 0..5 {
        let response = client.clone().oneshot(get()).await.unwrap();
        let error: BoxError = response.into_body().collect().await.unwrap_err();
        assert!(find::<Elapsed>(&*error).is_some(), "{error}");
    }
    assert_eq!(layer.circuit_breaker().get("api").unwrap().state(), CircuitState::Open);
}

/// As DESIGN has the order: one key a call, below what degrades, above what retries.
#[cfg(feature = "idempotency")]
#[tokio::test(start_paused = true)]
async fn a_post_with_a_key_of_the_stacks_own_is_sent_again_with_the_same_one() {
    let keys = Log::default();
    let seen = Arc::clone(&keys);
    let client = service_fn(move |request: Request<ReplayBody<Body>>| {
        let key = request.headers().get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
        let mut seen = seen.lock().unwrap();
        seen.extend(key);
        let status = if seen.len() % 2 == 1 { 503 } else { 200 };
        async move { Ok::<_, BoxError>(Response::builder().status(status).body(Body::default())?) }
    });
    let layer = buttress::http("api").background().idempotency_key().build().unwrap();
    let client = layer.layer(client);
    let post = || Request::post("http://api/").body(Body::default()).unwrap();
    for _ in 0..2 {
        assert_eq!(client.clone().oneshot(post()).await.unwrap().status(), 200);
    }
    let keys = keys.lock().unwrap();
    assert_eq!((keys.len(), &keys[0], &keys[2]), (4, &keys[1], &keys[3]));
    assert_ne!(keys[0], keys[2], "another call, another key");
    assert_eq!(layer.explain().layers()[0], ("per call", "IdempotencyKeyLayer".to_owned()));
}

#[cfg(feature = "degrade")]
#[tokio::test(start_paused = true)]
async fn a_chain_of_fallbacks_may_stand_above_a_circuit_for_each_host() {
    use buttress::degrade::{Chain, DegradeLayer, Grade, Level};
    use buttress::http::{Answer, StoredResponse};

    let chain =
        Chain::<Request<Body>, Response<Answer<Body>>>::new()
            .finally(Level::Minimal, "static", |_| StoredResponse::from(Response::new("sorry")));
    let degrade = DegradeLayer::new("api", chain).unwrap();
    let builder = buttress::http("api").per_call(adds::<Body>("call")).per_attempt(adds("attempt"));
    let layer = builder.build_degrading_per_host(degrade).unwrap();
    let client = layer.layer(service_fn(|request: Request<ReplayBody<Body>>| async move {
        assert!(request.headers().contains_key("trail"));
        match request.uri().host() {
            Some("ill") => Err::<Response<Body>, BoxError>("down".into()),
            _ => Ok(Response::new(Body::default())),
        }
    }));
    let ask = async |host: &str| {
        let request = Request::get(format!("http://{host}/")).body(Body::default()).unwrap();
        let Ok(answer) = client.clone().oneshot(request).await;
        answer.level()
    };
    for _ in 0..6 {
        assert_eq!((ask("ill").await, ask("well").await), (Level::Minimal, Level::Full));
    }
    let circuits = layer.stack().circuit_breaker();
    assert_eq!(circuits.get("ill").unwrap().state(), CircuitState::Open);
    assert_eq!(circuits.get("well").unwrap().state(), CircuitState::Closed);
    let names: Vec<_> = layer.explain().layers().iter().map(|(name, _)| *name).collect();
    assert_eq!(names[..3], ["degrade", "per call", "deadline (total)"]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_a_layer_per_attempt_is_retried_as_its_error_is_judged() {
    use buttress::Verdict;
    use buttress::core::{Judged, Kind};

    for (verdict, sent) in [(Verdict::failure(Kind::Transient).not_sent(), 6), (Verdict::Rejected, 1)] {
        let asked = Arc::new(Mutex::new(0));
        let count = Arc::clone(&asked);
        let refuses = tower::layer::layer_fn(move |_| {
            let count = Arc::clone(&count);
            service_fn(move |_: Request<ReplayBody<Body>>| {
                *count.lock().unwrap() += 1;
                async move { Err::<Response<Body>, BoxError>(Judged::transparent(verdict, "no token").into()) }
            })
        });
        let layer = buttress::http("api").background().per_attempt(refuses).build().unwrap();
        let client = layer.layer(server(&[200], &Log::default()));
        let post = Request::post("http://api/").body(Body::default()).unwrap();
        let error = client.oneshot(post).await.unwrap_err();
        assert_eq!(
            (*asked.lock().unwrap(), find::<Exhausted>(&*error).is_some()),
            (sent, sent > 1),
            "{error}"
        );
        assert_eq!(layer.circuit_breaker().handle().metrics().consecutive_failures, 0);
    }
}
