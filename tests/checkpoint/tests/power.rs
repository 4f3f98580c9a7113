//! What is on the disk when a step is acknowledged. This program has SQLite's `fsync` go through itself: it counts them, and
//! keeps what each made durable, which is all that a loss of power leaves.
#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "the only way to see what SQLite asks of the system")]

use std::collections::HashMap;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use buttress_checkpoint::{Cx, Failure, Workflow, Workflows};
use buttress_store::{JournalStore, RunId, Sqlite, StatusKind};
use checkpoint_tests::{Worker, long};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::sync::Notify;

/// What is durable of a file, and how often it was made so.
#[derive(Default)]
struct Kept {
    syncs: u64,
    bytes: Vec<u8>,
}

static DISK: Mutex<Option<HashMap<PathBuf, Kept>>> = Mutex::new(None);

// SAFETY: as the C library declares it.
unsafe extern "C" {
    fn syscall(number: std::ffi::c_long, ...) -> std::ffi::c_long;
}

#[cfg(target_arch = "x86_64")]
const FSYNC: std::ffi::c_long = 74;
#[cfg(target_arch = "aarch64")]
const FSYNC: std::ffi::c_long = 82;

// SAFETY: it takes the place of the C library's, and does the same.
#[unsafe(no_mangle)]
extern "C" fn fsync(file: std::ffi::c_int) -> std::ffi::c_int {
    let content = format!("/proc/self/fd/{file}");
    if let Ok(path) = std::fs::read_link(&content)
        && path.is_file()
        && let Ok(bytes) = std::fs::read(&content)
    {
        let mut disk = DISK.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = disk.get_or_insert_default().entry(path).or_default();
        *kept = Kept { syncs: kept.syncs + 1, bytes };
    }
    // SAFETY: as the caller promises.
    (unsafe { syscall(FSYNC, file) }) as std::ffi::c_int
}

// SAFETY: as above, and a little more than is asked for.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: std::ffi::c_int) -> std::ffi::c_int {
    fsync(file)
}

/// How often a file was made durable.
fn syncs(path: &Path) -> u64 {
    let disk = DISK.lock().unwrap();
    disk.as_ref().and_then(|disk| disk.get(path)).map_or(0, |kept| kept.syncs)
}

