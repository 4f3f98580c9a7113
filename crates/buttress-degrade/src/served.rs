use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::nanos;
use buttress_core::{Kind, Level};

/// How good an answer is, where it comes from, and what fell short.
///
/// With HTTP it is in the response's extensions, with other services in [`Degraded`](crate::Degraded). An answer of level 0 has
/// none, unless it was stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Served(Known);

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Served");
        debug.field("level", &self.level()).field("source", &self.source()).field("age", &self.age());
        debug.field("fresh_for", &self.fresh_for()).field("shortfalls", &self.shortfalls()).finish()
    }
}

/// What a fresh answer of the store has is in the answer, and nothing is allocated for it. All else is apart, so that answers of which nothing
/// is known are small, too.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Fresh(Stored),
    More(Box<More>),
}

/// In nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stored {
    age: u64,
    fresh_for: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct More {
    level: Level,
    source: Source,
    stored: Option<Stored>,
    shortfalls: Vec<Shortfall>,
}

/// Where an answer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The service itself; if the answer is degraded, what lies below it has said so.
    Primary,
    /// The rung of this name: an alternate service, a reduced mode, a fixed answer.
    Rung(Arc<str>),
    /// The last good answer.
    LastGood {
        /// Whether it was fresh, or is served because it is refreshed meanwhile, or because that failed.
        freshness: Freshness,
    },
    /// Nothing answered: the failure is passed on.
    Nothing,
}

/// Why a stored answer is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Freshness {
    /// It is fresh.
    Fresh,
    /// The service has just been asked, and has confirmed it.
    Confirmed,
    /// It has just been made, for another call that asked for the same.
    Shared,
    /// It is stale, and is refreshed in the background (RFC 5861, `stale-while-revalidate`).
    WhileRevalidate,
    /// It is stale, and the service failed (RFC 5861, `stale-if-error`).
    IfError,
}

impl Freshness {
    /// As `Cache-Status` details it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Confirmed => "confirmed",
            Self::Shared => "shared",
            Self::WhileRevalidate => "stale-while-revalidate",
            Self::IfError => "stale-if-error",
        }
    }
}

impl Source {
    /// The name in events.
    pub(crate) fn name(&self) -> Arc<str> {
        match self {
            Self::Primary => "upstream".into(),
            Self::Rung(name) => Arc::clone(name),
            Self::LastGood { .. } => "last good answer".into(),
            Self::Nothing => "none".into(),
        }
    }
}

/// One component that did not give its full answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    pub(crate) component: Arc<str>,
    pub(crate) level: Level,
    pub(crate) cause: Cause,
}

impl Shortfall {
    pub(crate) fn new(component: Arc<str>, level: Level, cause: Cause) -> Self {
        Self { component, level, cause }
    }

    /// The name of the service, or of the part.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// How good its answer was all the same.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Why it fell short.
    pub fn cause(&self) -> Cause {
        self.cause
    }
}

/// Why a component fell short. It prints nothing of the request, the response or the error, which may hold secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// It failed; a refusal by a layer below (an open circuit, a deadline) is [`Kind::Refused`].
    Failed(Kind),
    /// It could not become ready.
    NotReady,
    /// It had not answered when its time was over.
    Elapsed,
    /// It panicked.
    Panicked,
    /// Its answer is old, and is being refreshed.
    Stale,
    /// It failed a moment ago, and was not asked again.
    FailedBefore,
    /// As many calls as it may have were under way.
    Full,
    /// It was left out, for this reason.
    Skipped(&'static str),
    /// It has nothing for this request.
    Nothing,
    /// What lies below it was degraded.
    Upstream,
    /// It had to wait, and there is no tokio timer here. No rung is asked: the program is at fault.
    NoTimer,
    /// The request was the caller's fault; only in a closed chain, which has to answer all the same.
    Rejected,
}

impl Cause {
    /// Whether nothing else is to answer in its place.
    pub(crate) fn passes(self) -> bool {
        self.is_answer() || self == Self::NoTimer
    }

    /// Whether the service has answered, though not as it was asked to.
    pub(crate) fn is_answer(self) -> bool {
        matches!(self, Self::Rejected | Self::Failed(Kind::Conflict))
    }

