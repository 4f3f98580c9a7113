//! The store of last good answers.

mod alone;
#[cfg(feature = "store")]
mod behind;
#[cfg(not(feature = "store"))]
#[path = "nowhere.rs"]
mod behind;
#[cfg(feature = "store")]
mod clock;
mod entry;
mod flights;
mod front;
mod keep;
mod look;
mod lru;
#[cfg(feature = "store")]
mod pending;
mod place;
mod settings;
mod shard;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{BoxError, Level, Trim, within};
use tokio::time::Instant;

use crate::recall::Kept;
use crate::served::Cause;
use crate::tasks::Tasks;

use behind::Behind;
pub(crate) use entry::Entry;
pub use entry::Lifetime;
pub(crate) use flights::{Flight, Flights, Joined, Waits, Which};
pub(crate) use front::Held;
pub(crate) use look::Look;
use lru::Lru;
pub(crate) use place::Place;

/// A store of last good answers, and the handle that reads and clears it. Clones share the answers.
///
/// What it does with an answer depends on its age:
///
/// | age | what happens |
/// |---|---|
/// | below `ttl` | the answer is served, level 0, and the service is not asked, but for a refresh shortly before the end |
/// | for `while_revalidate` after that | the answer is served, level 1, and one refresh is made in the background |
/// | for `if_error` after the `ttl` | the service is asked; if it fails, the answer is served, level 2 |
/// | beyond | the service is asked; if it fails, the next rung answers |
///
/// All who ask for the same at the same time share one call of the service. It is made by a task of its own from the first poll on: a
/// caller that goes away does not stop it (up to `max_abandoned` of them), and if it fails or panics all learn of it at once. A failure, a degraded answer and an answer that the caller is at
/// fault for (HTTP 404) are never kept, and change nothing of what is kept, but that the service is not asked again for
/// `negative_ttl` while a stale answer can be served.
///
/// Ages are counted on tokio's clock, by which a paused runtime drives them and which does not run backwards. This is why the
/// store is made here: moka and quick_cache, the well-kept ones, count by a clock of their own or by none, and hide what is
/// out of date, where this store needs it most.
///
/// | setting | default |
/// |---|---|
/// | `ttl` | 60 s |
/// | `while_revalidate` | 10 s |
/// | `if_error` | 24 h |
/// | `negative_ttl` | 1 s |
/// | `refresh_jitter` | 10 % |
/// | `max_bytes` | 64 MiB |
/// | `max_refreshes` | 64 at once |
/// | `max_abandoned` | 64 at once |
pub struct LastGood<R: Kept> {
    pub(crate) rules: R,
    config: Config,
    shared: Arc<Shared<R::Record>>,
    behind: Option<Arc<Behind<R::Record>>>,
}

#[derive(Clone, Copy, Debug)]
struct Config {
    lifetime: Lifetime,
    negative_ttl: Duration,
    jitter: u8,
    level: Level,
    max_refreshes: usize,
    max_abandoned: usize,
}

struct Shared<V> {
    entries: Lru<V>,
    flights: Arc<Flights<V>>,
    refreshes: Arc<AtomicUsize>,
    abandoned: Arc<AtomicUsize>,
    /// Calls and refreshes under way.
    tasks: Tasks,
    /// What is written to a store behind the memory.
    writers: Tasks,
}

/// How a call for all who asked for the same ended.
pub(crate) enum Outcome<V> {
    /// There is a new answer, or the one that there was; how good it is.
    Kept(Arc<Entry<V>>, Level),
    /// There was one already: it has been confirmed to nobody.
    Found(Arc<Entry<V>>),
    /// There is one that is not kept; whether it is a failure, or how good it is.
    Shared(Arc<V>, Result<Level, Cause>),
    /// There is none.
    Failed(Cause, Arc<BoxError>),
    /// It was for one caller only, as are those of the others; whether it was a failure.
    Alone(Option<Cause>),
    /// It says nothing of what the others asked for: one of them makes the call again.
    Again,
}

impl<V> Clone for Outcome<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Kept(entry, level) => Self::Kept(Arc::clone(entry), *level),
            Self::Found(entry) => Self::Found(Arc::clone(entry)),
            Self::Shared(record, grade) => Self::Shared(Arc::clone(record), *grade),
            Self::Failed(cause, error) => Self::Failed(*cause, Arc::clone(error)),
            Self::Alone(failed) => Self::Alone(*failed),
            Self::Again => Self::Again,
        }
    }
}

impl<R: Kept> Clone for LastGood<R> {
    fn clone(&self) -> Self {
        Self {
            rules: self.rules.clone(),
            config: self.config,
            shared: Arc::clone(&self.shared),
            behind: self.behind.clone(),
        }
    }
}

impl<R: Kept> fmt::Debug for LastGood<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("LastGood");
        debug.field("config", &self.config).field("len", &self.len()).field("bytes", &self.bytes()).finish()
    }
}

