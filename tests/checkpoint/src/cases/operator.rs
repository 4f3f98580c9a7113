//! What an operator does to a run, and what becomes of it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::{Worker, long, short};
use buttress_checkpoint::{Cx, Workflow, Workflows};
use buttress_core::Backoff;

/// `charge`, which is taken back by `refund`, and then `ship`, which does not end.
pub(super) fn sale<S: JournalStore>(
    workflows: &Workflows<S>,
    effects: &Effects,
    charge: &'static str,
) -> Workflow<S, (), (), Failure> {
    let effects = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = effects.clone();
        async move {
            let undone = effects.clone();
            let refund = move |_| std::future::ready(undone.done("refund").map(drop));
            cx.step(charge, async || effects.done(charge)).compensate(refund).await?;
            Ok(cx.step("ship", async || effects.hang::<Result<(), Failure>>("ship").await).await?)
        }
    };
    workflows.register("sale", 1, code).unwrap()
}

/// CP-29: what counts are the crashes at one place, and not those of a long life.
pub async fn a_run_that_gets_further_after_each_crash_is_not_parked<S: JournalStore>(store: S) {
    const STEPS: usize = 4;
    let effects = Effects::default();
    let start = || {
        let config = short().max_recoveries(2);
        let (workflows, effects) = (Workflows::with(store.clone(), config), effects.clone());
        let code = move |cx: Cx, ()| {
            let effects = effects.clone();
            async move {
                for step in 0..STEPS {
                    let name = step.to_string();
                    let body = async || match effects.count(&name) {
                        0 => effects.hang(&name).await,
                        _ => effects.done(&name),
                    };
                    cx.step(name.clone(), body).await?;
                }
                Ok::<_, Failure>(())
            }
        };
        let flow = workflows.register("w", 1, code).unwrap();
        (Worker::start(&workflows), flow)
    };
    let (mut worker, flow) = start();
    let handle = flow.start("run", ()).await.unwrap();
    for step in 0..STEPS {
        effects.until(&step.to_string(), 1).await;
        worker.crash().await;
        (worker, _) = start();
    }
    handle.result().await.unwrap();
    worker.stop().await;
    assert_eq!(effects.names().len(), 2 * STEPS);
}

