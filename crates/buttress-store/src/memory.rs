//! Claims, journals and answers in this process's memory.

mod answers;
mod claims;
mod runs;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buttress_core::ConfigError;
use buttress_core::clock::{self, Clock};

use crate::limits::Limits;
use crate::time;
use crate::waiters::Waiters;
use answers::Answers;
use claims::Claims;
use runs::Runs;

/// A store in memory: for tests, and where a restart may forget everything.
///
/// Nothing outlives the process and no other process sees it. Its clock is tokio's, so that a paused clock drives leases,
/// time to live and sleep. Memory is bounded: beyond the bound a claim fails with [`Full`](crate::Fault::Full), once
/// nothing is left that has expired; what is alive is never evicted. Clones share one store.
#[derive(Clone)]
pub struct Memory {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    /// What the wall clock read when the store was made.
    base: i64,
    limits: Limits,
    claims: Mutex<Claims>,
    runs: Mutex<Runs>,
    answers: Mutex<Answers>,
    waiters: Waiters,
}

impl Memory {
    /// A store for at most 100,000 claims, as many runs and as many answers.
    pub fn new() -> Self {
        Self::build(100_000, Limits::new("memory"))
    }

    /// A store for at most so many claims, as many runs and as many answers.
    ///
    /// # Errors
    ///
    /// If the bound is zero.
    pub fn bounded(max: usize) -> Result<Self, ConfigError> {
        if max == 0 {
            return Err(ConfigError::new("max", max, "must be at least 1"));
        }
        Ok(Self::build(max, Limits::new("memory")))
    }

    fn build(max: usize, limits: Limits) -> Self {
        let inner = Inner {
            clock: Clock::start(),
            base: time::from_system(clock::wall()),
            limits,
            claims: Mutex::new(Claims::new(max)),
            runs: Mutex::new(Runs::new(max)),
            answers: Mutex::new(Answers::new(max)),
            waiters: Waiters::new("memory"),
        };
        Self { inner: Arc::new(inner) }
    }

    /// How many claims and records are stored, expired ones that were not swept yet included.
    pub fn claims(&self) -> usize {
        self.lock_claims().len()
    }

    fn now(&self) -> i64 {
        let since = i64::try_from(self.inner.clock.now() / 1000).unwrap_or(i64::MAX);
        self.inner.base.saturating_add(since)
    }

    fn lock_claims(&self) -> MutexGuard<'_, Claims> {
        lock(&self.inner.claims)
    }

    fn lock_runs(&self) -> MutexGuard<'_, Runs> {
        lock(&self.inner.runs)
    }
}

/// Rows are changed whole, after everything that could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("claims", &self.claims()).finish_non_exhaustive()
    }
}
