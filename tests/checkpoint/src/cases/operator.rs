//! What an operator does to a run, and what becomes of it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::{Worker, long, short};
use buttress_checkpoint::{Cx, ForkError, Workflow, Workflows, retry_from};
use buttress_core::Backoff;

/// `charge`, which is taken back by `refund`, and then `ship`, which does not end.
fn sale<S: JournalStore>(
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

/// CP-38, fork: a step that was undone is not taken for done, nor is its second effect for the first.
pub async fn what_was_undone_is_not_taken_for_done<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let register = |fails: bool| {
        let (workflows, effects) = (Workflows::with(store.clone(), long()), effects.clone());
        let code = move |cx: Cx, ()| {
            let effects = effects.clone();
            async move {
                cx.step("reserve", async || effects.done("reserve")).await?;
                let undone = effects.clone();
                let refund = move |_| std::future::ready(undone.done("refund").map(drop));
                cx.step("charge", async || effects.done("charge")).compensate(refund).await?;
                let ship = async || if fails { Err(Failure::new("a bug")) } else { effects.done("ship") };
                Ok::<_, Failure>(cx.step("ship", ship).await?)
            }
        };
        let flow = workflows.register("sale", 1, code).unwrap();
        (workflows, flow)
    };
    let (old, flow) = register(true);
    let worker = Worker::start(&old);
    assert!(matches!(flow.start("run", ()).await.unwrap().result().await, Err(RunError::Failed(_))));
    worker.stop().await;
    assert_eq!(effects.names(), ["reserve", "charge", "refund"]);

    let (new, flow) = register(false);
    let worker = Worker::start(&new);
    let retry =
        async |step, fresh_keys| retry_from(&store, &id("run"), (step, 0), &id("again"), fresh_keys).await;
    // Charging again with the old key would be taken for the charge that was refunded.
    for (step, fresh_keys) in [("ship", false), ("ship", true), ("charge", false)] {
        let refused = retry(step, fresh_keys).await;
        let Err(ForkError::Undone { step: undone }) = &refused else { panic!("{step}: {refused:?}") };
        assert_eq!((&*undone.name, undone.occurrence), ("charge", 0));
    }
    retry("charge", true).await.unwrap();
    flow.handle(id("again")).result().await.unwrap();
    assert_eq!(effects.names()[3..], ["charge", "ship"]);
    let charges = &effects.keys()["charge"];
    assert_ne!(charges[0], charges[1]);
    worker.stop().await;
}

/// CP-38, fork: while a run is undone nobody knows which of its steps still count.
pub async fn a_run_that_is_being_undone_is_not_continued<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let workflows = Workflows::with(store.clone(), long());
    let body = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = body.clone();
        async move {
            let undoing = effects.clone();
            let refund = move |_| {
                let effects = undoing.clone();
                async move { effects.hang::<Result<(), Failure>>("refund").await }
            };
            cx.step("charge", async || effects.done("charge")).compensate(refund).await?;
            Ok::<_, Failure>(cx.step("ship", async || Err::<(), _>(Failure::new("no"))).await?)
        }
    };
    workflows.register("sale", 1, code).unwrap().start("run", ()).await.unwrap();
    let worker = Worker::start(&workflows);
    effects.until("refund", 1).await;
    worker.crash().await;
    workflows.abandon(&id("run")).await.unwrap();
    let refused = retry_from(&store, &id("run"), ("ship", 0), &id("again"), true).await;
    assert!(matches!(refused, Err(ForkError::Undoing)), "{refused:?}");
}

/// CP-38, fork: what is refused changes nothing, and what is continued does not go on by itself.
pub async fn a_retry_that_is_refused_changes_nothing<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let old = Workflows::with(store.clone(), short());
    sale(&old, &effects, "charge").start("run", ()).await.unwrap();
    let worker = Worker::start(&old);
    effects.until("ship", 1).await;
    let retry = async |step, new| retry_from(&store, &id("run"), (step, 0), &id(new), false).await;
    let refused = retry("charge", "again").await;
    assert!(matches!(refused, Err(ForkError::Open)), "both would do the same: {refused:?}");
    worker.crash().await;

    let new = Workflows::with(store.clone(), long());
    let renamed = sale(&new, &effects, "pay");
    let worker = Worker::start(&new);
    halted(renamed.handle(id("run")).result().await);
    let before = info(&store, "run").await;
    assert!(matches!(retry("chrage", "again").await, Err(ForkError::NoSuchStep)));
    assert!(matches!(retry("charge", "run").await, Err(ForkError::Exists)));
    let after = info(&store, "run").await;
    assert_eq!((after.status, after.changed), (before.status, before.changed));

    retry("charge", "again").await.unwrap();
    assert_eq!(info(&store, "run").await.status.kind(), StatusKind::Cancelled);
    effects.until("pay", 1).await;
    worker.stop().await;
}

/// CP-38, fork, and CP-18: of joined steps those that began before are kept, in whatever order they ended.
pub async fn a_retry_keeps_what_began_before_in_whatever_order_it_ended<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let register = |fails: bool| {
        let (workflows, effects) = (Workflows::with(store.clone(), long()), effects.clone());
        let code = move |cx: Cx, ()| {
            let effects = effects.clone();
            async move {
                let slow = cx.step("slow", async || {
                    // Ends after `last`, which is built when `quick` has ended, has failed.
                    if fails {
                        effects.until("last", 1).await;
                        sleep(Duration::from_millis(100)).await;
                    }
                    effects.done("slow")
                });
                let others = async {
                    cx.step("quick", async || effects.done("quick")).await?;
                    let last = async || {
                        effects.add("last");
                        if fails { Err(Failure::new("a bug")) } else { Ok(4) }
                    };
                    Ok::<_, Failure>(cx.step("last", last).await)
                };
                let (slow, last) = futures_util::future::join(slow, others).await;
                Ok::<usize, Failure>(slow? + last??)
            }
        };
        let flow = workflows.register("w", 1, code).unwrap();
        (workflows, flow)
    };
    let (old, flow) = register(true);
    let worker = Worker::start(&old);
    assert!(matches!(flow.start("run", ()).await.unwrap().result().await, Err(RunError::Failed(_))));
    worker.stop().await;
    let (new, flow) = register(false);
    retry_from(&store, &id("run"), ("last", 0), &id("again"), true).await.unwrap();
    let worker = Worker::start(&new);
    assert_eq!(flow.handle(id("again")).result().await.unwrap(), 8);
    assert_eq!(effects.names(), ["quick", "last", "slow", "last"], "only the last one was done again");
    worker.stop().await;
}
