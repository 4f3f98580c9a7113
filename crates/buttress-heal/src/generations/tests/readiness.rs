use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use buttress_core::{Effect, Observer, Rng, Verdict, find, own_verdict};
use buttress_testkit::clock::{poll_in_task, settle};
use buttress_testkit::{Counts, ScriptError, Scripted, ok};
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use super::support::{
    BREAK_FIRST, Client, MAKE_FIRST, MS, Warm, Works, at_once, call, suspected, unavailable,
};
use crate::generations::Generations;
use crate::{Build, Heal, SwapSettings, Why};

/// HD-39. The services inside panic if they are called without readiness of their own.
#[tokio::test(start_paused = true)]
async fn whatever_is_swapped_and_cloned_only_instances_that_are_ready_are_called() {
    let works = Works::default();
    let settings = SwapSettings::default().slow_start(MS(10)).drain(MS(50)).drain_critical(MS(5));
    let (mut generations, service) = works.generations(settings);
    works.then([at_once([ok(0)])]);
    generations.first().await.unwrap();
    let mut random = Rng::seeded(39);
    let mut pick = |below: u64| random.between(0, below - 1);
    let mut instances: Vec<Heal<Client>> = vec![service.clone()];
    let mut calls = Vec::new();
    for round in 0..10_000 {
        let at = pick(instances.len() as u64) as usize;
        match pick(8) {
            0 if instances.len() < 40 => instances.push(instances[at].clone()),
            1 if instances.len() > 1 => drop(instances.swap_remove(at)),
            2 => {
                let (wait, time) = (MS(pick(3) * 4), MS(pick(3) * 4));
                works.then([at_once([ok(round).ready_after(wait).after(time)])]);
                let order = if pick(2) == 0 { MAKE_FIRST } else { BREAK_FIRST };
                generations.swap(order, 0, &Warm).await.unwrap();
            }
            3 => {
                tokio::time::advance(MS(pick(6))).await;
                // What has become due runs, and not everything that follows from it.
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
            }
            4 | 5 => {
                let ready = std::future::poll_fn(|cx| Poll::Ready(instances[at].poll_ready(cx))).await;
                if ready.is_ready() {
                    calls.push(Box::pin(instances[at].call(round)));
                }
            }
            _ => {
                let _ = std::future::poll_fn(|cx| Poll::Ready(instances[at].poll_ready(cx))).await;
            }
        }
        if let Some(last) = calls.last_mut() {
            if poll_in_task(last).await.is_ready() || calls.len() > 20 {
                calls.pop();
            }
        }
    }
    let swaps = works.builds.lock().unwrap().len();
    let called: usize = works.scripts.lock().unwrap().iter().map(Scripted::calls).sum();
    assert!(swaps > 1000 && called > 300, "{swaps} swaps, {called} calls");
    drop((calls, instances));
    let left: Vec<Counts> = works.scripts.lock().unwrap().iter().map(Scripted::counts).collect();
    assert!(left.iter().all(|counts| counts.in_flight == 0));
}

/// A client whose readiness fails or hangs, as the test says.
#[derive(Clone, Default)]
struct Moody {
    fails: Arc<AtomicBool>,
    hangs: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    generation: u64,
}

impl Service<u64> for Moody {
    type Response = u64;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<u64>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.asked.fetch_add(1, Relaxed);
        if self.fails.load(Relaxed) {
            return Poll::Ready(Err(io::Error::other("the connection is gone")));
        }
        if self.hangs.load(Relaxed) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn call(&mut self, _: u64) -> Self::Future {
        std::future::ready(Ok(self.generation))
    }
}

/// Each generation has moods of its own.
fn moody(moods: &[Moody]) -> (Generations<impl crate::Factory<Service = Moody>>, Heal<Moody>) {
    let moods = moods.to_vec();
    let factory = move |build: Build| {
        let at = (build.generation - 1) as usize;
        std::future::ready(Ok::<_, io::Error>(Moody { generation: build.generation, ..moods[at].clone() }))
    };
    Generations::new("db".into(), factory, SwapSettings::default(), Observer::default())
}

