//! A store that fails when it is told to.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_store::{
    Acquired, Appended, Command, Created, Fault, Hold, JournalStore, NewEntry, NewRun, Next, Page, Peek,
    Query, Renewed, Run, RunId, RunInfo, StoreError, Wanted,
};

/// Fails every so manieth call; 1 is all of them, 0 none. Knows who held what, so that no lease need be waited for.
#[derive(Clone, Debug)]
pub struct Failing<S> {
    inner: S,
    every: Arc<AtomicU32>,
    calls: Arc<AtomicU32>,
    acquires: Arc<AtomicU32>,
    holds: Arc<Mutex<Vec<Hold>>>,
}

impl<S> Failing<S> {
    /// A store that works, until it is told otherwise.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            every: Arc::default(),
            calls: Arc::default(),
            acquires: Arc::default(),
            holds: Arc::default(),
        }
    }

    /// From now on each call of which the number is a multiple of this fails, half of them after they were carried out.
    pub fn fail_every(&self, calls: u32) {
        self.every.store(calls, Ordering::SeqCst);
    }

    /// How often somebody has asked for runs.
    pub fn acquires(&self) -> u32 {
        self.acquires.load(Ordering::SeqCst)
    }

    fn held(&self, holds: impl IntoIterator<Item = Hold>) {
        self.holds.lock().expect("nobody panics with it").extend(holds);
    }

    /// `Some(true)` to fail before it is carried out, `Some(false)` to fail after.
    fn fails(&self) -> Option<bool> {
        let every = self.every.load(Ordering::SeqCst);
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        (every > 0 && call.is_multiple_of(every)).then(|| every == 1 || (call / every).is_multiple_of(2))
    }
}

impl<S: JournalStore> Failing<S> {
    /// Ends the leases of all who got runs by this store, as if their time were over: they have crashed.
    ///
    /// # Panics
    ///
    /// If the store fails.
    pub async fn lapse(&self) {
        let holds = std::mem::take(&mut *self.holds.lock().expect("nobody panics with it"));
        for hold in holds {
            // Whoever is not the holder any more changes nothing.
            let _ = self.inner.renew(&hold, Duration::ZERO).await.expect("the store works");
        }
    }
}

macro_rules! failing {
    ($self:ident, $verb:literal, $call:expr) => {{
        let error = StoreError::new("failing", $verb, Fault::Unavailable);
        match $self.fails() {
            Some(true) => Err(error),
            Some(false) => {
                let _ = $call.await?;
                Err(error.may_have_been_applied())
            }
            None => $call.await,
        }
    }};
}

impl<S: JournalStore> JournalStore for Failing<S> {
    async fn create(&self, run: &NewRun, lease: Option<Duration>) -> Result<Created, StoreError> {
        let created = failing!(self, "create", self.inner.create(run, lease));
        if let Ok(Created::Held(hold)) = &created {
            self.held([hold.clone()]);
        }
        created
    }

    async fn acquire(&self, wanted: &Wanted) -> Result<Vec<Acquired>, StoreError> {
        self.acquires.fetch_add(1, Ordering::SeqCst);
        let acquired = failing!(self, "acquire", self.inner.acquire(wanted));
        self.held(acquired.iter().flatten().map(|run| run.hold.clone()));
        acquired
    }

    async fn append(
        &self,
        hold: &Hold,
        seq: u64,
        entries: &[NewEntry],
        next: &Next,
    ) -> Result<Appended, StoreError> {
        failing!(self, "append", self.inner.append(hold, seq, entries, next))
    }

    async fn renew(&self, hold: &Hold, lease: Duration) -> Result<Renewed, StoreError> {
        failing!(self, "renew", self.inner.renew(hold, lease))
    }

    async fn load(&self, id: &RunId) -> Result<Option<Run>, StoreError> {
        failing!(self, "load", self.inner.load(id))
    }

    async fn peek(&self, id: &RunId) -> Result<Option<Peek>, StoreError> {
        failing!(self, "peek", self.inner.peek(id))
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        failing!(self, "list", self.inner.list(query))
    }

    async fn control(&self, id: &RunId, command: Command) -> Result<Option<RunInfo>, StoreError> {
        failing!(self, "control", self.inner.control(id, command))
    }

    async fn prune(&self, age: Duration, max: u32) -> Result<u64, StoreError> {
        failing!(self, "prune", self.inner.prune(age, max))
    }
}
