//! Calls that are dropped, panic, or overlap.

mod common;

use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};

use buttress_circuit_breaker::{Abandoned, CircuitBreakerLayer, CircuitState::*, Config, Window};
use buttress_core::observe::CallResult;
use buttress_core::{BoxError, Event};
use buttress_testkit::clock::{poll_in_task, settle};
use buttress_testkit::{Scripted, hang, ok, panics};
use common::*;
use tower::{Layer, Service, ServiceExt};

fn hanging(rig: &Rig) -> impl Future<Output = Result<u16, BoxError>> + Unpin + '_ {
    Box::pin(rig.layer.call(std::future::pending::<Result<u16, BoxError>>()))
}

async fn abandon(rig: &Rig, after: std::time::Duration) {
    let mut call = hanging(rig);
    assert!(poll_in_task(&mut call).await.is_pending());
    advance(after).await;
}

/// CB-23
#[tokio::test(start_paused = true)]
async fn a_panic_counts_as_a_failure_and_reaches_the_caller() {
    let rig = Rig::new(consecutive(2));
    for _ in 0..2 {
        let mut call = Box::pin(
            rig.layer.call(async { if true { panic!("inside") } else { Ok::<u16, BoxError>(200) } }),
        );
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut cx).is_ready()));
        assert!(polled.is_err(), "the panic passes on");
    }
    assert_eq!(rig.state(), Open);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_call_itself_counts_too_and_frees_its_probe() {
    let layer =
        CircuitBreakerLayer::new("test", consecutive(1).open_for(secs(1)).success_threshold(1)).unwrap();
    let mut panicking = layer
        .layer(tower::service_fn(|(): ()| -> std::future::Ready<Result<(), BoxError>> { panic!("in call") }));
    for state in [Open, Open] {
        let called = std::panic::catch_unwind(AssertUnwindSafe(|| drop(panicking.call(()))));
        assert!(called.is_err());
        assert_eq!(layer.handle().state(), state);
        advance(secs(1)).await;
    }
    layer.call(async { Ok::<_, BoxError>(()) }).await.unwrap();
    assert_eq!(layer.handle().state(), Closed, "no probe was lost");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_panics_beside_its_call_has_abandoned_it() {
    let rig = Rig::new(consecutive(1));
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut call = hanging(&rig);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(std::pin::Pin::new(&mut call).poll(&mut cx).is_pending());
        panic!("the caller's own fault");
    }));
    assert!(panicked.is_err());
    assert_eq!(rig.state(), Closed, "the service did nothing wrong");
}

/// CB-32
#[tokio::test(start_paused = true)]
async fn abandoned_calls_count_while_nothing_succeeds() {
    let config = || rate(Window::Time(secs(30)), 10, 3).abandoned(Abandoned::CountUnlessAnySuccess);
    let rig = Rig::new(config());
    for _ in 0..3 {
        abandon(&rig, ms(0)).await;
    }
    assert_eq!(rig.state(), Open);
    rig.refused().await;

    let rig = Rig::new(config());
    rig.calls(&[200]).await;
    for _ in 0..10 {
        abandon(&rig, ms(0)).await;
    }
    assert_eq!(rig.state(), Closed);

    let rig = Rig::new(consecutive(3).abandoned(Abandoned::CountUnlessAnySuccess));
    rig.calls(&[200]).await;
    for _ in 0..10 {
        abandon(&rig, ms(0)).await;
    }
    assert_eq!(rig.state(), Closed, "without a window, a success since the circuit closed is enough");
    rig.handle.close();
    for _ in 0..3 {
        abandon(&rig, ms(0)).await;
    }
    assert_eq!(rig.state(), Open);
}

/// CB-32, before the first poll
#[tokio::test(start_paused = true)]
async fn a_future_dropped_before_its_first_poll_was_a_call() {
    let config = rate(Window::Time(secs(30)), 10, 3).abandoned(Abandoned::CountUnlessAnySuccess);
    let layer = CircuitBreakerLayer::new("test", config).unwrap();
    let mut service = layer.layer(Scripted::new([ok(1)]));
    for _ in 0..3 {
        drop(ServiceExt::<()>::ready(&mut service).await.unwrap().call(()));
    }
    assert_eq!(layer.handle().state(), Open);
}

