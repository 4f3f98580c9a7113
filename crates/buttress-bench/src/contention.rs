//! One breaker, called by one thread and by two without a pause: the worst case, not a typical load.

use std::sync::{Arc, Barrier};

use buttress_circuit_breaker::{CircuitBreakerLayer, Config, Ratio, Trip, Window};
use failsafe::futures::CircuitBreaker as _;
use recloser::{AsyncRecloser, Recloser};
use tower::{Layer, Service};
use tower_resilience::circuitbreaker;

use crate::leaf::{AtomicCheck, READY, calls, futures};
use crate::measure::{ROUNDS, Side};

pub(crate) struct Shared {
    pub(crate) name: &'static str,
    pub(crate) side: Side,
    /// ns per call of one thread, and of each of two: the best and the median round.
    pub(crate) one: (f64, f64),
    pub(crate) two: (f64, f64),
}

type Run = Box<dyn FnMut(u64) + 'static>;

/// Makes, on the thread that will run it, the loop over one shared thing.
type Make = Arc<dyn Fn() -> Run + Send + Sync>;

pub(crate) fn measure(calls_per_round: u64) -> Vec<Shared> {
    let sides: [(&'static str, Side, Make); 8] = [
        ("atomic check behind an Arc, by hand", Side::Floor, {
            let check = AtomicCheck { inner: READY, failures: Arc::default() };
            Arc::new(move || Box::new(calls(check.clone(), |n: u64| n, true)))
        }),
        ("breaker, plain clones", Side::Buttress, {
            let service = CircuitBreakerLayer::standard("bench").layer(READY);
            Arc::new(move || Box::new(calls(service.clone(), |n: u64| n, true)))
        }),
        ("breaker, .per_worker()", Side::Buttress, {
            let service = CircuitBreakerLayer::standard("bench").layer(READY);
            Arc::new(move || Box::new(calls(service.clone().per_worker(), |n: u64| n, true)))
        }),
        ("window of 100 calls, plain clones", Side::Buttress, {
            let service = window_of_100().layer(READY);
            Arc::new(move || Box::new(calls(service.clone(), |n: u64| n, true)))
        }),
        ("window of 100 calls, .per_worker()", Side::Buttress, {
            let service = window_of_100().layer(READY);
            Arc::new(move || Box::new(calls(service.clone().per_worker(), |n: u64| n, true)))
        }),
        ("recloser", Side::Peer, {
            let recloser = AsyncRecloser::from(Recloser::default());
            Arc::new(move || {
                let recloser = recloser.clone();
                Box::new(futures(move |n: u64| recloser.call({ READY }.call(n)), true))
            })
        }),
        ("failsafe", Side::Peer, {
            let backoff = failsafe::backoff::constant(std::time::Duration::from_secs(60));
            let policy = failsafe::failure_policy::consecutive_failures(5, backoff);
            let failsafe = failsafe::Config::new().failure_policy(policy).build();
            Arc::new(move || {
                let failsafe = failsafe.clone();
                Box::new(futures(move |n: u64| failsafe.call({ READY }.call(n)), true))
            })
        }),
        ("tower-resilience, consecutive", Side::Peer, {
            let layer =
                circuitbreaker::CircuitBreakerLayer::builder().consecutive_failures(5).build().unwrap();
            let service = layer.layer(READY);
            Arc::new(move || Box::new(calls(service.clone(), |n: u64| n, true)))
        }),
    ];
    sides.into_iter().map(|(name, side, make)| measured(name, side, &make, calls_per_round)).collect()
}

/// Hits of one store of last good answers.
pub(crate) fn store(calls_per_round: u64) -> Vec<Shared> {
    let by_hand = "the same bodies, copied and dropped by hand";
    let hits = "hits of one store of last good answers";
    vec![
        measured(by_hand, Side::Floor, &crate::cases::shared_bodies(), calls_per_round),
        measured(hits, Side::Buttress, &crate::cases::shared_hits(), calls_per_round),
    ]
}

/// Calls of one supervised service.
pub(crate) fn supervised(calls_per_round: u64) -> Vec<Shared> {
    let by_hand: Make = {
        let check = AtomicCheck { inner: READY, failures: Arc::default() };
        Arc::new(move || Box::new(calls(check.clone(), |n: u64| n, true)))
    };
    vec![
        measured("atomic check behind an Arc, by hand", Side::Floor, &by_hand, calls_per_round),
        measured(
            "one supervised service",
            Side::Buttress,
            &crate::cases::shared_supervised(),
            calls_per_round,
        ),
    ]
}

fn measured(name: &'static str, side: Side, make: &Make, calls_per_round: u64) -> Shared {
    let of = |threads| {
        let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round(make, threads, calls_per_round)).collect();
        rounds.sort_by(f64::total_cmp);
        (rounds[0], rounds[ROUNDS / 2])
    };
    Shared { name, side, one: of(1), two: of(2) }
}

fn window_of_100() -> CircuitBreakerLayer {
    let window = Window::Calls(100);
    let rate = Trip::FailureRate { window, at_least: Ratio::percent(50), minimum_calls: 10 };
    CircuitBreakerLayer::new("bench", Config::only(rate)).unwrap()
}

/// ns per call, on the thread that took longest.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures the machine's time")]
fn round(make: &Make, threads: usize, calls: u64) -> f64 {
    let barrier = Barrier::new(threads);
    let work = || {
        let mut run = make();
        run(calls / 10);
        barrier.wait();
        let start = std::time::Instant::now();
        run(calls);
        start.elapsed().as_secs_f64() * 1e9 / calls as f64
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).fold(0.0, f64::max)
    })
}
