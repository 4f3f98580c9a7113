//! The calls that this process has under way, so that their duplicates wait for them without asking the store.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buttress_store::{Fingerprint, Record, ScopedKey};
use tokio::sync::watch;

#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<ScopedKey, Flight>>);

#[derive(Debug)]
struct Flight {
    fingerprint: Fingerprint,
    landed: watch::Receiver<Option<Record>>,
}

pub(crate) enum Joined {
    /// Nobody else is at it: ask the store.
    First(Lead),
    Duplicate(Follower),
    Mismatch,
}

impl Flights {
    pub(crate) fn join(self: &Arc<Self>, key: &ScopedKey, fingerprint: Fingerprint) -> Joined {
        match self.lock().entry(key.clone()) {
            Entry::Occupied(flight) if flight.get().fingerprint != fingerprint => Joined::Mismatch,
            Entry::Occupied(flight) => Joined::Duplicate(Follower(flight.get().landed.clone())),
            Entry::Vacant(vacant) => {
                let (lands, landed) = watch::channel(None);
                vacant.insert(Flight { fingerprint, landed });
                Joined::First(Lead { key: key.clone(), flights: Arc::clone(self), lands })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ScopedKey, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever asks the store for all of this process. Dropping it lets the next one ask.
#[derive(Debug)]
pub(crate) struct Lead {
    key: ScopedKey,
    flights: Arc<Flights>,
    lands: watch::Sender<Option<Record>>,
}

impl Lead {
    /// Gives the answer to all who wait for it.
    pub(crate) fn land(self, record: &Record) {
        self.lands.send_replace(Some(record.clone()));
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        // Before the channel closes, so that whoever this wakes does not find it again.
        self.flights.lock().remove(&self.key);
    }
}

pub(crate) struct Follower(watch::Receiver<Option<Record>>);

impl Follower {
    /// The answer; `None` if there is none, and the store is to be asked.
    pub(crate) async fn landed(mut self) -> Option<Record> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|record| record.clone())
    }
}
