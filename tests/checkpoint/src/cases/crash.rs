use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::failing::Failing;
use crate::{Worker, long};
use buttress_checkpoint::{Cx, Semantics, StepError, Workflow, Workflows};
use buttress_core::Backoff;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

/// Runs the same code twice: the first worker crashes once this effect was seen, the second one ends the run.
async fn crash_at<S, O, F, Fut>(
    store: &S,
    effects: &Effects,
    at: &str,
    code: F,
) -> Result<O, RunError<Failure>>
where
    S: JournalStore,
    O: serde::Serialize + serde::de::DeserializeOwned + 'static,
    F: Fn(Cx, bool) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<O, Failure>> + Send + 'static,
{
    let store = Failing::new(store.clone());
    let begin = |first: bool| {
        let (workflows, code) = (Workflows::with(store.clone(), long()), code.clone());
        let flow: Workflow<Failing<S>, (), O, Failure> =
            workflows.register("w", 1, move |cx, ()| code(cx, first)).unwrap();
        (workflows, flow)
    };
    let (workflows, flow) = begin(true);
    flow.start("run", ()).await.unwrap();
    let worker = Worker::start(&workflows);
    effects.until(at, 1).await;
    worker.crash().await;
    store.lapse().await;
    let (workflows, flow) = begin(false);
    let worker = Worker::start(&workflows);
    let result = flow.handle(id("run")).result().await;
    worker.stop().await;
    result
}

/// CP-1, in one process; `tests/kill.rs` has it with processes that are killed.
pub async fn a_recorded_step_never_runs_again_and_an_open_one_has_the_same_key<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let body = effects.clone();
    let sum = crash_at(&store, &effects, "step 5", move |cx, first| {
        let effects = body.clone();
        async move {
            let mut sum = 0;
            for number in 0..10 {
                let name = format!("step {number}");
                let step = cx.step(name.clone(), async || match number {
                    5 if first => effects.hang(&name).await,
                    _ => effects.done(&name),
                });
                sum += step.await?;
            }
            Ok(sum)
        }
    });
    assert_eq!(sum.await.unwrap(), 60);
    let keys = effects.keys();
    for number in 0..10 {
        let keys = &keys[&format!("step {number}")];
        assert_eq!(keys.len(), if number == 5 { 2 } else { 1 });
        assert!(keys.iter().all(|key| *key == keys[0] && key.len() == 32));
    }
}

/// CP-3
pub async fn a_step_that_runs_at_most_once_is_not_run_again<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let body = effects.clone();
    let ended = crash_at(&store, &effects, "charge", move |cx, _| {
        let effects = body.clone();
        async move {
            let charge = cx.step("charge", async || effects.hang::<Result<(), Failure>>("charge").await);
            let interrupted = charge.semantics(Semantics::AtMostOnce).await;
            Ok(matches!(interrupted, Err(StepError::Interrupted)))
        }
    });
    assert!(ended.await.unwrap());
    assert_eq!(effects.count("charge"), 1);
}

/// CP-3
pub async fn an_interrupted_step_is_reconciled<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let body = effects.clone();
    let ended = crash_at(&store, &effects, "charge", move |cx, first| {
        let effects = body.clone();
        async move {
            let ran = async || effects.done("transfer");
            // It certainly was not done: it is done now.
            if !first {
                effects.add("second");
            }
            let charge = cx.step("charge", async || effects.hang::<Result<String, Failure>>("charge").await);
            let found = charge.reconcile(async || Ok(Some(cx.key("charge")?.to_string()))).await?;
            let transfer = cx.step("transfer", ran).reconcile(async || Ok(None)).await?;
            Ok((found == *cx.key_of("charge", 0), transfer))
        }
    });
    assert_eq!(ended.await.unwrap(), (true, 8));
    assert_eq!((effects.count("charge"), effects.count("transfer")), (1, 1));
}

/// CP-18: fifty seeds on each store, ten at a time, each with a workflow of its own.
pub async fn joined_steps_keep_their_identities<S: JournalStore>(store: S) {
    for first in (0..50).step_by(10) {
        futures_util::future::join_all((first..first + 10).map(|seed| joined(store.clone(), seed))).await;
    }
}

