//! Configurations that are changed while calls flow.

mod common;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use buttress_circuit_breaker::{
    CircuitState::*, Config, KeyedCircuitBreakerLayer, Mode, Ratio, Recovery, Trip, Window,
};
use buttress_core::{ErrorsAreFailures, Plain, key_by};
use buttress_testkit::clock::settle;
use common::*;
use tower::{Layer, ServiceExt, service_fn};

fn slow(slower_than: u64, window: Window) -> Config {
    let (at_least, minimum_calls) = (Ratio::percent(50), 1);
    Config::only(Trip::SlowCalls { slower_than: secs(slower_than), window, at_least, minimum_calls })
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_stays_open_until_its_time_and_the_next_time_is_the_new_one() {
    let rig = Rig::new(consecutive(2).open_for(secs(60)));
    rig.calls(&[500, 500]).await;
    advance(secs(20)).await;
    rig.handle.set_config(consecutive(1).open_for(secs(5)).success_threshold(1)).unwrap();
    assert_eq!((rig.state(), circuit_open(&rig.refused().await)), (Open, secs(40)));
    advance(secs(40)).await;
    rig.calls(&[200]).await;
    assert_eq!(rig.state(), Closed, "one probe is enough by now");
    rig.calls(&[500]).await;
    assert_eq!((rig.state(), circuit_open(&rig.refused().await)), (Open, secs(5)));
}

#[tokio::test(start_paused = true)]
async fn a_bad_configuration_is_an_error_and_changes_nothing() {
    let rig = Rig::new(consecutive(2));
    let before = format!("{:?}", rig.handle.config());
    let error = rig.handle.set_config(consecutive(0)).unwrap_err();
    assert_eq!(error.field(), "consecutive_failures");
    assert_eq!(format!("{:?}", rig.handle.config()), before);
    rig.calls(&[500, 500]).await;
    assert_eq!(rig.state(), Open);
}

#[tokio::test(start_paused = true)]
async fn a_window_whose_kind_and_size_stay_is_kept_and_another_begins_anew() {
    for (window, others) in [
        (Window::Calls(10), [Window::Calls(20), Window::Time(secs(10))]),
        (Window::Time(secs(10)), [Window::Time(secs(20)), Window::Calls(10)]),
    ] {
        let rig = Rig::new(rate(window, 90, 10));
        rig.calls(&[200, 500, 500, 200]).await;
        rig.handle.set_config(rate(window, 50, 5)).unwrap();
        assert_eq!((rig.handle.metrics().calls, rig.handle.metrics().failures), (4, 2));
        rig.calls(&[500]).await;
        assert_eq!(rig.state(), Open, "3 of 5 are more than half");

        for other in others {
            let rig = Rig::new(rate(window, 90, 10));
            rig.calls(&[200, 500, 500, 200]).await;
            rig.handle.set_config(rate(other, 50, 2)).unwrap();
            assert_eq!((rig.handle.metrics().calls, rig.handle.metrics().failures), (0, 0));
            rig.calls(&[200, 200, 500]).await;
            assert_eq!((rig.handle.metrics().calls, rig.handle.metrics().failures), (3, 1));
            assert_eq!(rig.state(), Closed);
            rig.calls(&[500]).await;
            assert_eq!(rig.state(), Open, "2 of 4");
            rig.handle.close();
            rig.handle.set_config(rate(window, 100, 1)).unwrap();
            rig.calls(&[200, 500]).await;
            assert_eq!((rig.state(), rig.handle.metrics().calls), (Closed, 2), "and back");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rules_are_added_to_a_circuit_that_had_none_and_taken_from_it() {
    let rig = Rig::new(consecutive(3));
    rig.calls(&[500, 500]).await;
    let with_rate = Config::standard().trip(Trip::ConsecutiveFailures(3)).trip(Trip::FailureRate {
        window: Window::Calls(4),
        at_least: Ratio::percent(50),
        minimum_calls: 4,
    });
    rig.handle.set_config(with_rate).unwrap();
    assert_eq!(rig.handle.metrics().consecutive_failures, 2, "failures in a row go on counting");
    rig.calls(&[200, 200, 500]).await;
    assert_eq!((rig.state(), rig.handle.metrics().calls), (Closed, 3));
    rig.calls(&[500]).await;
    assert_eq!(rig.state(), Open);
    rig.handle.close();
    rig.handle.set_config(consecutive(2)).unwrap();
    rig.calls(&[500, 200, 500, 200, 500, 200]).await;
    assert_eq!((rig.state(), rig.handle.metrics().calls), (Closed, 0), "nothing is left of the rate");
}

#[tokio::test(start_paused = true)]
async fn probes_that_are_enough_by_the_new_rules_decide_at_once() {
    let rig = Rig::new(consecutive(1).open_for(secs(1)).success_threshold(5));
    rig.calls(&[500]).await;
    advance(secs(1)).await;
    rig.calls(&[200, 200]).await;
    assert_eq!(rig.state(), HalfOpen);
    rig.handle.set_config(consecutive(1).success_threshold(2)).unwrap();
    assert_eq!((rig.state(), rig.transitions()), (Closed, vec![Open, HalfOpen, Closed]));

    let judged = |calls| Recovery::Ratio { calls, at_least: Ratio::percent(50) };
    let rig = Rig::new(consecutive(1).open_for(secs(1)).recovery(judged(5)));
    rig.calls(&[500]).await;
    advance(secs(1)).await;
    rig.calls(&[500, 500, 200]).await;
    rig.handle.set_config(consecutive(1).open_for(secs(7)).recovery(judged(3))).unwrap();
    assert_eq!((rig.state(), circuit_open(&rig.refused().await)), (Open, secs(7)), "2 of 3 failed");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_keeps_the_time_after_which_it_is_slow() {
    let window = Window::Calls(10);
    let rig = Rig::new(slow(10, window));
    let layer = rig.layer.clone();
    let call = async |time| {
        layer
            .call(async move {
                tokio::time::sleep(secs(time)).await;
                Ok::<_, buttress_core::BoxError>(200)
            })
            .await
    };
    let mut old = tokio_test::task::spawn(call(5));
    tokio_test::assert_pending!(old.poll());
    rig.handle.set_config(slow(2, window)).unwrap();
    old.await.unwrap();
    assert_eq!((rig.state(), rig.handle.metrics().slow), (Closed, 0), "5 s were fast when it began");
    call(5).await.unwrap();
    assert_eq!(rig.state(), Open);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_becomes_eager_and_lazy_again_while_it_is_open() {
    let config = || consecutive(1).open_for(secs(10));
    let rig = Rig::new(config());
    rig.calls(&[500]).await;
    rig.handle.set_config(config().eager(true)).unwrap();
    settle().await;
    advance(secs(10)).await;
    settle().await;
    assert_eq!(rig.transitions(), [Open, HalfOpen], "without a call");

    let rig = Rig::new(config().eager(true));
    rig.calls(&[500]).await;
    settle().await;
    rig.handle.set_config(config()).unwrap();
    advance(secs(10)).await;
    settle().await;
    assert_eq!(rig.transitions(), [Open]);
    rig.calls(&[200]).await;
}

#[tokio::test(start_paused = true)]
async fn the_mode_stays_as_it_was_set() {
    let rig = Rig::new(consecutive(1));
    rig.handle.set_mode(Mode::Observe);
    rig.handle.set_config(consecutive(2)).unwrap();
    rig.calls(&[500, 500, 200]).await;
    assert_eq!((rig.state(), rig.handle.mode()), (Open, Mode::Observe));
}

#[tokio::test(start_paused = true)]
async fn all_keys_are_changed_those_to_come_included_and_none_alone() {
    let policy = key_by(Plain::<ErrorsAreFailures>::default(), |key: &&'static str| Some((*key).into()));
    let layer = KeyedCircuitBreakerLayer::new("test", consecutive(3), policy).unwrap();
    let service = layer.layer(service_fn(|_: &'static str| async { Err::<(), _>("down") }));
    let fail = async |key| drop(service.clone().oneshot(key).await.unwrap_err());
    fail("a").await;
    layer.handle().set_config(rate(Window::Calls(10), 100, 2)).unwrap();
    for key in ["a", "b"] {
        fail(key).await;
        assert_eq!(layer.get(key).unwrap().state(), Closed, "{key}");
        fail(key).await;
        assert_eq!(layer.get(key).unwrap().state(), Open, "{key}");
    }
    let error = layer.get("a").unwrap().set_config(consecutive(1)).unwrap_err();
    assert_eq!(error.field(), "key");
    assert!(layer.handle().set_config(consecutive(0)).is_err());
    assert_eq!(layer.get("b").unwrap().state(), Open, "the state stays");
}

/// Ten thousand clones, some of whose calls are dropped, and configurations of every kind in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_beside_calls_lose_no_call_and_leave_a_window_that_counts_right() {
    let rig = std::sync::Arc::new(Rig::new(rate(Window::Calls(50), 100, 50)));
    let over = std::sync::Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (layer, over) = (rig.layer.clone(), std::sync::Arc::clone(&over));
            let clones: Vec<_> = (0..2500).map(|_| layer.clone()).collect();
            tokio::spawn(async move {
                while !over.load(Relaxed) {
                    for (n, layer) in clones.iter().enumerate() {
                        let code = if n % 3 == 0 { 500 } else { 200 };
                        if n % 7 == 0 {
                            let mut call = Box::pin(layer.call(std::future::pending::<Result<u16, &str>>()));
                            assert!(futures_poll(&mut call));
                        } else {
                            let answer = layer.call(async move { Ok::<_, &str>(code) }).await;
                            assert_eq!(answer.expect("no rule of these opens the circuit"), code);
                        }
                    }
                }
            })
        })
        .collect();
    let configs = [
        rate(Window::Time(secs(1)), 100, 1_000_000_000),
        rate(Window::Calls(7), 100, 7),
        consecutive(u32::MAX),
        rate(Window::Time(secs(3600)), 100, 1_000_000_000).eager(true),
        rate(Window::Calls(100_000), 100, 100_000),
    ];
    for config in configs.iter().cycle().take(300) {
        rig.handle.set_config(config.clone()).unwrap();
        std::thread::yield_now();
    }
    over.store(true, Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    rig.handle.set_config(rate(Window::Calls(10), 100, 10)).unwrap();
    rig.calls(&[200, 500, 200]).await;
    let metrics = rig.handle.metrics();
    assert_eq!((rig.state(), metrics.calls, metrics.failures, metrics.stale), (Closed, 3, 1, 0));
    rig.handle.set_config(rate(Window::Time(secs(600)), 100, 10)).unwrap();
    rig.calls(&[200, 500, 200, 200]).await;
    assert_eq!((rig.handle.metrics().calls, rig.handle.metrics().failures), (4, 1));
}

/// Whether it waits, at its first poll.
fn futures_poll(future: &mut std::pin::Pin<Box<impl Future>>) -> bool {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    future.as_mut().poll(&mut cx).is_pending()
}
