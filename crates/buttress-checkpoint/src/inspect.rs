//! What a journal says to people, and runs that begin in the middle of another.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use buttress_store::{Created, JournalStore, NewRun, Owner, Run, RunId, StoreError};
use bytes::Bytes;

use crate::entry::{self, Envelope, Fork, Kind};
use crate::error::{Mismatch, StepId, StepKind};
use crate::key;
use crate::replay;

/// The operations of a run, as far as its journal knows of them.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Timeline {
    /// In the order in which the journal first knows of them.
    pub steps: Vec<StepView>,
    /// The output or the error of a run that is over, as JSON.
    pub output: Option<String>,
    /// The run is being undone, or was.
    pub unwinding: bool,
}

/// One operation of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StepView {
    /// Which one.
    pub id: StepId,
    /// How far it is.
    pub state: StepState,
    /// Attempts that were recorded.
    pub attempts: u32,
    /// How long its last recorded attempt took.
    pub took: Option<Duration>,
    /// When its last entry was stored, on the store's clock.
    pub at: SystemTime,
    /// The idempotency key, of a step.
    pub key: Option<Arc<str>>,
    /// Its error as JSON, if it failed.
    pub error: Option<String>,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepState {
    /// It has begun, and its end is not recorded.
    Started,
    /// An attempt failed, and the next one is due at this time on the store's clock.
    Retrying(SystemTime),
    /// It sleeps until this time on the store's clock.
    Sleeping(SystemTime),
    /// Its result is recorded: it is skipped when the run resumes.
    Done,
    /// It failed for good.
    Failed,
    /// It was done, and undone.
    Undone,
    /// It was done, and an attempt at undoing it failed: the next one is due at this time on the store's clock, or was the last.
    NotUndone(SystemTime),
}

impl StepState {
    /// The state in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Retrying(_) => "retrying",
            Self::Sleeping(_) => "sleeping",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Undone => "undone",
            Self::NotUndone(_) => "not undone",
        }
    }
}

impl Timeline {
    /// Reads a run.
    ///
    /// # Errors
    ///
    /// If a newer release wrote it.
    pub fn of(run: &Run) -> Result<Self, Mismatch> {
        let mut timeline = Self::default();
        let root = root(run);
        for entry in &run.entries {
            let (kind, body) = entry::read(entry)?;
            let (name, occurrence) = (&entry.entry.name, entry.entry.occurrence);
            let error = body.err.as_ref().map(ToString::to_string);
            let error =
                error.or_else(|| body.fault.as_ref().and_then(|fault| serde_json::to_string(fault).ok()));
            let wake = replay::wake(entry.at, &body).unwrap_or(entry.at);
            let Some(operation) = kind.operation() else {
                let of = |step: &&mut StepView| step.id.name == *name && step.id.occurrence == occurrence;
                let state = match kind {
                    Kind::Compensated => StepState::Undone,
                    Kind::NotUndone => StepState::NotUndone(wake),
                    Kind::Output => {
                        timeline.output = body.ok.map(|ok| ok.to_string()).or(error);
                        continue;
                    }
                    _ => {
                        timeline.unwinding |= kind == Kind::Unwind;
                        continue;
                    }
                };
                if let Some(step) = timeline.steps.iter_mut().find(of) {
                    (step.state, step.at, step.error) = (state, entry.at, error);
                }
                continue;
            };
            let state = match kind {
                Kind::Started => StepState::Started,
                Kind::Attempt => StepState::Retrying(wake),
                Kind::Sleep => StepState::Sleeping(wake),
                Kind::Step if body.ok.is_none() => StepState::Failed,
                _ => StepState::Done,
            };
            let at = timeline.steps.iter().position(|step| step.id.ordinal == body.n);
            let at = at.unwrap_or_else(|| {
                let id = StepId { kind: operation, name: name.clone(), occurrence, ordinal: body.n };
                let key = (operation == StepKind::Step).then(|| key::derive(&root, name, occurrence));
                let (attempts, took, at, error) = (0, None, entry.at, None);
                timeline.steps.push(StepView { id, state, attempts, took, at, key, error });
                timeline.steps.len() - 1
            });
            let step = &mut timeline.steps[at];
            let (attempts, took) = (step.attempts.max(body.attempt), body.took.map(Duration::from_micros));
            (step.state, step.attempts, step.took, step.at, step.error) =
                (state, attempts, took, entry.at, error);
        }
        Ok(timeline)
    }

