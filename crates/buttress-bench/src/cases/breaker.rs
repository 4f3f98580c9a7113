use std::sync::Arc;
use std::time::Duration;

use buttress_circuit_breaker::{CircuitBreakerLayer, Config, Ratio, Trip, Window};
use buttress_core::observe::Metrics;
use failsafe::futures::CircuitBreaker as _;
use layered::{Execute, Stack};
use recloser::{AsyncRecloser, Recloser};
use seatbelt::breaker::Breaker;
use seatbelt::{RecoveryInfo, ResilienceContext};
use tick::Clock;
use tower::{Layer, service_fn};
use tower_resilience::circuitbreaker;

use crate::leaf::{AtomicCheck, Down, Leaf, PENDING, READY, calls, futures};
use crate::measure::{Case, Side};

const HOUR: Duration = Duration::from_secs(3600);
const HALF: Ratio = Ratio::percent(50);

/// The trip rules, by name.
fn rules() -> [(&'static str, Config); 4] {
    let rate = |window| Trip::FailureRate { window, at_least: HALF, minimum_calls: 10 };
    let window = Window::Time(Duration::from_secs(10));
    let slower_than = Duration::from_secs(1);
    [
        ("5 consecutive failures", Config::standard()),
        ("window of 100 calls", Config::only(rate(Window::Calls(100)))),
        ("window of 10 s", Config::only(rate(window))),
        (
            "slow calls, window of 100",
            Config::only(Trip::SlowCalls {
                slower_than,
                window: Window::Calls(100),
                at_least: HALF,
                minimum_calls: 10,
            }),
        ),
    ]
}

fn resilience() -> circuitbreaker::CircuitBreakerConfigBuilder<circuitbreaker::DefaultClassifier> {
    circuitbreaker::CircuitBreakerLayer::builder().wait_duration_in_open(HOUR)
}

/// A seatbelt breaker; its pipelines end in a function, not in a service.
macro_rules! seatbelt {
    ($work:expr) => {{
        let context = ResilienceContext::new(Clock::new_tokio());
        (
            Breaker::layer("bench", &context)
                .recovery_with(|outcome: &Result<u64, Down>, _| match outcome {
                    Ok(_) => RecoveryInfo::never(),
                    Err(_) => RecoveryInfo::retry(),
                })
                .rejected_input_error(|_: u64, _| Down)
                .min_throughput(10)
                .failure_threshold(0.5)
                .break_duration(HOUR),
            Execute::new($work),
        )
            .into_service()
    }};
}

pub(super) fn closed() -> Vec<Case> {
    const GROUP: &str = "breaker, closed";
    let peer = |name, run| Case { group: GROUP, name: String::from(name), side: Side::Peer, run };
    let check = AtomicCheck { inner: READY, failures: Arc::default() };
    let mut cases =
        vec![Case::new(GROUP, Side::Floor, "atomic check behind an Arc, by hand", calls(check, |n| n, true))];
    cases.extend(rules().map(|(name, config)| {
        let service = CircuitBreakerLayer::new("bench", config).unwrap().layer(READY);
        Case::new(GROUP, Side::Buttress, name, calls(service, |n| n, true))
    }));
    let counting = resilience().sliding_window_size(100).minimum_number_of_calls(10).build().unwrap();
    let consecutive = resilience().consecutive_failures(5).build().unwrap();
    let pipeline = seatbelt!(async |n: u64| Ok::<_, Down>(n));
    let recloser = AsyncRecloser::from(Recloser::custom().closed_len(100).build());
    let backoff = failsafe::backoff::constant(HOUR);
    let policy = failsafe::failure_policy::consecutive_failures(5, backoff);
    let failsafe = failsafe::Config::new().failure_policy(policy).build();
    let rate = failsafe::Config::new().build();
    cases.extend([
        peer("tower-resilience, consecutive", Box::new(calls(consecutive.layer(READY), |n| n, true)) as _),
        peer("tower-resilience, window of 100", Box::new(calls(counting.layer(READY), |n| n, true))),
        peer("recloser, window of 100", Box::new(futures(move |n| recloser.call(answer(READY, n)), true))),
        peer("failsafe, consecutive", Box::new(futures(move |n| failsafe.call(answer(READY, n)), true))),
        peer("failsafe, window of time", Box::new(futures(move |n| rate.call(answer(READY, n)), true))),
        peer("seatbelt, window of time", seatbelt_calls(pipeline, true)),
    ]);
    cases.extend(rules().into_iter().map(|(name, config)| {
        let service = CircuitBreakerLayer::new("bench", config).unwrap().layer(PENDING);
        Case::new("breaker, closed, pending once", Side::Buttress, name, calls(service, |n| n, true))
    }));
    cases
}

fn answer(mut leaf: Leaf, n: u64) -> crate::leaf::Answer<u64> {
    tower::Service::call(&mut leaf, n)
}

fn seatbelt_calls<S>(pipeline: S, succeed: bool) -> Box<dyn FnMut(u64)>
where
    S: layered::Service<u64, Out = Result<u64, Down>> + Clone + 'static,
{
    Box::new(futures(
        move |n| {
            let pipeline = pipeline.clone();
            async move { pipeline.execute(n).await }
        },
        succeed,
    ))
}

pub(super) fn open() -> Vec<Case> {
    const GROUP: &str = "breaker, open";
    let failing = || service_fn(|_: u64| std::future::ready(Err::<u64, _>(Down)));
    let layer = CircuitBreakerLayer::standard("bench");
    layer.handle().open_for(HOUR);
    let consecutive = resilience().consecutive_failures(5).build().unwrap();
    let pipeline = seatbelt!(async |_: u64| Err::<u64, _>(Down));
    let recloser = AsyncRecloser::from(Recloser::custom().closed_len(100).open_wait(HOUR).build());
    let policy = failsafe::failure_policy::consecutive_failures(5, failsafe::backoff::constant(HOUR));
    let failsafe = failsafe::Config::new().failure_policy(policy).build();
    let down = || std::future::ready(Err::<u64, _>(Down));
    let peer = |name, run| Case { group: GROUP, name: String::from(name), side: Side::Peer, run };
    let mut cases = vec![
        Case::new(GROUP, Side::Floor, "bare service that fails", calls(failing(), |n| n, false)),
        Case::new(
            GROUP,
            Side::Floor,
            "bare service that fails, its error boxed",
            futures(|_| std::future::ready(Err::<u64, buttress_core::BoxError>(Down.into())), false),
        ),
        Case::new(GROUP, Side::Buttress, "refused", calls(layer.layer(READY), |n| n, false)),
        peer("tower-resilience", Box::new(calls(consecutive.layer(failing()), |n| n, false)) as _),
        peer("recloser", Box::new(futures(move |_| recloser.call(down()), false))),
        peer("failsafe", Box::new(futures(move |_| failsafe.call(down()), false))),
        peer("seatbelt", seatbelt_calls(pipeline, false)),
    ];
    // Opens those that have no switch for it.
    cases.iter_mut().for_each(|case| (case.run)(1000));
    cases
}

/// What one registered counter adds to a call.
pub(super) fn metric() -> Vec<Case> {
    const GROUP: &str = "one metric, Prometheus recorder";
    // The recorder lives as long as the process.
    let recorder =
        Box::leak(Box::new(metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder()));
    let observed = |layer: CircuitBreakerLayer| {
        let mut run = calls(layer.layer(READY), |n| n, true);
        metrics::with_local_recorder(recorder, || run(1));
        run
    };
    let layer = || CircuitBreakerLayer::standard("bench");
    vec![
        Case::new(GROUP, Side::Buttress, "breaker, not observed", observed(layer())),
        Case::new(
            GROUP,
            Side::Buttress,
            "breaker, observed",
            observed(layer().observe(Arc::new(Metrics::new("bench")))),
        ),
    ]
}
