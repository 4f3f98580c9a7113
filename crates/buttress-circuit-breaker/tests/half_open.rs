//! From open back to closed.

mod common;

use buttress_circuit_breaker::{CircuitState::*, Config, ProbeExpiry, Ratio, Reason, Recovery, Trip, Window};
use buttress_core::{Backoff, BoxError, Jitter};
use buttress_testkit::clock::{poll_in_task, settle};
use common::*;

/// CB-04
#[tokio::test(start_paused = true)]
async fn it_opens_refuses_with_the_time_left_probes_opens_again_and_closes() {
    let rig = Rig::new(rate(Window::Time(secs(10)), 50, 10).open_for(secs(1)).success_threshold(1));
    rig.calls(&[500; 10]).await;
    assert_eq!((rig.entered(Open), rig.entered(HalfOpen)), (1, 0));
    assert_eq!(circuit_open(&rig.refused().await), ms(1000));
    advance(ms(500)).await;
    assert_eq!(circuit_open(&rig.refused().await), ms(500));

    advance(ms(500)).await;
    rig.calls(&[500]).await;
    assert_eq!((rig.entered(Open), rig.entered(HalfOpen)), (2, 1));
    assert_eq!(circuit_open(&rig.refused().await), ms(1000));

    advance(ms(1000)).await;
    rig.calls(&[200]).await;
    assert_eq!(rig.transitions(), [Open, HalfOpen, Open, HalfOpen, Closed]);
}

/// A probe that goes on until it is told how to end.
fn probe(rig: &Rig) -> (tokio::sync::oneshot::Sender<u16>, tokio::task::JoinHandle<bool>) {
    let (end, ended) = tokio::sync::oneshot::channel();
    let layer = rig.layer.clone();
    (end, tokio::spawn(async move { layer.call(ended).await.is_ok() }))
}

/// CB-06
#[tokio::test(start_paused = true)]
async fn only_one_probe_runs_at_a_time() {
    let rig = Rig::new(consecutive(4).open_for(ms(200)));
    rig.calls(&[500; 4]).await;
    advance(ms(250)).await;
    let (end, first) = probe(&rig);
    settle().await;
    assert_eq!(rig.refused().await.reason(), Reason::ProbesInFlight);
    end.send(200).unwrap();
    assert!(first.await.unwrap());
    rig.calls(&[200]).await;
    assert_eq!(rig.state(), Closed);
}

/// CB-11
#[tokio::test(start_paused = true)]
async fn it_waits_in_open_and_starts_half_open_with_nothing_counted() {
    let rig = Rig::new(rate(Window::Calls(10), 50, 1).open_for(secs(5)));
    rig.calls(&[500]).await;
    rig.refused().await;
    advance(secs(3)).await;
    rig.refused().await;
    assert_eq!(rig.handle.metrics().refused, 2);
    advance(secs(3)).await;
    let (_end, _probe) = probe(&rig);
    settle().await;
    let metrics = rig.handle.metrics();
    assert_eq!(rig.state(), HalfOpen);
    assert_eq!((metrics.calls, metrics.failures, metrics.refused, metrics.failure_rate), (0, 0, 0, None));
}

fn ratio() -> Config {
    let recovery = Recovery::Ratio { calls: 4, at_least: Ratio::percent(50) };
    rate(Window::Calls(100), 50, 10).probes(4).recovery(recovery).open_for(secs(1))
}

async fn half_open(config: Config) -> Rig {
    let rig = Rig::new(config);
    rig.handle.open_for(secs(1));
    rig.handle.half_open().unwrap();
    rig
}

/// CB-14
#[tokio::test(start_paused = true)]
async fn a_ratio_of_probes_decides_once_all_results_are_there() {
    let rig = half_open(ratio()).await;
    rig.calls(&[500, 500, 200]).await;
    assert_eq!(rig.state(), HalfOpen, "no decision before the fourth");
    rig.calls(&[500]).await;
    let metrics = rig.handle.metrics();
    assert_eq!((rig.state(), metrics.failure_rate, metrics.calls), (Open, Some(0.75), 4));

    let rig = half_open(ratio()).await;
    rig.calls(&[500, 200, 200]).await;
    assert_eq!(rig.state(), HalfOpen);
    rig.calls(&[200]).await;
    assert_eq!((rig.state(), rig.handle.metrics().calls), (Closed, 0), "closed, metrics reset");
}

/// CB-16
#[tokio::test(start_paused = true)]
async fn a_neutral_result_gives_its_probe_back() {
    let rig = half_open(ratio()).await;
    rig.calls(&[200, 200, 200]).await;
    assert_eq!(rig.handle.metrics().calls, 3);
    rig.calls(&[499]).await;
    assert_eq!((rig.state(), rig.handle.metrics().calls), (HalfOpen, 3));
    rig.calls(&[500]).await;
    assert_eq!((rig.state(), rig.handle.metrics().calls), (Closed, 0), "one of four failed: 25 %");

    let rig = half_open(ratio()).await;
    rig.calls(&[499; 4]).await;
    assert_eq!((rig.state(), rig.handle.metrics().calls), (HalfOpen, 0));
    rig.calls(&[200; 4]).await;
    assert_eq!(rig.state(), Closed);
}

