use buttress_core::{Effect, Verdict, error_verdict, find};
use buttress_testkit::clock::{advance, settle};
use buttress_testkit::{hang, ok};
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use super::support::{BREAK_FIRST, MAKE_FIRST, MS, Make, Warm, Works, at_once, call, calls, unavailable};
use crate::{CutOff, SwapSettings, Why};

#[tokio::test(start_paused = true)]
async fn what_still_runs_when_the_time_to_drain_is_over_is_cut_off_and_may_have_been_applied() {
    for (order, limit) in [(MAKE_FIRST, MS(10_000)), (BREAK_FIRST, MS(1000))] {
        let works = Works::new([at_once([hang()]), at_once([ok(2)])]);
        let (mut generations, service) = works.generations(SwapSettings::default());
        generations.first().await.unwrap();
        let hung = service.clone();
        let hung = tokio::spawn(async move { (calls(&hung, 100).await, Instant::now()) });
        settle().await;
        let start = Instant::now();
        generations.swap(order, 0, &Warm).await.unwrap();
        assert_eq!(start.elapsed(), MS(0), "nobody waits for what hangs");
        let (outcomes, cut_off) = hung.await.unwrap();
        assert_eq!(cut_off - start, limit);
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!(find::<CutOff>(&*error).unwrap().generation(), 1);
            assert!(matches!(error_verdict(&*error), Verdict::Failure { effect: Effect::Unknown, .. }));
        }
        settle().await;
        assert_eq!((works.script(0).counts().dropped, works.alive().0), (100, 1));
    }
}

/// Nothing has taken its place.
#[tokio::test(start_paused = true)]
async fn calls_on_a_service_that_is_put_back_take_their_time_until_another_one_replaces_it() {
    let works =
        Works::new([at_once([ok(1).after(MS(5000)), hang()]), Make::Fail("refused"), at_once([ok(3)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let slow = tokio::spawn(service.clone().oneshot(0));
    settle().await;
    let hung = tokio::spawn(service.clone().oneshot(0));
    settle().await;
    generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap_err();
    assert_eq!(slow.await.unwrap().unwrap(), 1);
    advance(MS(60_000)).await;
    assert!(!hung.is_finished());
    generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap();
    settle().await;
    assert!(hung.is_finished(), "it is not forgotten");
    assert!(hung.await.unwrap().unwrap_err().to_string().contains("cut off"));
}

#[tokio::test(start_paused = true)]
async fn a_further_swap_cuts_the_drain_short() {
    let works = Works::new([at_once([hang()]), at_once([hang()]), at_once([ok(3)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let hung = service.clone();
    let hung = tokio::spawn(async move { call(&hung, 0).await });
    settle().await;
    generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap();
    advance(MS(100)).await;
    assert!(!hung.is_finished());
    generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap();
    settle().await;
    assert!(hung.is_finished());
    assert_eq!(call(&service, 0).await.unwrap(), 3);
}

/// The instance was made ready, then its generation was replaced, and only then it is called.
#[tokio::test(start_paused = true)]
async fn an_instance_that_was_ready_before_the_swap_may_be_called_until_the_drain_is_over() {
    for called_after in [MS(0), MS(9000), MS(10_001)] {
        let works = Works::new([at_once([ok(1)]), at_once([ok(2)])]);
        let (mut generations, service) = works.generations(SwapSettings::default());
        generations.first().await.unwrap();
        let mut early = service.clone();
        early.ready().await.unwrap();
        generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap();
        advance(called_after).await;
        let answer = early.call(0).await;
        if called_after > MS(10_000) {
            assert_eq!(unavailable(answer).why(), Why::Gone);
            assert_eq!(works.script(0).calls(), 0, "it is not called");
        } else {
            assert_eq!(answer.unwrap(), 1);
        }
        assert_eq!(
            early.ready().await.unwrap().call(0).await.unwrap(),
            2,
            "asked again, it is of the new one"
        );
    }
}

/// A call that had been polled before, and by another task.
#[tokio::test(start_paused = true)]
async fn whoever_polled_a_call_last_learns_that_it_is_cut_off() {
    let works = Works::new([at_once([hang()]), at_once([ok(2)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let mut call = Box::pin(service.clone().oneshot(0));
    for _ in 0..3 {
        assert!(buttress_testkit::clock::poll_in_task(&mut call).await.is_pending());
    }
    let elsewhere = tokio::spawn(call);
    settle().await;
    generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap();
    let start = Instant::now();
    elsewhere.await.unwrap().unwrap_err();
    assert_eq!(start.elapsed(), MS(1000));
}
