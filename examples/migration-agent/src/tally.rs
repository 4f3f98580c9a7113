//! What the layers report: counted for the report, and told as it happens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buttress::core::clock::Seconds;
use buttress::core::observe::RunChange;
use buttress::core::{Event, Observe};
use serde::Serialize;

use crate::console::Console;

/// Hears of everything.
#[derive(Debug)]
pub(crate) struct Tally {
    console: Arc<Console>,
    counts: Mutex<Counts>,
}

/// What has happened so far.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Counts {
    pub(crate) retries: u32,
    pub(crate) retries_by_kind: BTreeMap<&'static str, u32>,
    pub(crate) breaker: Vec<&'static str>,
    /// Runs that were taken over from a process that had not given them up.
    pub(crate) recovered: u32,
    /// What was done for the pool of connections.
    pub(crate) healed: Vec<String>,
    /// Whether a person was called.
    pub(crate) escalated: bool,
}

impl Tally {
    pub(crate) fn new(console: Arc<Console>) -> Self {
        Self { console, counts: Mutex::default() }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A person is needed.
    pub(crate) fn escalate(&self, why: &str) {
        self.console.line(&format!("  a person has to look: {why}"));
        self.lock().escalated = true;
    }
}

impl Observe for Tally {
    fn event(&self, service: &str, event: &Event) {
        match event {
            Event::Backoff { retry, delay, kind, .. } => {
                let mut counts = self.lock();
                counts.retries += 1;
                *counts.retries_by_kind.entry(kind.as_str()).or_default() += 1;
                drop(counts);
                let delay = Seconds(*delay);
                self.console.line(&format!("  {service}: {}; retry {retry} in {delay}", kind.as_str()));
            }
            Event::Circuit { to, cause, .. } => {
                self.lock().breaker.push(to.as_str());
                self.console.line(&format!("  {service}: circuit {}: {}", to.as_str(), cause.as_str()));
            }
            Event::Run { run, change: RunChange::Recovered } => {
                self.lock().recovered += 1;
                self.console.line(&format!("{run} goes on: whoever had begun it has gone"));
            }
            Event::Run { run, change: RunChange::Lost } => {
                self.console.line(&format!("  {run} was lost: its lease ended, or somebody else has it"));
            }
            Event::HealAttempt { action, result, .. } => {
                let what = format!("{action}: {}", result.as_str());
                self.console.line(&format!("  {service}: {what}"));
                self.lock().healed.push(what);
            }
            Event::StoreFailed { error, .. } => self.console.line(&format!("  journal: {error}")),
            _ => {}
        }
    }
}
