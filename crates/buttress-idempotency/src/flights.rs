//! The calls that this process has under way, so that their duplicates wait for them without asking the store.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buttress_store::{Fingerprint, Record, ScopedKey};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// So many calls of one flight may come to nothing, before those that wait are told to come back. Not one: whoever waited is
/// to have an answer. Not each: a thousand that wait are no reason to try a thousand times.
const TRIES: u32 = 2;

/// A call. Which of several with one key and different fingerprints has the key, the store decides.
type Id = (ScopedKey, Fingerprint);

#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Id, Arc<Turn<Flight>>>>);

/// Whoever has locked it leads. The lock is fair: the next one is who has waited longest.
#[derive(Debug, Default)]
struct Flight {
    landed: Option<Record>,
    failures: u32,
}

impl Flight {
    fn is_over(&self) -> bool {
        self.landed.is_some() || self.failures >= TRIES
    }
}

pub(crate) enum Joined {
    /// Nobody else is at it: ask the store.
    First(Lead),
    Duplicate(Follower),
}

/// What waiting for another call came to.
pub(crate) enum Followed {
    Landed(Record),
    /// It came to nothing: ask the store in its place.
    Lead(Lead),
    /// So did the next one.
    Failed,
}

impl Flights {
    pub(crate) fn join(self: &Arc<Self>, key: &ScopedKey, fingerprint: Fingerprint) -> Joined {
        let id = (key.clone(), fingerprint);
        let mut flights = self.lock();
        let turn = Arc::clone(flights.entry(id.clone()).or_default());
        drop(flights);
        let seat = Seat { id, flights: Arc::clone(self), turn: Some(Arc::clone(&turn)) };
        match turn.try_lock_owned() {
            Ok(flight) if !flight.is_over() => Joined::First(Lead { flight: Some(flight), seat }),
            _ => Joined::Duplicate(Follower(seat)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Arc<Turn<Flight>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part in a flight. The last one to give it up ends the flight.
#[derive(Debug)]
struct Seat {
    id: Id,
    flights: Arc<Flights>,
    turn: Option<Arc<Turn<Flight>>>,
}

impl Seat {
    /// Whoever comes from now on finds another flight.
    fn close(&self) {
        if let Entry::Occupied(flight) = self.flights.lock().entry(self.id.clone())
            && self.turn.as_ref().is_some_and(|turn| Arc::ptr_eq(turn, flight.get()))
        {
            flight.remove();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // Each part's last reference goes under this lock, so that whoever sees but the map's is the last.
        self.turn = None;
        if flights.get(&self.id).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            flights.remove(&self.id);
        }
    }
}

/// Whoever asks the store for all of this process. Dropping it hands that to who has waited longest.
#[derive(Debug)]
pub(crate) struct Lead {
    flight: Option<OwnedMutexGuard<Flight>>,
    seat: Seat,
}

impl Lead {
    /// Gives the answer to all who wait for it.
    pub(crate) fn land(mut self, record: &Record) {
        if let Some(flight) = &mut self.flight {
            flight.landed = Some(record.clone());
        }
    }

    /// The call came to nothing.
    pub(crate) fn fail(mut self) {
        if let Some(flight) = &mut self.flight {
            flight.failures += 1;
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.flight.as_ref().is_some_and(|flight| flight.is_over()) {
            self.seat.close();
        }
        self.flight = None;
    }
}

pub(crate) struct Follower(Seat);

impl Follower {
    /// Can be dropped at any time.
    pub(crate) async fn wait(self) -> Followed {
        let Self(seat) = self;
        let Some(turn) = seat.turn.clone() else { return Followed::Failed };
        let flight = turn.lock_owned().await;
        match &flight.landed {
            Some(record) => Followed::Landed(record.clone()),
            None if flight.is_over() => Followed::Failed,
            None => Followed::Lead(Lead { flight: Some(flight), seat }),
        }
    }
}
