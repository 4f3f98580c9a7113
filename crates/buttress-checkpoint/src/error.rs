use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::Seconds;
use buttress_store::{RunId, StatusKind, StoreError};
use serde::{Deserialize, Serialize};

use crate::run::Place;

/// Any error, as text with its causes, in a form that can be stored: for steps and workflows without an error type of their
/// own. Like `anyhow::Error` it takes in every error with `?`, is none itself, and is the same text for debugging, so that a
/// `main` that returns it prints something to read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    causes: Vec<String>,
}

impl Failure {
    /// A failure with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new() }
    }

    /// The message of the error that it was made from.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The messages of what caused it, outermost first.
    pub fn causes(&self) -> &[String] {
        &self.causes
    }
}

impl Failure {
    /// From a boxed error.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut messages: Vec<String> = buttress_core::chain(error).map(ToString::to_string).collect();
        // Wrappers say what they wrap.
        messages.dedup();
        let causes = messages.split_off(1);
        Self { message: messages.swap_remove(0), causes }
    }

    /// As an error.
    pub fn into_error(self) -> buttress_core::BoxError {
        Text(self).into()
    }
}

/// A failure where an error is needed.
#[derive(Debug)]
struct Text(Failure);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Text {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

impl From<StepError<Failure>> for Failure {
    fn from(error: StepError<Failure>) -> Self {
        match error {
            StepError::Failed(failure) => failure,
            other => Self::new(other.to_string()),
        }
    }
}

impl From<RunError<Failure>> for Failure {
    fn from(error: RunError<Failure>) -> Self {
        match error {
            RunError::Failed(failure) => failure,
            other => Self::new(other.to_string()),
        }
    }
}

/// Which operation of a workflow something is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StepId {
    /// What kind of operation.
    pub kind: StepKind,
    /// Its name.
    pub name: Arc<str>,
    /// Which one of that name, from 0 on.
    pub occurrence: u32,
    /// The how manieth operation of the run it is, from 0 on, in the order in which they are built.
    pub ordinal: u32,
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, occurrence, ordinal } = self;
        write!(f, "{} `{name}`", kind.as_str())?;
        if *occurrence > 0 {
            write!(f, " (repetition {occurrence})")?;
        }
        write!(f, " as operation {}", ordinal + 1)
    }
}

/// The kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StepKind {
    /// [`Cx::step`](crate::Cx::step)
    Step,
    /// [`Cx::sleep`](crate::Cx::sleep)
    Sleep,
    /// [`Cx::race`](crate::Cx::race)
    Race,
    /// [`Cx::patched`](crate::Cx::patched)
    Patch,
}

impl StepKind {
    /// The kind in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Sleep => "sleep",
            Self::Race => "race",
            Self::Patch => "patch",
        }
    }
}

/// The code does not do what the journal says that it did. The journal is untouched: the code that wrote it can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// A step was renamed, removed, added or moved.
    UnexpectedStep {
        /// What the code does at this point; `None` if it ends here, or waits for something else.
        expected: Option<StepId>,
        /// What the journal has.
        recorded: StepId,
    },
    /// The step has another input than when it was recorded.
    InputChanged {
        /// The step.
        step: StepId,
    },
    /// What is recorded cannot be read as the type that the code has now.
    Undecodable {
        /// What: a step with its number, the input.
        what: String,
        /// Why.
        reason: String,
    },
    /// The code builds an operation whose name no store takes: longer than 512 bytes, or with a NUL character.
    Name {
        /// Its beginning.
        name: String,
    },
    /// An entry of the journal was written by a newer release.
    Unreadable {
        /// Its sequence number.
        seq: u64,
        /// Its kind.
        kind: u16,
        /// Its format.
        format: u16,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnexpectedStep { expected, recorded } => {
                write!(f, "unexpected step: recorded is {recorded}, ")?;
                match expected {
                    Some(expected) => write!(f, "and the code does {expected}")?,
                    None => f.write_str("and the code does not get there")?,
                }
            }
            Self::InputChanged { step } => write!(f, "the input of {step} is not the one that is recorded")?,
            Self::Undecodable { what, reason } => {
                write!(f, "what is recorded of {what} does not fit: {reason}")?
            }
            Self::Name { name } => {
                return write!(
                    f,
                    "a name is longer than {} bytes or has a NUL character: {name:?}; give the step another one",
                    buttress_store::MAX_NAME
                );
            }
            Self::Unreadable { seq, kind, format } => {
                return write!(
                    f,
                    "entry {seq} (kind {kind}, format {format}) was written by a newer release; upgrade this process"
                );
            }
        }
        f.write_str("; resume it with the code that began it, or change the code behind `Cx::patched`")
    }
}

