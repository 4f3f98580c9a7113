//! What is served of what is kept.

use std::sync::Arc;

use arc_swap::Guard;
use buttress_core::Level;
use tokio::time::Instant;

use super::{Entry, Held, LastGood};
use crate::recall::{Accepts, Kept};
use crate::served::{Freshness, Served};

/// What is known of a key when a call begins.
pub(crate) enum Look<V> {
    /// It is served at once; and, if this is so, refreshed.
    Serve { entry: Arc<Entry<V>>, served: Served, refresh: bool },
    /// The service is to be asked. There may be something to ask it about.
    Ask(Option<Arc<Entry<V>>>),
}

impl<R: Kept> LastGood<R> {
    pub(crate) fn look(
        &self,
        key: &str,
        now: Instant,
        accepts: impl FnOnce(&R::Record) -> Accepts,
    ) -> Look<R::Record> {
        self.look_at(self.entry(key), now, accepts)
    }

    /// The same of what was found.
    pub(crate) fn look_at(
        &self,
        entry: Option<Arc<Entry<R::Record>>>,
        now: Instant,
        accepts: impl FnOnce(&R::Record) -> Accepts,
    ) -> Look<R::Record> {
        let Some(entry) = entry else { return Look::Ask(None) };
        match accepts(&entry.record) {
            Accepts::No => return Look::Ask(None),
            Accepts::IfConfirmed => return Look::Ask(Some(entry)),
            Accepts::Yes => {}
        }
        let age = entry.age(now);
        let failed = || entry.failed_within(self.config.negative_ttl, now);
        let serve = |freshness: Freshness, level, refresh| {
            (Served::stored(level, freshness, age, entry.lifetime.fresh), refresh)
        };
        let (served, refresh) = match entry.serves(age) {
            Some(Freshness::Fresh) => {
                serve(Freshness::Fresh, Level::Full, age >= entry.refresh_at && !failed())
            }
            Some(stale) => serve(stale, Level::Slight, !failed()),
            None if entry.serves_if_error(age) && failed() => {
                serve(Freshness::IfError, self.config.level, false)
            }
            None => return Look::Ask(Some(entry)),
        };
        Look::Serve { entry, served, refresh }
    }

    /// What is kept under this key, however old.
    #[inline]
    pub(crate) fn held(&self, key: &str) -> Option<Held<R::Record>> {
        self.shared.entries.get(key)
    }

    /// The same, to keep.
    pub(crate) fn entry(&self, key: &str) -> Option<Arc<Entry<R::Record>>> {
        Guard::into_inner(self.held(key)?)
    }

    /// What may be served in place of this entry now that the service has failed: the one that is kept by now, unless it has been
    /// forgotten meanwhile.
    pub(crate) fn after_failure(
        &self,
        key: &str,
        old: &Arc<Entry<R::Record>>,
    ) -> Option<(Arc<Entry<R::Record>>, Served)> {
        let entry = self.entry(key)?;
        let (age, same) = (entry.told_age(), Arc::ptr_eq(&entry, old));
        if !same && !self.rules.is_alike(&entry.record, &old.record) {
            return None;
        }
        let (level, freshness) = match entry.serves(age) {
            Some(Freshness::Fresh) if !same => (Level::Full, Freshness::Fresh),
            _ if entry.serves_if_error(age) => (self.config.level, Freshness::IfError),
            _ => return None,
        };
        let served = Served::stored(level, freshness, age, entry.lifetime.fresh);
        Some((entry, served))
    }
}
