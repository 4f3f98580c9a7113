use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use buttress_core::clock::Seconds;
use buttress_core::observe::Health;

use crate::check::Symptom;

/// One illness, from its first symptom until it has been gone for long enough: its key, what was seen, what was tried.
///
/// A snapshot: it does not change after it was given out. `Display` writes what a human needs to read when woken by it.
#[derive(Clone, Debug)]
pub struct Incident {
    pub(crate) key: Arc<str>,
    pub(crate) service: Arc<str>,
    pub(crate) opened: SystemTime,
    pub(crate) health: Health,
    pub(crate) worst: Health,
    pub(crate) symptoms: Vec<(Arc<str>, Symptom, Arc<str>)>,
    pub(crate) timeline: Vec<(Duration, Happened)>,
    pub(crate) omitted: u64,
    pub(crate) escalated: bool,
    pub(crate) recovered_after: Option<Duration>,
    pub(crate) over: bool,
    pub(crate) ledger: Vec<Arc<str>>,
}

/// An entry of an incident's timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happened {
    /// A check has failed often enough to be believed.
    Fell {
        /// The check.
        check: Arc<str>,
        /// What it said last.
        evidence: Arc<str>,
    },
    /// A check has passed often enough to be believed.
    Rose {
        /// The check.
        check: Arc<str>,
    },
    /// An action was started.
    Acted {
        /// The action.
        action: Arc<str>,
    },
    /// An attempt was decided.
    Tried {
        /// The action.
        action: Arc<str>,
        /// How it ended.
        tried: Tried,
    },
    /// Calls use a new generation.
    Swapped {
        /// Its number.
        generation: u64,
        /// The target that it talks to.
        target: usize,
    },
    /// A human was called, for this reason.
    Escalated(Arc<str>),
    /// All symptoms are gone.
    Recovered,
    /// An operator did something.
    Operator(Arc<str>),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tried {
    /// The symptom was gone by the end of the time to verify.
    Cured,
    /// The action ended well, and the symptom stayed.
    NoEffect,
    /// The action, or the building of a service after it, failed.
    Failed(Arc<str>),
    /// It took too long.
    TimedOut,
    /// It panicked.
    Panicked,
    /// An operator, or the end of the supervisor, cut it off.
    Cancelled,
}

impl Incident {
    /// What identifies it, for pagers to deduplicate by: the service's name, when it began, and a number; at most 255 bytes.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The name of the supervised service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// When the first symptom was believed, on the wall clock.
    pub fn opened(&self) -> SystemTime {
        self.opened
    }

    /// How ill it is now.
    pub fn health(&self) -> Health {
        self.health
    }

    /// How ill it was at worst.
    pub fn worst(&self) -> Health {
        self.worst
    }

    /// The checks that fail now, with what they said last.
    pub fn symptoms(&self) -> impl Iterator<Item = (&str, &Symptom, &str)> {
        self.symptoms.iter().map(|(check, symptom, evidence)| (&**check, symptom, &**evidence))
    }

    /// What happened, and how long after the beginning. The oldest 16 and the latest 112 entries are kept.
    pub fn timeline(&self) -> &[(Duration, Happened)] {
        &self.timeline
    }

    /// How many entries were left out of the timeline.
    pub fn omitted(&self) -> u64 {
        self.omitted
    }

    /// Whether a human was called.
    pub fn is_escalated(&self) -> bool {
        self.escalated
    }

    /// Whether it is over: all symptoms have been gone for `stable_for`.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The time from the first symptom until all were gone; `None` while some are there.
    pub fn recovered_after(&self) -> Option<Duration> {
        self.recovered_after
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, key, .. } = self;
        write!(f, "`{service}` is {} ({key})", self.health.as_str())?;
        for (check, symptom, evidence) in self.symptoms() {
            write!(f, "\n  {check} ({}): {evidence}", symptom.as_str())?;
        }
        if let Some(after) = self.recovered_after {
            write!(f, "\n  recovered after {}", Seconds(after))?;
        }
        Ok(())
    }
}
