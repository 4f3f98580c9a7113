//! What is kept, in memory and behind it.

use std::sync::Arc;
use std::time::Duration;

use buttress_core::Rng;
use buttress_core::clock::nanos;
use tokio::time::Instant;

use super::behind::Behind;
use super::{Entry, Flight, LastGood, Lifetime};
use crate::recall::Kept;
use crate::shared::Told;

impl<R: Kept> LastGood<R> {
    /// Keeps the answer of this call. Even where it is not kept, those who wait for it get it.
    pub(crate) fn insert(
        &self,
        flight: &Flight<R::Record>,
        record: R::Record,
        lifetime: Lifetime,
    ) -> Arc<Entry<R::Record>> {
        let (entry, size) = self.entry_of(flight, record, lifetime);
        let entry = Arc::new(entry.begun(flight.begun()));
        // What is dropped or told may run code of others: not under the lock of the flights.
        let (mut gone, mut put) = (Vec::new(), None);
        flight.keep(|| {
            let key = flight.key();
            let newer = |kept: &Arc<Entry<R::Record>>| {
                let late = flight.released().is_some_and(|released| kept.stored() >= released);
                late || kept.is_newer_than(flight.begun())
            };
            let kept = self.entry(key);
            if !kept.as_ref().is_some_and(newer) {
                gone = self.shared.entries.insert(Arc::clone(&entry), size);
                if let Some(behind) = &self.behind {
                    put = Some(behind.put(key, &entry, flight.begun(), size));
                }
            }
            gone.extend(kept);
        });
        drop(gone);
        if let Some(behind) = &self.behind {
            if let Some(Err(_)) = put {
                behind.overflows();
            }
            self.write_behind(behind);
        }
        entry
    }

    /// Whether there is a store behind the memory.
    pub(crate) fn is_backed(&self) -> bool {
        self.behind.is_some()
    }

    /// What the store behind the memory has, if it is newer than what there was.
    pub(crate) async fn recall(
        &self,
        key: &str,
        old: Option<&Entry<R::Record>>,
        told: &Told,
    ) -> Option<(R::Record, Lifetime)> {
        let behind = self.behind.as_ref()?;
        self.write_behind(behind);
        // Of what is never fresh none would spare the call.
        if old.is_some_and(|old| old.lifetime.fresh.is_zero()) {
            return None;
        }
        let (record, lifetime) = behind.recall(key, told).await?;
        let newer = old.is_none_or(|old| lifetime.age < old.age(Instant::now()));
        newer.then_some((record, lifetime))
    }

    /// Keeps in memory what the store behind it has, and gives what there is then, which another call may have brought; nothing if that
    /// is of no use, or was forgotten meanwhile.
    pub(crate) fn adopt(
        &self,
        flight: &Flight<R::Record>,
        record: R::Record,
        lifetime: Lifetime,
    ) -> Option<Arc<Entry<R::Record>>> {
        let (entry, size) = self.entry_of(flight, record, lifetime);
        let entry = Arc::new(entry);
        if entry.serves(lifetime.age).is_none() && !entry.serves_if_error(lifetime.age) {
            return None;
        }
        let (mut gone, mut adopted) = (Vec::new(), None);
        flight.keep(|| {
            let kept = self.entry(flight.key());
            let newer = kept.as_ref().filter(|kept| kept.age(Instant::now()) <= lifetime.age);
            adopted = Some(Arc::clone(newer.unwrap_or(&entry)));
            if newer.is_none() {
                gone = self.shared.entries.insert(Arc::clone(&entry), size);
            }
            gone.extend(kept);
        });
        drop(gone);
        adopted
    }

    /// As of now, and how many bytes it takes.
    fn entry_of(
        &self,
        flight: &Flight<R::Record>,
        record: R::Record,
        lifetime: Lifetime,
    ) -> (Entry<R::Record>, usize) {
        let size = self.rules.size(&record).saturating_add(size_of::<Entry<R::Record>>());
        let fresh = nanos(lifetime.fresh);
        let early = fresh / 100 * u64::from(self.config.jitter);
        let refresh_at = if early == 0 { fresh } else { Rng::from_system().between(fresh - early, fresh) };
        let refresh_at =
            if refresh_at == u64::MAX { Duration::MAX } else { Duration::from_nanos(refresh_at) };
        (Entry::new(Arc::clone(flight.key()), record, lifetime, refresh_at), size)
    }

    pub(super) fn write_behind(&self, behind: &Arc<Behind<R::Record>>) {
        if let Some(writer) = behind.writer() {
            self.shared.writers.spawn(writer.write());
        }
    }
}
