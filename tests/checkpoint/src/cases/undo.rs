use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::{Worker, long, short};
use buttress_checkpoint::{Config, Cx, StepState, Timeline, Workflow, Workflows};
use buttress_core::Backoff;

/// Quickly, and three times in all.
fn three_times(config: Config) -> Config {
    config.undo_retry(Backoff::constant(Duration::from_millis(100)), 2)
}

/// A step that can be undone, at which `undo` fails as long as `fails`, and one that fails.
fn undone<S: JournalStore>(
    workflows: &Workflows<S>,
    effects: &Effects,
    fails: &Arc<AtomicBool>,
) -> Workflow<S, (), (), Failure> {
    let (effects, fails) = (effects.clone(), fails.clone());
    let code = move |cx: Cx, ()| {
        let (effects, fails) = (effects.clone(), fails.clone());
        async move {
            let undoing = effects.clone();
            let undo = move |_: usize| {
                undoing.add("undo");
                // Longer than what a store takes as a reason, and with what none takes.
                let failed = fails.load(Ordering::SeqCst).then(|| "it is locked\0".repeat(200));
                std::future::ready(failed.map_or(Ok(()), |text| Err(Failure::new(text))))
            };
            cx.step("reserve", async || effects.done("reserve")).compensate(undo).await?;
            cx.step("charge", async || Err::<(), _>(Failure::new("no money"))).await?;
            Ok(())
        }
    };
    workflows.register("w", 1, code).unwrap()
}

/// CP-27, a compensation that fails: its attempts are counted over crashes and restarts, and then somebody has to look.
pub async fn attempts_at_undoing_survive_and_come_to_an_end<S: JournalStore>(store: S) {
    let (effects, fails) = (Effects::default(), Arc::new(AtomicBool::new(true)));
    let first = Workflows::with(store.clone(), three_times(short()));
    undone(&first, &effects, &fails).start("run", ()).await.unwrap();
    let worker = Worker::start(&first);
    // The step, what failed, that it is undone, and the first attempt.
    until_entries(&store, "run", 4).await;
    worker.crash().await;

    let second = Workflows::with(store.clone(), three_times(long()));
    let flow = undone(&second, &effects, &fails);
    let worker = Worker::start(&second);
    let reason = halted(flow.handle(id("run")).result().await);
    assert!(reason.contains("`reserve`") && reason.contains("could not be undone: it is locked"), "{reason}");
    // Three that were recorded, and one perhaps that was cut off.
    let tried = effects.count("undo");
    assert!((3..=4).contains(&tried), "{tried}");
    let run = store.load(&id("run")).await.unwrap().unwrap();
    let step = Timeline::of(&run).unwrap().steps.swap_remove(0);
    assert!(matches!(step.state, StepState::NotUndone(_)), "{step:?}");
    assert!(step.error.unwrap().contains("it is locked"));

    second.resume(&id("run")).await.unwrap();
    effects.until("undo", tried + 1).await;
    until(&store, "run", StatusKind::Paused).await;
    assert_eq!(effects.count("undo"), tried + 1, "an operator who lets it go on has it tried once");

    fails.store(false, Ordering::SeqCst);
    second.resume(&id("run")).await.unwrap();
    loop {
        match flow.handle(id("run")).result().await {
            Err(RunError::Halted { .. }) => sleep(Duration::from_millis(20)).await,
            Err(RunError::Failed(error)) => break assert_eq!(error, Failure::new("no money")),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((effects.count("undo"), effects.count("reserve")), (tried + 2, 1));
    worker.stop().await;
}

/// A shutdown waits for a compensation as long as for a step, and not at all for one that is not due.
pub async fn a_shutdown_waits_for_no_compensation_for_ever<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let begin = |first: bool| {
        // Long enough for a run to be given back on a busy machine, and shorter than a pause between two attempts.
        let pause = Duration::from_secs(5);
        let config = long().drain(pause / 2).undo_retry(Backoff::constant(pause), 10);
        let (workflows, effects) = (Workflows::with(store.clone(), config), effects.clone());
        let code = move |cx: Cx, ()| {
            let effects = effects.clone();
            async move {
                for name in ["fails", "hangs"] {
                    let undoing = effects.clone();
                    let undo = move |_: usize| {
                        let effects = undoing.clone();
                        async move {
                            let number = effects.count(&format!("undo {name}"));
                            effects.add(&format!("undo {name}"));
                            match name {
                                "hangs" if first => std::future::pending().await,
                                // Due after the pause.
                                "fails" if number == 0 => Err(Failure::new("not now")),
                                _ => Ok(()),
                            }
                        }
                    };
                    cx.step(name, async || effects.done(name)).compensate(undo).await?;
                }
                cx.step("charge", async || Err::<(), _>(Failure::new("no money"))).await?;
                Ok::<_, Failure>(())
            }
        };
        let flow = workflows.register("w", 1, code).unwrap();
        (workflows, flow)
    };
    let (first, flow) = begin(true);
    flow.start("run", ()).await.unwrap();
    let worker = Worker::start(&first);
    effects.until("undo hangs", 1).await;
    worker.stop().await;
    assert_eq!(info(&store, "run").await.lease, None, "it was given back");

    let (second, _) = begin(false);
    let worker = Worker::start(&second);
    effects.until("undo fails", 1).await;
    until_entries(&store, "run", 6).await;
    worker.stop().await;
    assert_eq!(info(&store, "run").await.lease, None, "it was given back");

    let (third, flow) = begin(false);
    let worker = Worker::start(&third);
    assert!(matches!(flow.handle(id("run")).result().await, Err(RunError::Failed(_))));
    let undone = ["undo hangs", "undo hangs", "undo fails", "undo fails"];
    assert_eq!(effects.names()[2..], undone);
    worker.stop().await;
}

/// CP-27: neither keeps its run for ever, nor is it done with by half.
pub async fn a_compensation_that_hangs_or_panics_is_tried_again<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let config = three_times(long()).undo_timeout(Duration::from_millis(200)).unwrap();
    let workflows = Workflows::with(store.clone(), config);
    let body = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = body.clone();
        async move {
            let undoing = effects.clone();
            let undo = move |_: usize| {
                let effects = undoing.clone();
                async move {
                    effects.add("undo");
                    match effects.count("undo") {
                        1 => std::future::pending().await,
                        2 => std::panic::resume_unwind(Box::new("a bug".to_owned())),
                        _ => Ok::<_, Failure>(()),
                    }
                }
            };
            cx.step("reserve", async || effects.done("reserve")).compensate(undo).await?;
            cx.step("charge", async || Err::<(), _>(Failure::new("no money"))).await?;
            Ok::<_, Failure>(())
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    let worker = Worker::start(&workflows);
    assert!(
        matches!(handle.result().await, Err(RunError::Failed(error)) if error == Failure::new("no money"))
    );
    worker.stop().await;
    assert_eq!(effects.names(), ["reserve", "undo", "undo", "undo"]);
    let entries = store.load(&id("run")).await.unwrap().unwrap().entries;
    let payload = |at: usize| String::from_utf8_lossy(&entries[at].entry.payload).into_owned();
    assert!(payload(3).contains("it did not end within 200 ms"), "{}", payload(3));
    assert!(payload(4).contains("a panic: a bug"), "{}", payload(4));
}