impl Error for Mismatch {}

/// How a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepError<E> {
    /// Its body failed, for good, with this error.
    Failed(E),
    /// Its body did not end in time, for good; what it does may have been done.
    TimedOut {
        /// The time that each attempt had.
        limit: Duration,
    },
    /// It is to be run at most once, and a worker ended between its start and its end: whether it was done is not known.
    Interrupted,
    /// Its body ended, and what it gave could not be stored.
    NotStored {
        /// Why: too large, or not to be encoded.
        reason: String,
    },
    /// It was built inside of another step, whose result is what is recorded. Call the function itself.
    InsideStep,
    /// It was built or awaited outside of its workflow: in another one, or in a spawned task. It was not run, and has no place
    /// in the journal.
    Elsewhere,
}

impl<E: fmt::Display> fmt::Display for StepError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::TimedOut { limit } => {
                write!(f, "the step did not end within {}; it may have been done", Seconds(*limit))
            }
            Self::Interrupted => f.write_str(
                "the step was interrupted and is to be run at most once; whether it was done is not known: look, or give \
                 it a `reconcile`",
            ),
            Self::NotStored { reason } => {
                write!(f, "the step ended, and its result could not be stored: {reason}; store less, or a reference")
            }
            Self::InsideStep => f.write_str("a step was built inside of another step; call the function itself"),
            Self::Elsewhere => f.write_str(
                "a step was built or awaited outside of its workflow; it was not run: do both in the workflow's own task",
            ),
        }
    }
}

impl<E: Error + 'static> Error for StepError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // Displayed by itself already.
            Self::Failed(error) => error.source(),
            _ => None,
        }
    }
}

/// An operation of a workflow was awaited where it cannot be: inside of a step, in another workflow, or in a spawned task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Misplaced;

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an operation of a workflow was awaited outside of it, or inside of a step; await it in the workflow's own task")
    }
}

impl Error for Misplaced {}

impl<E> From<Place> for StepError<E> {
    fn from(place: Place) -> Self {
        match place {
            Place::InsideStep => Self::InsideStep,
            Place::Elsewhere => Self::Elsewhere,
        }
    }
}

/// Why a run could not be begun.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// There is a run with this identity, of another workflow or with another input.
    ConflictingWorkflow {
        /// Its identity.
        id: RunId,
        /// Its workflow.
        name: Arc<str>,
    },
    /// The identity is empty or too long.
    Id(buttress_core::ConfigError),
    /// The input could not be encoded, or is too large.
    Input(String),
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConflictingWorkflow { id, name } => write!(
                f,
                "there is a run `{id}` of `{name}` already, and it is another workflow or has another input; choose \
                 another identity"
            ),
            Self::Id(_) => f.write_str("the run cannot have this identity"),
            Self::Input(reason) => write!(f, "the input cannot be stored: {reason}"),
            Self::Store(_) => f.write_str("the run could not be begun"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Id(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::ConflictingWorkflow { .. } | Self::Input(_) => None,
        }
    }
}

/// Why there is no result of a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError<E> {
    /// The workflow failed with this error.
    Failed(E),
    /// It was cancelled.
    Cancelled,
    /// It waits for an operator, for this reason.
    Halted {
        /// Paused or parked.
        status: StatusKind,
        /// Why.
        reason: Arc<str>,
    },
    /// There is no such run: it was never begun, or pruned.
    NotFound,
    /// The recorded result is not of this type.
    Undecodable(String),
    /// It failed because its code does not do what its journal says, as [`OnMismatch::Fail`](crate::OnMismatch) wants it; this
    /// is the text of the [`Mismatch`].
    Mismatch(String),
    /// The store failed.
    Store(StoreError),
}

impl<E: fmt::Display> fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Cancelled => f.write_str("the run was cancelled"),
            Self::Halted { reason, .. } => {
                write!(f, "the run waits for an operator: {reason}; `buttress runs resume` lets it go on")
            }
            Self::NotFound => f.write_str("there is no such run"),
            Self::Undecodable(reason) => write!(f, "the result of the run cannot be read: {reason}"),
            Self::Mismatch(reason) => write!(f, "the run failed: {reason}"),
            Self::Store(_) => f.write_str("the result of the run could not be read"),
        }
    }
}

impl<E: Error + 'static> Error for RunError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}
