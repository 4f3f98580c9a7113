use std::sync::Arc;
use std::time::Duration;

use buttress_core::{Backoff, ConfigError, Observe, Observer};

/// What becomes of a run whose code does not fit its journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMismatch {
    /// It is paused, its journal untouched: the code that began it can go on once an operator resumes it.
    #[default]
    Pause,
    /// It fails. What it has done stays done: nothing is undone, since the code that could do so is not the one that did it.
    Fail,
}

/// How a worker treats runs; the default suits workflows whose steps take seconds.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) worker: Arc<str>,
    pub(crate) lease: Duration,
    pub(crate) margin: Duration,
    pub(crate) poll: Duration,
    pub(crate) drain: Duration,
    pub(crate) suspend_after: Duration,
    pub(crate) patience: Duration,
    pub(crate) max_runs: u32,
    pub(crate) max_recoveries: u32,
    pub(crate) max_value: usize,
    pub(crate) undo: (Backoff, u32),
    pub(crate) undo_timeout: Duration,
    /// The delays before a run that panicked is run again.
    pub(crate) panics: Backoff,
    /// The delays between attempts at a store that does not answer.
    pub(crate) retries: Backoff,
    pub(crate) on_mismatch: OnMismatch,
    pub(crate) observer: Arc<Observer>,
}

impl Default for Config {
    fn default() -> Self {
        let slow = || Backoff::exponential(Duration::from_secs(1), 2.0, Duration::from_secs(60));
        let retries = Backoff::exponential(Duration::from_millis(50), 2.0, Duration::from_secs(1));
        Self {
            worker: format!("pid {}", std::process::id()).into(),
            lease: Duration::from_secs(30),
            margin: Duration::from_secs(5),
            poll: Duration::from_secs(1),
            drain: Duration::from_secs(30),
            suspend_after: Duration::from_secs(10),
            patience: Duration::from_secs(1),
            max_runs: 64,
            max_recoveries: 10,
            max_value: 1 << 20,
            undo: (slow().unwrap_or_default(), 5),
            undo_timeout: Duration::from_secs(300),
            panics: slow().unwrap_or_default(),
            retries: retries.unwrap_or_default(),
            on_mismatch: OnMismatch::Pause,
            observer: Arc::default(),
        }
    }
}

impl Config {
    /// A name for this worker in listings: the number of its process by default.
    #[must_use]
    pub fn worker(self, name: impl Into<Arc<str>>) -> Self {
        Self { worker: name.into(), ..self }
    }

    /// For how long a run is held without a sign of life, and the part of that time, at its end, in which its worker no longer
    /// touches it: 30 and 5 seconds by default. Leases are renewed after a third of their time. The margin must be longer
    /// than what the clocks of worker and store drift apart in one lease, and than what dropping a step's future takes.
    ///
    /// A worker that ends without giving a run up (a crash) delays it by one lease.
    ///
    /// # Errors
    ///
    /// If the margin is zero or longer than half of the lease.
    pub fn lease(self, lease: Duration, margin: Duration) -> Result<Self, ConfigError> {
        if margin.is_zero() || margin > lease / 2 {
            return Err(ConfigError::new(
                "margin",
                format_args!("{margin:?}"),
                "must be longer than zero, and at most half of the lease".to_owned(),
            ));
        }
        Ok(Self { lease, margin, ..self })
    }

    /// How often to look for runs that are due: each second by default. One that is begun here is found at once.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn poll_interval(self, poll: Duration) -> Result<Self, ConfigError> {
        if poll.is_zero() {
            return Err(ConfigError::new("poll_interval", "0 s", "must be longer than zero".to_owned()));
        }
        Ok(Self { poll, ..self })
    }

    /// How long a shutdown waits for steps that are under way: 30 seconds by default. What still runs then is dropped.
    #[must_use]
    pub fn drain(self, drain: Duration) -> Self {
        Self { drain, ..self }
    }

    /// A run that only sleeps, and for longer than this, is put down until it wakes: 10 seconds by default.
    #[must_use]
    pub fn suspend_after(self, suspend_after: Duration) -> Self {
        Self { suspend_after, ..self }
    }

    /// How long a replay waits for code that does not come to the step that is recorded next, because it awaits something
    /// that is no operation: 1 second by default. Then that is a mismatch.
    #[must_use]
    pub fn replay_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// How many runs this worker holds at once: 64 by default.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn max_runs(self, max_runs: u32) -> Result<Self, ConfigError> {
        if max_runs == 0 {
            return Err(ConfigError::new("max_runs", max_runs, "must be at least 1".to_owned()));
        }
        Ok(Self { max_runs, ..self })
    }

    /// A run that was taken over more often than this from workers that had not given it up, and has recorded nothing since, is
    /// parked until an operator resumes it: 10 by default. That is what a run that crashes its worker each time comes to. One
    /// whose code [panics](Self::panic_delays) is parked after so many retries, too.
    #[must_use]
    pub fn max_recoveries(self, max_recoveries: u32) -> Self {
        Self { max_recoveries, ..self }
    }

    /// The largest result of a step, and the largest input and output of a workflow, in bytes of JSON: 1 MiB by default.
    ///
    /// # Errors
    ///
    /// If it is larger than 15 MiB, which is what every store takes.
    pub fn max_value(self, bytes: usize) -> Result<Self, ConfigError> {
        if bytes > 15 << 20 {
            return Err(ConfigError::new(
                "max_value",
                bytes,
                "must be at most 15 MiB, which every store takes".to_owned(),
            ));
        }
        Ok(Self { max_value: bytes, ..self })
    }

    /// After which delays a run whose code panicked is run again: up to 1, 2, 4, 8, 16, 32 and then 60 seconds by default. How
    /// often in a row, over all workers, [`max_recoveries`](Self::max_recoveries) says.
    #[must_use]
    pub fn panic_delays(self, delays: Backoff) -> Self {
        Self { panics: delays, ..self }
    }

    /// How much time each attempt at undoing a step has, before it is dropped and counts as failed: 5 minutes by default.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn undo_timeout(self, limit: Duration) -> Result<Self, ConfigError> {
        if limit.is_zero() {
            return Err(ConfigError::new("undo_timeout", "0 s", "must be longer than zero".to_owned()));
        }
        Ok(Self { undo_timeout: limit, ..self })
    }

    /// How often, and after which delays, undoing a step is tried again when it fails: 5 times by default, after up to 1, 2, 4, 8 and
    /// 16 seconds. Failed attempts are recorded, and count over all workers. After the last one the run is paused, and each
    /// time that it is resumed it is tried once more; a run that was cancelled fails then.
    #[must_use]
    pub fn undo_retry(self, backoff: Backoff, max_retries: u32) -> Self {
        Self { undo: (backoff, max_retries), ..self }
    }

    /// What becomes of a run whose code does not fit its journal: it pauses by default.
    #[must_use]
    pub fn on_mismatch(self, on_mismatch: OnMismatch) -> Self {
        Self { on_mismatch, ..self }
    }

    /// Draws the delays between attempts at a store that fails from this seed, for tests that are to be repeated.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { retries: self.retries.seed(seed), ..self }
    }

    /// Reports to this observer. The first one stays; a `Vec` of several is one.
    #[must_use]
    pub fn observe(self, observer: Arc<dyn Observe>) -> Self {
        self.observer.set(observer);
        self
    }
}
