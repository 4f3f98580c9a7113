//! A write-ahead log whose last record was torn or damaged, at every offset: what is left is a clean prefix of the journal,
//! and the workflow goes on from there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use buttress_checkpoint::{Config, Cx, Failure, Workflow, Workflows};
use buttress_store::{Entry, JournalStore, Sqlite};
use checkpoint_tests::cases::{Effects, id};
use checkpoint_tests::{Worker, long, short};
use tempfile::TempDir;

/// The first worker comes to here.
const HANGS: usize = 7;

/// Ten steps, the numbers of which are added up. `before` is called in the body of each.
fn register(
    store: &Sqlite,
    config: Config,
    effects: &Effects,
    hangs: bool,
    before: impl Fn(usize) + Clone + Send + Sync + 'static,
) -> (Workflows<Sqlite>, Workflow<Sqlite, (), usize, Failure>) {
    let (workflows, effects) = (Workflows::with(store.clone(), config), effects.clone());
    let code = move |cx: Cx, ()| {
        let (effects, before) = (effects.clone(), before.clone());
        async move {
            let mut sum = 0;
            for number in 0..10 {
                let name = format!("step {number}");
                let body = async || {
                    before(number);
                    if hangs && number == HANGS {
                        return effects.hang(&name).await;
                    }
                    effects.done(&name).map(|_| number)
                };
                sum += cx.step(name.clone(), body).await?;
            }
            Ok(sum)
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    (workflows, flow)
}

/// The files of a store in the middle of a run, and the journal that is in them.
struct Image {
    database: Vec<u8>,
    log: Vec<u8>,
    /// Where the last record begins in the log.
    last: usize,
    entries: Vec<Entry>,
    keys: Vec<String>,
}

impl Image {
    async fn taken() -> Self {
        let (folder, effects) = (TempDir::new().unwrap(), Effects::default());
        let [path, log] = ["runs.db", "runs.db-wal"].map(|name| folder.path().join(name));
        let store = Sqlite::open(&path).await.unwrap();
        let (last, of) = (Arc::new(AtomicUsize::new(0)), log.clone());
        let told = Arc::clone(&last);
        let before = move |step| {
            // The one before it is recorded, and it will be the last that is.
            if step == HANGS - 1 {
                told.store(std::fs::metadata(&of).unwrap().len() as usize, Ordering::SeqCst);
            }
        };
        let (workflows, flow) = register(&store, short(), &effects, true, before);
        flow.start("run", ()).await.unwrap();
        let worker = Worker::start(&workflows);
        effects.until(&format!("step {HANGS}"), 1).await;
        let [database, log] = [path, log].map(|path| std::fs::read(path).unwrap());
        worker.crash().await;
        let entries = store.load(&id("run")).await.unwrap().unwrap().entries;
        assert_eq!(entries.len(), HANGS);
        let keys = effects.keys();
        let keys = (0..=HANGS).map(|step| keys[&format!("step {step}")][0].clone()).collect();
        Self { database, log, last: last.load(Ordering::SeqCst), entries, keys }
    }

    /// A store with the database as it was, and this log.
    async fn with(&self, log: &[u8]) -> (TempDir, Sqlite) {
        let folder = in_memory();
        let path: PathBuf = folder.path().join("runs.db");
        std::fs::write(&path, &self.database).unwrap();
        std::fs::write(folder.path().join("runs.db-wal"), log).unwrap();
        let store = Sqlite::open(path).await.unwrap();
        (folder, store)
    }

    /// All but the last record.
    async fn assert_prefix(&self, log: &[u8], what: &str) {
        let (_folder, store) = self.with(log).await;
        let run = store.load(&id("run")).await.unwrap().expect("the run had begun long before");
        assert_eq!(run.entries, self.entries[..HANGS - 1], "{what}");
    }

    /// The workflow goes on after the last step that is left.
    async fn assert_resumes(&self, log: &[u8], left: usize, what: &str) {
        let (_folder, store) = self.with(log).await;
        let effects = Effects::default();
        let (workflows, flow) = register(&store, long(), &effects, false, |_| {});
        let worker = Worker::start(&workflows);
        assert_eq!(flow.handle(id("run")).result().await.unwrap(), 45, "{what}");
        worker.stop().await;
        let expected: Vec<_> = (left..10).map(|step| format!("step {step}")).collect();
        assert_eq!(effects.names(), expected, "{what}");
        for step in left..=HANGS {
            assert_eq!(effects.keys()[&format!("step {step}")], self.keys[step..=step], "{what}");
        }
    }
}

/// What is written sixteen thousand times is written to memory, where that is possible.
fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_record_that_is_torn_or_damaged_anywhere_leaves_what_came_before() {
    let image = Arc::new(Image::taken().await);
    let length = image.log.len();
    assert_eq!((length - image.last) % (4096 + 24), 0, "it begins with a frame");
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..4 {
        let image = Arc::clone(&image);
        lanes.spawn(async move {
            for at in (image.last..length).filter(|at| at % 4 == lane) {
                image.assert_prefix(&image.log[..at], &format!("torn at {at} of {length}")).await;
                let mut log = image.log.clone();
                log[at] ^= 1 << (at / 4 % 8);
                image.assert_prefix(&log, &format!("a bit of {at} of {length} flipped")).await;
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane.unwrap();
    }
}

#[tokio::test]
async fn a_workflow_goes_on_from_what_a_torn_or_damaged_log_left() {
    let image = Image::taken().await;
    image.assert_resumes(&image.log, HANGS, "whole").await;
    for at in (image.last..image.log.len()).step_by(397) {
        image.assert_resumes(&image.log[..at], HANGS - 1, &format!("torn at {at}")).await;
        let mut log = image.log.clone();
        log[at] ^= 4;
        image.assert_resumes(&log, HANGS - 1, &format!("a bit of {at} flipped")).await;
    }
}