impl<R: Kept> LastGood<R> {
    /// An empty store with these rules and the defaults of the table above.
    pub fn new(rules: R) -> Self {
        let lifetime = Lifetime {
            age: Duration::ZERO,
            fresh: Duration::from_secs(60),
            while_revalidate: Duration::from_secs(10),
            if_error: Duration::from_secs(86_400),
        };
        let negative_ttl = Duration::from_secs(1);
        let config = Config {
            lifetime,
            negative_ttl,
            jitter: 10,
            level: Level::Moderate,
            max_refreshes: 64,
            max_abandoned: 64,
        };
        Self { rules, config, shared: Arc::new(Shared::new(64 * 1024 * 1024)), behind: None }
    }

    /// Forgets the answer of this key; whether there was one. A call that is under way answers those who wait for it, and is not
    /// kept; who comes later makes a new one.
    pub fn invalidate(&self, key: &str) -> bool {
        self.shared.flights.forget(Some(key));
        self.forget(key)
    }

    /// The same, for the call that has just been made.
    pub(crate) fn forget(&self, key: &str) -> bool {
        if let Some(behind) = &self.behind {
            behind.forget(key);
            self.write_behind(behind);
        }
        self.shared.entries.remove(key)
    }

    /// Forgets all answers, and those of the calls under way.
    pub fn clear(&self) {
        self.shared.flights.forget(None);
        if let Some(behind) = &self.behind {
            behind.forget_all();
            self.write_behind(behind);
        }
        self.shared.entries.retain(|_| false);
    }

    /// Forgets what can no longer be served, whatever happens; says how many these were. This, and not
    /// [`clear`](Self::clear), is what frees memory: what is stale is what an outage needs.
    pub fn purge(&self) -> usize {
        let now = Instant::now();
        self.shared.entries.retain(|entry| {
            let age = entry.age(now);
            entry.serves(age).is_some() || entry.serves_if_error(age)
        })
    }

    /// Forgets what can no longer be served, and then what has not been used for longest, until so many bytes are left.
    pub fn shrink_to(&self, bytes: usize) {
        self.purge();
        self.shared.entries.shrink_to(bytes);
    }

    /// How many answers there are.
    pub fn len(&self) -> usize {
        self.shared.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how many bytes they take; never more than [`max_bytes`](Self::max_bytes).
    pub fn bytes(&self) -> usize {
        self.shared.entries.bytes()
    }

    /// How many calls of the service are under way that others can wait for, those in the background included.
    pub fn in_flight(&self) -> usize {
        self.shared.flights.len()
    }

    /// How many keys are still to be written to the store behind the memory.
    #[cfg(feature = "store")]
    pub fn unwritten(&self) -> usize {
        self.behind.as_ref().map_or(0, |behind| behind.pending())
    }

    /// Waits for the calls under way and for what is still to be written to a store behind the memory, for so long at most, and
    /// drops what is left; says how many those were. Nothing more is kept
    /// from then on, and what there is is still served: callers call the service themselves.
    pub async fn shutdown(&self, bound: Duration) -> usize {
        let end = after(Instant::now(), bound);
        let left = self.shared.tasks.shutdown(bound).await;
        let Some(behind) = &self.behind else { return left };
        let time = || end.saturating_duration_since(Instant::now());
        self.shared.writers.shutdown(time()).await;
        // One that was dropped is gone by its next turn.
        tokio::task::yield_now().await;
        if let Some(writer) = behind.writer() {
            within(time(), writer.write()).await;
        }
        left + behind.pending()
    }

    pub(crate) fn if_error_level(&self) -> Level {
        self.config.level
    }

    pub(crate) fn lifetime(&self) -> Lifetime {
        let own = self.config.lifetime;
        if own.fresh.is_zero() { Lifetime { while_revalidate: Duration::ZERO, ..own } } else { own }
    }

    pub(crate) fn flights(&self) -> &Arc<Flights<R::Record>> {
        &self.shared.flights
    }

    /// A place among the refreshes, given back when it is dropped.
    pub(crate) fn refresh_place(&self) -> Option<Place> {
        Place::among(&self.shared.refreshes, self.config.max_refreshes)
    }

    /// A place among the calls that nobody waits for any more.
    pub(crate) fn abandoned_place(&self) -> Option<Place> {
        Place::among(&self.shared.abandoned, self.config.max_abandoned)
    }

    /// Whether calls can be made for all: not without a runtime, nor after a shutdown.
    pub(crate) fn can_spawn(&self) -> bool {
        self.shared.tasks.can_spawn()
    }

    /// Makes a task of this, or drops it where that is not possible.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.shared.tasks.spawn(work);
    }
}

/// [`purge`](LastGood::purge), [`shrink_to`](LastGood::shrink_to) and [`bytes`](LastGood::bytes), for whoever frees memory.
impl<R: Kept> Trim for LastGood<R> {
    fn purge(&self) -> usize {
        Self::purge(self)
    }

    fn shrink_to(&self, bytes: usize) {
        Self::shrink_to(self, bytes);
    }

    fn bytes(&self) -> usize {
        Self::bytes(self)
    }
}

impl<V> Shared<V> {
    fn new(max_bytes: usize) -> Self {
        Self {
            entries: Lru::new(max_bytes),
            flights: Arc::default(),
            refreshes: Arc::default(),
            abandoned: Arc::default(),
            tasks: Tasks::default(),
            writers: Tasks::default(),
        }
    }
}
