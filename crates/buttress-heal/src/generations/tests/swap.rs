use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use buttress_testkit::clock::{advance, settle};
use buttress_testkit::ok;

use super::support::{BREAK_FIRST, MAKE_FIRST, MS, Make, Warm, Works, at_once, call, calls, unavailable};
use crate::generations::{SwapError, WarmUp};
use crate::{BoxFuture, Build, SwapSettings, Why};

/// HD-32.
#[tokio::test(start_paused = true)]
async fn a_hundred_calls_end_on_the_old_generation_while_the_new_one_takes_over() {
    let works = Works::new([at_once([ok(1).after(MS(1000))]), at_once([ok(2)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let under_way = {
        let service = service.clone();
        tokio::spawn(async move { calls(&service, 100).await })
    };
    advance(MS(500)).await;
    assert_eq!(works.script(0).counts().in_flight, 100);
    assert_eq!(generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap(), 2);
    assert_eq!(call(&service, 0).await.unwrap(), 2, "a new call goes to the new generation");
    let before = works.alive();
    let outcomes = under_way.await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome.as_ref().unwrap() == 1), "{outcomes:?}");
    settle().await;
    assert_eq!((before, works.alive()), ((2, 2), (1, 2)), "the old one is dropped with its last call");
    assert_eq!(generations.view().current().unwrap().0, 2);
}

/// HD-32.
#[tokio::test(start_paused = true)]
async fn there_are_never_more_than_two_generations() {
    let plan = (0..6).map(|n| at_once([ok(n).after(MS(5000))]));
    let works = Works::new(plan);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    for round in 0..5 {
        let service = service.clone();
        let call = tokio::spawn(async move { call(&service, 0).await });
        advance(MS(10)).await;
        let order = if round % 2 == 0 { MAKE_FIRST } else { BREAK_FIRST };
        generations.swap(order, 0, &Warm).await.unwrap();
        if round > 0 {
            assert!(works.alive().0 <= 2);
        }
        drop(call);
    }
    assert_eq!(works.alive().1, 2);
}

#[tokio::test(start_paused = true)]
async fn a_factory_is_told_the_generation_and_the_target() {
    let works = Works::new((0..3).map(|n| at_once([ok(n)])));
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    generations.swap(MAKE_FIRST, 1, &Warm).await.unwrap();
    generations.swap(BREAK_FIRST, 2, &Warm).await.unwrap();
    let told: Vec<_> = works
        .builds
        .lock()
        .unwrap()
        .iter()
        .map(|Build { generation, target }| (*generation, *target))
        .collect();
    assert_eq!(told, [(1, 0), (2, 1), (3, 2)]);
    let (generation, target, _) = generations.view().current().unwrap();
    assert_eq!((generation, target, call(&service, 0).await.unwrap()), (3, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn what_fails_to_be_made_before_the_old_one_goes_changes_nothing() {
    let limit = SwapSettings::default().make_within(MS(700));
    let works = Works::new([at_once([ok(1)]), Make::Fail("refused"), Make::Panic, Make::Hang]);
    let (mut generations, service) = works.generations(limit);
    generations.first().await.unwrap();
    let mut texts = Vec::new();
    for _ in 0..3 {
        texts.push(generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap_err().to_string());
        assert_eq!(call(&service, 0).await.unwrap(), 1);
    }
    assert_eq!(texts, ["refused", "it panicked: a factory's own fault", "it was not made within 700 ms"]);
    assert_eq!(generations.view().current().unwrap().0, 1);
}

#[tokio::test(start_paused = true)]
async fn what_fails_to_be_made_after_the_old_one_went_puts_that_back() {
    for failure in [Make::Fail("refused"), Make::Panic, Make::Hang] {
        let works = Works::new([at_once([ok(1)]), failure, at_once([ok(2)])]);
        let (mut generations, service) = works.generations(SwapSettings::default());
        generations.first().await.unwrap();
        generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap_err();
        assert_eq!(call(&service, 0).await.unwrap(), 1);
        assert_eq!(generations.view().current().unwrap().0, 2, "what its calls meet is judged anew");
        assert_eq!(generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap(), 3);
        assert_eq!(call(&service, 0).await.unwrap(), 2);
    }
}

/// A service that is put back had its load a moment ago, and is not taken it away for the time of a slow start.
#[tokio::test(start_paused = true)]
async fn what_is_put_back_takes_as_many_calls_at_once_as_it_had() {
    let works = Works::new([at_once([ok(1).after(MS(500))]), Make::Fail("refused")]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let before = service.clone();
    let before = tokio::spawn(async move { calls(&before, 40).await });
    settle().await;
    generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap_err();
    let start = tokio::time::Instant::now();
    assert!(calls(&service, 40).await.iter().all(Result::is_ok));
    assert_eq!(start.elapsed(), MS(500), "all at once");
    assert!(before.await.unwrap().iter().all(Result::is_ok), "and nothing is cut off");
}

/// The time-out of a rung.
#[tokio::test(start_paused = true)]
async fn a_swap_that_is_dropped_at_any_moment_leaves_a_service_behind() {
    for order in [MAKE_FIRST, BREAK_FIRST] {
        for dropped_after in [0, 1, 50, 199, 200, 201, 1000] {
            let slow = || Make::After(MS(200), vec![ok(2)]);
            let works = Works::new([at_once([ok(1)]), slow(), slow()]);
            let (mut generations, service) = works.generations(SwapSettings::default());
            generations.first().await.unwrap();
            let swap = generations.swap(order, 0, &Warm);
            let swapped = tokio::time::timeout(MS(dropped_after), swap).await.is_ok();
            settle().await;
            assert_eq!(
                call(&service, 0).await.unwrap(),
                if swapped { 2 } else { 1 },
                "{order:?} {dropped_after}"
            );
            if !swapped {
                generations.swap(order, 0, &Warm).await.unwrap();
                assert_eq!(call(&service, 0).await.unwrap(), 2, "{order:?} {dropped_after}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_service_is_gone_and_retired_before_the_next_one_is_made() {
    let works = Works::new([at_once([ok(1).after(MS(5000))]), Make::Fail("refused"), at_once([ok(2)])]);
    let (mut generations, service) = works.generations(SwapSettings::default().exclusive());
    let retired = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&retired);
    let seen = works.clone();
    generations.retire_with(Arc::new(move |client| {
        // The second is not made yet.
        assert_eq!(seen.builds.lock().unwrap().len(), 1);
        count.fetch_add(1, Relaxed);
        drop(client);
        Box::pin(std::future::ready(()))
    }));
    generations.first().await.unwrap();
    let busy = service.clone();
    let busy = tokio::spawn(async move { call(&busy, 0).await });
    settle().await;
    let start = tokio::time::Instant::now();
    generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap_err();
    assert_eq!((start.elapsed(), retired.load(Relaxed)), (MS(1000), 1), "its call had a second to end");
    assert!(busy.await.unwrap().unwrap_err().to_string().contains("cut off"));
    let refused = unavailable(call(&service, 0).await);
    assert_eq!(refused.why(), Why::NoService);
    assert_eq!(refused.cause().unwrap().to_string(), "refused");
    assert!(generations.view().current().is_none());
    assert_eq!(generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap(), 2);
    assert_eq!((call(&service, 0).await.unwrap(), works.alive().1), (2, 1), "one at a time");
}

struct Cold;

impl<S: Send> WarmUp<S> for Cold {
    fn warm(&self, _: crate::unwind::Foreign<S>, _: u64) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_takes_calls_is_retired_too() {
    let works = Works::new((0..3).map(|n| at_once([ok(n)])));
    let (mut generations, service) = works.generations(SwapSettings::default());
    let retired = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&retired);
    generations.retire_with(Arc::new(move |_| {
        count.fetch_add(1, Relaxed);
        Box::pin(std::future::ready(()))
    }));
    generations.first().await.unwrap();
    drop(generations.candidate(0).await.unwrap());
    settle().await;
    assert_eq!(retired.load(Relaxed), 1);
    generations.swap(MAKE_FIRST, 0, &Cold).await.unwrap_err();
    settle().await;
    assert_eq!((retired.load(Relaxed), call(&service, 0).await.unwrap(), works.alive().0), (2, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_service_is_retired_once_when_its_calls_have_ended_and_whatever_that_does_harms_nobody() {
    let works = Works::new([at_once([ok(1).after(MS(300))]), at_once([ok(2)]), at_once([ok(3)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    let retired = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&retired);
    generations.retire_with(Arc::new(move |_| {
        let panics = count.fetch_add(1, Relaxed) == 0;
        Box::pin(async move {
            assert!(!panics, "a fault in the closing of a client");
            std::future::pending::<()>().await;
        })
    }));
    generations.first().await.unwrap();
    let busy = service.clone();
    let busy = tokio::spawn(async move { call(&busy, 0).await });
    settle().await;
    generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap();
    settle().await;
    assert_eq!(retired.load(Relaxed), 0, "it has a call");
    assert_eq!(busy.await.unwrap().unwrap(), 1);
    settle().await;
    assert_eq!(retired.load(Relaxed), 1);
    generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap();
    assert_eq!(call(&service, 0).await.unwrap(), 3);
    generations.shutdown(MS(100)).await;
    assert_eq!(retired.load(Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_pass_the_checks_takes_no_call() {
    struct Cold;
    impl<S: Send> WarmUp<S> for Cold {
        fn warm(&self, _: crate::unwind::Foreign<S>, generation: u64) -> BoxFuture<'_, bool> {
            assert_eq!(generation, 2);
            Box::pin(std::future::ready(false))
        }
    }
    let works = Works::new([at_once([ok(1)]), at_once([ok(2)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let error = generations.swap(MAKE_FIRST, 0, &Cold).await.unwrap_err();
    assert!(matches!(error, SwapError::NotWarm));
    assert_eq!((call(&service, 0).await.unwrap(), works.alive()), (1, (1, 2)));
}

#[tokio::test(start_paused = true)]
async fn a_candidate_takes_no_call_and_is_no_generation() {
    let works = Works::new((0..3).map(|n| at_once([ok(n)])));
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    drop(generations.candidate(1).await.unwrap());
    assert_eq!((call(&service, 0).await.unwrap(), works.alive().0), (0, 1));
    assert_eq!(generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap(), 2);
}
