//! What a supervisor did, and when.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// One thing that a supervisor did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The check of this name failed.
    CheckFailed(String),
    /// A check of this name passed.
    CheckPassed(String),
    /// It holds the client for ill.
    Detected,
    /// It tried to heal it, by an action of this name.
    Acted(String),
    /// It called a human.
    Paged,
    /// It told the human that all is well again.
    Resolved,
    /// The symptoms were gone for long enough.
    Over,
}

/// All that a supervisor did, in order. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Vec<(Instant, Mark)>>>);

impl Journal {
    /// Adds something that happens now.
    pub fn mark(&self, mark: Mark) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), mark));
    }

    /// Whether such a thing has happened.
    pub fn has(&self, is_such: impl Fn(&Mark) -> bool) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|(_, mark)| is_such(mark))
    }

    /// All of it so far.
    pub fn read(&self) -> Vec<(Instant, Mark)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
