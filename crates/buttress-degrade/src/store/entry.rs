use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use buttress_core::clock::{Since, nanos};
use tokio::time::Instant;

use crate::served::Freshness;

/// How long an answer may be used, counted from its birth: its `age` on arrival is a part of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// How old it was when it arrived.
    pub age: Duration,
    /// Up to this age it is fresh.
    pub fresh: Duration,
    /// For so long after that it is served while it is refreshed (RFC 5861 § 3).
    pub while_revalidate: Duration,
    /// For so long after it was fresh it is served if the service fails (RFC 5861 § 4).
    pub if_error: Duration,
}

impl Lifetime {
    /// For how long an answer of this age is of any use yet, without a confirmation.
    pub(crate) fn left(&self, age: Duration) -> Duration {
        let Self { fresh, while_revalidate, if_error, .. } = *self;
        fresh.saturating_add(if_error.max(while_revalidate)).saturating_sub(age)
    }
}

/// An answer that is kept. What a hit reads comes first, so that it is in few cache lines.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Entry<V> {
    pub(crate) key: Arc<str>,
    /// For so long from when it was stored on it is neither to be refreshed nor out of date; and what it takes to say how old it is
    /// by then; in nanoseconds: most of the time that is all that has to be known.
    calm: u64,
    age: u64,
    fresh: u64,
    stored: Since,
    pub(crate) record: V,
    /// When the call began that has brought it here.
    begun: Option<Instant>,
    /// It has been served since its turn to go came last.
    used: AtomicBool,
    /// Somebody is refreshing it.
    refreshing: AtomicBool,
    /// When the service last failed to give a newer one, in nanoseconds since it was stored, plus one.
    failed: AtomicU64,
    pub(crate) lifetime: Lifetime,
    /// From this age on it is refreshed: its lifetime, or a little before that.
    pub(crate) refresh_at: Duration,
}

impl<V> Entry<V> {
    /// As of now.
    pub(crate) fn new(key: Arc<str>, record: V, lifetime: Lifetime, refresh_at: Duration) -> Self {
        let (failed, refreshing, used) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let (age, fresh) = (nanos(lifetime.age), nanos(lifetime.fresh));
        let calm = nanos(refresh_at).min(fresh).saturating_sub(age);
        let stored = Since::now();
        Self {
            key,
            record,
            stored,
            begun: None,
            lifetime,
            refresh_at,
            calm,
            age,
            fresh,
            failed,
            refreshing,
            used,
        }
    }

    /// The same, of a call that began then.
    pub(crate) fn begun(self, begun: Instant) -> Self {
        Self { begun: Some(begun), ..self }
    }

    /// Whether it was asked for after that.
    pub(crate) fn is_newer_than(&self, begun: Instant) -> bool {
        self.begun.is_some_and(|own| own > begun)
    }

    /// Of an answer that is fresh and not to be refreshed: how old it is, and up to when it is fresh.
    #[inline(always)]
    pub(crate) fn calm(&self) -> Option<(u64, u64)> {
        Some((self.age + self.stored.within(self.calm)?, self.fresh))
    }

    pub(crate) fn stored(&self) -> Instant {
        self.stored.instant()
    }

    /// How old it is, as callers are told: by the same clock, whatever they are told it for.
    pub(crate) fn told_age(&self) -> Duration {
        self.calm().map_or_else(|| self.age(Instant::now()), |(age, _)| Duration::from_nanos(age))
    }

    /// How old it is. It counts on the runtime's clock, which does not run backwards.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.lifetime.age.saturating_add(now.saturating_duration_since(self.stored()))
    }

    /// Whether it may be served without asking first, and if so, why.
    pub(crate) fn serves(&self, age: Duration) -> Option<Freshness> {
        let Lifetime { fresh, while_revalidate, .. } = self.lifetime;
        if age < fresh {
            return Some(Freshness::Fresh);
        }
        (age < fresh.saturating_add(while_revalidate)).then_some(Freshness::WhileRevalidate)
    }

    /// Whether it may be served when the service has failed.
    pub(crate) fn serves_if_error(&self, age: Duration) -> bool {
        !self.lifetime.left(age).is_zero()
    }

    /// For how long it is of any use.
    #[cfg(feature = "store")]
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.lifetime.left(self.age(now))
    }

    pub(crate) fn fails(&self, now: Instant) {
        let since = nanos(now.saturating_duration_since(self.stored())).saturating_add(1);
        self.failed.store(since, Ordering::Relaxed);
    }

    /// Has been served. Not written where it is noted already: other processors may have it in their caches.
    #[inline]
    pub(super) fn note_use(&self) {
        if !self.is_used() {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Its turn to go has come: whether it stays, because it has been used since the last time.
    pub(super) fn takes_chance(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn is_refreshing(&self) -> bool {
        self.refreshing.load(Ordering::Relaxed)
    }

    /// Begins to refresh it, until this is dropped; unless somebody else does.
    pub(crate) fn refreshing(self: &Arc<Self>) -> Option<Refreshing<V>> {
        (!self.refreshing.swap(true, Ordering::Relaxed)).then(|| Refreshing(Arc::clone(self)))
    }

    /// Whether the service has failed within this time.
    pub(crate) fn failed_within(&self, time: Duration, now: Instant) -> bool {
        let failed = self.failed.load(Ordering::Relaxed);
        let since = nanos(now.saturating_duration_since(self.stored())).saturating_add(1);
        failed != 0 && since.saturating_sub(failed) < nanos(time)
    }
}

pub(crate) struct Refreshing<V>(Arc<Entry<V>>);

impl<V> Drop for Refreshing<V> {
    fn drop(&mut self) {
        self.0.refreshing.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// HD-47, HD-50, the windows.
    #[tokio::test(start_paused = true)]
    async fn the_windows_begin_where_freshness_ends() {
        let lifetime =
            Lifetime { fresh: secs(600), while_revalidate: secs(30), if_error: secs(1200), age: secs(0) };
        let entry = Entry::new("a".into(), (), lifetime, secs(600));
        let at = |age| (entry.serves(secs(age)), entry.serves_if_error(secs(age)));
        assert_eq!(at(599), (Some(Freshness::Fresh), true));
        assert_eq!(at(600), (Some(Freshness::WhileRevalidate), true));
        assert_eq!(at(630), (None, true));
        assert_eq!((at(1799), at(1800)), ((None, true), (None, false)));
    }

    #[tokio::test(start_paused = true)]
    async fn no_lifetime_overflows_and_a_failure_is_forgotten_in_time() {
        let forever = Lifetime {
            age: secs(5),
            fresh: Duration::MAX,
            while_revalidate: Duration::MAX,
            if_error: Duration::MAX,
        };
        let entry = Entry::new("a".into(), (), forever, Duration::MAX);
        tokio::time::advance(secs(60)).await;
        let now = Instant::now();
        assert_eq!((entry.age(now), entry.serves(entry.age(now))), (secs(65), Some(Freshness::Fresh)));
        assert!(!entry.failed_within(secs(1), now));
        entry.fails(now);
        assert!(entry.failed_within(secs(1), now) && !entry.failed_within(secs(1), now + secs(1)));
    }
}