/// Eight pairs of steps side by side, which end in an order that the seed says, and a crash somewhere among them.
async fn joined<S: JournalStore>(store: S, seed: u64) {
    let (store, effects) = (Failing::new(store), Effects::default());
    let workflows = || {
        let (workflows, body) = (Workflows::with(store.clone(), long()), effects.clone());
        let code = move |cx: Cx, seed: u64| {
            let effects = body.clone();
            async move {
                let step = |number: usize| {
                    let (cx, effects) = (cx.clone(), effects.clone());
                    let millis = StdRng::seed_from_u64(seed * 8 + number as u64).random_range(0..40);
                    let name = format!("step {number}");
                    async move {
                        let sleepy = || {
                            let (effects, name) = (effects.clone(), name.clone());
                            async move {
                                sleep(Duration::from_millis(millis)).await;
                                effects.done(&name)
                            }
                        };
                        cx.step("same name", sleepy).await?;
                        cx.step(name.clone(), async || Ok::<_, Failure>(number)).await
                    }
                };
                let all = futures_util::future::join_all((0..8).map(step)).await;
                all.into_iter().collect::<Result<Vec<_>, _>>().map_err(Failure::from)
            }
        };
        let flow = workflows.register(format!("w {seed}"), 1, code).unwrap();
        (workflows, flow)
    };
    let run = format!("run {seed}");
    let (first, flow) = workflows();
    flow.start(run.clone(), seed).await.unwrap();
    let worker = Worker::start(&first);
    until_entries(&store, &run, 1 + seed % 12).await;
    worker.crash().await;
    store.lapse().await;
    let (second, flow) = workflows();
    let worker = Worker::start(&second);
    assert_eq!(flow.handle(id(&run)).result().await.unwrap(), (0..8).collect::<Vec<_>>(), "seed {seed}");
    worker.stop().await;
    assert_eq!(effects.keys().len(), 8, "seed {seed}");
    for (name, keys) in effects.keys() {
        let same = keys.iter().all(|key| *key == keys[0]);
        assert!(keys.len() <= 2 && same, "{name} of seed {seed}: {keys:?}");
    }
    // What was recorded before the crash was not done again: each record is there once.
    assert_eq!(info(&store, &run).await.entries, 17, "seed {seed}");
}

/// CP-20
pub async fn a_step_that_was_built_and_dropped_spends_its_number<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let body = effects.clone();
    let ended = crash_at(&store, &effects, "last", move |cx, first| {
        let effects = body.clone();
        async move {
            drop(cx.step("same", async || effects.done("dropped")));
            let step = cx.step("same", async || effects.done("second"));
            let key = step.key()?;
            let second = step.await?;
            cx.step("last", async || if first { effects.hang("last").await } else { effects.done("last") })
                .await?;
            Ok((second, key == cx.key_of("same", 1)))
        }
    });
    assert_eq!(ended.await.unwrap(), (6, true));
    assert_eq!((effects.count("dropped"), effects.count("second")), (0, 1));
}

pub async fn attempts_and_delays_survive<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let body = effects.clone();
    let ended = crash_at(&store, &effects, "attempt 2", move |cx, first| {
        let effects = body.clone();
        async move {
            let attempt = async || {
                let number = effects.names().len() + 1;
                effects.add(&format!("attempt {number}"));
                if number == 2 && first {
                    return std::future::pending().await;
                }
                Err::<(), _>(Failure::new("no"))
            };
            let step = cx.step("a", attempt).retry(Backoff::constant(Duration::from_millis(10)), 3);
            Ok(matches!(step.await, Err(StepError::Failed(error)) if error.message() == "no"))
        }
    });
    assert!(ended.await.unwrap());
    // Four that failed, and one that was cut off.
    assert_eq!(effects.names().len(), 5);
}

