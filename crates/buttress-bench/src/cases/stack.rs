use std::time::Duration;

use buttress_circuit_breaker::CircuitBreakerLayer;
use buttress_core::BoxError;
use buttress_deadline::DeadlineLayer;
use buttress_retry::{Config, RetryLayer};
use layered::{Execute, Service as _, Stack};
use seatbelt::breaker::Breaker;
use seatbelt::retry::Retry;
use seatbelt::timeout::Timeout;
use seatbelt::{RecoveryInfo, ResilienceContext};
use tick::Clock;
use tower::{Service, ServiceBuilder};
use tower_resilience::circuitbreaker;
use tower_resilience::timelimiter::TimeLimiterLayer;

use super::retry::Twice;
use crate::leaf::{Down, Leaf, PENDING, READY, calls, futures};
use crate::measure::{Case, Side};

const TOTAL: Duration = Duration::from_secs(30);
const ATTEMPT: Duration = Duration::from_secs(8);

pub(super) fn ready() -> Vec<Case> {
    cases("stack: total deadline, retry, breaker, attempt deadline", READY)
}

pub(super) fn pending() -> Vec<Case> {
    cases("stack, pending once", PENDING)
}

/// Four layers, nothing carried.
fn stack(leaf: Leaf) -> impl Service<u64, Response = u64, Error = BoxError, Future: Send> + Clone {
    ServiceBuilder::new()
        .layer(DeadlineLayer::total("bench", TOTAL).unwrap())
        .layer(RetryLayer::new("bench", Config::user_facing()).unwrap())
        .layer(CircuitBreakerLayer::standard("bench"))
        .layer(DeadlineLayer::attempt("bench", ATTEMPT).unwrap())
        .service(leaf)
}

fn cases(group: &'static str, leaf: Leaf) -> Vec<Case> {
    let tower = ServiceBuilder::new()
        .timeout(TOTAL)
        .layer(tower::retry::RetryLayer::new(Twice(2)))
        .concurrency_limit(1000)
        .timeout(ATTEMPT)
        .map_err(|_| Down)
        .service(leaf);
    let breaker = circuitbreaker::CircuitBreakerLayer::builder().consecutive_failures(5).build().unwrap();
    let retry = tower_resilience::retry::RetryLayer::builder().max_attempts(3).build();
    let limit = |time| TimeLimiterLayer::builder().timeout_duration(time).build();
    let resilience = ServiceBuilder::new()
        .layer(limit(TOTAL))
        .map_err(|_| Down)
        .layer(retry)
        .map_err(|_| Down)
        .layer(breaker)
        .layer(limit(ATTEMPT))
        .service(leaf);
    let failed = |outcome: &Result<u64, Down>| match outcome {
        Ok(_) => RecoveryInfo::never(),
        Err(_) => RecoveryInfo::retry(),
    };
    let context = ResilienceContext::new(Clock::new_tokio());
    let pipeline = (
        Timeout::layer("total", &context).timeout(TOTAL).timeout_error(|_| Down),
        Retry::layer("retry", &context).clone_input().recovery_with(move |outcome, _| failed(outcome)),
        Breaker::layer("breaker", &context)
            .recovery_with(move |outcome, _| failed(outcome))
            .rejected_input_error(|_: u64, _| Down),
        Timeout::layer("attempt", &context).timeout(ATTEMPT).timeout_error(|_| Down),
        Execute::new(move |n: u64| Service::call(&mut leaf.clone(), n)),
    )
        .into_service();
    let seatbelt = futures(
        move |n| {
            let pipeline = pipeline.clone();
            async move { pipeline.execute(n).await }
        },
        true,
    );
    vec![
        Case::new(group, Side::Floor, "bare service", calls(leaf, |n| n, true)),
        Case::new(group, Side::Buttress, "four layers", calls(stack(leaf), |n| n, true)),
        Case::new(
            group,
            Side::Peer,
            "tower: timeout, retry, concurrency limit, timeout",
            calls(tower, |n| n, true),
        ),
        Case::new(group, Side::Peer, "tower-resilience, the same four", calls(resilience, |n| n, true)),
        Case::new(group, Side::Peer, "seatbelt, the same four", seatbelt),
    ]
}

pub(super) fn future_bytes() -> usize {
    size_of_val(&stack(READY).call(1))
}