/// CB-17
#[tokio::test(start_paused = true)]
async fn a_probe_that_never_ends_opens_or_closes_the_circuit_as_configured() {
    for (expiry, state) in [(ProbeExpiry::Reopen, Open), (ProbeExpiry::Close, Closed)] {
        let rig = half_open(consecutive(1).probe_lease(secs(1)).on_probe_expiry(expiry)).await;
        let (_end, _probe) = probe(&rig);
        settle().await;
        advance(secs(1)).await;
        assert_eq!(rig.state(), HalfOpen, "the lease lasts to its very end");
        advance(ms(1)).await;
        assert_eq!(rig.state(), state);
    }
}

/// CB-25
#[tokio::test(start_paused = true)]
async fn a_success_from_before_it_opened_does_not_close_it() {
    let rig = Rig::new(consecutive(1).open_for(secs(3600)).success_threshold(1));
    let (end, early) = probe(&rig);
    settle().await;
    advance(ms(1)).await;
    rig.calls(&[500]).await;
    advance(ms(1)).await;
    end.send(200).unwrap();
    assert!(early.await.unwrap(), "its caller gets the success");
    assert_eq!((rig.state(), rig.handle.metrics().stale), (Open, 1));
    advance(secs(3600) + ms(1)).await;
    rig.calls(&[200]).await;
    assert_eq!(rig.state(), Closed);
}

/// CB-34
#[tokio::test(start_paused = true)]
async fn an_expired_probe_is_replaced_and_does_not_vote() {
    let rig = half_open(consecutive(1).probe_lease(secs(5)).success_threshold(1)).await;
    let (end, expired) = probe(&rig);
    settle().await;
    advance(secs(3)).await;
    rig.refused().await;
    advance(secs(2)).await;
    assert_eq!(rig.refused().await.reason(), Reason::ProbesInFlight, "at exactly 5 s");
    advance(std::time::Duration::from_micros(1)).await;
    let (second_end, second) = probe(&rig);
    settle().await;
    end.send(200).unwrap();
    assert!(expired.await.unwrap());
    assert_eq!((rig.state(), rig.handle.metrics().stale), (HalfOpen, 1));
    second_end.send(200).unwrap();
    assert!(second.await.unwrap());
    assert_eq!(rig.state(), Closed);
}

/// CB-35
#[tokio::test(start_paused = true)]
async fn the_open_time_grows_while_probes_fail_and_stragglers_are_ignored() {
    let backoff = Backoff::exponential(secs(1), 2.0, secs(100)).unwrap().jitter(Jitter::None);
    let rig = Rig::new(consecutive(2).open_backoff(backoff).success_threshold(1));
    let (straggler, straggling) = probe(&rig);
    settle().await;
    rig.calls(&[502]).await;
    assert_eq!(rig.state(), Closed);
    rig.calls(&[502]).await;
    assert_eq!(rig.state(), Open);
    advance(ms(500)).await;
    rig.refused().await;
    advance(ms(500)).await;
    rig.calls(&[502]).await;
    assert_eq!(rig.handle.retry_after(), Some(secs(2)));
    advance(secs(1)).await;
    straggler.send(200).unwrap();
    assert!(straggling.await.unwrap());
    assert_eq!(rig.state(), Open);
    rig.refused().await;
    advance(secs(1)).await;
    rig.calls(&[200]).await;
    assert_eq!(rig.state(), Closed);
    rig.calls(&[502, 502]).await;
    assert_eq!(rig.handle.retry_after(), Some(secs(1)), "closing starts the schedule again");
}

