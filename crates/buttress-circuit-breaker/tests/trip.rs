//! What opens a circuit, and what does not.

mod common;

use std::time::Duration;

use buttress_circuit_breaker::{CircuitState::*, Config, Ratio, Recovery, Trip, Window};
use buttress_core::observe::CallResult;
use buttress_core::{Event, Hint, Kind, Verdict, classify_fn};
use common::*;

/// CB-01
#[tokio::test(start_paused = true)]
async fn the_ratio_is_compared_with_at_least_and_only_on_enough_calls() {
    for (good, bad, opens) in [(10, 0, false), (9, 1, true), (8, 2, true), (9, 2, true), (8, 1, false)] {
        let rig = Rig::new(rate(Window::Time(secs(30)), 10, 10));
        rig.calls(&vec![200; good]).await;
        for _ in 0..bad {
            let _ = rig.call(500).await;
        }
        assert_eq!(rig.state() == Open, opens, "{good} good, {bad} bad");
    }
}

/// CB-08
#[tokio::test(start_paused = true)]
async fn a_success_can_open_the_circuit_when_it_completes_the_minimum() {
    let rig = Rig::new(rate(Window::Time(secs(20)), 50, 5));
    for (n, code) in (1..).zip([500, 500, 500, 200]) {
        rig.calls(&[code]).await;
        let metrics = rig.handle.metrics();
        assert_eq!((rig.state(), metrics.failure_rate, metrics.calls), (Closed, None, n));
    }
    rig.calls(&[200]).await;
    let metrics = rig.handle.metrics();
    assert_eq!((rig.state(), metrics.failure_rate, metrics.calls, metrics.failures), (Open, Some(0.6), 5, 3));
    assert_eq!(rig.transitions(), [Open], "reported once");
    rig.refused().await;
    assert_eq!(rig.handle.metrics().refused, 1);
}

fn slow(minimum_calls: u32) -> Config {
    let window = Window::Calls(100);
    let at_least = Ratio::percent(50);
    Config::only(Trip::SlowCalls { slower_than: secs(4), window, at_least, minimum_calls })
        .trip(Trip::FailureRate { window, at_least, minimum_calls })
}

/// CB-10
#[tokio::test(start_paused = true)]
async fn successful_calls_that_are_slow_open_the_circuit() {
    let recovery = Recovery::Ratio { calls: 4, at_least: Ratio::percent(50) };
    let rig = Rig::new(slow(5).probes(4).recovery(recovery).open_for(secs(60)));
    for time in [1, 5, 5, 1, 5] {
        rig.call_for(200, secs(time)).await.unwrap();
    }
    let metrics = rig.handle.metrics();
    assert_eq!((rig.state(), metrics.slow_rate), (Open, Some(0.6)));

    advance(secs(60)).await;
    for time in [5, 5, 5, 1] {
        assert_ne!(rig.state(), Closed);
        rig.call_for(200, secs(time)).await.unwrap();
    }
    let metrics = rig.handle.metrics();
    assert_eq!((rig.state(), metrics.slow_rate, metrics.failure_rate), (Open, Some(0.75), Some(0.0)));
}

