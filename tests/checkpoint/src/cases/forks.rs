//! Runs that begin in the middle of another.

use super::operator::sale;
use super::*;
use crate::{Worker, long, short};
use buttress_checkpoint::{Cx, ForkError, Workflows, retry_from};

/// CP-38, fork
pub async fn a_retry_from_a_step_does_the_rest_again<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let register = |fails: bool| {
        let (workflows, effects) = (Workflows::with(store.clone(), long()), effects.clone());
        let code = move |cx: Cx, ()| {
            let effects = effects.clone();
            async move {
                cx.step("a", async || effects.done("a")).await?;
                let b = async || {
                    effects.add("b");
                    if fails { Err(Failure::new("a bug")) } else { Ok(2) }
                };
                let b = cx.step("b", b).await?;
                cx.step("c", async || effects.done("c")).await?;
                Ok::<i32, Failure>(b)
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
    retry_from(&store, &id("run"), ("b", 0), &id("again"), false).await.unwrap();
    let worker = Worker::start(&new);
    assert_eq!(flow.handle(id("again")).result().await.unwrap(), 2);
    assert_eq!(effects.names(), ["a", "b", "b", "c"]);
    let keys = &effects.keys()["b"];
    assert_eq!(keys[0], keys[1], "what was applied the first time is recognised");
    worker.stop().await;
}

/// CP-38, fork: more entries than are copied at once.
pub async fn a_retry_from_a_late_step_copies_all_that_was_done_before<S: JournalStore>(store: S) {
    const STEPS: u32 = 250;
    let effects = Effects::default();
    let register = |fails: bool| {
        let (workflows, effects) = (Workflows::with(store.clone(), long()), effects.clone());
        let code = move |cx: Cx, ()| {
            let effects = effects.clone();
            async move {
                let mut sum = 0;
                for number in 0..STEPS {
                    let step = async || {
                        effects.add("step");
                        if fails && number == STEPS - 1 { Err(Failure::new("a bug")) } else { Ok(number) }
                    };
                    sum += cx.step("step", step).await?;
                }
                Ok::<u32, Failure>(sum)
            }
        };
        let flow = workflows.register("w", 1, code).unwrap();
        (workflows, flow)
    };
    let (old, flow) = register(true);
    let worker = Worker::start(&old);
    assert!(matches!(flow.start("run", ()).await.unwrap().result().await, Err(RunError::Failed(_))));
    worker.stop().await;

    retry_from(&store, &id("run"), ("step", STEPS - 1), &id("again"), false).await.unwrap();
    let (new, flow) = register(false);
    let worker = Worker::start(&new);
    assert_eq!(flow.handle(id("again")).result().await.unwrap(), STEPS * (STEPS - 1) / 2);
    assert_eq!(effects.names().len() as u32, STEPS + 1, "only the last one was done again");
    assert_eq!(info(&store, "again").await.entries, u64::from(STEPS) + 1);
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