/// CB-40, half-open
#[tokio::test(start_paused = true)]
async fn no_more_probes_run_than_are_permitted() {
    let rig = half_open(consecutive(1).probes(3).success_threshold(3)).await;
    let probes: Vec<_> = (0..3).map(|_| probe(&rig)).collect();
    settle().await;
    for _ in 0..5 {
        assert_eq!(rig.refused().await.reason(), Reason::ProbesInFlight);
    }
    for (end, probe) in probes {
        end.send(200).unwrap();
        assert!(probe.await.unwrap());
    }
    assert_eq!(rig.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn an_eager_circuit_becomes_half_open_without_a_call_and_leaves_no_task_behind() {
    let rig = Rig::new(consecutive(1).open_for(secs(60)).eager(true));
    rig.calls(&[500]).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 1);
    rig.handle.open_for(secs(30));
    settle().await;
    assert_eq!(tasks(), 1, "a new open time takes the place of the old one");
    tokio::time::sleep(secs(30)).await;
    settle().await;
    assert_eq!((rig.state(), tasks()), (HalfOpen, 0));

    rig.handle.isolate();
    rig.handle.close();
    rig.calls(&[500]).await;
    rig.handle.close();
    settle().await;
    assert_eq!(tasks(), 0, "closing ends it");
    rig.calls(&[500]).await;
    drop(rig);
    settle().await;
    assert_eq!(tasks(), 0, "so does dropping the breaker");
}

#[tokio::test(start_paused = true)]
async fn an_expired_probe_does_not_vote_whether_or_not_somebody_looked() {
    use ProbeExpiry::{Close, Reopen, Replace};
    for (expiry, code, ends) in [(Reopen, 200, Open), (Close, 500, Closed), (Replace, 200, HalfOpen)] {
        for look in [true, false] {
            let config = consecutive(1).probe_lease(secs(1)).on_probe_expiry(expiry).success_threshold(1);
            let rig = Rig::new(config);
            rig.handle.open_for(secs(1));
            rig.handle.half_open().unwrap();
            let mut probe = Box::pin(rig.call_for(code, secs(30)));
            assert!(poll_in_task(&mut probe).await.is_pending());
            if look {
                advance(secs(2)).await;
                rig.state();
            }
            probe.await.unwrap();
            assert_eq!(rig.state(), ends, "{expiry:?}, looked at: {look}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn probes_that_hang_count_as_slow_while_they_hang() {
    let (window, at_least) = (Window::Calls(100), Ratio::percent(50));
    let rule = Trip::SlowCalls { slower_than: secs(4), window, at_least, minimum_calls: 5 };
    let config = Config::only(rule).open_for(secs(10)).probes(4);
    let rig = Rig::new(config.recovery(Recovery::Ratio { calls: 4, at_least }));
    rig.handle.open_for(secs(1));
    rig.handle.half_open().unwrap();
    for _ in 0..4 {
        let layer = rig.layer.clone();
        tokio::spawn(async move { layer.call(std::future::pending::<Result<u16, BoxError>>()).await });
    }
    settle().await;
    assert_eq!(rig.state(), HalfOpen);
    tokio::time::sleep(secs(5)).await;
    assert_eq!(rig.state(), Open);
}

/// Slow from 1 s on, judged by these many calls.
fn slow(percent: u8, calls: u32, probes: u32) -> Config {
    let (window, at_least) = (Window::Calls(100), Ratio::percent(percent));
    let rule = Trip::SlowCalls { slower_than: secs(1), window, at_least, minimum_calls: 100 };
    let recovery = Recovery::Ratio { calls, at_least: Ratio::percent(50) };
    Config::only(rule).open_for(secs(60)).probe_lease(secs(600)).probes(probes).recovery(recovery)
}

#[tokio::test(start_paused = true)]
async fn probes_that_are_slow_and_then_fail_have_failed() {
    let rig = half_open(slow(80, 4, 4)).await;
    let in_three_seconds = |code| rig.call_for(code, secs(3));
    let calls =
        tokio::join!(in_three_seconds(500), in_three_seconds(500), in_three_seconds(500), rig.call(200));
    assert!(calls.0.is_ok() && calls.3.is_ok());
    assert_eq!((rig.state(), rig.handle.metrics().failure_rate), (Open, Some(0.5)), "with the second");
}

#[tokio::test(start_paused = true)]
async fn a_slow_probe_keeps_its_slot_for_as_long_as_it_runs() {
    let rig = half_open(slow(100, 10, 1)).await;
    let (end, slow) = probe(&rig);
    tokio::time::sleep(secs(5)).await;
    assert_eq!(rig.refused().await.reason(), Reason::ProbesInFlight);
    end.send(200).unwrap();
    assert!(slow.await.unwrap());
    rig.calls(&[200]).await;
    let metrics = rig.handle.metrics();
    assert_eq!((metrics.calls, metrics.failures, metrics.slow), (2, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn slow_probes_that_never_end_do_not_hold_up_the_decision_beyond_their_lease() {
    let rig = half_open(slow(80, 2, 2).probe_lease(secs(5))).await;
    let (_end, _slow) = probe(&rig);
    tokio::time::sleep(secs(2)).await;
    rig.calls(&[200]).await;
    assert_eq!(rig.state(), HalfOpen, "it may still fail");
    tokio::time::sleep(secs(4)).await;
    assert_eq!(rig.state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn jitter_takes_at_most_half_of_an_open_time() {
    let backoff = Backoff::exponential(secs(8), 2.0, secs(120)).unwrap();
    for _ in 0..100 {
        let rig = Rig::new(consecutive(1).open_backoff(backoff.clone()));
        rig.calls(&[500]).await;
        let open = rig.handle.retry_after().unwrap();
        assert!((secs(4)..=secs(8)).contains(&open), "{open:?}");
    }
}
