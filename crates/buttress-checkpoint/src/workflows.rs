use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buttress_core::ConfigError;
use buttress_store::{Command, JournalStore, RunId, RunInfo, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::to_raw_value;
use tokio::sync::Notify;

use crate::config::Config;
use crate::cx::Cx;
use crate::drive::{Code, Unrenewed};
use crate::handle::Workflow;
use crate::worker::Driven;

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
    /// What this process runs.
    driven: Mutex<HashMap<RunId, Driven>>,
    /// What it ran, and has still to give back.
    unrenewed: Mutex<Vec<Unrenewed>>,
}

pub(crate) struct Registered {
    pub(crate) name: Arc<str>,
    pub(crate) versions: Versions,
    pub(crate) code: Code,
}

/// The versions of a workflow that one function has the code of: runs that begin now get the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions(pub(crate) RangeInclusive<u32>);

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
            driven: Mutex::default(),
            unrenewed: Mutex::default(),
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
    pub(crate) fn registered(&self) -> MutexGuard<'_, Vec<Registered>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn waiters(&self) -> MutexGuard<'_, HashMap<RunId, (usize, Arc<Notify>)>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn driven(&self) -> MutexGuard<'_, HashMap<RunId, Driven>> {
        self.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn unrenewed(&self) -> MutexGuard<'_, Vec<Unrenewed>> {
        self.unrenewed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever waits for this run looks at it.
    pub(crate) fn tell(&self, id: &RunId) {
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
