use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use buttress_testkit::clock::{advance, settle};
use buttress_testkit::{hang, ok};
use tokio::time::Instant;

use super::support::{BREAK_FIRST, MAKE_FIRST, MS, Warm, Works, at_once, call, calls, unavailable};
use crate::{SwapSettings, Why};

/// Calls of 100 ms by so many callers that never pause: how many were admitted in each of the next seconds.
async fn admitted_per_second(
    order: crate::generations::SwapOrder,
    callers: u64,
    seconds: usize,
) -> Vec<usize> {
    let works = Works::new([at_once([ok(1)]), at_once([ok(2).after(MS(100))])]);
    let (mut generations, service) = works.generations(SwapSettings::default().wait_for_swap(5000, MS(250)));
    generations.first().await.unwrap();
    generations.swap(order, 0, &Warm).await.unwrap();
    let (start, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let seconds: Arc<Vec<AtomicUsize>> = Arc::new((0..=seconds).map(|_| AtomicUsize::new(0)).collect());
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let (service, over, seconds) = (service.clone(), Arc::clone(&over), Arc::clone(&seconds));
            tokio::spawn(async move {
                while !over.load(Relaxed) {
                    if call(&service, 0).await.is_ok() {
                        // It began a hundred milliseconds ago.
                        let second = (start.elapsed() - MS(100)).as_secs() as usize;
                        seconds.get(second).map(|second| second.fetch_add(1, Relaxed));
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(MS(1000 * seconds.len() as u64 + 500)).await;
    over.store(true, Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    seconds.iter().map(|second| second.load(Relaxed)).collect()
}

/// HD-40.
#[tokio::test(start_paused = true)]
async fn after_a_break_the_admitted_rate_at_most_doubles_from_one_second_to_the_next() {
    let rates = admitted_per_second(BREAK_FIRST, 600, 12).await;
    assert!(rates[0] <= 10, "one at a time to begin with: {rates:?}");
    for seconds in rates.windows(2) {
        // A call that begins at the end of a second may count for the next one.
        assert!(seconds[1] <= seconds[0] * 2 + 10, "{rates:?}");
    }
    assert!(rates[4] >= rates[0] * 12, "and it does grow: {rates:?}");
    assert_eq!(rates[11], 6000, "until all are served: {rates:?}");
}

/// HD-40, where the old generation was at work: no more than that had at once, to begin with.
#[tokio::test(start_paused = true)]
async fn without_a_break_a_new_generation_begins_with_as_many_calls_as_the_old_one_had() {
    let works = Works::new([at_once([ok(1).after(MS(1000))]), at_once([hang()])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let busy = service.clone();
    let busy = tokio::spawn(async move { calls(&busy, 30).await });
    settle().await;
    generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap();
    let more = service.clone();
    let more = tokio::spawn(async move { calls(&more, 40).await });
    advance(MS(1)).await;
    assert_eq!(works.script(1).counts().in_flight, 30);
    advance(MS(250)).await;
    assert_eq!(unavailable(call(&service, 0).await).why(), Why::Replacing, "the places are taken");
    // 64 may wait; after a second there are sixty places.
    let even_more = service.clone();
    let even_more = tokio::spawn(async move { calls(&even_more, 40).await });
    advance(MS(600)).await;
    assert_eq!(works.script(1).counts().in_flight, 30);
    drop(even_more);
    let last = service.clone();
    let last = tokio::spawn(async move { calls(&last, 40).await });
    advance(MS(200)).await;
    assert_eq!(works.script(1).counts().in_flight, 60);
    assert!(busy.await.unwrap().iter().all(Result::is_ok));
    drop((more, last));
}

#[tokio::test(start_paused = true)]
async fn the_first_generation_takes_all_that_come() {
    let works = Works::new([at_once([ok(1).after(MS(100))])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let start = Instant::now();
    assert!(calls(&service, 500).await.iter().all(Result::is_ok));
    assert_eq!(start.elapsed(), MS(100));
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_ends_when_nobody_is_held_back_and_lasts_as_long_as_it_says() {
    let works = Works::new([at_once([ok(1)]), at_once([ok(2).after(MS(10))])]);
    let (mut generations, service) = works.generations(SwapSettings::default().slow_start(MS(1000)));
    generations.first().await.unwrap();
    generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap();
    let starts_slowly = || generations.view().signals().unwrap().starts_slowly();
    advance(MS(950)).await;
    assert!(starts_slowly());
    advance(MS(60)).await;
    assert!(!starts_slowly());
    assert!(calls(&service, 5000).await.iter().all(Result::is_ok));
}

/// Its places, and whoever waits for them, do not outlive it.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_gets_one_in_the_generation_after() {
    let works = Works::new([at_once([ok(1)]), at_once([hang()]), at_once([ok(3)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap();
    let tasks = service.clone();
    let tasks = tokio::spawn(async move { calls(&tasks, 10).await });
    settle().await;
    assert_eq!(works.script(1).counts().in_flight, 1);
    generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap();
    let outcomes = tasks.await.unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Ok(3))).count(), 9, "{outcomes:?}");
}