    /// The cause in a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed(Kind::Transient) => "failed",
            Self::Failed(Kind::Throttled) => "was throttled",
            Self::Failed(Kind::Conflict) => "was busy with what was asked for",
            Self::Failed(Kind::Unprocessed) => "gave the request back",
            Self::Failed(Kind::Timeout) => "timed out",
            Self::Failed(Kind::Refused) => "was refused by a layer below",
            Self::Failed(Kind::Permanent) => "failed for good",
            Self::NotReady => "could not become ready",
            Self::Elapsed => "did not answer in time",
            Self::Panicked => "panicked",
            Self::Stale => "is being refreshed",
            Self::FailedBefore => "failed a moment ago",
            Self::Full => "has as many calls as it may have",
            Self::Skipped(why) => why,
            Self::Nothing => "has no answer for this request",
            Self::Upstream => "was degraded itself",
            Self::NoTimer => "had to wait, and has no timer",
            Self::Rejected => "rejected the request",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Served {
    pub(crate) fn new(level: Level, source: Source) -> Self {
        Self(Known::More(Box::new(More { level, source, stored: None, shortfalls: Vec::new() })))
    }

    /// An answer of the store.
    pub(crate) fn stored(level: Level, freshness: Freshness, age: Duration, fresh_for: Duration) -> Self {
        let stored = Stored { age: nanos(age), fresh_for: nanos(fresh_for) };
        if (level, freshness) == (Level::Full, Freshness::Fresh) {
            return Self(Known::Fresh(stored));
        }
        let mut served = Self::new(level, Source::LastGood { freshness });
        served.more().stored = Some(stored);
        served
    }

    /// A fresh answer, of which this is known in nanoseconds.
    #[inline]
    pub(crate) fn fresh(age: u64, fresh_for: u64) -> Self {
        Self(Known::Fresh(Stored { age, fresh_for }))
    }

    pub(crate) fn because(mut self, shortfall: Shortfall) -> Self {
        self.more().shortfalls.push(shortfall);
        self
    }

    /// Of something that is made of several: the age of the oldest, and all that fell short.
    pub(crate) fn of_parts(level: Level, age: Option<Duration>, shortfalls: &[Shortfall]) -> Self {
        let mut served = Self::new(level, Source::Primary);
        served.more().stored = age.map(|age| Stored { age: nanos(age), fresh_for: u64::MAX });
        served.fall_short(shortfalls);
        served
    }

    pub(crate) fn fall_short(&mut self, shortfalls: &[Shortfall]) {
        if !shortfalls.is_empty() {
            self.more().shortfalls.extend_from_slice(shortfalls);
        }
    }

    pub(crate) fn set_level(&mut self, level: Level) {
        self.more().level = level;
    }

    /// How good the answer is.
    pub fn level(&self) -> Level {
        match &self.0 {
            Known::Fresh(_) => Level::Full,
            Known::More(more) => more.level,
        }
    }

    /// Where it comes from.
    pub fn source(&self) -> Source {
        match &self.0 {
            Known::Fresh(_) => Source::LastGood { freshness: Freshness::Fresh },
            Known::More(more) => more.source.clone(),
        }
    }

    pub(crate) fn freshness(&self) -> Option<Freshness> {
        match &self.0 {
            Known::Fresh(_) => Some(Freshness::Fresh),
            Known::More(more) => match more.source {
                Source::LastGood { freshness } => Some(freshness),
                Source::Primary | Source::Rung(_) | Source::Nothing => None,
            },
        }
    }

    /// How old it is, if it was stored: the age that it came with and the time since then.
    pub fn age(&self) -> Option<Duration> {
        self.times().map(|stored| Duration::from_nanos(stored.age))
    }

    /// Up to which age it was fresh, if it was stored; at most 584 years.
    pub fn fresh_for(&self) -> Option<Duration> {
        self.times().map(|stored| Duration::from_nanos(stored.fresh_for))
    }

    /// What fell short: sorted by name, each once.
    pub fn shortfalls(&self) -> &[Shortfall] {
        match &self.0 {
            Known::Fresh(_) => &[],
            Known::More(more) => &more.shortfalls,
        }
    }

    /// One whose rung's own answer was degraded: the level is the worse of the two, and what fell short is all that did.
    pub(crate) fn on_top_of(mut self, below: Option<&Self>) -> Self {
        if let Some(below) = below {
            let (level, is_older) = (self.level().max(below.level()), self.age() < below.age());
            let more = self.more();
            more.level = level;
            if is_older {
                more.stored = below.times();
            }
            more.shortfalls.extend_from_slice(below.shortfalls());
        }
        if let Known::More(more) = &mut self.0 {
            sort(&mut more.shortfalls);
        }
        self
    }

    fn times(&self) -> Option<Stored> {
        match &self.0 {
            Known::Fresh(stored) => Some(*stored),
            Known::More(more) => more.stored,
        }
    }

    fn more(&mut self) -> &mut More {
        if let Known::Fresh(stored) = self.0 {
            let more = Self::new(Level::Full, Source::LastGood { freshness: Freshness::Fresh });
            let Known::More(mut more) = more.0 else { unreachable!("it has just been made") };
            more.stored = Some(stored);
            self.0 = Known::More(more);
        }
        match &mut self.0 {
            Known::More(more) => more,
            Known::Fresh(_) => unreachable!("it has just been changed"),
        }
    }
}

/// Sorts by name, and keeps the worst of each name.
pub(crate) fn sort(shortfalls: &mut Vec<Shortfall>) {
    shortfalls.sort_by(|a, b| a.component.cmp(&b.component).then(b.level.cmp(&a.level)));
    shortfalls.dedup_by(|later, first| later.component == first.component);
}
