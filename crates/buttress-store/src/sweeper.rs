use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use buttress_core::clock::NoTimer;
use buttress_core::{ConfigError, Rng, Timer};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::claim::ClaimStore;
use crate::error::StoreError;
use crate::journal::JournalStore;

/// Deletes what is of no use any more, in the background, without getting in the way of what is alive.
///
/// It works in small batches, and after each full one it rests 19 times as long as that took: so it takes a twentieth of the
/// store's time at most, however much there is to delete. When there is nothing left it looks again after a while, between
/// half and one and a half times [`every`](SweeperOptions::every), so that many processes do not do so at once. A store that
/// fails is left alone until then. Any number of processes may sweep one store.
///
/// Dropping it, or [`shutdown`](Sweeper::shutdown), ends it after the batch that it is in.
#[derive(Debug)]
pub struct Sweeper {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    counts: Arc<Counts>,
}

/// How often it sweeps, and how much at once.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct SweeperOptions {
    every: Duration,
    batch: u32,
}

#[derive(Debug, Default)]
struct Counts {
    swept: AtomicU64,
    failures: AtomicU64,
}

/// The shortest rest between two full batches.
const REST: Duration = Duration::from_millis(5);

impl SweeperOptions {
    /// Every minute, 100 rows at once.
    pub fn new() -> Self {
        Self { every: Duration::from_secs(60), batch: 100 }
    }

    /// The time until it looks again when there was nothing left to delete. Default 60 s.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn every(mut self, every: Duration) -> Result<Self, ConfigError> {
        if every.is_zero() {
            return Err(ConfigError::new("every", every, "must be more than zero"));
        }
        self.every = every;
        Ok(self)
    }

    /// How many rows are deleted at once, 100 by default. Live claims wait for as long as that takes.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn batch(mut self, rows: u32) -> Result<Self, ConfigError> {
        if rows == 0 {
            return Err(ConfigError::new("batch", rows, "must be at least 1"));
        }
        self.batch = rows;
        Ok(self)
    }
}

impl Default for SweeperOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Sweeper {
    /// Sweeps expired claims and records.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime here, or it was built without its timer.
    pub fn claims<S: ClaimStore>(store: S, options: SweeperOptions) -> Result<Self, NoTimer> {
        Self::start(options, move |max| {
            let store = store.clone();
            async move { store.sweep(max).await }
        })
    }

    /// Prunes runs that have been over for longer than `age`.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime here, or it was built without its timer.
    pub fn runs<S: JournalStore>(store: S, age: Duration, options: SweeperOptions) -> Result<Self, NoTimer> {
        Self::start(options, move |max| {
            let store = store.clone();
            async move { store.prune(age, max).await }
        })
    }

    fn start<Sweeping>(
        options: SweeperOptions,
        sweep: impl Fn(u32) -> Sweeping + Send + 'static,
    ) -> Result<Self, NoTimer>
    where
        Sweeping: Future<Output = Result<u64, StoreError>> + Send + 'static,
    {
        drop(Timer::at(Instant::now())?);
        let (stop, stopped) = oneshot::channel();
        let counts = Arc::new(Counts::default());
        let task = tokio::spawn(run(options, sweep, stopped, counts.clone()));
        Ok(Self { task, stop, counts })
    }

    /// How many rows it has deleted.
    pub fn swept(&self) -> u64 {
        self.counts.swept.load(Ordering::Relaxed)
    }

    /// How many of its batches have failed.
    pub fn failures(&self) -> u64 {
        self.counts.failures.load(Ordering::Relaxed)
    }

    /// Ends it, and returns once the batch that it is in is done, or after `max`: then the batch is abandoned.
    pub async fn shutdown(mut self, max: Duration) {
        drop(self.stop);
        if timeout(max, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn run<Sweeping>(
    options: SweeperOptions,
    sweep: impl Fn(u32) -> Sweeping,
    mut stopped: oneshot::Receiver<()>,
    counts: Arc<Counts>,
) where
    Sweeping: Future<Output = Result<u64, StoreError>>,
{
    let mut rng = Rng::from_system();
    loop {
        let start = Instant::now();
        let rest = match sweep(options.batch).await {
            Ok(swept) => {
                counts.swept.fetch_add(swept, Ordering::Relaxed);
                (swept >= options.batch.into()).then(|| (start.elapsed() * 19).max(REST))
            }
            Err(_) => {
                counts.failures.fetch_add(1, Ordering::Relaxed);
                None
            }
        };
        let rest = rest.unwrap_or_else(|| (options.every / 2).saturating_add(rng.up_to(options.every)));
        // An error if the sweeper was dropped, which ends it as well.
        if timeout(rest, &mut stopped).await.is_ok() {
            return;
        }
    }
}
