//! What a command came to, as one object.

use serde::Serialize;

use crate::database::{Done, Record};
use crate::problem::Problem;
use crate::tally::Counts;

/// For `--report json`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) command: &'static str,
    pub(crate) database: String,
    /// `done`, or why not in a word.
    pub(crate) outcome: &'static str,
    pub(crate) exit: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Runs that were begun or gone on with.
    pub(crate) runs: Vec<String>,
    /// What this command has applied or undone, in its order.
    pub(crate) changes: Vec<Changed>,
    /// The history, for `status` and `verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) history: Option<Vec<Record>>,
    /// How old the history is in seconds, if it is a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) history_age: Option<u64>,
    pub(crate) pending: Vec<String>,
    /// What `sqlparser` does not understand, what the rehearsal or `verify` has found.
    pub(crate) findings: Vec<String>,
    /// How much of it works: 0 all, 4 nothing.
    pub(crate) level: u8,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    pub(crate) notices_sent: u64,
    pub(crate) notices_lost: u64,
    pub(crate) elapsed_ms: u64,
}

/// One change.
#[derive(Debug, Serialize)]
pub(crate) struct Changed {
    pub(crate) id: String,
    pub(crate) run: String,
    #[serde(flatten)]
    pub(crate) done: How,
}

/// How it was done.
#[derive(Debug, Serialize)]
pub(crate) struct How {
    /// Whether it was found to be done already.
    before: bool,
    ms: Option<u64>,
}

impl From<Done> for How {
    fn from(done: Done) -> Self {
        match done {
            Done::Now { ms } => Self { before: false, ms: Some(ms) },
            Done::Before => Self { before: true, ms: None },
        }
    }
}

impl Report {
    pub(crate) fn end(&mut self, result: &Result<(), Problem>) {
        self.outcome = "done";
        if let Err(problem) = result {
            self.outcome = problem.exit.as_str();
            self.exit = problem.exit as u8;
            self.error = Some(problem.to_string());
        }
    }
}
