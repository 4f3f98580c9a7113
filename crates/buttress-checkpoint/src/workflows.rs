use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buttress_core::observe::RunChange;
use buttress_core::{ConfigError, Event};
use buttress_store::{
    Acquired, Command, Flow, JournalStore, Owner, Query, RunId, RunInfo, StatusKind, StoreError, Wanted,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::to_raw_value;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::cx::Cx;
use crate::drive::{Code, Driver, drive, retries};
use crate::handle::Workflow;

/// Workflows on one store: registers their code, begins runs, and [runs](Workflows::run_until) them. Clones share it all.
#[derive(Clone)]
pub struct Workflows<S> {
    pub(crate) shared: Arc<Shared<S>>,
}

pub(crate) struct Shared<S> {
    pub(crate) store: S,
    pub(crate) config: Config,
    registered: Mutex<Vec<Registered>>,
    /// There may be a run to acquire.
    pub(crate) nudge: Notify,
    /// Who waits in this process for a run to end.
    waiters: Mutex<HashMap<RunId, (usize, Arc<Notify>)>>,
}

pub(crate) struct Registered {
    name: Arc<str>,
    versions: Versions,
    code: Code,
}

/// The versions of a workflow that one function has the code of: runs that begin now get the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions(RangeInclusive<u32>);

impl From<u32> for Versions {
    fn from(version: u32) -> Self {
        Self(version..=version)
    }
}

impl From<RangeInclusive<u32>> for Versions {
    fn from(versions: RangeInclusive<u32>) -> Self {
        Self(versions)
    }
}

impl<S: JournalStore> Workflows<S> {
    /// Workflows on this store, with the default [`Config`].
    pub fn open(store: S) -> Self {
        Self::with(store, Config::default())
    }

    /// Workflows on this store.
    pub fn with(store: S, config: Config) -> Self {
        let shared = Shared {
            store,
            config,
            registered: Mutex::default(),
            nudge: Notify::new(),
            waiters: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.shared.store
    }

    /// Registers the code of a workflow: a version, or a range of them, such as `1..=3`, where the code can go on with runs
    /// that older versions began (see [`Cx::patched`]). Runs of versions that nobody has registered are left alone.
    ///
    /// # Errors
    ///
    /// If the name is empty or too long, the range is empty, or one of the versions is registered already.
    pub fn register<I, O, E, F, Fut>(
        &self,
        name: impl Into<Arc<str>>,
        versions: impl Into<Versions>,
        code: F,
    ) -> Result<Workflow<S, I, O, E>, ConfigError>
    where
        I: Serialize + DeserializeOwned,
        O: Serialize + DeserializeOwned,
        E: Serialize + DeserializeOwned,
        F: Fn(Cx, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send + 'static,
    {
        let (name, versions): (Arc<str>, Versions) = (name.into(), versions.into());
        if name.is_empty() || name.len() > buttress_store::MAX_NAME {
            return Err(ConfigError::new("name", &*name, "must have 1 to 512 bytes"));
        }
        if versions.0.is_empty() {
            return Err(ConfigError::new("versions", versions.0, "must hold one version at least"));
        }
        let code: Code = Arc::new(move |cx, input| {
            let input = serde_json::from_str(input.get()).map_err(|error| error.to_string())?;
            let future = code(cx, input);
            Ok(Box::pin(async move {
                match future.await {
                    Ok(value) => to_raw_value(&value).map(Ok),
                    Err(error) => to_raw_value(&error).map(Err),
                }
                .map_err(|error| error.to_string())
            }))
        });
        let mut registered = self.shared.registered();
        let overlaps = |other: &Registered| {
            other.name == name
                && other.versions.0.start() <= versions.0.end()
                && versions.0.start() <= other.versions.0.end()
        };
        if registered.iter().any(overlaps) {
            return Err(ConfigError::new(
                "versions",
                versions.0,
                format!("must not be registered yet for `{name}`"),
            ));
        }
        let version = *versions.0.end();
        registered.push(Registered { name: name.clone(), versions, code });
        Ok(Workflow { workflows: self.clone(), name, version, types: PhantomData })
    }

    /// Runs runs until `shutdown` resolves: those that are begun here or elsewhere, those that wake, and those that other
    /// workers abandoned. Then it begins nothing new, waits for the steps that are under way
    /// ([`Config::drain`]), and gives every run back, so that other workers go on with them at once.
    ///
    /// Failures of the store are waited out. Several of these can run at once, in any number of processes. When this future
    /// is dropped, what it runs is dropped with it, and others take over when the leases end.
    pub async fn run_until(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let (stop, stopped) = watch::channel(false);
        let mut runs = JoinSet::new();
        let mut delays = retries();
        self.warn_of_unknown().await;
        loop {
            let free =
                self.shared.config.max_runs.saturating_sub(u32::try_from(runs.len()).unwrap_or(u32::MAX));
            let mut pause = self.shared.config.poll;
            if free > 0 {
                let asked = Instant::now();
                let acquired = tokio::select! {
                    biased;
                    acquired = self.acquire(free) => acquired,
                    () = &mut shutdown => break,
                };
                match acquired {
                    Ok(acquired) => {
                        delays = retries();
                        let full = acquired.len() == free as usize;
                        for run in acquired {
                            self.spawn(&mut runs, run, asked, &stopped);
                        }
                        if full && (runs.len() as u32) < self.shared.config.max_runs {
                            continue;
                        }
                    }
                    Err(_) => pause = delays.next().unwrap_or(pause),
                }
            }
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = runs.join_next() => {}
                () = self.shared.nudge.notified(), if free > 0 => {}
                () = sleep(pause) => {}
            }
        }
        let _ = stop.send(true);
        while runs.join_next().await.is_some() {}
    }

    async fn acquire(&self, max: u32) -> Result<Vec<Acquired>, StoreError> {
        let Config { worker, lease, .. } = &self.shared.config;
        let flow = |it: &Registered| Flow { name: it.name.clone(), versions: it.versions.0.clone() };
        let flows: Vec<Flow> = self.shared.registered().iter().map(flow).collect();
        if flows.is_empty() {
            return Ok(Vec::new());
        }
        let (owner, worker, lease) = (Owner::random(), worker.clone(), *lease);
        self.shared.store.acquire(&Wanted { flows, id: None, owner, worker, lease, max }).await
    }

    fn spawn(&self, runs: &mut JoinSet<()>, run: Acquired, asked: Instant, stopped: &watch::Receiver<bool>) {
        let code = self.shared.registered().iter().find_map(|it| {
            (it.name == run.info.name && it.versions.0.contains(&run.info.version)).then(|| it.code.clone())
        });
        // The store gave what was asked for.
        let Some(code) = code else { return };
        let Shared { store, config, .. } = &*self.shared;
        let (store, config, shutdown) = (store.clone(), config.clone(), stopped.clone());
        let (hold, name) = (run.hold.clone(), run.info.name.clone());
        let driver = Driver { store, config, shutdown, hold, name, seq: 0 };
        let (shared, id) = (Arc::clone(&self.shared), run.info.id.clone());
        runs.spawn(async move {
            drive(driver, run, code, asked).await;
            shared.tell(&id);
        });
    }

    /// Tells the observer of open runs that this worker does not have the code of, a hundred at most.
    async fn warn_of_unknown(&self) {
        let observer = &self.shared.config.observer;
        if !observer.is_set() {
            return;
        }
        let statuses = vec![StatusKind::Running, StatusKind::Sleeping];
        let Ok(page) = self.shared.store.list(&Query { statuses, ..Query::default() }).await else { return };
        for info in page.runs {
            let known = |it: &Registered| it.name == info.name && it.versions.0.contains(&info.version);
            if !self.shared.registered().iter().any(known) {
                let run = info.id.as_str().into();
                observer.emit(&info.name, || Event::Run { run, change: RunChange::Unknown });
            }
        }
    }

    /// Asks for a run to be cancelled: it stops before its next step, undoes what can be undone and is over; one that is halted
    /// goes on for that. If it cannot be undone it is halted (again), and [resumed](Self::resume) it tries anew. One that is
    /// over stays as it is. Gives the run as it is then; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn cancel(&self, id: &RunId) -> Result<Option<RunInfo>, StoreError> {
        self.control(id, Command::Cancel).await
    }

    /// Ends a run at once, as cancelled, and undoes nothing: one whose code is gone, or that cannot be undone. Whoever runs it
    /// learns so as it learns of a lost lease. One that is over stays as it is.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn abandon(&self, id: &RunId) -> Result<Option<RunInfo>, StoreError> {
        self.control(id, Command::Abandon).await
    }

    /// Lets a paused or parked run go on, and wakes one that sleeps.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn resume(&self, id: &RunId) -> Result<Option<RunInfo>, StoreError> {
        self.control(id, Command::Resume).await
    }

    async fn control(&self, id: &RunId, command: Command) -> Result<Option<RunInfo>, StoreError> {
        let info = self.shared.store.control(id, command).await?;
        self.shared.nudge.notify_one();
        self.shared.tell(id);
        Ok(info)
    }

    /// Deletes runs that have been over for longer than `age`, in batches of a hundred at most, and says how many. What an
    /// interruption leaves is for the next time. Open and halted runs stay, and so do those that they belong to.
    ///
    /// # Errors
    ///
    /// If the store fails; the batches before stay deleted.
    pub async fn prune(&self, age: Duration) -> Result<u64, StoreError> {
        crate::prune(&self.shared.store, age).await
    }
}

impl<S> Shared<S> {
    fn registered(&self) -> MutexGuard<'_, Vec<Registered>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn waiters(&self) -> MutexGuard<'_, HashMap<RunId, (usize, Arc<Notify>)>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever waits for this run looks at it.
    fn tell(&self, id: &RunId) {
        if let Some((_, notify)) = self.waiters().get(id) {
            notify.notify_waiters();
        }
    }
}

impl<S> fmt::Debug for Workflows<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.shared.registered().iter().map(|it| it.name.clone()).collect();
        f.debug_struct("Workflows").field("registered", &names).finish_non_exhaustive()
    }
}