/// CP-26
pub async fn a_cancelled_run_stops_before_its_next_step<S: JournalStore>(store: S) {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let workflows = Workflows::with(store.clone(), short());
    let (body, opened) = (effects.clone(), gate.clone());
    let code = move |cx: Cx, ()| {
        let (effects, gate) = (body.clone(), opened.clone());
        async move {
            let undone = effects.clone();
            let undo = move |()| std::future::ready(undone.done("undone").map(drop));
            let first = async || {
                effects.add("first");
                gate.notified().await;
                Ok::<_, Failure>(())
            };
            cx.step("first", first).compensate(undo).await?;
            Ok::<_, Failure>(cx.step("second", async || effects.done("second")).await?)
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    let worker = Worker::start(&workflows);
    effects.until("first", 1).await;
    handle.cancel().await.unwrap();
    gate.notify_one();
    assert!(matches!(handle.result().await, Err(RunError::Cancelled)));
    assert_eq!(effects.names(), ["first", "undone"]);
    let run = handle.cancel().await.unwrap().unwrap();
    assert_eq!(run.status.kind(), StatusKind::Cancelled, "a second time is nothing");
    worker.stop().await;
}

/// CP-26
pub async fn a_preemptible_step_is_dropped_by_a_cancellation<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let workflows = Workflows::with(store.clone(), short());
    let body = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = body.clone();
        async move {
            let hang = async || effects.hang::<Result<(), Failure>>("first").await;
            Ok::<_, Failure>(cx.step("first", hang).preemptible().await?)
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    let worker = Worker::start(&workflows);
    effects.until("first", 1).await;
    handle.cancel().await.unwrap();
    assert!(matches!(handle.result().await, Err(RunError::Cancelled)));
    let entries = store.load(&id("run")).await.unwrap().unwrap().entries;
    assert_eq!(entries.len(), 1, "nothing of the step: {entries:?}");
    worker.stop().await;
}

/// CP-26, of a run that is halted: what was done is undone, by the code that can.
pub async fn a_halted_run_that_is_cancelled_is_undone<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let old = Workflows::with(store.clone(), short());
    sale(&old, &effects, "charge").start("run", ()).await.unwrap();
    let worker = Worker::start(&old);
    effects.until("ship", 1).await;
    worker.crash().await;

    let new = Workflows::with(store.clone(), long());
    let renamed = sale(&new, &effects, "pay");
    let worker = Worker::start(&new);
    let reason = halted(renamed.handle(id("run")).result().await);
    new.cancel(&id("run")).await.unwrap();
    assert_eq!(halted(renamed.handle(id("run")).result().await), reason, "this code cannot undo it either");
    assert!(info(&store, "run").await.cancel_requested);
    worker.stop().await;
    assert_eq!(effects.count("refund"), 0);

    let again = Workflows::with(store, long());
    let flow = sale(&again, &effects, "charge");
    again.resume(&id("run")).await.unwrap();
    let worker = Worker::start(&again);
    assert!(matches!(flow.handle(id("run")).result().await, Err(RunError::Cancelled)));
    assert_eq!(effects.names(), ["charge", "ship", "refund"]);
    worker.stop().await;
}

/// CP-30: a run whose code is gone can still be ended.
pub async fn a_run_without_code_is_ended_by_abandoning_it<S: JournalStore>(store: S) {
    let gone = Workflows::with(store.clone(), long());
    let flow = sale(&gone, &Effects::default(), "charge");
    let handle = flow.start("run", ()).await.unwrap();
    gone.cancel(handle.id()).await.unwrap();
    assert_eq!(info(&store, "run").await.status.kind(), StatusKind::Running, "somebody may undo it");
    gone.abandon(handle.id()).await.unwrap();
    assert!(matches!(handle.result().await, Err(RunError::Cancelled)));
    assert_eq!(gone.prune(Duration::ZERO).await.unwrap(), 1);
}

/// CP-27, of a run that is cancelled: what cannot be undone waits for somebody, who may let it go on.
pub async fn a_cancelled_run_that_cannot_be_undone_waits_for_an_operator<S: JournalStore>(store: S) {
    let (effects, down) = (Effects::default(), Arc::new(AtomicBool::new(true)));
    let config = long().undo_retry(Backoff::constant(Duration::from_millis(10)), 2);
    let workflows = Workflows::with(store.clone(), config);
    let (body, refused) = (effects.clone(), down.clone());
    let code = move |cx: Cx, ()| {
        let (effects, down) = (body.clone(), refused.clone());
        async move {
            for number in 1..=2 {
                let (effects, down) = (effects.clone(), down.clone());
                let refund = move |()| {
                    let refused = number == 2 && down.load(Ordering::SeqCst);
                    effects.add(&format!("refund {number}"));
                    std::future::ready(if refused { Err(Failure::new("the bank is down")) } else { Ok(()) })
                };
                let charge = async || Ok::<_, Failure>(());
                cx.step(format!("charge {number}"), charge).compensate(refund).await?;
            }
            Ok::<_, Failure>(cx.sleep(Duration::from_secs(3600)).await?)
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    let worker = Worker::start(&workflows);
    until(&store, "run", StatusKind::Sleeping).await;
    handle.cancel().await.unwrap();
    let run = until(&store, "run", StatusKind::Paused).await;
    assert!(run.cancel_requested);
    assert!(halted(handle.result().await).contains("the bank is down"));
    assert!(effects.names().iter().all(|name| name == "refund 2"), "{:?}", effects.names());

    down.store(false, Ordering::SeqCst);
    workflows.resume(handle.id()).await.unwrap();
    assert!(matches!(handle.result().await, Err(RunError::Cancelled)));
    assert_eq!(effects.names()[effects.names().len() - 2..], ["refund 2", "refund 1"]);
    worker.stop().await;
}
