//! The facade's stack: what it is made of, what it says, what it reports.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::circuit_breaker::{CircuitState, Config};
use buttress::core::{Backoff, Event, observe_fn};
use buttress::http::{HttpReplay, ReplayBody};
use buttress::{
    BoxError, Elapsed, Exhausted, HttpService, Mode, Reason, Refused, RequestExt, ResponseExt, Stop, find,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

type Body = ReplayBody<Full<Bytes>>;
type Reply = Result<Response<Full<Bytes>>, BoxError>;

/// A client that answers with these statuses in turn, 0 for never; the last one repeats.
#[derive(Clone)]
struct Script {
    statuses: Arc<Mutex<Vec<u16>>>,
    calls: Arc<Mutex<u32>>,
}

impl Script {
    fn new(statuses: &[u16]) -> Self {
        let statuses = statuses.iter().rev().copied().collect();
        Self { statuses: Arc::new(Mutex::new(statuses)), calls: Arc::default() }
    }

    fn calls(&self) -> u32 {
        *self.calls.lock().unwrap()
    }
}

impl tower::Service<Request<Body>> for Script {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Reply> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        *self.calls.lock().unwrap() += 1;
        let mut statuses = self.statuses.lock().unwrap();
        let status = if statuses.len() > 1 { statuses.pop() } else { statuses.last().copied() }.unwrap();
        Box::pin(async move {
            if status == 0 {
                std::future::pending::<()>().await;
            }
            Ok(Response::builder().status(status).header("retry-after", "2").body(Full::default())?)
        })
    }
}

/// The type of a stack has a name.
struct Api {
    client: HttpService<Script>,
}

