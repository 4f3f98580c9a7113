//! Calls that are let in and ended by hand, and tasks that wait for a state.

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use buttress_circuit_breaker::{
    Abandoned, CircuitBreakerLayer, CircuitState, CircuitState::*, Config, KeyedCircuitBreakerLayer, Mode,
    Permit, Reason, Trip, Window,
};
use buttress_core::{Event, Hint, Kind, Verdict, key_by, observe::CallResult};
use common::*;

fn permit(rig: &Rig) -> Permit {
    rig.handle.try_acquire().expect("let in")
}

#[tokio::test(start_paused = true)]
async fn what_permits_bring_counts_as_calls_do() {
    let rig = Rig::new(consecutive(2).success_threshold(2));
    permit(&rig).failure();
    permit(&rig).success();
    permit(&rig).failure();
    assert_eq!((rig.state(), rig.handle.metrics().consecutive_failures), (Closed, 1), "not in a row");
    let hint = Verdict::failure(Kind::Throttled).with_hint(Hint::RetryAfter(secs(90)));
    permit(&rig).settle(hint);
    let refused = rig.handle.try_acquire().unwrap_err();
    assert_eq!((circuit_open(&refused), refused.name()), (secs(90), "test"), "the server's word counts");
    assert_eq!(rig.handle.metrics().refused, 1);
    advance(secs(90)).await;
    let probe = permit(&rig);
    assert_eq!(rig.handle.try_acquire().unwrap_err().reason(), Reason::ProbesInFlight);
    probe.success();
    rig.calls(&[200]).await;
    assert_eq!(rig.transitions(), [Open, HalfOpen, Closed]);
}

