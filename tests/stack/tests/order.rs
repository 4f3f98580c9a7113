//! Layers in other orders than the facade's, and what that means.

use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreakerLayer, CircuitState, Config, Trip};
use buttress::core::Backoff;
use buttress::deadline::DeadlineLayer;
use buttress::retry::{self, Budget, RetryLayer};
use buttress::{Exhausted, Refused, Stop, find};
use buttress_testkit::{Scripted, contract, err, hang, ok};
use tokio::time::Instant;
use tower::{Layer, ServiceBuilder, ServiceExt};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn retries(n: u32) -> RetryLayer {
    let config = retry::Config::background().max_retries(n).budget(Budget::unlimited());
    RetryLayer::new("test", config.backoff(Backoff::constant(ms(10)))).unwrap()
}

fn breaker(failures: u32) -> CircuitBreakerLayer {
    CircuitBreakerLayer::new("test", Config::only(Trip::ConsecutiveFailures(failures))).unwrap()
}

///
#[tokio::test(start_paused = true)]
async fn a_breaker_outside_of_a_retry_counts_the_call_and_not_its_attempts() {
    let breaker = breaker(3);
    let script = Scripted::<u32>::new([err("down")]);
    let service = ServiceBuilder::new().layer(breaker.clone()).layer(retries(2)).service(script.clone());
    service.oneshot(()).await.unwrap_err();
    let handle = breaker.handle();
    assert_eq!(
        (script.calls(), handle.metrics().consecutive_failures, handle.state()),
        (3, 1, CircuitState::Closed)
    );
}

/// T-01, with our own deadline
#[tokio::test(start_paused = true)]
async fn an_attempt_deadline_inside_of_a_retry_bounds_attempts_and_not_delays() {
    let stack = |delay, script: &Scripted<u32>| {
        let config = retry::Config::background().max_retries(2).budget(Budget::unlimited());
        let retry = RetryLayer::new("test", config.backoff(Backoff::constant(delay))).unwrap();
        let attempt = DeadlineLayer::attempt("test", ms(50)).unwrap();
        ServiceBuilder::new().layer(retry).layer(attempt).service(script.clone())
    };
    let slow = || ok(1).after(ms(100));
    let script = Scripted::new([slow(), slow(), ok(1)]);
    let start = Instant::now();
    stack(ms(0), &script).oneshot(()).await.unwrap();
    assert_eq!((script.calls(), script.counts().dropped, start.elapsed()), (3, 2, ms(100)));

    let script = Scripted::<u32>::new([err("at once")]);
    let error = stack(ms(100), &script).oneshot(()).await.unwrap_err();
    assert_eq!(script.calls(), 3);
    assert!(find::<buttress::Elapsed>(&*error).is_none(), "a pending retry is not timed");
}

#[tokio::test(start_paused = true)]
async fn a_breaker_inside_of_a_retry_counts_attempts_and_ends_the_retry_when_it_opens() {
    let breaker = breaker(3);
    let script = Scripted::<u32>::new([err("down")]);
    let service = ServiceBuilder::new().layer(retries(9)).layer(breaker.clone()).service(script.clone());
    let error = service.oneshot(()).await.unwrap_err();
    let exhausted = find::<Exhausted>(&*error).unwrap();
    assert_eq!((script.calls(), exhausted.attempts, exhausted.stop), (3, 4, Stop::Refused));
    assert!(find::<Refused>(&*error).is_some(), "the fourth attempt was refused");
    // CloneReplay holds that the request is repeatable; had it been applied, that would be no harm.
    assert!(exhausted.safe_to_retry);
}

#[tokio::test(start_paused = true)]
async fn a_total_deadline_that_travels_keeps_a_retry_from_starting_in_vain() {
    // Without `carry` the deadline cuts the retry off in the middle of its delay; nothing else is known below.
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::total("test", ms(25)).unwrap())
        .layer(retries(9))
        .service(Scripted::<u32>::new([err("down")]));
    let start = Instant::now();
    let error = service.oneshot(()).await.unwrap_err();
    assert!(find::<buttress::Elapsed>(&*error).is_some());
    assert_eq!(start.elapsed(), ms(25));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_its_callers_deadline_abandons_frees_its_slot() {
    let breaker = breaker(1);
    let script = Scripted::new([hang(), ok(1)]);
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::total("test", ms(25)).unwrap())
        .layer(breaker.clone())
        .service(script.clone());
    breaker.handle().open_for(ms(10));
    tokio::time::sleep(ms(10)).await;
    service.clone().oneshot(()).await.unwrap_err();
    assert_eq!((breaker.handle().state(), script.counts().in_flight), (CircuitState::HalfOpen, 0));
    service.clone().oneshot(()).await.unwrap();
    service.oneshot(()).await.unwrap();
    assert_eq!(breaker.handle().state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_times_out_is_a_failure_of_the_breaker_around_it() {
    let breaker = breaker(2);
    let attempt = DeadlineLayer::attempt("test", ms(25)).unwrap();
    let service = breaker.layer(attempt.layer(Scripted::<u32>::new([hang()])));
    for _ in 0..2 {
        service.clone().oneshot(()).await.unwrap_err();
    }
    assert_eq!(breaker.handle().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn the_whole_stack_keeps_the_contract() {
    contract::check(|| {
        ServiceBuilder::new()
            .layer(DeadlineLayer::total("test", ms(60_000)).unwrap())
            .layer(retries(0))
            .layer(breaker(100))
            .layer(DeadlineLayer::attempt("test", ms(60_000)).unwrap())
            .into_inner()
    })
    .await;
}
