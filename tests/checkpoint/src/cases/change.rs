use super::*;
use crate::{Worker, long, short};
use buttress_checkpoint::{Cx, OnMismatch, Workflow, Workflows};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Two steps of which the second hangs while `hangs`.
fn two<S: JournalStore>(
    workflows: &Workflows<S>,
    effects: &Effects,
    names: [&'static str; 2],
    hangs: bool,
) -> Workflow<S, (), usize, Failure> {
    let effects = effects.clone();
    let code =
        move |cx: Cx, ()| {
            let effects = effects.clone();
            async move {
                let first = cx.step(names[0], async || effects.done(names[0])).await?;
                let second =
                    cx.step(names[1], async || {
                        if hangs { effects.hang(names[1]).await } else { effects.done(names[1]) }
                    })
                    .await?;
                Ok(first + second)
            }
        };
    workflows.register("w", 1, code).unwrap()
}

/// CP-12
pub async fn a_renamed_step_pauses_the_run_and_the_old_code_goes_on<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let old = Workflows::with(store.clone(), short());
    let flow = two(&old, &effects, ["reserve", "charge"], true);
    flow.start("run", ()).await.unwrap();
    let worker = Worker::start(&old);
    effects.until("charge", 1).await;
    worker.crash().await;
    let before = store.load(&id("run")).await.unwrap().unwrap().entries;

    let new = Workflows::with(store.clone(), long());
    let renamed = two(&new, &effects, ["hold", "charge"], false);
    let worker = Worker::start(&new);
    let reason = halted(renamed.handle(id("run")).result().await);
    assert!(reason.contains("`reserve`") && reason.contains("`hold`"), "{reason}");
    worker.stop().await;
    assert_eq!(store.load(&id("run")).await.unwrap().unwrap().entries, before, "the journal is untouched");
    assert_eq!(effects.count("hold"), 0);

    let again = Workflows::with(store, long());
    let flow = two(&again, &effects, ["reserve", "charge"], false);
    again.resume(&id("run")).await.unwrap();
    let worker = Worker::start(&again);
    assert_eq!(flow.handle(id("run")).result().await.unwrap(), 13);
    assert_eq!((effects.count("reserve"), effects.count("charge")), (1, 2));
    worker.stop().await;
}

#[derive(Serialize, Deserialize)]
struct Stock {
    left: u32,
}

#[derive(Serialize, Deserialize)]
struct Added {
    left: u32,
    #[serde(default)]
    place: String,
}

#[derive(Serialize, Deserialize)]
struct Other {
    left: String,
}

/// CP-14
pub async fn a_result_of_another_shape_is_an_error_that_names_the_step<S: JournalStore>(store: S) {
    async fn code<T: Serialize + DeserializeOwned + Send>(
        cx: Cx,
        value: T,
        effects: Option<Effects>,
    ) -> Result<(), Failure> {
        let mut value = Some(value);
        cx.step("reserve", || std::future::ready(value.take().ok_or(Failure::new("again")))).await?;
        let hang = async || match &effects {
            Some(effects) => effects.hang("charge").await,
            None => Ok::<_, Failure>(()),
        };
        Ok(cx.step("charge", hang).await?)
    }
    let effects = Effects::default();
    let old = Workflows::with(store.clone(), short());
    let hanging = effects.clone();
    let flow =
        old.register("w", 1, move |cx, ()| code(cx, Stock { left: 3 }, Some(hanging.clone()))).unwrap();
    flow.start("run", ()).await.unwrap();
    let worker = Worker::start(&old);
    effects.until("charge", 1).await;
    worker.crash().await;

    let new = Workflows::with(store.clone(), long());
    let flow = new.register("w", 1, |cx, ()| code(cx, Other { left: "3".into() }, None)).unwrap();
    let worker = Worker::start(&new);
    let reason = halted(flow.handle(id("run")).result().await);
    assert!(reason.contains("step `reserve`") && reason.contains("expected a string"), "{reason}");
    worker.stop().await;

    let newer = Workflows::with(store, long());
    let flow = newer.register("w", 1, |cx, ()| code(cx, Added { left: 3, place: "x".into() }, None)).unwrap();
    newer.resume(&id("run")).await.unwrap();
    let worker = Worker::start(&newer);
    flow.handle(id("run")).result().await.unwrap();
    worker.stop().await;
}