pub async fn a_sleep_keeps_its_first_wake_time<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let body = effects.clone();
    let began = Instant::now();
    let nap = Duration::from_secs(3);
    let ended = crash_at(&store, &effects, "asleep", move |cx, _| {
        let effects = body.clone();
        async move {
            let watch = async {
                // Polled after the sleep was recorded.
                cx.step("a", async || Ok::<_, Failure>(())).await?;
                effects.add("asleep");
                Ok::<_, Failure>(())
            };
            let (slept, watched) = tokio::join!(cx.sleep(nap), watch);
            watched?;
            Ok(slept?)
        }
    });
    ended.await.unwrap();
    assert!(began.elapsed() >= nap, "{:?}", began.elapsed());
    let entries = store.load(&id("run")).await.unwrap().unwrap().entries;
    let (first, last) = (entries.first().unwrap().at, entries.last().unwrap().at);
    assert!(last.duration_since(first).unwrap() >= nap - Duration::from_millis(1));
    assert_eq!(entries.len(), 4, "the sleep was recorded once: {entries:?}");
}

/// CP-28, with a child that a step starts
pub async fn a_child_is_not_started_twice<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let children = Workflows::with(store.clone(), long());
    let counted = effects.clone();
    let child = children.register("child", 1, move |cx: Cx, ()| {
        let effects = counted.clone();
        async move { Ok::<_, Failure>(cx.step("work", async || effects.done("child's work")).await?) }
    });
    let child = child.unwrap();
    let worker = Worker::start(&children);
    let body = effects.clone();
    let ended = crash_at(&store, &effects, "child", move |cx, first| {
        let (effects, child) = (body.clone(), child.clone());
        async move {
            let start = async || {
                let handle = child.start(cx.key("child")?, ()).await?;
                effects.add("child");
                if first {
                    return std::future::pending().await;
                }
                handle.result().await.map_err(|error| Failure::new(error.to_string()))
            };
            Ok(cx.step("child", start).await?)
        }
    });
    assert_eq!(ended.await.unwrap(), 12);
    assert_eq!(effects.count("child's work"), 1);
    worker.stop().await;
}

pub async fn a_race_has_the_same_winner<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let body = effects.clone();
    let ended = crash_at(&store, &effects, "last", move |cx, first| {
        let effects = body.clone();
        async move {
            // Which of these is quicker changes with the worker; what was recorded does not.
            let (slow, quick) = (Duration::from_secs(600), Duration::from_millis(1));
            let (one, other) = if first { (slow, quick) } else { (quick, slow) };
            let wait = |time| Box::pin(sleep(time)) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
            let (winner, ()) = cx.race("answer", vec![wait(one), wait(other)]).await?;
            cx.step("last", async || if first { effects.hang("last").await } else { effects.done("last") })
                .await?;
            Ok(winner)
        }
    });
    assert_eq!(ended.await.unwrap(), 1);
}

/// CP-27
pub async fn compensations_run_in_reverse_and_each_is_recorded_once<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let body = effects.clone();
    let crashed = Arc::new(AtomicBool::new(false));
    let ended = crash_at(&store, &effects, "undo 2", move |cx, first| {
        let (effects, crashed) = (body.clone(), crashed.clone());
        async move {
            for number in 1..=3 {
                let (undone, crashed) = (effects.clone(), crashed.clone());
                let undo = move |value: usize| {
                    let (effects, crashed) = (undone.clone(), crashed.clone());
                    async move {
                        assert_eq!(value, 6, "it gets what the step gave");
                        effects.add(&format!("undo {number}"));
                        if number == 2 && first && !crashed.swap(true, Ordering::SeqCst) {
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, Failure>(())
                    }
                };
                let name = format!("step {number}");
                cx.step(name.clone(), async || effects.done(&name)).compensate(undo).await?;
            }
            cx.step("step 4", async || Err::<(), _>(Failure::new("out of stock"))).await?;
            Ok(())
        }
    });
    let Err(RunError::Failed(failure)) = ended.await else { panic!("it failed") };
    assert_eq!(failure, Failure::new("out of stock"));
    let undone = ["step 1", "step 2", "step 3", "undo 3", "undo 2", "undo 2", "undo 1"];
    assert_eq!(effects.names(), undone);
}
