//! What a journal says to people, and runs that begin in the middle of another.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use buttress_store::{Command, Created, JournalStore, NewEntry, NewRun, Owner, Run, RunId, StoreError};
use bytes::Bytes;

use crate::entry::{self, Body, Envelope, Fork, Kind};
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
    /// What its code panicked with, if nothing else was recorded since.
    pub panic: Option<String>,
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
        let (mut timeline, mut places) = (Self::default(), HashMap::<u32, usize>::new());
        let root = root(run);
        for entry in &run.entries {
            let (kind, body) = entry::read(entry)?;
            let (name, occurrence) = (&entry.entry.name, entry.entry.occurrence);
            let error = body.err.as_ref().map(ToString::to_string);
            let error =
                error.or_else(|| body.fault.as_ref().and_then(|fault| serde_json::to_string(fault).ok()));
            let wake = replay::wake(entry.at, &body).unwrap_or(entry.at);
            timeline.panic = match body.fault {
                Some(entry::Fault::Panicked { reason }) => Some(reason),
                _ => None,
            };
            let Some(operation) = kind.operation() else {
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
                if let Some(at) = places.get(&body.n) {
                    let step = &mut timeline.steps[*at];
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
            let at = *places.entry(body.n).or_insert_with(|| {
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
    /// The run is running or sleeping: both would do the same.
    Open,
    /// This step, the first of such, was undone or is perhaps: it must be done again, and with a key of its own.
    Undone {
        /// The step.
        step: StepId,
    },
    /// What the run did is being undone.
    Undoing,
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
            Self::Open => "the run is open, and both would do the same; cancel it first",
            Self::Undone { step } => {
                return write!(f, "{step} was undone; begin there or before, and with fresh keys");
            }
            Self::Undoing => {
                "what the run did is being undone, and which steps still count is not known; let that end first"
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
            _ => None,
        }
    }
}

/// Begins a run that has done what another one had done before a step, and goes on from there with the same input. The other
/// run is not pruned while the new one is open. If it was halted it is over before the new one begins, so that they never do
/// the same side by side; otherwise it stays as it is.
///
/// Its steps have the keys of the other run's, so that a step whose effect was applied is recognised by its receiver; with
/// `fresh_keys` they are done anew. A step that was undone has to be: the receiver would take it for the one that is undone.
///
/// # Errors
///
/// See [`ForkError`]. The other run is not changed then, unless the store fails.
pub async fn retry_from<S: JournalStore>(
    store: &S,
    id: &RunId,
    step: (&str, u32),
    new: &RunId,
    fresh_keys: bool,
) -> Result<(), ForkError> {
    let load = async || store.load(id).await.map_err(ForkError::Store)?.ok_or(ForkError::NotFound);
    let mut run = load().await?;
    let status = run.info.status.kind();
    if status.is_open() {
        return Err(ForkError::Open);
    }
    let mut input = forked(&run, step, fresh_keys)?;
    if store.peek(new).await.map_err(ForkError::Store)?.is_some() {
        return Err(ForkError::Exists);
    }
    if !status.is_over() {
        store.control(id, Command::Abandon).await.map_err(ForkError::Store)?;
        // Somebody may have let it go on in between; now nobody can any more.
        run = load().await?;
        input = forked(&run, step, fresh_keys)?;
    }
    let begun = NewRun {
        id: new.clone(),
        name: run.info.name,
        version: run.info.version,
        fingerprint: run.info.fingerprint,
        input,
        parent: Some(id.clone()),
        owner: Owner::random(),
        worker: "".into(),
    };
    match store.create(&begun, None).await.map_err(ForkError::Store)? {
        Created::Queued | Created::Held(_) => Ok(()),
        Created::Exists(_) | Created::Conflict(_) => Err(ForkError::Exists),
    }
}

/// What is stored as the input of a run that continues this one from a step on.
fn forked(run: &Run, step: (&str, u32), fresh_keys: bool) -> Result<Bytes, ForkError> {
    let read: Result<Vec<_>, _> = run.entries.iter().map(entry::read).collect();
    let read = read.map_err(ForkError::Unreadable)?;
    let entries = || run.entries.iter().map(|entry| &entry.entry).zip(&read);
    let named = entries()
        .find(|(entry, (kind, _))| kind.operation().is_some() && (&*entry.name, entry.occurrence) == step);
    let before = named.ok_or(ForkError::NoSuchStep)?.1.1.n;
    let has = |wanted: Kind| read.iter().any(|(kind, _)| *kind == wanted);
    if has(Kind::Unwind) && !has(Kind::Output) {
        return Err(ForkError::Undoing);
    }
    let undone = entries().filter(|(_, (kind, _))| matches!(kind, Kind::Compensated | Kind::NotUndone));
    if let Some((entry, (_, Body { n: ordinal, .. }))) = undone.min_by_key(|(_, (_, body))| body.n)
        && !(fresh_keys && before <= *ordinal)
    {
        let NewEntry { name, occurrence, .. } = entry.clone();
        return Err(ForkError::Undone {
            step: StepId { kind: StepKind::Step, name, occurrence, ordinal: *ordinal },
        });
    }
    let envelope: Envelope = serde_json::from_slice(&run.input).map_err(|error| {
        ForkError::Unreadable(Mismatch::Undecodable { what: "the input".into(), reason: error.to_string() })
    })?;
    let own = key::root();
    let root = if fresh_keys { own.clone() } else { envelope.root().to_owned() };
    let mut fork = Fork { from: run.info.id.to_string(), before, entries: 0, root };
    fork.entries = run.entries.iter().filter(|entry| fork.keeps(entry)).count() as u64;
    let envelope = Envelope { input: envelope.input, root: own, fork: Some(fork) };
    Ok(Bytes::from(serde_json::to_vec(&envelope).unwrap_or_default()))
}
