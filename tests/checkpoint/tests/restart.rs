//! CP-10: the store is restarted while a worker sweeps up what another one left.

use std::time::Duration;

use buttress_checkpoint::{Cx, Failure, Workflow, Workflows};
use buttress_cli::AnyStore;
use buttress_store::{JournalStore, Sqlite, StatusKind};
use checkpoint_tests::cases::{Effects, info, until};
use checkpoint_tests::{Worker, quick, short};
use tokio::time::sleep;

const RUNS: usize = 10;

fn steps<S: JournalStore>(
    workflows: &Workflows<S>,
    effects: &Effects,
    hangs: bool,
) -> Workflow<S, (), usize, Failure> {
    let effects = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = effects.clone();
        async move {
            let name = cx.run_id().to_string();
            cx.step("first", async || effects.done(&format!("{name} first"))).await?;
            let second = async || if hangs { effects.hang(&name).await } else { effects.done(&name) };
            Ok(cx.step("second", second).await?)
        }
    };
    workflows.register("w", 1, code).unwrap()
}

/// Begins runs on a worker that crashes, which leaves them all in the middle.
async fn abandoned<S: JournalStore>(store: &S, effects: &Effects) {
    let crashing = Workflows::with(store.clone(), short());
    let flow = steps(&crashing, effects, true);
    let worker = Worker::start(&crashing);
    for run in 0..RUNS {
        flow.start(format!("run {run}"), ()).await.unwrap();
        effects.until(&format!("run {run}"), 1).await;
    }
    worker.crash().await;
}

/// A worker that takes some of them at a time, so that the sweep lasts.
fn sweeping<S: JournalStore>(store: &S, effects: &Effects) -> Worker {
    let config = quick(Duration::from_secs(2)).max_recoveries(100).max_runs(2).unwrap();
    let workflows = Workflows::with(store.clone(), config);
    steps(&workflows, effects, false);
    Worker::start(&workflows)
}

async fn all_are_done<S: JournalStore>(store: &S, effects: &Effects) {
    for run in 0..RUNS {
        let run = format!("run {run}");
        until(store, &run, StatusKind::Done).await;
        assert_eq!(info(store, &run).await.entries, 3);
        assert_eq!(effects.count(&format!("{run} first")), 1, "it was recorded");
        let keys = &effects.keys()[&run];
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    }
}

/// The second one has begun, so that the sweep is under way.
async fn begun(effects: &Effects) {
    while effects.names().len() < 2 * RUNS + 2 {
        sleep(Duration::from_millis(5)).await;
    }
}

async fn restarted_in_the_sweep(url: &str, restart: impl FnOnce()) {
    let store = AnyStore::create(url).await.unwrap();
    let effects = Effects::default();
    abandoned(&store, &effects).await;
    let worker = sweeping(&store, &effects);
    begun(&effects).await;
    tokio::task::block_in_place(restart);
    all_are_done(&store, &effects).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_postgres_in_the_sweep_loses_nothing() {
    let mut server = services::Postgres::start();
    let url = server.url();
    let restart = || {
        server.kill();
        server.restart();
    };
    restarted_in_the_sweep(&url, restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_redis_in_the_sweep_loses_nothing() {
    let mut server = services::Redis::start();
    let url = server.url();
    let restart = || {
        server.kill();
        server.restart();
    };
    restarted_in_the_sweep(&url, restart).await;
}

/// What is embedded is restarted with its process: the file is closed under one worker and opened by the next.
#[tokio::test]
async fn a_file_that_is_closed_in_the_sweep_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.db");
    let (store, effects) = (Sqlite::open(&path).await.unwrap(), Effects::default());
    abandoned(&store, &effects).await;
    let worker = sweeping(&store, &effects);
    begun(&effects).await;
    store.shutdown().await;
    worker.crash().await;
    let store = Sqlite::open(&path).await.unwrap();
    let worker = sweeping(&store, &effects);
    all_are_done(&store, &effects).await;
    worker.stop().await;
}
