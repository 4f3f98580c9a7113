use std::fmt;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use buttress_store::{
    Created, Entry, JournalStore, NewRun, Owner, Peek, RunId, RunInfo, Status, StatusKind, StoreError,
};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::to_raw_value;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::entry::{self, Body, Envelope, Fault, Kind};
use crate::error::{RunError, StartError};
use crate::key;
use crate::workflows::{Shared, Workflows};

/// A registered workflow, which can be begun.
pub struct Workflow<S, I, O, E> {
    pub(crate) workflows: Workflows<S>,
    pub(crate) name: Arc<str>,
    pub(crate) version: u32,
    pub(crate) types: PhantomData<fn(I) -> (O, E)>,
}

impl<S, I, O, E> Workflow<S, I, O, E>
where
    S: JournalStore,
    I: Serialize,
    O: DeserializeOwned,
    E: DeserializeOwned,
{
    /// Begins a run, or attaches to the one that was begun with this identity and the same input. The run is stored when this
    /// returns, and any worker may run it; one in this process looks at once.
    ///
    /// Whether inputs are the same is decided by their JSON: a `HashMap`, whose order changes, is none that can be compared.
    ///
    /// # Errors
    ///
    /// [`StartError::ConflictingWorkflow`] if the identity is that of another workflow's run or of one with another input.
    pub async fn start(&self, id: impl Into<Arc<str>>, input: I) -> Result<Handle<S, O, E>, StartError> {
        let id = RunId::try_new(id).map_err(StartError::Id)?;
        let shared = &self.workflows.shared;
        let input = to_raw_value(&input).map_err(|error| StartError::Input(error.to_string()))?;
        let (bytes, max) = (input.get().len(), shared.config.max_value);
        if bytes > max {
            return Err(StartError::Input(format!("it has {bytes} bytes, and the bound is {max}")));
        }
        let fingerprint = key::fingerprint(input.get().as_bytes());
        let envelope = serde_json::to_vec(&Envelope { input, root: key::root(), fork: None });
        let envelope = envelope.map_err(|error| StartError::Input(error.to_string()))?;
        let run = NewRun {
            id: id.clone(),
            name: self.name.clone(),
            version: self.version,
            fingerprint,
            input: Bytes::from(envelope),
            parent: None,
            owner: Owner::random(),
            worker: shared.config.worker.clone(),
        };
        match shared.store.create(&run, None).await.map_err(StartError::Store)? {
            Created::Conflict(info) => {
                return Err(StartError::ConflictingWorkflow { id: info.id, name: info.name });
            }
            Created::Queued | Created::Held(_) | Created::Exists(_) => {}
        }
        shared.nudge.notify_one();
        Ok(self.handle(id))
    }

    /// A handle on a run that was begun before, here or elsewhere.
    pub fn handle(&self, id: RunId) -> Handle<S, O, E> {
        Handle { workflows: self.workflows.clone(), id, types: PhantomData }
    }
}

impl<S, I, O, E> Clone for Workflow<S, I, O, E> {
    fn clone(&self) -> Self {
        let workflows = Workflows { shared: Arc::clone(&self.workflows.shared) };
        Self { workflows, name: self.name.clone(), version: self.version, types: PhantomData }
    }
}

impl<S, I, O, E> fmt::Debug for Workflow<S, I, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workflow({} {})", self.name, self.version)
    }
}

/// A run that was begun. Dropping the handle does nothing to the run.
pub struct Handle<S, O, E> {
    workflows: Workflows<S>,
    id: RunId,
    types: PhantomData<fn() -> (O, E)>,
}

impl<S, O, E> fmt::Debug for Handle<S, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.id)
    }
}

impl<S, O, E> Handle<S, O, E>
where
    S: JournalStore,
    O: DeserializeOwned,
    E: DeserializeOwned,
{
    /// The identity of the run.
    pub fn id(&self) -> &RunId {
        &self.id
    }

    /// Waits for the end of the run, wherever it runs, and gives its result. A run of this process is heard of at once, one
    /// that runs elsewhere is asked for after 100 ms, and then less and less often, every 5 seconds in the end.
    ///
    /// # Errors
    ///
    /// The workflow's own, or why there is no result. A run that is paused or parked does not wait for its operator here.
    pub async fn result(&self) -> Result<O, RunError<E>> {
        let waiter = Waiter::new(&self.workflows.shared, &self.id);
        let mut pause = Duration::from_millis(100);
        loop {
            let mut told = pin!(waiter.notify.notified());
            told.as_mut().enable();
            match self.workflows.shared.store.peek(&self.id).await {
                Ok(Some(Peek { info, last })) => match info.status {
                    Status::Running | Status::Sleeping { .. } => {}
                    Status::Paused(reason) => {
                        return Err(RunError::Halted { status: StatusKind::Paused, reason });
                    }
                    Status::Parked(reason) => {
                        return Err(RunError::Halted { status: StatusKind::Parked, reason });
                    }
                    Status::Cancelled => return Err(RunError::Cancelled),
                    Status::Done | Status::Failed => return output(last.as_ref()),
                },
                Ok(None) => return Err(RunError::NotFound),
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(RunError::Store(error)),
            }
            let _ = timeout(pause, told).await;
            pause = (pause * 3 / 2).min(Duration::from_secs(5));
        }
    }

    /// What the run is doing; `None` if there is no such run.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn info(&self) -> Result<Option<RunInfo>, StoreError> {
        Ok(self.workflows.shared.store.peek(&self.id).await?.map(|peek| peek.info))
    }

    /// See [`Workflows::cancel`].
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn cancel(&self) -> Result<Option<RunInfo>, StoreError> {
        self.workflows.cancel(&self.id).await
    }
}

/// What a run that is over ended with.
fn output<O: DeserializeOwned, E: DeserializeOwned>(last: Option<&Entry>) -> Result<O, RunError<E>> {
    let last = last.map(entry::read).transpose();
    let undecodable = |error: &dyn fmt::Display| RunError::Undecodable(error.to_string());
    let Some((Kind::Output, body)) = last.map_err(|error| undecodable(&error))? else {
        return Err(RunError::Undecodable("its journal has none".to_owned()));
    };
    match body {
        Body { ok: Some(value), .. } => {
            serde_json::from_str(value.get()).map_err(|error| undecodable(&error))
        }
        Body { err: Some(error), .. } => {
            Err(serde_json::from_str(error.get()).map_or_else(|error| undecodable(&error), RunError::Failed))
        }
        // Earlier releases stored a mismatch under the second name.
        Body { fault: Some(Fault::Mismatch { reason } | Fault::NotStored { reason }), .. } => {
            Err(RunError::Mismatch(reason))
        }
        _ => Err(RunError::Undecodable("it ended without a result".to_owned())),
    }
}

/// Somebody who waits for a run, for as long as it lives.
struct Waiter<'a, S> {
    shared: &'a Shared<S>,
    id: &'a RunId,
    notify: Arc<Notify>,
}

impl<'a, S> Waiter<'a, S> {
    fn new(shared: &'a Shared<S>, id: &'a RunId) -> Self {
        let mut waiters = shared.waiters();
        let (count, notify) = waiters.entry(id.clone()).or_default();
        *count += 1;
        let notify = Arc::clone(notify);
        drop(waiters);
        Self { shared, id, notify }
    }
}

impl<S> Drop for Waiter<'_, S> {
    fn drop(&mut self) {
        let mut waiters = self.shared.waiters();
        if let Some((count, _)) = waiters.get_mut(self.id) {
            *count -= 1;
            if *count == 0 {
                waiters.remove(self.id);
            }
        }
    }
}
