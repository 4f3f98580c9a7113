//! A stack whose total deadline leans on that of its attempts, beside the same one where it does not: a call ends at the same moment
//! and in the same way.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::circuit_breaker::CircuitBreakerLayer;
use buttress::core::Backoff;
use buttress::http::{Http, ReplayBody};
use buttress::retry::{Budget, Config};
use buttress::{BoxError, HttpBuilder, HttpLayer, Mode, RequestExt};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use proptest::prelude::*;
use tokio::time::{Instant, sleep, sleep_until};
use tower::layer::util::Identity;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceExt, service_fn};

type Body = Full<Bytes>;

/// Milliseconds.
#[derive(Clone, Debug)]
struct Case {
    total: u64,
    attempt: u64,
    pause: u64,
    /// Whether the deadline travels with the request, and the limits that the request brings.
    travels: bool,
    own: (Option<u64>, Option<u64>),
    /// How long each attempt takes and how it ends; the last one repeats.
    attempts: Vec<(u64, Answer)>,
    /// What is changed while the call is under way, and when.
    changes: Vec<(u64, Change)>,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Status(u16),
    Error,
    /// By way of a stack of the client's own, in the same task or in another.
    Below {
        total: u64,
        spawned: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Change {
    TotalMode(Mode),
    AttemptMode(Mode),
    RetryMode(Mode),
    TotalLimit(u64),
    AttemptLimit(u64),
}

fn cases() -> impl Strategy<Value = Case> {
    let mode = prop_oneof![Just(Mode::Enforce), Just(Mode::Observe), Just(Mode::Off)];
    let change = prop_oneof![
        mode.clone().prop_map(Change::TotalMode),
        mode.clone().prop_map(Change::AttemptMode),
        mode.prop_map(Change::RetryMode),
        (1..300_u64).prop_map(Change::TotalLimit),
        (1..300_u64).prop_map(Change::AttemptLimit),
    ];
    let answer = prop_oneof![
        Just(Answer::Status(200)),
        Just(Answer::Status(503)),
        Just(Answer::Error),
        (1..200_u64, any::<bool>()).prop_map(|(total, spawned)| Answer::Below { total, spawned }),
    ];
    let attempts = prop::collection::vec((0..200_u64, answer), 1..5);
    let changes = prop::collection::vec((0..400_u64, change), 0..4);
    let own = (prop::option::weighted(0.2, 1..400_u64), prop::option::weighted(0.2, 1..200_u64));
    (1..400_u64, 1..200_u64, 0..100_u64, any::<bool>(), own, attempts, changes).prop_map(
        |(total, attempt, pause, travels, own, attempts, changes)| Case {
            total,
            attempt,
            pause,
            travels,
            own,
            attempts,
            changes,
        },
    )
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The stack, with three retries.
fn builder(case: &Case) -> HttpBuilder {
    let pause = Backoff::constant(millis(case.pause));
    let retry = Config::background().max_retries(3).backoff(pause).budget(Budget::unlimited());
    let builder = buttress::http("one").silent().total(millis(case.total)).attempt(millis(case.attempt));
    let builder = builder.retry(retry);
    if case.travels { builder.deadline_travels() } else { builder }
}

type Client = BoxCloneService<Request<ReplayBody<Body>>, Response<Body>, BoxError>;

fn client(case: &Case) -> Client {
    let script = Arc::new(Mutex::new(case.attempts.iter().rev().copied().collect::<Vec<_>>()));
    BoxCloneService::new(service_fn(move |_| {
        let mut script = script.lock().unwrap();
        let next = if script.len() > 1 { script.pop() } else { script.last().copied() };
        drop(script);
        let (time, answer) = next.unwrap();
        attempt(millis(time), answer)
    }))
}

async fn attempt(time: Duration, answer: Answer) -> Result<Response<Body>, BoxError> {
    match answer {
        Answer::Status(status) => {
            sleep(time).await;
            Ok(Response::builder().status(status).body(Body::default())?)
        }
        Answer::Error => {
            sleep(time).await;
            Err("reset".into())
        }
        Answer::Below { total, spawned } => {
            let slow = service_fn(move |_: Request<ReplayBody<Body>>| async move {
                sleep(time).await;
                Ok::<_, BoxError>(Response::new(Body::default()))
            });
            let below = buttress::http("below").silent().total(millis(total)).build()?.layer(slow);
            let call: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(below.oneshot(get()));
            if spawned { tokio::spawn(call).await.unwrap() } else { call.await }
        }
    }
}

fn get() -> Request<Body> {
    Request::get("http://one/").body(Body::default()).unwrap()
}

/// When the call ended, and how.
fn end<A, S>(case: &Case, builder: HttpBuilder<A>) -> (Duration, String)
where
    HttpLayer<CircuitBreakerLayer<Http>, A>: Layer<Client, Service = S>,
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError>,
{
    let layer = builder.build().unwrap();
    let change = async {
        let (start, mut changes) = (Instant::now(), case.changes.clone());
        changes.sort_by_key(|(at, _)| *at);
        for (at, change) in changes {
            sleep_until(start + millis(at)).await;
            match change {
                Change::TotalMode(mode) => layer.total().set_mode(mode),
                Change::AttemptMode(mode) => layer.attempt().set_mode(mode),
                Change::RetryMode(mode) => layer.retry().set_mode(mode),
                Change::TotalLimit(limit) => layer.total().set_limit(millis(limit)).unwrap(),
                Change::AttemptLimit(limit) => layer.attempt().set_limit(millis(limit)).unwrap(),
            }
        }
        std::future::pending().await
    };
    let call = async {
        let start = Instant::now();
        let mut request = get();
        if let Some(total) = case.own.0 {
            request = request.with_time_limit(millis(total));
        }
        if let Some(attempt) = case.own.1 {
            request = request.with_attempt_limit(millis(attempt));
        }
        let outcome = layer.layer(client(case)).oneshot(request).await;
        let outcome = outcome.map(|response| response.status()).map_err(|error| error.to_string());
        (start.elapsed(), format!("{outcome:?}"))
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = change => unreachable!(),
            end = call => end,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_call_with_one_timer_ends_as_one_with_two(case in cases()) {
        let one = end(&case, builder(&case));
        // What stands between the deadlines may be anything: each has a timer of its own.
        let two = end(&case, builder(&case).per_attempt(Identity::new()));
        prop_assert_eq!(one, two);
    }
}
