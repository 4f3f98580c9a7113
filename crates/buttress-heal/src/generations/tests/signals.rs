use std::sync::Arc;

use buttress_core::{Kind, Verdict, classify_fn};
use buttress_testkit::clock::settle;
use buttress_testkit::{err, hang, ok};
use tokio::time::{Instant, timeout};
use tower::{Service, ServiceExt};

use super::support::{BREAK_FIRST, MAKE_FIRST, MS, Warm, Works, at_once, call, suspected};
use crate::view::View;
use crate::{Outcomes, Signals, SwapSettings};

async fn is_suspected<S: Clone>(view: &View<S>) -> bool {
    timeout(MS(0), suspected(view)).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_counted_by_what_they_mean() {
    let works = Works::new([at_once([ok(0), ok(1), ok(2), ok(3), ok(4), ok(5), err("down"), hang()])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let service = service.policy(classify_fn(|outcome: Result<&u64, _>| match outcome {
        Ok(0) => Verdict::Success,
        Ok(1) => Verdict::Rejected,
        Ok(2) => Verdict::failure(Kind::Throttled),
        Ok(3) => Verdict::failure(Kind::Conflict),
        Ok(4) => Verdict::failure(Kind::Unprocessed),
        Ok(_) => Verdict::Ignored,
        Err(_) => Verdict::failure(Kind::Transient),
    }));
    for _ in 0..7 {
        let _ = service.clone().oneshot(0).await;
    }
    let signals = generations.view().signals().unwrap();
    assert_eq!(
        signals.outcomes(),
        Outcomes { succeeded: 4, failed: 1, ignored: 2, abandoned: 0, in_flight: 0 }
    );
    let abandoned = timeout(MS(10), service.clone().oneshot(0)).await;
    assert!(abandoned.is_err());
    assert_eq!((signals.outcomes().abandoned, signals.failures_in_a_row(), signals.generation()), (1, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn five_failures_in_a_row_are_a_reason_to_look_and_a_success_between_them_is_none() {
    let works = Works::new([at_once([err("down")])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let (view, script) = (generations.view(), works.script(0));
    for _ in 0..10 {
        script.go_on_with([err("down"), err("down"), err("down"), err("down"), ok(1)]);
        for _ in 0..5 {
            let _ = call(&service, 0).await;
        }
    }
    assert!(!is_suspected(&view).await);
    script.go_on_with([err("down")]);
    for n in 1..=10 {
        let _ = call(&service, 0).await;
        assert_eq!(is_suspected(&view).await, n % 5 == 0, "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_suspicion_is_woken_by_the_fifth_failure() {
    let works = Works::new([at_once([err("down").after(MS(10))])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let view = generations.view();
    let start = Instant::now();
    let looks = tokio::spawn(async move {
        suspected(&view).await;
        start.elapsed()
    });
    for _ in 0..5 {
        let _ = call(&service, 0).await;
    }
    assert_eq!(looks.await.unwrap(), MS(50));
}

/// The stragglers of a generation that was replaced fail one after the other.
#[tokio::test(start_paused = true)]
async fn no_generation_votes_on_another() {
    for order in [MAKE_FIRST, BREAK_FIRST] {
        let works = Works::new([at_once([err("down").after(MS(500))]), at_once([ok(2)])]);
        let (mut generations, service) = works.generations(SwapSettings::default());
        generations.first().await.unwrap();
        let stragglers: Vec<_> = (0..50).map(|_| tokio::spawn(service.clone().oneshot(0))).collect();
        settle().await;
        let old = generations.view().signals().unwrap();
        generations.swap(order, 0, &Warm).await.unwrap();
        let view = generations.view();
        call(&service, 0).await.unwrap();
        for straggler in stragglers {
            straggler.await.unwrap().unwrap_err();
        }
        let new = view.signals().unwrap();
        assert_eq!((old.generation(), old.failures_in_a_row()), (1, 50));
        assert_eq!((new.generation(), new.failures_in_a_row(), new.outcomes().succeeded), (2, 0, 1));
        assert_eq!(new.outcomes().failed, 0);
        assert!(!is_suspected(&view).await);
    }
}

/// A suspicion that was raised before the swap.
#[tokio::test(start_paused = true)]
async fn a_suspicion_of_the_last_generation_is_none_of_this_one() {
    let works = Works::new([at_once([err("down")]), at_once([ok(2)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    for _ in 0..5 {
        let _ = call(&service, 0).await;
    }
    generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap();
    assert!(!is_suspected(&generations.view()).await);
}

#[tokio::test(start_paused = true)]
async fn how_long_calls_take_is_measured_from_the_first_time_that_somebody_asks() {
    let works = Works::new([at_once([ok(1).after(MS(100))]), at_once([ok(2).after(MS(100))])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let view = generations.view();
    let slow = |limit| view.signals().unwrap().slower_than(limit);
    call(&service, 0).await.unwrap();
    assert_eq!(slow(MS(50)), (0, 0));
    for _ in 0..10 {
        call(&service, 0).await.unwrap();
    }
    assert_eq!((slow(MS(50)), slow(MS(200))), ((10, 10), (0, 10)));
    works.script(0).go_on_with([hang()]);
    assert!(timeout(MS(3000), call(&service, 0)).await.is_err());
    assert_eq!(slow(MS(1000)), (1, 11), "given up after three seconds");
    generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap();
    assert_eq!(slow(MS(0)), (0, 0), "each generation has its own");
    call(&service, 0).await.unwrap();
    assert_eq!(slow(MS(0)), (1, 1), "which are measured from its first call on");
}

#[test]
fn there_is_nothing_to_see_of_a_service_without_calls() {
    let signals = Signals::default();
    assert_eq!((signals.generation(), signals.outcomes()), (0, Outcomes::default()));
}

#[tokio::test]
async fn counts_of_many_threads_add_up() {
    const CALLS: u64 = 5_000;
    let works = Works::new([at_once([ok(1)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let view = generations.view();
    let service = Arc::new(std::sync::Mutex::new(service));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut service = service.lock().unwrap().clone();
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                for n in 0..CALLS {
                    assert!(service.poll_ready(&mut cx).is_ready());
                    assert!(std::pin::pin!(service.call(n)).poll(&mut cx).is_ready());
                }
            });
        }
    });
    let outcomes = view.signals().unwrap().outcomes();
    assert_eq!((outcomes.succeeded, outcomes.in_flight), (4 * CALLS, 0));
}