#[tokio::test(start_paused = true)]
async fn a_permit_ends_its_call_once() {
    let rig = Rig::new(consecutive(2).abandoned(Abandoned::CountAsFailure));
    let mut call = permit(&rig);
    call.settle(Verdict::failure(Kind::Timeout));
    call.settle(Verdict::failure(Kind::Timeout));
    call.failure();
    assert_eq!((rig.state(), rig.handle.metrics().consecutive_failures), (Closed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_permit_is_an_abandoned_call_that_frees_its_probe_and_closes_nothing() {
    let rig = Rig::new(consecutive(1).success_threshold(1));
    permit(&rig).failure();
    advance(secs(60)).await;
    for _ in 0..3 {
        drop(permit(&rig));
        assert_eq!(rig.state(), HalfOpen);
    }
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _probe = permit(&rig);
        panic!("in the caller's code");
    }));
    assert!(panicked.is_err() && rig.state() == HalfOpen);
    let abandoned = Event::Call(CallResult::Abandoned);
    assert_eq!(rig.events.lock().unwrap().iter().filter(|event| **event == abandoned).count(), 4);
    permit(&rig).success();
    assert_eq!(rig.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn time_counts_from_the_moment_the_call_is_let_in() {
    let rig = Rig::new(consecutive(1));
    let call = permit(&rig);
    advance(ms(9999)).await;
    drop(call);
    assert_eq!(rig.state(), Closed, "given up early says nothing");
    let call = permit(&rig);
    advance(secs(10)).await;
    drop(call);
    assert_eq!(rig.state(), Open, "after ten seconds it does");

    let slow = Trip::SlowCalls {
        slower_than: secs(2),
        window: Window::Calls(10),
        at_least: buttress_circuit_breaker::Ratio::percent(100),
        minimum_calls: 2,
    };
    let rig = Rig::new(Config::only(slow));
    for (time, state) in [(ms(1999), Closed), (secs(2), Closed), (secs(2), Closed)] {
        let call = permit(&rig);
        advance(time).await;
        call.success();
        assert_eq!(rig.state(), state);
    }
    assert_eq!(rig.handle.metrics().slow, 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_let_in_before_a_transition_does_not_vote_after_it() {
    let rig = Rig::new(consecutive(1));
    let before = permit(&rig);
    permit(&rig).failure();
    rig.handle.close();
    before.failure();
    assert_eq!((rig.state(), rig.handle.metrics().stale), (Closed, 1));
}

#[tokio::test(start_paused = true)]
async fn the_mode_is_obeyed_by_hand_too() {
    let rig = Rig::new(consecutive(1));
    rig.handle.isolate();
    rig.handle.set_mode(Mode::Observe);
    permit(&rig).success();
    assert!(rig.events.lock().unwrap().contains(&Event::WouldRefuse));
    rig.handle.set_mode(Mode::Off);
    permit(&rig).failure();
    rig.handle.set_mode(Mode::Enforce);
    assert_eq!(rig.handle.try_acquire().unwrap_err().reason(), Reason::CircuitIsolated);
}

/// Synchronous code has no runtime.
#[test]
fn it_needs_no_runtime() {
    let handle = CircuitBreakerLayer::standard("drive").handle();
    (0..5).for_each(|_| handle.try_acquire().unwrap().failure());
    let refused = handle.try_acquire().unwrap_err();
    assert!(refused.retry_after().is_some_and(|time| time > secs(30)));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_once_or_with_the_transition_that_it_waits_for() {
    let rig = Rig::new(consecutive(1).success_threshold(1));
    rig.handle.closed().await;
    let mut trouble = pin!(rig.handle.wait_for(|state| state != Closed));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(trouble.as_mut().poll(&mut cx).is_pending());
    permit(&rig).failure();
    assert_eq!(trouble.await, Open);
    let mut closed = pin!(rig.handle.closed());
    assert!(closed.as_mut().poll(&mut cx).is_pending());
    advance(secs(60)).await;
    let probe = permit(&rig);
    assert!(closed.as_mut().poll(&mut cx).is_pending(), "half-open is another state");
    probe.success();
    closed.await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_tasks_that_wait_are_all_woken_by_one_transition() {
    let rig = Rig::new(consecutive(1));
    rig.handle.isolate();
    let waits: Vec<_> = (0..10_000)
        .map(|_| {
            let handle = rig.handle.clone();
            tokio::spawn(async move { handle.closed().await })
        })
        .collect();
    // Some leave again.
    buttress_testkit::clock::settle().await;
    assert!(waits.iter().all(|wait| !wait.is_finished()));
    waits.iter().step_by(3).for_each(tokio::task::JoinHandle::abort);
    rig.handle.close();
    for (n, wait) in waits.into_iter().enumerate() {
        assert_eq!(wait.await.is_ok(), n % 3 != 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_transition_between_the_look_and_the_wait_wakes() {
    let handle = CircuitBreakerLayer::standard("x").handle();
    handle.isolate();
    let mut closed = pin!(handle.wait_for(|state| {
        handle.close();
        state == Closed
    }));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(closed.as_mut().poll(&mut cx).is_ready());
}

/// A wake-up that is lost hangs here.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_transition_is_missed_between_looking_and_waiting() {
    let handle = CircuitBreakerLayer::standard("x").handle();
    for round in 0..2000 {
        let (from, to) = if round % 2 == 0 { (Closed, Isolated) } else { (Isolated, Closed) };
        assert_eq!(handle.state(), from);
        let waits: Vec<_> = (0..4)
            .map(|_| {
                let handle = handle.clone();
                tokio::spawn(async move { handle.wait_for(|state| state == to).await })
            })
            .collect();
        if to == Isolated {
            handle.isolate()
        } else {
            handle.close()
        }
        for wait in waits {
            let woken = tokio::time::timeout(Duration::from_secs(120), wait).await;
            assert_eq!(woken.expect("is woken").unwrap(), to);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_the_circuit_of_one_key_is_not_misled_by_another() {
    let policy = key_by(buttress_core::Plain::<buttress_core::ErrorsAreFailures>::default(), |key: &&str| {
        Some((*key).into())
    });
    let layer = KeyedCircuitBreakerLayer::new("x", Config::standard(), policy).unwrap();
    let service = tower::service_fn(|_: &'static str| async { Ok::<_, std::io::Error>(()) });
    for key in ["a", "b"] {
        tower::ServiceExt::oneshot(tower::Layer::layer(&layer, service), key).await.unwrap();
    }
    let [a, b] = ["a", "b"].map(|key| layer.get(key).unwrap());
    a.isolate();
    let heard = Arc::new(std::sync::Mutex::new(Vec::<CircuitState>::new()));
    let mut closed = pin!(a.wait_for(|state| {
        heard.lock().unwrap().push(state);
        state == Closed
    }));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(closed.as_mut().poll(&mut cx).is_pending());
    b.isolate();
    b.close();
    assert!(closed.as_mut().poll(&mut cx).is_pending());
    a.close();
    assert!(closed.as_mut().poll(&mut cx).is_ready());
    assert_eq!(heard.lock().unwrap().last(), Some(&Closed));
    assert_eq!(a.try_acquire().map(Permit::success).map_err(|_| ()), Ok(()));
    a.isolate();
    assert_eq!(a.try_acquire().unwrap_err().name(), "x/a");
}
