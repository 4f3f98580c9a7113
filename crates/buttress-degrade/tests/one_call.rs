//! The one call that is made for all who ask a store for the same.

mod support;

use buttress_core::{Kind, Level, find};
use buttress_degrade::{Cause, Freshness};
use buttress_testkit::clock::settle;
use buttress_testkit::{Scripted, Step, err, hang, ok, panics};
use support::kept::{Answer, call, freshness, layer, store};
use support::{ms, secs};
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt};

/// HD-51, and what its leader may do.
async fn thousand(old: bool, steps: [Step<u32>; 1], cancel: bool) -> (Vec<Answer>, Scripted<u32>) {
    let (layer, inner) = (layer(&store()), Scripted::new([ok(1)]));
    if old {
        call(&layer, &inner).await;
        advance(secs(601)).await;
    }
    let before = inner.calls();
    inner.go_on_with(steps);
    let service = layer.layer(inner.clone());
    let mut calls: Vec<_> =
        (0..1000).map(|_| tokio::spawn(service.clone().oneshot("a".to_owned()))).collect();
    settle().await;
    if cancel {
        calls.remove(0).abort();
    }
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap().unwrap());
    }
    assert_eq!(inner.calls() - before, 1, "one call for all");
    (answers, inner)
}

/// HD-51.
#[tokio::test(start_paused = true)]
async fn a_thousand_who_ask_at_once_make_one_call() {
    for old in [false, true] {
        let (answers, _) = thousand(old, [ok(2).after(ms(100))], false).await;
        assert_eq!(answers.len(), 1000);
        assert!(answers.iter().all(|answer| answer.level() == Level::Full && *answer.get_ref() == 2));
        let waited = answers.iter().filter(|answer| freshness(answer) == Some(Freshness::Shared)).count();
        assert_eq!(waited, 999, "and one got it from the service itself");
    }
}

/// HD-51, the leader is cancelled.
#[tokio::test(start_paused = true)]
async fn the_call_goes_on_for_the_others_when_the_one_who_made_it_goes_away() {
    for old in [false, true] {
        let (answers, inner) = thousand(old, [ok(2).after(ms(100))], true).await;
        assert_eq!((answers.len(), inner.counts().dropped), (999, 0));
        assert!(answers.iter().all(|answer| answer.level() == Level::Full && *answer.get_ref() == 2));
    }
}

/// HD-51, the leader errs, and panics.
#[tokio::test(start_paused = true)]
async fn a_thousand_learn_of_one_failure_and_make_no_call_of_their_own() {
    for (step, cause) in [
        (err("down").after(ms(100)), Cause::Failed(Kind::Transient)),
        (panics().after(ms(100)), Cause::Panicked),
    ] {
        let (answers, _) = thousand(true, [step.clone()], false).await;
        let of = |answer: &Answer| (answer.level(), *answer.get_ref(), answer.shortfalls()[0].cause());
        assert!(answers.iter().all(|answer| of(answer) == (Level::Moderate, 1, cause)));
        let (answers, _) = thousand(false, [step], false).await;
        assert!(answers.iter().all(|answer| of(answer) == (Level::Minimal, 0, cause)));
    }
}

/// HD-51, the call hangs.
#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_given_up_by_all_at_the_budget() {
    let layer = layer(&store()).budget(ms(50)).unwrap();
    let inner = Scripted::<u32>::new([hang()]);
    let start = Instant::now();
    let first = tokio::spawn(layer.layer(inner.clone()).oneshot("a".to_owned()));
    tokio::time::sleep(ms(20)).await;
    let second = call(&layer, &inner).await;
    assert_eq!((start.elapsed(), second.shortfalls()[0].cause()), (ms(50), Cause::Elapsed));
    assert_eq!(first.await.unwrap().unwrap().shortfalls()[0].cause(), Cause::Elapsed);
    settle().await;
    assert_eq!((inner.calls(), inner.counts().in_flight), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_what_is_under_way_and_drops_what_takes_too_long() {
    let store = store();
    let (layer, inner) = (layer(&store), Scripted::new([ok(1).after(ms(100)), hang()]));
    let first = tokio::spawn(layer.layer(inner.clone()).oneshot("a".to_owned()));
    let second = tokio::spawn(layer.layer(inner.clone()).oneshot("b".to_owned()));
    settle().await;
    assert_eq!(store.in_flight(), 2);
    assert_eq!(store.shutdown(secs(1)).await, 1);
    assert_eq!(first.await.unwrap().unwrap().into_inner(), 1);
    let answer = second.await.unwrap().unwrap();
    assert_eq!((answer.into_inner(), inner.counts().in_flight, store.in_flight()), (0, 0, 0));
    // From then on callers make their calls themselves.
    inner.go_on_with([ok(3)]);
    assert_eq!(layer.layer(inner.clone()).oneshot("c".to_owned()).await.unwrap().into_inner(), 3);
}

#[test]
fn without_a_runtime_the_caller_makes_the_call() {
    let layer = layer(&store());
    let service = layer.layer(Scripted::new([ok(1)]));
    let mut call = tokio_test::task::spawn(service.oneshot("a".to_owned()));
    let std::task::Poll::Ready(Ok(answer)) = call.poll() else { panic!("answered at once") };
    assert_eq!(answer.into_inner(), 1);
}

/// A runtime, but one without a timer.
#[test]
fn without_a_timer_a_call_that_has_to_wait_says_so() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let layer = layer(&store());
    for polled in [hang(), hang().ready_after(ms(1))] {
        let call = layer.layer(Scripted::<u32>::new([polled])).oneshot("a".to_owned());
        let Ok(error) = runtime.block_on(async { tokio::spawn(call).await }) else { continue };
        let error = error.unwrap_err();
        assert!(find::<buttress_core::NoTimer>(&*error).is_some(), "{error}");
    }
}
