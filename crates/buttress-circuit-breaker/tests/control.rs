//! What an operator can do.

mod common;

use buttress_circuit_breaker::{
    CircuitBreakerLayer, CircuitCause, CircuitState::*, Config, Control, Mode, Reason, Snapshot, Window,
};
use buttress_core::{Event, observe_fn};
use buttress_testkit::clock::{poll_in_task, settle};
use common::*;

/// CB-07
#[tokio::test(start_paused = true)]
async fn an_isolated_circuit_refuses_until_it_is_closed_by_hand() {
    let rig = Rig::new(consecutive(1));
    let (end, ended) = tokio::sync::oneshot::channel();
    let layer = rig.layer.clone();
    let late = tokio::spawn(async move { layer.call(ended).await });
    settle().await;
    rig.handle.isolate();
    assert_eq!(rig.refused().await.reason(), Reason::CircuitIsolated);
    end.send(500).unwrap();
    late.await.unwrap().unwrap();
    assert_eq!(rig.state(), Isolated, "a late result changes nothing");
    advance(secs(86_400)).await;
    assert_eq!(rig.refused().await.reason(), Reason::CircuitIsolated, "nor does time");
    rig.handle.close();
    rig.calls(&[200]).await;
    assert_eq!((rig.state(), rig.handle.metrics().refused), (Closed, 0));
}

/// CB-07, the shared control
#[tokio::test(start_paused = true)]
async fn one_control_isolates_and_closes_several_circuits() {
    let control = Control::new();
    let [a, b] = ["a", "b"].map(|name| CircuitBreakerLayer::standard(name).control(&control));
    let gone = CircuitBreakerLayer::standard("gone").control(&control);
    drop(gone);
    control.isolate();
    assert_eq!((a.handle().state(), b.handle().state()), (Isolated, Isolated));
    control.close();
    assert_eq!((a.handle().state(), b.handle().state()), (Closed, Closed));
}

/// CB-12
#[tokio::test(start_paused = true)]
async fn it_can_be_opened_for_a_given_time_or_until_a_given_moment() {
    let rig = Rig::new(consecutive(1));
    rig.handle.open_for(secs(2 * 3600));
    advance(secs(3600)).await;
    rig.refused().await;
    advance(secs(3601)).await;
    rig.calls(&[200]).await;

    let rig = Rig::new(consecutive(1));
    rig.handle.open_until(tokio::time::Instant::now() + secs(30 * 60));
    advance(secs(15 * 60)).await;
    rig.refused().await;
    advance(secs(15 * 60 + 1)).await;
    rig.calls(&[200]).await;
}

/// CB-18, forced open
#[tokio::test(start_paused = true)]
async fn an_isolated_circuit_counts_what_it_refuses() {
    let rig = Rig::new(consecutive(1).open_for(secs(5)));
    rig.handle.isolate();
    rig.refused().await;
    advance(secs(6)).await;
    rig.refused().await;
    assert_eq!(rig.handle.metrics().refused, 2);
}

/// CB-18, disabled
#[tokio::test(start_paused = true)]
async fn switched_off_it_admits_everything_and_records_nothing() {
    let rig = Rig::new(consecutive(1).trip(rate_rule()));
    rig.handle.set_mode(Mode::Off);
    rig.calls(&[500; 20]).await;
    assert_eq!((rig.state(), rig.handle.metrics().calls), (Closed, 0));
    assert!(rig.events.lock().unwrap().is_empty());

    rig.handle.set_mode(Mode::Enforce);
    rig.calls(&[500]).await;
    assert_eq!(rig.state(), Open);
    rig.handle.set_mode(Mode::Off);
    rig.calls(&[200]).await;
    assert_eq!(rig.state(), Open, "its state waits for it");
}

fn rate_rule() -> buttress_circuit_breaker::Trip {
    let at_least = buttress_circuit_breaker::Ratio::percent(50);
    buttress_circuit_breaker::Trip::FailureRate { window: Window::Calls(100), at_least, minimum_calls: 5 }
}

/// CB-18, metrics only
#[tokio::test(start_paused = true)]
async fn observing_it_decides_as_ever_and_refuses_nothing() {
    let rig = Rig::new(Config::only(rate_rule()).mode(Mode::Observe).open_for(secs(5)));
    rig.calls(&[500, 500, 500, 200, 200, 200, 500]).await;
    assert_eq!(rig.handle.mode(), Mode::Observe);
    assert_eq!(rig.handle.metrics().failure_rate, Some(0.6));
    assert_eq!(rig.transitions(), [Open], "reported once, not per call");
    let would = rig.events.lock().unwrap().iter().filter(|event| **event == Event::WouldRefuse).count();
    assert_eq!(would, 2, "the calls after the fifth");

    advance(secs(5)).await;
    rig.calls(&[200, 200]).await;
    assert_eq!(rig.transitions(), [Open, HalfOpen, Closed], "and it recovers as it would");
}