#[tokio::test(start_paused = true)]
async fn calls_that_hang_open_the_circuit_while_they_still_hang() {
    let rig = Rig::new(slow(3));
    let hanging: Vec<_> = (0..3)
        .map(|_| {
            let layer = rig.layer.clone();
            tokio::spawn(async move { layer.call(std::future::pending::<Result<u16, &str>>()).await })
        })
        .collect();
    tokio::time::sleep(ms(3999)).await;
    assert_eq!(rig.state(), Closed);
    tokio::time::sleep(ms(1)).await;
    buttress_testkit::clock::settle().await;
    assert_eq!(rig.state(), Open, "at the threshold, not at a time-out");
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_call_found_slow_while_it_ran_is_not_counted_twice() {
    let rig = Rig::new(slow(100));
    rig.call_for(200, secs(5)).await.unwrap();
    rig.call_for(500, secs(5)).await.unwrap();
    let metrics = rig.handle.metrics();
    assert_eq!((metrics.timed_calls, metrics.slow, metrics.calls, metrics.failures), (2, 2, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_exactly_the_limit_is_slow() {
    let rig = Rig::new(slow(100));
    rig.call_for(200, secs(4)).await.unwrap();
    rig.call_for(200, ms(3999)).await.unwrap();
    assert_eq!(rig.handle.metrics().slow, 1);
}

/// CB-20
#[tokio::test(start_paused = true)]
async fn the_count_window_slides() {
    let rig = Rig::new(rate(Window::Calls(10), 100, 10));
    rig.calls(&[200, 200, 500, 500]).await;
    let metrics = rig.handle.metrics();
    assert_eq!((metrics.failure_rate, metrics.calls), (None, 4));
    rig.calls(&[500, 500, 500, 500, 200, 200, 200, 200]).await;
    let metrics = rig.handle.metrics();
    assert_eq!((metrics.failure_rate, metrics.calls, metrics.failures), (Some(0.6), 10, 6));
    rig.calls(&[200, 200, 200]).await;
    assert_eq!(rig.handle.metrics().failure_rate, Some(0.3));
}

#[tokio::test(start_paused = true)]
async fn after_a_hundred_thousand_successes_half_a_window_of_failures_opens_it() {
    let rig = Rig::new(rate(Window::Calls(100), 50, 100));
    for _ in 0..100_000 {
        rig.call(200).await.unwrap();
    }
    rig.calls(&[500; 49]).await;
    assert_eq!(rig.state(), Closed);
    rig.calls(&[500]).await;
    assert_eq!(rig.state(), Open, "on exactly the 50th failure");
}

/// CB-21
#[tokio::test(start_paused = true)]
async fn consecutive_failures_open_it_and_a_success_starts_the_count_again() {
    let rig = Rig::new(consecutive(6).open_for(secs(60)).success_threshold(1));
    rig.calls(&[500; 5]).await;
    assert_eq!(rig.state(), Closed);
    rig.calls(&[200]).await;
    rig.calls(&[500; 5]).await;
    assert_eq!(rig.state(), Closed);
    rig.calls(&[500]).await;
    assert_eq!(rig.state(), Open, "on the 6th in a row");

    advance(ms(59_999)).await;
    rig.refused().await;
    advance(ms(1000)).await;
    rig.calls(&[500]).await;
    assert_eq!(rig.state(), Open, "a failure opens it again");
    advance(secs(60)).await;
    rig.calls(&[200]).await;
    assert_eq!((rig.state(), rig.entered(HalfOpen)), (Closed, 2));
}

/// CB-37
#[tokio::test(start_paused = true)]
async fn two_rules_are_ored_and_throttling_counts_unless_told_otherwise() {
    let both = |minimum_calls, failures| {
        rate(Window::Calls(100), 80, minimum_calls)
            .trip(Trip::ConsecutiveFailures(failures))
            .open_for(secs(1))
    };
    let rig = Rig::new(both(1, 100));
    rig.calls(&[200, 429, 429, 429, 429]).await;
    assert_eq!(rig.state(), Open, "429 counts in the ratio");
    advance(secs(1)).await;
    rig.calls(&[429]).await;
    assert_eq!(rig.state(), Open, "a throttled probe opens it again");

    let rig = Rig::new(both(100, 3));
    rig.calls(&[500, 500]).await;
    assert_eq!(rig.state(), Closed);
    rig.calls(&[500]).await;
    assert_eq!(rig.state(), Open, "the third in a row");

    let rig = Rig::new(consecutive(3).open_for(secs(1)).success_threshold(1).count_throttling(false));
    rig.calls(&[429, 429, 429]).await;
    assert_eq!(rig.state(), Closed);
    rig.calls(&[500, 500, 500]).await;
    advance(secs(1)).await;
    rig.calls(&[429]).await;
    assert_eq!(rig.state(), Closed, "a dependency that throttles is alive");
}

/// CB-40, opening
#[tokio::test(start_paused = true)]
async fn an_open_circuit_runs_no_call() {
    let rig = Rig::new(consecutive(2));
    rig.calls(&[500, 500]).await;
    let ran = std::cell::Cell::new(false);
    let call = async {
        ran.set(true);
        Ok::<_, std::io::Error>(200)
    };
    rig.layer.call(call).await.unwrap_err();
    assert!(!ran.get());

    let rig = Rig::new(consecutive(1));
    rig.calls(&[500]).await;
    assert_eq!(rig.state(), Open, "one failure is enough where one is configured");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_layer_below_refused_says_nothing_about_the_dependency() {
    let rig = Rig::new(consecutive(2));
    for _ in 0..5 {
        let refused =
            buttress_core::Refused::new("deadline", "test".into(), buttress_core::Reason::DeadlinePassed);
        rig.layer.call(async { Err::<u16, _>(refused) }).await.unwrap_err();
    }
    assert_eq!(rig.state(), Closed);
}

/// A redeploy gives back what it meets; a conflict is one resource's, and its server well.
#[tokio::test(start_paused = true)]
async fn what_was_given_back_unprocessed_counts_neither_way_and_a_conflict_is_an_answer() {
    let rig = Rig::new(consecutive(3).success_threshold(1).open_for(secs(1)));
    rig.calls(&[425; 10]).await;
    rig.calls(&[500, 500, 425]).await;
    assert_eq!((rig.state(), rig.handle.metrics().consecutive_failures), (Closed, 2));
    rig.calls(&[409]).await;
    assert_eq!((rig.state(), rig.handle.metrics().consecutive_failures), (Closed, 0));
    rig.calls(&[409; 10]).await;
    rig.calls(&[500; 3]).await;
    assert_eq!(rig.state(), Open);
    advance(secs(1)).await;
    rig.calls(&[425, 425]).await;
    assert_eq!(rig.state(), HalfOpen, "no probe is used up, and none has succeeded");
    rig.calls(&[409]).await;
    assert_eq!(rig.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn it_stays_open_for_as_long_as_the_server_asked_up_to_the_cap() {
    for (asked, open) in [(10, 60), (120, 120), (86_400, 300)] {
        let hint = Hint::RetryAfter(secs(asked));
        let policy = classify_fn(move |_: Result<&(), _>| Verdict::failure(Kind::Throttled).with_hint(hint));
        let config = consecutive(1).open_for(secs(60));
        let layer =
            buttress_circuit_breaker::CircuitBreakerLayer::new("test", config).unwrap().policy(policy);
        layer.call(async { Ok::<_, std::io::Error>(()) }).await.unwrap();
        assert_eq!(layer.handle().retry_after(), Some(secs(open)), "asked for {asked} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_window_counts_calls_at_any_rate_without_a_lock_while_nothing_failed() {
    let rig = Rig::new(rate(Window::Time(secs(10)), 50, 10));
    for _ in 0..10_000 {
        rig.call(200).await.unwrap();
    }
    assert_eq!(rig.handle.metrics().calls, 10_000);
    advance(secs(9)).await;
    rig.calls(&[500; 10]).await;
    assert_eq!((rig.handle.metrics().calls, rig.state()), (10_010, Closed));
    advance(secs(1)).await;
    rig.calls(&[200]).await;
    assert_eq!(rig.state(), Open, "10 of 11, now that the old calls have left the window");
    let _: Duration = rig.handle.retry_after().unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_call_is_reported_once() {
    let (window, at_least) = (Window::Calls(100), Ratio::percent(50));
    let rule = Trip::SlowCalls { slower_than: secs(4), window, at_least, minimum_calls: 100 };
    for (code, result) in [(500, CallResult::Failure), (200, CallResult::Slow)] {
        let rig = Rig::new(Config::only(rule));
        rig.call_for(code, secs(5)).await.unwrap();
        assert_eq!(*rig.events.lock().unwrap(), [Event::Call(result)]);
    }
}