/// What a loss of power leaves of a database and its log.
fn after_power_loss(path: &Path) -> TempDir {
    let folder = TempDir::new().unwrap();
    let disk = DISK.lock().unwrap();
    for (name, of) in [("runs.db", path.to_owned()), ("runs.db-wal", log(path))] {
        if let Some(Kept { bytes, .. }) = disk.as_ref().and_then(|disk| disk.get(&of)) {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
    }
    folder
}

fn log(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

/// A file of its own, by the name that the system has for it.
async fn open() -> (TempDir, PathBuf, Sqlite) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().canonicalize().unwrap().join("runs.db");
    let store = Sqlite::open(&path).await.unwrap();
    (folder, path, store)
}

/// A workflow of so many steps, which tells of each that is acknowledged.
fn steps(
    store: &Sqlite,
    acknowledged: impl Fn(u32) + Clone + Send + Sync + 'static,
) -> (Workflows<Sqlite>, Workflow<Sqlite, u32, (), Failure>) {
    let workflows = Workflows::with(store.clone(), long());
    let code = move |cx: Cx, steps: u32| {
        let acknowledged = acknowledged.clone();
        async move {
            for number in 0..steps {
                cx.step("step", async || Ok::<_, Failure>(number)).await?;
                acknowledged(number);
            }
            Ok(())
        }
    };
    let flow = workflows.register("steps", 1, code).unwrap();
    (workflows, flow)
}

/// CP-32
#[tokio::test]
async fn what_is_acknowledged_is_there_after_a_loss_of_power() {
    let (_folder, path, store) = open().await;
    let images = Arc::<Mutex<Vec<(u64, TempDir)>>>::default();
    let (kept, of) = (Arc::clone(&images), path.clone());
    let (workflows, flow) = steps(&store, move |number| {
        let image = after_power_loss(&of);
        kept.lock().unwrap().push((u64::from(number) + 1, image));
    });
    let worker = Worker::start(&workflows);
    flow.start("run", 30).await.unwrap().result().await.unwrap();
    images.lock().unwrap().push((31, after_power_loss(&path)));
    worker.stop().await;
    let images = std::mem::take(&mut *images.lock().unwrap());
    assert_eq!(images.len(), 31);
    for (recorded, image) in images {
        let store = Sqlite::open(image.path().join("runs.db")).await.unwrap();
        let run = store.load(&RunId::try_new("run").unwrap()).await.unwrap().expect("it had begun");
        assert_eq!(run.entries.len() as u64, recorded);
        let over = if recorded == 31 { StatusKind::Done } else { StatusKind::Running };
        assert_eq!(run.info.status.kind(), over);
    }
}

/// CP-32: that the test above can fail.
#[test]
fn with_synchronous_normal_a_loss_of_power_takes_what_was_committed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().canonicalize().unwrap().join("runs.db");
    let connection = Connection::open(&path).unwrap();
    let begin = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (x);
        PRAGMA synchronous = NORMAL; INSERT INTO t VALUES (1);";
    connection.execute_batch(begin).unwrap();
    let image = after_power_loss(&path);
    let after = Connection::open(image.path().join("runs.db")).unwrap();
    let rows = |connection: &Connection| {
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((rows(&connection), rows(&after)), (1, 0));
}

/// CP-32: an `fsync` of the log before each acknowledgement, and one only.
#[tokio::test]
async fn each_step_alone_is_one_fsync_before_it_is_acknowledged() {
    let (_folder, path, store) = open().await;
    let counts = Arc::<Mutex<Vec<u64>>>::default();
    let (told, of) = (Arc::clone(&counts), log(&path));
    let (workflows, flow) = steps(&store, move |_| told.lock().unwrap().push(syncs(&of)));
    let worker = Worker::start(&workflows);
    flow.start("run", 50).await.unwrap().result().await.unwrap();
    worker.stop().await;
    let counts = counts.lock().unwrap();
    assert_eq!(counts.len(), 50);
    assert!(counts.windows(2).all(|two| two[1] == two[0] + 1), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_sixteen_workflows_share_commits_and_each_commit_is_one_fsync() {
    let (_folder, path, store) = open().await;
    let (workflows, flow) = steps(&store, |_| {});
    let worker = Worker::start(&workflows);
    // The log has its header from here on.
    flow.start("first", 1).await.unwrap().result().await.unwrap();
    let before = (store.statistics(), syncs(&log(&path)), syncs(&path));
    let mut handles = Vec::new();
    for run in 0..16 {
        handles.push(flow.start(format!("run {run}"), 10).await.unwrap());
    }
    for handle in handles {
        handle.result().await.unwrap();
    }
    worker.stop().await;
    let commits = store.statistics().commits - before.0.commits;
    assert_eq!(syncs(&log(&path)) - before.1, commits);
    assert_eq!(syncs(&path), before.2, "no checkpoint of the log came between");
    assert!((11..16 * 10).contains(&commits), "{commits} commits for 160 steps");
}

#[tokio::test]
async fn ten_thousand_recorded_steps_are_replayed_without_an_fsync() {
    let (_folder, path, store) = open().await;
    let there = Arc::new(Notify::new());
    let (workflows, flow) = {
        let workflows = Workflows::with(store.clone(), long());
        let arrived = Arc::clone(&there);
        let code = move |cx: Cx, ()| {
            let arrived = Arc::clone(&arrived);
            async move {
                let step = |number| cx.step("step", move || ready(Ok::<_, Failure>(number)));
                // A hundred at a time are recorded together.
                for hundred in 0..100 {
                    let steps = (0..100).map(|number| step(hundred * 100 + number));
                    futures_util::future::try_join_all(steps).await?;
                }
                arrived.notify_one();
                std::future::pending::<Result<(), Failure>>().await
            }
        };
        let flow = workflows.register::<(), (), Failure, _, _>("steps", 1, code).unwrap();
        (workflows, flow)
    };
    flow.start("run", ()).await.unwrap();
    let worker = Worker::start(&workflows);
    there.notified().await;
    worker.stop().await;
    let (commits, logged, written) = (store.statistics().commits, syncs(&log(&path)), syncs(&path));
    let worker = Worker::start(&workflows);
    there.notified().await;
    let taken = (store.statistics().commits - commits, syncs(&log(&path)) - logged, syncs(&path) - written);
    assert_eq!(taken, (1, 1, 0), "the run was acquired, and nothing else was written");
    worker.stop().await;
    let run = store.load(&RunId::try_new("run").unwrap()).await.unwrap().unwrap();
    assert_eq!((run.entries.len(), run.info.epoch), (10_000, 2));
    tokio::time::timeout(Duration::from_secs(5), store.shutdown()).await.unwrap();
}