#[tokio::test(start_paused = true)]
async fn readiness_that_fails_is_the_error_of_the_call_and_makes_the_supervisor_look_at_once() {
    let mood = Moody::default();
    let (mut generations, service) = moody(&[mood.clone(), Moody::default()]);
    generations.first().await.unwrap();
    let view = generations.view();
    let mut instance = service.clone();
    instance.ready().await.unwrap();
    mood.fails.store(true, Relaxed);
    let error = instance.ready().await.expect("never an error from here").call(0).await.unwrap_err();
    assert_eq!(error.to_string(), "the connection is gone");
    assert!(find::<io::Error>(&*error).is_some());
    assert!(matches!(own_verdict(&*error), Some(Verdict::Failure { effect: Effect::NotSent, .. })));
    suspected(&view).await;
    generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap();
    assert_eq!(instance.ready().await.unwrap().call(0).await.unwrap(), 2, "the same instance, healed");
}

#[tokio::test(start_paused = true)]
async fn one_failed_readiness_is_one_look_at_the_service() {
    let mood = Moody::default();
    mood.fails.store(true, Relaxed);
    let (mut generations, service) = moody(std::slice::from_ref(&mood));
    generations.first().await.unwrap();
    service.clone().oneshot(0).await.unwrap_err();
    assert_eq!(mood.asked.load(Relaxed), 1, "tower's `Reconnect` would make connections for ever");
}

#[tokio::test(start_paused = true)]
async fn each_failed_readiness_adds_to_the_failures_in_a_row() {
    let mood = Moody::default();
    mood.fails.store(true, Relaxed);
    let (mut generations, service) = moody(std::slice::from_ref(&mood));
    generations.first().await.unwrap();
    for n in 1..=3 {
        service.clone().oneshot(0).await.unwrap_err();
        assert_eq!(generations.view().signals().unwrap().failures_in_a_row(), 5 * n);
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_that_hangs_is_waited_for_so_long_and_no_longer() {
    let mood = Moody::default();
    let (mut generations, service) = moody(std::slice::from_ref(&mood));
    generations.first().await.unwrap();
    mood.hangs.store(true, Relaxed);
    let start = Instant::now();
    let error = service.clone().oneshot(0).await.unwrap_err();
    assert_eq!(start.elapsed(), MS(5000));
    let unavailable = find::<crate::Unavailable>(&*error).unwrap();
    assert_eq!(unavailable.why(), Why::NotReady);
    mood.hangs.store(false, Relaxed);
    assert_eq!(service.clone().oneshot(0).await.unwrap(), 1);
}

/// The hung generation never wakes them.
#[tokio::test(start_paused = true)]
async fn who_waits_for_the_readiness_of_a_hung_generation_goes_on_with_the_next_one() {
    for order in [MAKE_FIRST, BREAK_FIRST] {
        let mood = Moody::default();
        mood.hangs.store(true, Relaxed);
        let (mut generations, service) = moody(&[mood, Moody::default()]);
        generations.first().await.unwrap();
        let waiting: Vec<_> = (0..60).map(|_| tokio::spawn(service.clone().oneshot(0))).collect();
        settle().await;
        generations.swap(order, 0, &Warm).await.unwrap();
        let start = Instant::now();
        for call in waiting {
            assert_eq!(call.await.unwrap().unwrap(), 2);
        }
        assert_eq!(start.elapsed(), MS(0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_readiness_is_refused_and_not_made() {
    let works = Works::new([at_once([ok(1)])]);
    let (mut generations, mut service) = works.generations(SwapSettings::default());
    assert_eq!(unavailable(service.call(0).await).why(), Why::NotAsked);
    generations.first().await.unwrap();
    assert_eq!(service.ready().await.unwrap().call(0).await.unwrap(), 1);
    assert_eq!(unavailable(service.call(0).await).why(), Why::NotAsked, "each call needs its own");
    assert_eq!(works.script(0).calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_clones_all_follow_the_swap() {
    let works = Works::new([at_once([ok(1)]), at_once([ok(2)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let mut clones: Vec<_> = (0..10_000).map(|_| service.clone()).collect();
    for clone in &mut clones {
        assert_eq!(clone.ready().await.unwrap().call(0).await.unwrap(), 1);
    }
    generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap();
    for clone in &mut clones {
        assert_eq!(clone.ready().await.unwrap().call(0).await.unwrap(), 2);
    }
    settle().await;
    assert_eq!(works.alive(), (1, 2), "none of them keeps the old one");
    drop(clones);
}

#[tokio::test(start_paused = true)]
async fn errors_of_calls_pass_through() {
    let works = Works::new([at_once([buttress_testkit::err("HTTP 503")])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let error = call(&service, 0).await.unwrap_err();
    assert_eq!(error.downcast_ref::<ScriptError>(), Some(&ScriptError("HTTP 503")));
}