    /// Which operations a resumed run goes on with: those that are recorded and have not ended. If there are none it goes on
    /// after the last one.
    pub fn open(&self) -> impl Iterator<Item = &StepView> {
        let open = |step: &&StepView| {
            matches!(
                step.state,
                StepState::Started
                    | StepState::Retrying(_)
                    | StepState::Sleeping(_)
                    | StepState::NotUndone(_)
            )
        };
        self.steps.iter().filter(open)
    }
}

/// What the keys of a run are derived from.
fn root(run: &Run) -> String {
    let envelope: Option<Envelope> = serde_json::from_slice(&run.input).ok();
    envelope.map(|envelope| envelope.root().to_owned()).unwrap_or_default()
}

/// Why a run could not be begun from a step of another.
#[derive(Debug)]
#[non_exhaustive]
pub enum ForkError {
    /// There is no such run.
    NotFound,
    /// The run has no such step.
    NoSuchStep,
    /// There is another run with the new identity.
    Exists,
    /// It was written by a newer release.
    Unreadable(Mismatch),
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for ForkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such run",
            Self::NoSuchStep => {
                "the run has not recorded such a step; `buttress runs show` lists those that it has"
            }
            Self::Exists => "there is a run with the new identity already; choose another one",
            Self::Unreadable(_) => "the journal cannot be read",
            Self::Store(_) => "the run could not be begun",
        })
    }
}

impl std::error::Error for ForkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(mismatch) => Some(mismatch),
            Self::Store(error) => Some(error),
            Self::NotFound | Self::NoSuchStep | Self::Exists => None,
        }
    }
}

/// Begins a run that has done what another one had done before a step, and goes on from there with the same input. The other
/// run stays as it is, and is not pruned while the new one is open.
///
/// Its steps have the keys of the other run's, so that a step whose effect was applied is recognised by its receiver; with
/// `fresh_keys` they are done anew.
///
/// # Errors
///
/// See [`ForkError`].
pub async fn retry_from<S: JournalStore>(
    store: &S,
    id: &RunId,
    step: (&str, u32),
    new: &RunId,
    fresh_keys: bool,
) -> Result<(), ForkError> {
    let run = store.load(id).await.map_err(ForkError::Store)?.ok_or(ForkError::NotFound)?;
    let read: Result<Vec<_>, _> = run.entries.iter().map(entry::read).collect();
    let read = read.map_err(ForkError::Unreadable)?;
    let named = run.entries.iter().zip(&read).find(|(entry, (kind, _))| {
        kind.operation().is_some() && (&*entry.entry.name, entry.entry.occurrence) == step
    });
    let ordinal = named.ok_or(ForkError::NoSuchStep)?.1.1.n;
    let kept =
        read.iter().take_while(|(kind, body)| kind.operation().is_some() && body.n < ordinal).count() as u64;
    let envelope: Envelope = serde_json::from_slice(&run.input).map_err(|error| {
        ForkError::Unreadable(Mismatch::Undecodable { what: "the input".into(), reason: error.to_string() })
    })?;
    let own = key::root();
    let root = if fresh_keys { own.clone() } else { envelope.root().to_owned() };
    let fork = Some(Fork { from: id.to_string(), entries: kept, root });
    let input = serde_json::to_vec(&Envelope { input: envelope.input, root: own, fork }).unwrap_or_default();
    let begun = NewRun {
        id: new.clone(),
        name: run.info.name,
        version: run.info.version,
        fingerprint: run.info.fingerprint,
        input: Bytes::from(input),
        parent: Some(id.clone()),
        owner: Owner::random(),
        worker: "".into(),
    };
    match store.create(&begun, None).await.map_err(ForkError::Store)? {
        Created::Queued | Created::Held(_) => Ok(()),
        Created::Exists(_) | Created::Conflict(_) => Err(ForkError::Exists),
    }
}
