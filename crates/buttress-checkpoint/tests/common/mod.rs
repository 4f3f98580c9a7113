//! What these tests share: runs on a store in memory and a paused clock, and workers that crash.

#![allow(dead_code, reason = "each test uses some of it")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_checkpoint::{Config, Cx, Failure, RunError, Workflows};
use buttress_store::{
    Acquired, Appended, Command, Created, Fault, Hold, JournalStore, Memory, NewEntry, NewRun, Next, Page,
    Peek, Query, Renewed, Run, RunId, RunInfo, StoreError, Wanted,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

/// What the bodies of steps did, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|done| *done == what).count()
    }

    pub(crate) async fn until(&self, what: &str) {
        while self.count(what) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

pub(crate) fn id() -> RunId {
    RunId::try_new("run").unwrap()
}

pub(crate) async fn load(store: &Memory) -> Run {
    store.load(&id()).await.unwrap().unwrap()
}

/// The names of what is in the journal.
pub(crate) async fn names(store: &Memory) -> Vec<String> {
    load(store).await.entries.iter().map(|entry| entry.entry.name.to_string()).collect()
}

/// Runs the code on a worker that crashes once this is in the log.
pub(crate) async fn crash_at<F, Fut, O>(store: &Memory, log: &Log, at: &str, code: F)
where
    F: Fn(Cx) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, Failure>> + Send + 'static,
    O: Serialize + DeserializeOwned,
{
    let workflows = Workflows::open(store.clone());
    let flow = workflows.register("w", 1, move |cx, ()| code(cx)).unwrap();
    flow.start("run", ()).await.unwrap();
    tokio::select! {
        () = workflows.run_until(std::future::pending()) => {}
        () = log.until(at) => {}
    }
}

/// Runs the code until its run is over or halted.
pub(crate) async fn end<F, Fut, O>(store: &Memory, code: F) -> Result<O, RunError<Failure>>
where
    F: Fn(Cx) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, Failure>> + Send + 'static,
    O: Serialize + DeserializeOwned,
{
    end_with(store, Config::default(), code).await
}

pub(crate) async fn end_with<F, Fut, O>(
    store: &Memory,
    config: Config,
    code: F,
) -> Result<O, RunError<Failure>>
where
    F: Fn(Cx) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, Failure>> + Send + 'static,
    O: Serialize + DeserializeOwned,
{
    let workflows = Workflows::with(store.clone(), config);
    let flow = workflows.register("w", 1, move |cx, ()| code(cx)).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    tokio::select! {
        () = workflows.run_until(std::future::pending()) => unreachable!(),
        result = handle.result() => result,
    }
}

/// A store whose appends take a second, or whose acquisitions do, and that gives a run away when it is told to.
#[derive(Clone)]
pub(crate) struct Slow {
    inner: Memory,
    append: Duration,
    acquire: Duration,
    refused: Option<&'static str>,
    held: Arc<Mutex<Vec<Acquired>>>,
}

impl Slow {
    pub(crate) fn appends(inner: Memory) -> Self {
        Self { append: Duration::from_secs(1), ..Self::refuses(inner, None) }
    }

    pub(crate) fn acquires(inner: Memory) -> Self {
        Self { acquire: Duration::from_secs(1), ..Self::refuses(inner, None) }
    }

    /// Entries of this name.
    pub(crate) fn refuses(inner: Memory, refused: Option<&'static str>) -> Self {
        Self { inner, append: Duration::ZERO, acquire: Duration::ZERO, refused, held: Arc::default() }
    }

    /// As if the store's clock had stepped over the leases.
    pub(crate) async fn end_leases(&self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        for Acquired { hold, .. } in held {
            let entries = load(&self.inner).await.info.entries;
            let _ = self.inner.append(&hold, entries, &[], &Next::Yield).await.unwrap();
        }
    }
}

impl JournalStore for Slow {
    async fn create(&self, run: &NewRun, lease: Option<Duration>) -> Result<Created, StoreError> {
        self.inner.create(run, lease).await
    }

    async fn acquire(&self, wanted: &Wanted) -> Result<Vec<Acquired>, StoreError> {
        let acquired = self.inner.acquire(wanted).await?;
        self.held.lock().unwrap().extend(acquired.iter().cloned());
        sleep(self.acquire).await;
        Ok(acquired)
    }

    async fn append(
        &self,
        hold: &Hold,
        seq: u64,
        entries: &[NewEntry],
        next: &Next,
    ) -> Result<Appended, StoreError> {
        sleep(self.append).await;
        if entries.iter().any(|entry| Some(&*entry.name) == self.refused) {
            return Err(StoreError::new("slow", "append", Fault::Misconfigured).detail("no right to write"));
        }
        self.inner.append(hold, seq, entries, next).await
    }

    async fn renew(&self, hold: &Hold, lease: Duration) -> Result<Renewed, StoreError> {
        self.inner.renew(hold, lease).await
    }

    async fn peek(&self, id: &RunId) -> Result<Option<Peek>, StoreError> {
        self.inner.peek(id).await
    }

    async fn load(&self, id: &RunId) -> Result<Option<Run>, StoreError> {
        self.inner.load(id).await
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        self.inner.list(query).await
    }

    async fn control(&self, id: &RunId, command: Command) -> Result<Option<RunInfo>, StoreError> {
        self.inner.control(id, command).await
    }

    async fn prune(&self, age: Duration, max: u32) -> Result<u64, StoreError> {
        self.inner.prune(age, max).await
    }
}

/// A store that gives no journal.
#[derive(Clone)]
pub(crate) struct Unreadable(pub(crate) Memory);

impl JournalStore for Unreadable {
    async fn create(&self, run: &NewRun, lease: Option<Duration>) -> Result<Created, StoreError> {
        self.0.create(run, lease).await
    }

    async fn acquire(&self, wanted: &Wanted) -> Result<Vec<Acquired>, StoreError> {
        self.0.acquire(wanted).await
    }

    async fn append(
        &self,
        hold: &Hold,
        seq: u64,
        entries: &[NewEntry],
        next: &Next,
    ) -> Result<Appended, StoreError> {
        self.0.append(hold, seq, entries, next).await
    }

    async fn renew(&self, hold: &Hold, lease: Duration) -> Result<Renewed, StoreError> {
        self.0.renew(hold, lease).await
    }

    async fn peek(&self, id: &RunId) -> Result<Option<Peek>, StoreError> {
        self.0.peek(id).await
    }

    async fn load(&self, _: &RunId) -> Result<Option<Run>, StoreError> {
        Err(StoreError::new("unreadable", "load", Fault::Unavailable))
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        self.0.list(query).await
    }

    async fn control(&self, id: &RunId, command: Command) -> Result<Option<RunInfo>, StoreError> {
        self.0.control(id, command).await
    }

    async fn prune(&self, age: Duration, max: u32) -> Result<u64, StoreError> {
        self.0.prune(age, max).await
    }
}
