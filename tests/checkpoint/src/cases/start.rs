use super::*;
use crate::{Worker, long};
use buttress_checkpoint::{StartError, Workflows};

/// CP-2
pub async fn a_run_is_stored_before_its_body_starts<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let workflows = Workflows::with(store.clone(), long());
    let body = effects.clone();
    let flow = workflows
        .register("w", 1, move |cx, ()| {
            let effects = body.clone();
            async move { Ok::<_, Failure>(cx.step("a", async || effects.done("a")).await?) }
        })
        .unwrap();
    drop(flow.start("run", ()).await.unwrap());
    assert_eq!((info(&store, "run").await.status.kind(), effects.names().len()), (StatusKind::Running, 0));

    // Another process, which knows nothing of it.
    let worker = Worker::start(&workflows);
    assert_eq!(flow.handle(id("run")).result().await.unwrap(), 1);
    worker.stop().await;
}

/// CP-15
pub async fn another_input_or_workflow_under_one_identity_is_a_conflict<S: JournalStore>(store: S) {
    let workflows = Workflows::with(store, long());
    let flow = workflows.register("w", 1, async |_, input: u32| Ok::<_, Failure>(input)).unwrap();
    let other = workflows.register("v", 1, async |_, input: u32| Ok::<_, Failure>(input)).unwrap();
    flow.start("run", 1).await.unwrap();
    let conflict =
        |started: Result<_, StartError>| matches!(started, Err(StartError::ConflictingWorkflow { .. }));
    assert!(conflict(flow.start("run", 2).await));
    assert!(conflict(other.start("run", 1).await));
    let attached = flow.start("run", 1).await.unwrap();
    let worker = Worker::start(&workflows);
    assert_eq!(attached.result().await.unwrap(), 1);
    assert!(conflict(flow.start("run", 2).await), "also when it is over");
    assert_eq!(flow.start("run", 1).await.unwrap().result().await.unwrap(), 1);
    worker.stop().await;
}

/// CP-17
pub async fn a_version_is_registered_once<S: JournalStore>(store: S) {
    let workflows = Workflows::with(store, long());
    let code = async |_, ()| Ok::<_, Failure>(());
    workflows.register("w", 1..=2, code).unwrap();
    assert_eq!(workflows.register("w", 2..=3, code).unwrap_err().field(), "versions");
    workflows.register("w", 3, code).unwrap();
    assert_eq!(workflows.register("", 1, code).unwrap_err().field(), "name");
}

/// CP-11
pub async fn recovery_and_a_start_of_the_same_run_race_and_the_body_runs_once<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let register = |workflows: &Workflows<S>| {
        let effects = effects.clone();
        let code = move |cx: buttress_checkpoint::Cx, ()| {
            let effects = effects.clone();
            async move { Ok::<_, Failure>(cx.step("a", async || effects.done(cx.run_id().as_str())).await?) }
        };
        workflows.register("w", 1, code).unwrap()
    };
    let (first, second) = (Workflows::with(store.clone(), long()), Workflows::with(store, long()));
    let (one, other) = (register(&first), register(&second));
    let mut workers = Vec::new();
    for run in 0..10 {
        let run = format!("run {run}");
        let (a, b) = tokio::join!(one.start(run.clone(), ()), other.start(run.clone(), ()));
        if workers.is_empty() {
            workers = vec![Worker::start(&first), Worker::start(&second)];
        }
        let (a, b) = (a.unwrap(), b.unwrap());
        let (a, b) = tokio::join!(a.result(), b.result());
        assert_eq!((a.unwrap(), b.unwrap()), (run.len(), run.len()));
        assert_eq!(effects.count(&run), 1);
    }
    for worker in workers {
        worker.stop().await;
    }
}