/// The way out of CP-12
pub async fn a_patch_is_for_runs_that_come_to_it_later<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let old = Workflows::with(store.clone(), short());
    let flow = two(&old, &effects, ["reserve", "charge"], true);
    flow.start("old", ()).await.unwrap();
    let worker = Worker::start(&old);
    effects.until("charge", 1).await;
    worker.crash().await;

    let new = Workflows::with(store, long());
    let body = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = body.clone();
        async move {
            let early = cx.patched("early").await?;
            if early {
                cx.step("check", async || effects.done("check")).await?;
            }
            cx.step("reserve", async || effects.done("reserve")).await?;
            cx.step("charge", async || effects.done("charge")).await?;
            let late = cx.patched("late").await?;
            Ok::<_, Failure>((early, late, cx.patched("early").await?))
        }
    };
    let flow = new.register("w", 1, code).unwrap();
    let worker = Worker::start(&new);
    assert_eq!(flow.handle(id("old")).result().await.unwrap(), (false, true, false));
    assert_eq!(flow.start("new", ()).await.unwrap().result().await.unwrap(), (true, true, true));
    assert_eq!(effects.count("check"), 1);
    worker.stop().await;
}

/// A step that remembers its input, and one that ends the run if it is to.
fn with_input<S: JournalStore>(
    workflows: &Workflows<S>,
    effects: &Effects,
    cents: u32,
    hangs: bool,
) -> Workflow<S, (), usize, Failure> {
    let effects = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = effects.clone();
        async move {
            let charged = cx.step("charge", async || effects.done("charge")).input(&cents).await?;
            let last = async || if hangs { effects.hang("last").await } else { effects.done("last") };
            Ok(charged + cx.step("last", last).input(&("to", "them")).await?)
        }
    };
    workflows.register("w", 1, code).unwrap()
}

/// CP-12, of a step's input.
pub async fn a_step_with_another_input_pauses_the_run<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let old = Workflows::with(store.clone(), short());
    with_input(&old, &effects, 700, true).start("run", ()).await.unwrap();
    let worker = Worker::start(&old);
    effects.until("last", 1).await;
    worker.crash().await;

    let new = Workflows::with(store.clone(), long());
    let flow = with_input(&new, &effects, 70_000, false);
    let worker = Worker::start(&new);
    let reason = halted(flow.handle(id("run")).result().await);
    assert!(reason.contains("the input of step `charge`"), "{reason}");
    worker.stop().await;
    assert_eq!((effects.count("charge"), effects.count("last")), (1, 1));

    let again = Workflows::with(store, long());
    let flow = with_input(&again, &effects, 700, false);
    again.resume(&id("run")).await.unwrap();
    let worker = Worker::start(&again);
    assert_eq!(flow.handle(id("run")).result().await.unwrap(), 10);
    assert_eq!((effects.count("charge"), effects.count("last")), (1, 2));
    worker.stop().await;
}

/// CP-12, where it is to fail.
pub async fn a_mismatch_fails_the_run_where_that_is_wanted<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let old = Workflows::with(store.clone(), short());
    two(&old, &effects, ["reserve", "charge"], true).start("run", ()).await.unwrap();
    let worker = Worker::start(&old);
    effects.until("charge", 1).await;
    worker.crash().await;

    let new = Workflows::with(store.clone(), long().on_mismatch(OnMismatch::Fail));
    let flow = two(&new, &effects, ["hold", "charge"], false);
    let worker = Worker::start(&new);
    let Err(RunError::Mismatch(reason)) = flow.handle(id("run")).result().await else { panic!("it failed") };
    assert!(reason.contains("`reserve`") && reason.contains("`hold`"), "{reason}");
    worker.stop().await;
    assert_eq!(info(&store, "run").await.status.kind(), StatusKind::Failed);
    assert_eq!((effects.count("hold"), effects.count("charge")), (0, 1));
}
