//! Many clients, one row: the model of "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
//!
//! Every client reads the row's version and writes the row if the version is still the same, until it has done so once.
//! What matters is how many writes that takes all in all, and how long.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::{Backoff, BoxError, Jitter};
use buttress_retry::{Budget, Config, RetryLayer};
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::draw::Draw;

/// One millisecond of the model takes one second of the paused clock: tokio's timer counts in milliseconds, which would
/// be coarse beside a hop of ten.
const MS: Duration = Duration::from_secs(1);

/// How the clients wait after a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    None,
    /// Doubling, without jitter.
    Exponential,
    /// Doubling, with this jitter.
    Jittered(Jitter),
}

impl Wait {
    /// All of them, in the order of the article.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Exponential,
        Self::Jittered(Jitter::Equal),
        Self::Jittered(Jitter::Full),
        Self::Jittered(Jitter::Decorrelated),
    ];

    fn backoff(self) -> Backoff {
        let doubling = |base: u32| Backoff::exponential(base * MS, 2.0, 2000 * MS).expect("a valid schedule");
        match self {
            Self::None => Backoff::constant(Duration::ZERO),
            // The article's first delay is already doubled: 10 ms.
            Self::Exponential => doubling(10).jitter(Jitter::None),
            // ... which the decorrelated one starts below.
            Self::Jittered(Jitter::Decorrelated) => doubling(5).jitter(Jitter::Decorrelated),
            Self::Jittered(jitter) => doubling(10).jitter(jitter),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "no wait",
            Self::Exponential => "no jitter",
            Self::Jittered(Jitter::Equal) => "equal jitter",
            Self::Jittered(Jitter::Full) => "full jitter",
            Self::Jittered(Jitter::Decorrelated) => "decorrelated jitter",
            Self::Jittered(_) => "another jitter",
        })
    }
}

/// What it took until every client had written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contended {
    /// Writes that arrived, conflicts included.
    pub writes: u64,
    /// When the last client heard of its success, in milliseconds of the model.
    pub millis: f64,
}

/// Lets so many clients write once each.
pub fn contend(clients: usize, wait: Wait, seed: u64) -> Contended {
    crate::simulate(async move {
        let config = Config::background()
            .backoff(wait.backoff().seed(seed))
            .max_retries(u32::MAX)
            .budget(Budget::unlimited());
        let retry = RetryLayer::new("row", config).expect("a valid configuration");
        let row = Arc::new(Row::new(seed));
        let start = Instant::now();
        let clients: Vec<_> = (0..clients)
            .map(|_| {
                let row = Arc::clone(&row);
                let write = service_fn(move |()| Arc::clone(&row).read_and_write());
                tokio::spawn(ServiceBuilder::new().layer(retry.clone()).service(write).oneshot(()))
            })
            .collect();
        for client in clients {
            client.await.expect("no client panics").expect("every client succeeds in the end");
        }
        Contended {
            writes: row.writes.load(Relaxed),
            millis: start.elapsed().as_secs_f64() / MS.as_secs_f64(),
        }
    })
}

#[derive(Debug)]
struct Row {
    version: AtomicU64,
    writes: AtomicU64,
    draw: Mutex<Draw>,
}

impl Row {
    fn new(seed: u64) -> Self {
        let draw = Mutex::new(Draw::seeded(seed));
        Self { version: AtomicU64::new(0), writes: AtomicU64::new(0), draw }
    }

    /// One way over the network.
    fn hop(&self) -> Duration {
        self.draw.lock().expect("no draw panics").normal(10 * MS, 2 * MS)
    }

    async fn read_and_write(self: Arc<Self>) -> Result<(), BoxError> {
        sleep(self.hop()).await;
        let version = self.version.load(Relaxed);
        sleep(self.hop() + self.hop()).await;
        self.writes.fetch_add(1, Relaxed);
        let written = self.version.compare_exchange(version, version + 1, Relaxed, Relaxed).is_ok();
        sleep(self.hop()).await;
        if written { Ok(()) } else { Err("the row has changed".into()) }
    }
}

/// A mean over many seeds.
#[derive(Clone, Copy, Debug)]
pub struct Mean {
    /// Of the writes.
    pub writes: f64,
    /// Of the time, in milliseconds.
    pub millis: f64,
}

/// The mean over the seeds `1..=seeds`.
pub fn mean(clients: usize, wait: Wait, seeds: u32) -> Mean {
    let runs = (1..=u64::from(seeds)).map(|seed| contend(clients, wait, seed));
    let sum = runs.fold((0.0, 0.0), |sum, run| (sum.0 + run.writes as f64, sum.1 + run.millis));
    Mean { writes: sum.0 / f64::from(seeds), millis: sum.1 / f64::from(seeds) }
}
