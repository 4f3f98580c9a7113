//! Why a command could not do what it was asked to, and the exit status that says so.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The exit status; `--help` and the README list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    /// The database has refused a migration.
    Failed = 1,
    /// The arguments or the migrations cannot be used.
    Input = 2,
    /// What was applied is not what the files say.
    Changed = 3,
    /// The database could not be reached, or others kept it locked, until the retries ended.
    Unavailable = 4,
    /// Another agent is at work.
    Busy = 5,
    /// A person has to look.
    Stuck = 6,
    /// Interrupted; what was under way has ended.
    Interrupted = 130,
}

impl Exit {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Input => "input",
            Self::Changed => "changed",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Stuck => "stuck",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Why a command failed: recorded as a step's result, so that a run that is looked at later still says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) exit: Exit,
    what: String,
    fix: Option<String>,
}

impl Problem {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), fix: None }
    }

    pub(crate) fn input(what: impl Into<String>) -> Self {
        Self::new(Exit::Input, what)
    }

    /// The same with another status.
    #[must_use]
    pub(crate) fn exiting(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// Says what to do about it.
    #[must_use]
    pub(crate) fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    /// Says how often it was tried.
    #[must_use]
    pub(crate) fn after(self, attempts: u32) -> Self {
        if attempts < 2 {
            self
        } else {
            Self { what: format!("{} (after {attempts} attempts)", self.what), ..self }
        }
    }

    /// Says what it is about.
    #[must_use]
    pub(crate) fn of(self, subject: &str) -> Self {
        Self { what: format!("{subject}: {}", self.what), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.fix {
            Some(fix) => write!(f, "\n  fix: {fix}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}