impl Api {
    async fn get(&self) -> Reply {
        self.send(Request::get("http://api/").body(Full::default()).unwrap()).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        self.client.clone().oneshot(request).await
    }
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_is_retried_not_before_the_server_asked() {
    let script = Script::new(&[503, 200]);
    let api = Api { client: buttress::http("api").build().unwrap().layer(script.clone()) };
    let start = Instant::now();
    let response = api.get().await.unwrap();
    assert_eq!((response.status().as_u16(), response.attempts(), script.calls()), (200, 2, 2));
    assert!(start.elapsed() >= secs(2) && start.elapsed() <= secs(3), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_post_is_sent_again_only_with_a_key() {
    let layer = buttress::http("api").build().unwrap();
    let post = || Request::post("http://api/").body(Full::default()).unwrap();
    let script = Script::new(&[500]);
    let api = Api { client: layer.layer(script.clone()) };
    let response = api.send(post()).await.unwrap();
    assert_eq!(response.status(), 500, "a real answer stays one");
    assert_eq!(response.gave_up(), Some(Stop::NotIdempotent));
    assert_eq!(script.calls(), 1);
    let script = Script::new(&[500, 200]);
    let api = Api { client: layer.layer(script.clone()) };
    assert_eq!(api.send(post().with_idempotency_key("k1")).await.unwrap().status(), 200);
    assert_eq!(script.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_hangs_is_given_up_and_then_refused_at_once() {
    let script = Script::new(&[0]);
    let layer = buttress::http("api").circuit_breaker(Config::critical()).build().unwrap();
    let api = Api { client: layer.layer(script.clone()) };
    let error = api.get().await.unwrap_err();
    let exhausted = find::<Exhausted>(&*error).unwrap();
    assert_eq!((exhausted.attempts, exhausted.stop), (2, Stop::Budget), "{error}");
    assert!(find::<Elapsed>(&*error).is_some(), "each attempt timed out");
    api.get().await.unwrap_err();
    assert_eq!((script.calls(), layer.circuit_breaker().handle().state()), (3, CircuitState::Open));

    let start = Instant::now();
    let error = api.get().await.unwrap_err();
    assert_eq!(find::<Refused>(&*error).unwrap().reason(), Reason::CircuitOpen);
    assert_eq!((script.calls(), start.elapsed()), (3, Duration::ZERO), "at once, and without a call");
}

#[tokio::test(start_paused = true)]
async fn a_leaked_stack_is_the_same_stack() {
    let layer = buttress::http("api").total(secs(9)).build().unwrap();
    let (handle, script) = (layer.circuit_breaker().handle(), Script::new(&[200, 0]));
    let api = Api { client: layer.clone().leaked().layer(script.clone()) };
    assert_eq!(api.get().await.unwrap().status(), 200);
    layer.total().set_limit(secs(1)).unwrap();
    assert_eq!(
        find::<Elapsed>(&*api.get().await.unwrap_err()).unwrap().limit(),
        secs(1),
        "its limits are the layer's"
    );
    handle.isolate();
    assert_eq!(find::<Refused>(&*api.get().await.unwrap_err()).unwrap().reason(), Reason::CircuitIsolated);
    drop((layer, handle));
    let refused = api.get().await.unwrap_err();
    assert_eq!(
        find::<Refused>(&*refused).unwrap().reason(),
        Reason::CircuitIsolated,
        "the circuit is still there"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_may_have_its_own_limits() {
    let layer = buttress::http("api").build().unwrap();
    let get = || Request::get("http://api/").body(Full::default()).unwrap();
    let script = Script::new(&[503]);
    let api = Api { client: layer.layer(script.clone()) };
    assert_eq!(api.send(get().with_max_retries(0)).await.unwrap().status(), 503);
    assert_eq!(script.calls(), 1);
    let api = Api { client: layer.layer(Script::new(&[503, 200])) };
    let start = Instant::now();
    let backoff = Backoff::constant(secs(3));
    assert_eq!(api.send(get().with_backoff(backoff)).await.unwrap().status(), 200);
    assert_eq!(start.elapsed(), secs(3));
    let api = Api { client: layer.layer(Script::new(&[0])) };
    let start = Instant::now();
    let long = get().with_time_limit(secs(60)).with_attempt_limit(secs(50)).with_max_retries(0);
    api.send(long).await.unwrap_err();
    assert_eq!(start.elapsed(), secs(50));
    let start = Instant::now();
    let error = api.send(get().with_time_limit(secs(1))).await.unwrap_err();
    assert!(find::<Elapsed>(&*error).is_some());
    assert_eq!(start.elapsed(), secs(1));
}

/// A server that asks for 15 s once.
#[tokio::test(start_paused = true)]
async fn whoever_gives_a_call_more_time_gives_it_to_the_waits_too() {
    let stack = || buttress::http("api");
    let get = || Request::get("http://api/").body(Full::<Bytes>::default()).unwrap();
    for (stack, request, attempts) in [
        (stack().build(), get(), 1),
        (stack().total(secs(60)).build(), get(), 2),
        (stack().build(), get().with_time_limit(secs(60)), 2),
    ] {
        let busy = Arc::new(Mutex::new(true));
        let client = tower::service_fn(move |_: Request<Body>| {
            let status = if std::mem::take(&mut *busy.lock().unwrap()) { 503 } else { 200 };
            let response = Response::builder().status(status).header("retry-after", "15");
            std::future::ready(Ok::<_, BoxError>(response.body(Full::<Bytes>::default()).unwrap()))
        });
        let response = stack.unwrap().layer(client).oneshot(request).await.unwrap();
        assert_eq!(response.attempts(), attempts);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_preset_says_of_methods_goes_with_it_and_yields_to_what_is_said_explicitly() {
    let http = || buttress::http("api");
    let safe = HttpReplay::new().safe_only();
    for (stack, calls) in [
        (http().aws(), 2),
        (http().aws().datadog(), 1),
        (http().aws().replay(safe.clone()), 1),
        (http().replay(safe).aws(), 1),
    ] {
        let script = Script::new(&[503, 200]);
        let api = Api { client: stack.build().unwrap().layer(script.clone()) };
        api.send(Request::post("http://api/").body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(script.calls(), calls);
    }
}

/// CB-30, for tower's own layers.
#[tokio::test(start_paused = true)]
async fn what_towers_own_layers_refuse_opens_no_circuit_and_their_time_outs_are_time_outs() {
    let stack = buttress::http("api").map_retry(|retry| retry.max_retries(0)).build().unwrap();
    let below = tower::ServiceBuilder::new().load_shed().concurrency_limit(1).service(Script::new(&[0]));
    let client = stack.layer(below);
    let get = || Request::get("http://api/").body(Full::<Bytes>::default()).unwrap();
    let hangs = tokio::spawn(client.clone().oneshot(get()));
    tokio::task::yield_now().await;
    for _ in 0..20 {
        let error = client.clone().oneshot(get()).await.unwrap_err();
        assert!(find::<tower::load_shed::error::Overloaded>(&*error).is_some(), "{error}");
    }
    assert_eq!(stack.circuit_breaker().handle().state(), CircuitState::Closed);
    hangs.abort();
    let below = tower::ServiceBuilder::new().timeout(secs(1)).service(Script::new(&[0]));
    let error = stack.layer(below).oneshot(get()).await.unwrap_err();
    let verdict = buttress::core::own_verdict(&*error);
    assert_eq!(verdict, Some(buttress::Verdict::failure(buttress::core::Kind::Timeout)));
}

#[tokio::test(start_paused = true)]
async fn observed_it_changes_nothing() {
    let layer = buttress::http("api").circuit_breaker(Config::critical()).build().unwrap();
    layer.set_mode(Mode::Observe);
    let script = Script::new(&[503]);
    let api = Api { client: layer.layer(script.clone()) };
    for calls in 1..=10 {
        assert_eq!(api.get().await.unwrap().status(), 503);
        assert_eq!(script.calls(), calls);
    }
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Open, "it would have refused");
}

#[tokio::test(start_paused = true)]
async fn a_page_arrives_after_an_outage_of_two_minutes() {
    let start = Instant::now();
    let client = tower::service_fn(move |_: Request<Body>| {
        let status = if start.elapsed() < secs(120) { 503 } else { 202 };
        std::future::ready(Response::builder().status(status).body(Full::<Bytes>::default()))
    });
    let pages: Vec<_> = (0..50)
        .map(|_| {
            let api = buttress::http("pagerduty").pagerduty().build().unwrap().layer(client);
            let page = Request::post("http://events/v2/enqueue").body(Full::<Bytes>::default()).unwrap();
            tokio::spawn(api.oneshot(page.with_idempotency_key("incident-42")))
        })
        .collect();
    for page in pages {
        assert_eq!(page.await.unwrap().unwrap().status(), 202);
    }
}

#[tokio::test(start_paused = true)]
async fn an_observing_stack_reports_the_attempts_that_were_made() {
    let layer = buttress::http("x").build().unwrap();
    layer.set_mode(Mode::Observe);
    let client = layer.layer(tower::service_fn(|_: Request<Body>| {
        std::future::ready(Response::builder().status(503).body(Full::<Bytes>::default()))
    }));
    let response =
        client.oneshot(Request::get("http://x/").body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(response.attempts(), 1);
}

#[test]
fn a_stack_without_a_name_is_refused() {
    let error = buttress::http("").build().unwrap_err();
    assert_eq!(error.to_string(), "`name` is \"\", but must not be empty: errors and metrics show it");
}

#[tokio::test(start_paused = true)]
async fn per_host_one_host_that_is_ill_harms_no_other() {
    let layer = buttress::http("fleet").circuit_breaker(Config::critical()).build_per_host().unwrap();
    let client = layer.layer(tower::service_fn(|request: Request<Body>| async move {
        let status = if request.uri().host() == Some("ill") { 501 } else { 200 };
        Ok::<_, BoxError>(Response::builder().status(status).body(Full::<Bytes>::default())?)
    }));
    let get = |uri: &str| client.clone().oneshot(Request::get(uri).body(Full::<Bytes>::default()).unwrap());
    for _ in 0..3 {
        assert_eq!(get("http://ill/").await.unwrap().status(), 501);
    }
    let error = get("http://ill/").await.unwrap_err();
    assert_eq!(find::<Refused>(&*error).unwrap().name(), "fleet/ill");
    assert_eq!(get("http://well/").await.unwrap().status(), 200);
    assert_eq!(layer.circuit_breaker().handles().len(), 2);
    layer.set_mode(Mode::Observe);
    assert_eq!(get("http://ill/").await.unwrap().status(), 501, "observed, nothing is refused");
    get("http://ill2/").await.unwrap();
    assert_eq!(
        layer.circuit_breaker().get("ill2").unwrap().mode(),
        Mode::Observe,
        "nor for a host that is new"
    );
}

#[test]
fn a_bad_configuration_is_an_error_when_it_is_built() {
    let error = buttress::http("x").attempt(Duration::ZERO).build().unwrap_err();
    assert_eq!(error.field(), "limit");
    let error =
        buttress::http("x").circuit_breaker(Config::standard().probes(0)).build_per_host().unwrap_err();
    assert_eq!(error.field(), "probes");
}

#[tokio::test(start_paused = true)]
async fn every_layer_reports_to_the_observer() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&events);
    let observer =
        observe_fn(move |service, event| record.lock().unwrap().push((service.to_owned(), event.clone())));
    let layer =
        buttress::http("api").circuit_breaker(Config::critical()).observe(observer).silent().build().unwrap();
    let api = Api { client: layer.layer(Script::new(&[0])) };
    api.get().await.unwrap_err();
    api.get().await.unwrap_err();
    let events = events.lock().unwrap();
    assert!(events.iter().all(|(service, _)| service == "api"));
    let has = |wanted: fn(&Event) -> bool| events.iter().any(|(_, event)| wanted(event));
    assert!(has(|event| matches!(event, Event::Call(_))));
    assert!(has(|event| matches!(event, Event::Circuit { .. })));
    assert!(has(|event| matches!(event, Event::Backoff { .. })));
    assert!(has(|event| matches!(event, Event::GaveUp { .. })));
    assert!(has(|event| matches!(event, Event::Elapsed { .. })));
}

#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn metrics_are_counted_without_being_asked_for() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let api = Api { client: buttress::http("api").build().unwrap().layer(Script::new(&[503, 200])) };
    api.get().await.unwrap();
    let names: Vec<String> =
        snapshotter.snapshot().into_vec().iter().map(|row| row.0.key().name().to_owned()).collect();
    for name in [
        "circuit_breaker_calls_total",
        "circuit_breaker_state",
        "retry_attempts_total",
        "retry_budget_tokens",
        "retry_attempt_seconds",
        "retry_backoff_seconds",
    ] {
        assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
    }
}