/// CB-18, transitions
#[tokio::test(start_paused = true)]
async fn what_changes_nothing_is_not_reported_and_closed_cannot_become_half_open() {
    let rig = Rig::new(consecutive(1));
    let error = rig.handle.half_open().unwrap_err();
    assert_eq!((error.from, error.to), (Closed, HalfOpen));
    rig.handle.close();
    assert!(rig.transitions().is_empty());
    rig.handle.isolate();
    rig.handle.isolate();
    assert_eq!(rig.transitions(), [Isolated]);
    assert!(rig.handle.half_open().is_err());
    rig.handle.open_for(secs(9));
    rig.handle.open_for(secs(5));
    assert_eq!(rig.handle.retry_after(), Some(secs(5)));
    rig.handle.half_open().unwrap();
    rig.handle.half_open().unwrap();
    assert_eq!(rig.transitions(), [Isolated, Open, HalfOpen]);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_restores_the_open_time_across_a_restart() {
    let rig = Rig::new(consecutive(1).open_for(secs(60)));
    rig.calls(&[500]).await;
    let snapshot = rig.handle.snapshot();

    let restored = Rig::new(consecutive(1).open_for(secs(60)));
    restored.handle.restore(&snapshot).unwrap();
    let left = restored.handle.retry_after().unwrap();
    assert!(left > secs(59) && left <= secs(60), "{left:?}");

    let short = Rig::new(consecutive(1).open_for(secs(5)).hint_cap(None));
    short.handle.restore(&snapshot).unwrap();
    assert_eq!(short.handle.retry_after(), Some(secs(5)), "cut to what the configuration allows");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_an_unknown_version_is_refused_and_changes_nothing() {
    let rig = Rig::new(consecutive(1));
    rig.handle.isolate();
    let newer = Snapshot { version: 2, ..Rig::new(consecutive(1)).handle.snapshot() };
    let message = rig.handle.restore(&newer).unwrap_err().to_string();
    assert!(message.starts_with("`version` is 2"), "{message}");
    assert_eq!(rig.state(), Isolated);
}

#[tokio::test(start_paused = true)]
async fn switching_off_and_on_loses_no_probe() {
    let rig = Rig::new(consecutive(1).success_threshold(1));
    rig.handle.open_for(secs(1));
    rig.handle.half_open().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<u16>();
    let layer = rig.layer.clone();
    let probe = tokio::spawn(async move { layer.call(ended).await });
    settle().await;
    rig.handle.set_mode(Mode::Off);
    end.send(200).unwrap();
    probe.await.unwrap().unwrap();
    rig.handle.set_mode(Mode::Enforce);
    rig.calls(&[200]).await;
}

#[tokio::test(start_paused = true)]
async fn switched_off_it_reports_nothing_of_calls_under_way() {
    let rig = Rig::new(consecutive(1));
    let mut call = Box::pin(rig.call_for(200, secs(1)));
    assert!(poll_in_task(&mut call).await.is_pending());
    rig.handle.set_mode(Mode::Off);
    call.await.unwrap();
    assert_eq!(*rig.events.lock().unwrap(), []);
    assert_eq!(rig.handle.metrics().stale, 0);
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_extends_the_open_time_keeps_the_circuit_eager() {
    let layer = CircuitBreakerLayer::new("test", consecutive(1).eager(true)).unwrap();
    let handle = layer.handle();
    let layer = layer.observe(observe_fn(move |_, event| {
        if let Event::Circuit { to: Open, cause: CircuitCause::ConsecutiveFailures, .. } = event {
            handle.open_for(secs(120));
        }
    }));
    layer.call(async { Err::<(), _>("down") }).await.unwrap_err();
    assert_eq!(layer.handle().retry_after(), Some(secs(120)));
    tokio::time::sleep(secs(121)).await;
    assert_eq!(layer.handle().state(), HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_closes_leaves_no_task_behind() {
    let layer = CircuitBreakerLayer::new("test", consecutive(1).eager(true)).unwrap();
    let handle = layer.handle();
    let layer = layer.observe(observe_fn(move |_, event| {
        if let Event::Circuit { to: Open, .. } = event {
            handle.close();
        }
    }));
    layer.call(async { Err::<(), _>("down") }).await.unwrap_err();
    assert_eq!(layer.handle().state(), Closed);
    settle().await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}
