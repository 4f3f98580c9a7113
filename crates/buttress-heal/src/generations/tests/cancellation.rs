use std::panic::{AssertUnwindSafe, catch_unwind};

use buttress_testkit::clock::{advance, poll_once, settle};
use buttress_testkit::{hang, ok, panics};
use tokio_test::task::spawn;
use tower::{Service, ServiceExt};

use super::support::{BREAK_FIRST, MAKE_FIRST, MS, Make, Warm, Works, at_once, call};
use crate::{Outcomes, SwapSettings};

fn outcomes<S: Clone>(view: &crate::view::View<S>) -> Outcomes {
    view.signals().unwrap().outcomes()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_any_poll_is_abandoned_and_leaves_nothing_behind() {
    let works = Works::new([at_once([hang()])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let view = generations.view();
    for polls in 0..4 {
        let mut instance = service.clone();
        let mut call = Box::pin(instance.ready().await.unwrap().call(0));
        assert_eq!(outcomes(&view).in_flight, 1);
        for _ in 0..polls {
            assert!(poll_once(&mut call).is_pending());
        }
        drop(call);
        let now = outcomes(&view);
        assert_eq!((now.in_flight, now.abandoned, now.succeeded, now.failed), (0, polls + 1, 0, 0));
        assert_eq!(works.script(0).counts().in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_dropped_ready_counts_for_nothing() {
    let works = Works::new([at_once([ok(1)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let mut instance = service.clone();
    instance.ready().await.unwrap();
    assert_eq!(outcomes(&generations.view()).in_flight, 1);
    drop(instance);
    assert_eq!(outcomes(&generations.view()), Outcomes::default());
}

/// At each point at which a caller may be while a service starts, is swapped, and starts slowly.
#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_at_any_moment_takes_no_place_along() {
    for gone_after in (0..60).map(|n| MS(n * 5)) {
        let slow = |n| Make::After(MS(50), vec![ok(n).ready_after(MS(20)).after(MS(20))]);
        let works = Works::new([slow(1), slow(2), slow(3)]);
        let settings = SwapSettings::default().wait_at_start(4, MS(500)).wait_for_swap(4, MS(500));
        let (mut generations, service) = works.generations(settings);
        let view = generations.view();
        let swaps = tokio::spawn(async move {
            generations.first().await.unwrap();
            tokio::time::sleep(MS(60)).await;
            generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap();
            tokio::time::sleep(MS(60)).await;
            generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap();
            generations
        });
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let service = service.clone();
                tokio::spawn(async move {
                    loop {
                        let _ = call(&service, 0).await;
                        tokio::task::yield_now().await;
                        tokio::time::sleep(MS(1)).await;
                    }
                })
            })
            .collect();
        tokio::time::sleep(gone_after).await;
        callers.iter().for_each(tokio::task::JoinHandle::abort);
        settle().await;
        let generations = swaps.await.unwrap();
        assert_eq!(call(&service, 0).await.unwrap(), 3, "{gone_after:?}");
        assert_eq!(view.waiting(), 0, "{gone_after:?}");
        assert_eq!(outcomes(&view).in_flight, 0, "{gone_after:?}");
        drop(generations);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_call_passes_on_and_is_a_failure() {
    let works = Works::new([at_once([panics(), ok(1)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let mut instance = service.clone();
    let mut call = Box::pin(instance.ready().await.unwrap().call(0));
    let panicked = catch_unwind(AssertUnwindSafe(|| poll_once(&mut call).is_ready()));
    assert!(panicked.is_err());
    drop(call);
    let now = outcomes(&generations.view());
    assert_eq!((now.failed, now.abandoned, now.in_flight), (1, 0, 0));
    assert_eq!(instance.ready().await.unwrap().call(0).await.unwrap(), 1);
}

/// In `call` itself, before there is a future.
#[tokio::test(start_paused = true)]
async fn a_panic_before_there_is_a_future_is_a_failure_too() {
    let factory = |_| {
        std::future::ready(Ok::<_, std::io::Error>(tower::service_fn(
            |_: u64| -> std::future::Ready<std::io::Result<u64>> { panic!("in call") },
        )))
    };
    let (mut generations, service) = crate::generations::Generations::new(
        "db".into(),
        factory,
        SwapSettings::default(),
        buttress_core::Observer::default(),
    );
    generations.first().await.unwrap();
    let mut instance = service.clone();
    instance.ready().await.unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(instance.call(0)))).is_err());
    let now = outcomes(&generations.view());
    assert_eq!((now.failed, now.abandoned, now.in_flight), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_callers_that_have_gone() {
    let works = Works::new([at_once([hang()]), at_once([ok(2)])]);
    let (mut generations, service) = works.generations(SwapSettings::default().exclusive());
    generations.first().await.unwrap();
    let hung: Vec<_> = (0..20).map(|_| tokio::spawn(service.clone().oneshot(0))).collect();
    settle().await;
    let start = tokio::time::Instant::now();
    let gone = async {
        tokio::time::sleep(MS(300)).await;
        hung.iter().for_each(tokio::task::JoinHandle::abort);
    };
    let (swapped, ()) = tokio::join!(generations.swap(MAKE_FIRST, 0, &Warm), gone);
    assert_eq!((swapped.unwrap(), start.elapsed()), (2, MS(300)));
}

/// The futures that callers hold, with no runtime's task around them.
#[tokio::test(start_paused = true)]
async fn a_call_is_woken_by_the_service_inside_and_not_by_anything_else() {
    let works = Works::new([at_once([ok(1).after(MS(100))])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let mut call = spawn(service.clone().oneshot(0));
    assert!(call.poll().is_pending());
    advance(MS(99)).await;
    assert!(!call.is_woken());
    advance(MS(1)).await;
    assert!(call.is_woken() && call.poll().is_ready());
}