#[tokio::test(start_paused = true)]
async fn by_default_only_who_waited_ten_seconds_saw_a_failure() {
    let rig = Rig::new(consecutive(2));
    for _ in 0..5 {
        abandon(&rig, ms(9999)).await;
    }
    assert_eq!(rig.state(), Closed);
    abandon(&rig, secs(10)).await;
    abandon(&rig, secs(10)).await;
    assert_eq!(rig.state(), Open);
}

#[tokio::test(start_paused = true)]
async fn abandoned_calls_are_ignored_or_counted_as_configured() {
    for (abandoned, state) in [(Abandoned::Ignore, Closed), (Abandoned::CountAsFailure, Open)] {
        let rig = Rig::new(consecutive(1).abandoned(abandoned));
        abandon(&rig, secs(60)).await;
        assert_eq!(rig.state(), state, "{abandoned:?}");
        let events = rig.events.lock().unwrap();
        assert!(events.contains(&Event::Call(CallResult::Abandoned)));
        assert!(!events.contains(&Event::Call(CallResult::Success)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_probe_frees_its_slot_and_closes_nothing() {
    let rig = Rig::new(consecutive(1).open_for(secs(1)).success_threshold(1));
    rig.calls(&[500]).await;
    advance(secs(1)).await;
    for _ in 0..100 {
        abandon(&rig, ms(0)).await;
        assert_eq!(rig.state(), HalfOpen);
    }
    rig.calls(&[200]).await;
    assert_eq!(rig.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn a_clone_starts_unready_and_a_panicking_service_is_a_failure() {
    let layer = CircuitBreakerLayer::new("test", consecutive(1)).unwrap();
    let service = layer.layer(Scripted::<u32>::new([panics()]));
    let call = tokio::spawn(service.clone().oneshot(()));
    assert!(call.await.unwrap_err().is_panic());
    assert_eq!(layer.handle().state(), Open);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_waiting_calls_all_let_go() {
    let layer = CircuitBreakerLayer::new("test", Config::standard()).unwrap();
    let script = Scripted::<u32>::new([hang()]);
    let service = layer.layer(script.clone());
    let calls: Vec<_> = (0..10_000).map(|_| tokio::spawn(service.clone().oneshot(()))).collect();
    settle().await;
    assert_eq!(script.counts().in_flight, 10_000);
    advance(secs(10)).await;
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    settle().await;
    assert_eq!((script.counts().in_flight, script.counts().dropped), (0, 10_000));
    assert_eq!(layer.handle().state(), Open, "all saw a failure");
    assert_eq!(layer.handle().metrics().stale, 10_000 - 5, "and five were enough");
}

/// Beyond the cases: a breaker that flips on every call.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_contention_no_two_transitions_in_a_row_are_equal() {
    // The shortest open time there is: every refusal is followed by a probe.
    let config =
        consecutive(1).open_for(std::time::Duration::from_nanos(1)).success_threshold(1).probe_lease(secs(1));
    let rig = Rig::new(config);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let layer = rig.layer.clone();
            tokio::spawn(async move {
                for n in 0..2000 {
                    let code = if (task + n) % 2 == 0 { 500 } else { 200 };
                    let _ = layer.call(async { Ok::<_, BoxError>(code) }).await;
                    if n % 16 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let transitions = rig.transitions();
    assert!(transitions.len() > 100, "it flipped {} times", transitions.len());
    let last = transitions.last().copied().unwrap();
    assert_eq!(rig.state(), last);
}

#[test]
fn without_a_timer_a_call_that_needs_one_gets_a_typed_error() {
    let window = Window::Calls(10);
    let at_least = buttress_circuit_breaker::Ratio::percent(50);
    let slow = buttress_circuit_breaker::Trip::SlowCalls {
        slower_than: secs(1),
        window,
        at_least,
        minimum_calls: 1,
    };
    let layer = CircuitBreakerLayer::new("test", Config::only(slow)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(layer.call(std::future::pending::<Result<(), BoxError>>())).unwrap_err();
    assert!(buttress_core::find::<buttress_core::NoTimer>(&*error).is_some(), "{error}");
    // Without such a rule no runtime is needed at all.
    let layer = CircuitBreakerLayer::standard("test");
    let mut call = Box::pin(layer.call(async { Ok::<_, BoxError>(1) }));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(matches!(call.as_mut().poll(&mut cx), Poll::Ready(Ok(1))));
}
