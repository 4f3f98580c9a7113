//! One call of the service for all who ask for the same at the same time.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use buttress_core::Backoff;
use hashbrown::HashTable;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Outcome;
use super::alone::Alone;

/// The calls under way, by key.
pub(crate) struct Flights<V> {
    current: Mutex<Current<V>>,
    hasher: RandomState,
}

struct Current<V> {
    calls: HashTable<Call<V>>,
    /// How often something was forgotten, by the [places](place) of their hashes.
    forgotten: [u64; FORGOTTEN],
    alone: Alone,
}

const FORGOTTEN: usize = 64;

fn place(hash: u64) -> usize {
    hash as usize % FORGOTTEN
}

/// Which of the calls for a key: one that differs in this is not for the same callers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Which {
    /// Which of several answers to the same key it is for, as far as that is known.
    pub(crate) variant: Option<u64>,
    /// It is for its caller and the store, and for nobody else.
    pub(crate) alone: bool,
    /// The request has more time than others.
    pub(crate) long: bool,
    /// How long it may take.
    pub(crate) bound: Duration,
    /// The request's own limits, which lie beneath that.
    pub(crate) attempt_limit: Option<Duration>,
    pub(crate) max_retries: Option<u32>,
    pub(crate) backoff: Option<Arc<Backoff>>,
}

impl Which {
    /// Whether a call like this is also for those who would make one like that: it may take longer, but not so long that it holds them
    /// up when it hangs.
    fn serves(&self, other: &Self) -> bool {
        let bounds =
            if other.long { other.bound..=other.bound.saturating_mul(2) } else { other.bound..=other.bound };
        bounds.contains(&self.bound) && *self == Self { bound: self.bound, ..other.clone() }
    }
}

/// A call under way, as those find it who ask for the same.
struct Call<V> {
    key: Arc<str>,
    which: Which,
    /// One may still wait for it. It stays here until it is over, so that it can be forgotten.
    open: bool,
    told: watch::Sender<Option<Outcome<V>>>,
}

impl<V> fmt::Debug for Flights<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flights({})", self.len())
    }
}

impl<V> Default for Flights<V> {
    fn default() -> Self {
        let current = Current { calls: HashTable::new(), forgotten: [0; FORGOTTEN], alone: Alone::default() };
        Self { current: Mutex::new(current), hasher: RandomState::new() }
    }
}

/// What becomes of a caller.
pub(crate) enum Joined<V> {
    /// It makes the call, and waits for it like the others.
    Leads(Flight<V>, Waits<V>),
    /// It waits for the one that is under way.
    Waits(Waits<V>),
    /// It makes a call for itself: the answers of this key are not for others.
    Alone,
}

/// Whoever has this waits: a call for which nobody has it any more goes on for the store alone.
pub(crate) type Waits<V> = watch::Receiver<Option<Outcome<V>>>;

/// A call under way. Dropped before it has landed, those who wait learn that it is gone; dropped before it has begun, that it has
/// to be made again.
pub(crate) struct Flight<V> {
    key: Arc<str>,
    hash: u64,
    told: watch::Sender<Option<Outcome<V>>>,
    flights: Arc<Flights<V>>,
    begun: Option<Instant>,
    /// It is for nobody else, and therefore not among the calls that are found; how often its place had been forgotten when it began.
    alone: Option<u64>,
    /// From when on others made the same call again.
    released: OnceLock<Instant>,
}

impl<V> Flights<V> {
    pub(crate) fn join(self: &Arc<Self>, key: &str, which: &Which) -> Joined<V> {
        let hash = self.hasher.hash_one(key);
        let mut current = self.lock();
        if current.alone.has(hash) {
            return Joined::Alone;
        }
        let same = |call: &Call<V>| call.open && *call.key == *key && call.which.serves(which);
        let under_way = if which.alone { None } else { current.calls.find(hash, same) };
        if let Some(call) = under_way {
            return Joined::Waits(call.told.subscribe());
        }
        let (told, waits) = watch::channel(None);
        let key: Arc<str> = key.into();
        let alone = which.alone.then_some(current.forgotten[place(hash)]);
        if alone.is_none() {
            let call = Call { key: Arc::clone(&key), which: which.clone(), open: true, told: told.clone() };
            current.calls.insert_unique(hash, call, |call| self.hasher.hash_one(&*call.key));
        }
        let (flights, released) = (Arc::clone(self), OnceLock::new());
        Joined::Leads(Flight { key, hash, told, flights, begun: None, alone, released }, waits)
    }

    fn lock(&self) -> MutexGuard<'_, Current<V>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calls under way for this key, or all of them: nobody joins them any more, and their answers are not kept.
    pub(crate) fn forget(&self, key: Option<&str>) {
        let mut current = self.lock();
        let Some(key) = key else {
            current.forgotten.iter_mut().for_each(|often| *often = often.wrapping_add(1));
            return current.calls.clear();
        };
        let hash = self.hasher.hash_one(key);
        let often = &mut current.forgotten[place(hash)];
        *often = often.wrapping_add(1);
        while let Ok(call) = current.calls.find_entry(hash, |call| *call.key == *key) {
            call.remove();
        }
    }

    /// From now on, for a while, each caller of this key makes a call for itself; or no longer.
    pub(crate) fn set_alone(&self, key: &str, alone: bool) {
        let hash = self.hasher.hash_one(key);
        let mut current = self.lock();
        if alone { current.alone.insert(hash) } else { current.alone.remove(hash) }
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().calls.iter().filter(|call| call.open).count()
    }
}

impl<V> Flight<V> {
    pub(crate) fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// It is under way: those who wait for it no longer make it again if it vanishes.
    pub(crate) fn begins(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// When that was.
    pub(crate) fn begun(&self) -> Instant {
        self.begun.unwrap_or_else(Instant::now)
    }

    /// Nobody but its caller waits for it.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// Tells all who wait. What is to be found by those who come later has to be in the store by now.
    pub(crate) fn land(self, outcome: Outcome<V>) {
        self.release(outcome);
    }

    /// The same, while the call goes on.
    pub(crate) fn release(&self, outcome: Outcome<V>) {
        self.leave();
        let _ = self.released.set(Instant::now());
        // What was told first stays: there may be some who have not seen it yet.
        let mut outcome = Some(outcome);
        self.told.send_if_modified(|told| {
            let is_first = told.is_none();
            if is_first {
                *told = outcome.take();
            }
            is_first
        });
    }

    pub(crate) fn released(&self) -> Option<Instant> {
        self.released.get().copied()
    }

    /// Keeps its answer, unless the one of its key has been forgotten since it began; of one that is for nobody else, unless one has whose
    /// hash has the same place.
    pub(crate) fn keep(&self, keep: impl FnOnce()) {
        let current = self.flights.lock();
        let is_kept = match self.alone {
            Some(forgotten) => current.forgotten[place(self.hash)] == forgotten,
            None => current.calls.find(self.hash, |call| call.told.same_channel(&self.told)).is_some(),
        };
        if is_kept {
            keep();
        }
    }

    /// Lets nobody join any more; how many wait.
    pub(crate) fn close(&self) -> usize {
        self.leave();
        self.waits()
    }

    pub(crate) fn waits(&self) -> usize {
        self.told.receiver_count()
    }

    /// Resolves when nobody waits.
    pub(crate) async fn is_left(&self) {
        self.told.closed().await;
    }

    /// Lets nobody join any more, if nobody waits; whether that is so.
    pub(crate) fn gives_up(&self) -> bool {
        let mut current = self.flights.lock();
        let left = self.told.receiver_count() == 0;
        if left {
            self.leave_in(&mut current);
        }
        left
    }

    fn leave(&self) {
        self.leave_in(&mut self.flights.lock());
    }

    fn leave_in(&self, current: &mut Current<V>) {
        if let Some(call) = current.calls.find_mut(self.hash, |call| call.told.same_channel(&self.told)) {
            call.open = false;
        }
    }
}

impl<V> Drop for Flight<V> {
    fn drop(&mut self) {
        // There may be another one of the same key.
        let mut current = self.flights.lock();
        if let Ok(call) = current.calls.find_entry(self.hash, |call| call.told.same_channel(&self.told)) {
            call.remove();
        }
        drop(current);
        if self.begun.is_none() && self.released.get().is_none() {
            self.told.send_replace(Some(Outcome::Again));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_has_not_begun_is_made_again_and_one_that_vanishes_is_not() {
        for begins in [false, true] {
            let flights = Arc::new(Flights::<()>::default());
            let Joined::Leads(mut flight, _) = flights.join("a", &Which::default()) else {
                panic!("nobody else is there")
            };
            let Joined::Waits(mut told) = flights.join("a", &Which::default()) else {
                panic!("it is under way")
            };
            let another = Which { variant: Some(1), ..Which::default() };
            assert!(matches!(flights.join("a", &another), Joined::Leads(..)), "another variant is not");
            if begins {
                flight.begins();
            }
            drop(flight);
            let told = told.wait_for(Option::is_some).await.ok();
            assert_eq!(matches!(told.as_deref(), Some(Some(Outcome::Again))), !begins);
            assert_eq!(flights.len(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_told_first_stays_and_a_call_that_is_released_can_still_be_forgotten() {
        for forgotten in [None, Some("a"), Some("b")] {
            let flights = Arc::new(Flights::<()>::default());
            let Joined::Leads(flight, told) = flights.join("a", &Which::default()) else {
                panic!("the first")
            };
            flight.release(Outcome::Alone(None));
            flight.release(Outcome::Again);
            assert!(matches!(*told.borrow(), Some(Outcome::Alone(None))));
            assert!(matches!(flights.join("a", &Which::default()), Joined::Leads(..)), "it is open no more");
            forgotten.iter().for_each(|key| flights.forget(Some(key)));
            let mut kept = false;
            flight.keep(|| kept = true);
            assert_eq!(kept, forgotten != Some("a"));
            drop(flight);
            assert!(flights.lock().calls.is_empty());
        }
    }

    #[test]
    fn a_call_is_for_those_with_a_little_less_time_and_one_that_is_for_nobody_else_is_not_found() {
        let flights = Arc::new(Flights::<()>::default());
        let secs = |secs| Which { long: true, bound: Duration::from_secs(secs), ..Which::default() };
        let long = flights.join("a", &secs(9));
        assert!(matches!(flights.join("a", &secs(4)), Joined::Leads(..)), "it may take far longer");
        let usual = Which { long: false, ..secs(9) };
        assert!(matches!(flights.join("a", &usual), Joined::Leads(..)), "the layers' own limits are others");
        assert!(matches!(flights.join("a", &secs(5)), Joined::Waits(_)));
        assert!(matches!(flights.join("a", &secs(10)), Joined::Leads(..)));
        let alone = flights.join("a", &Which { alone: true, ..secs(5) });
        assert!(matches!(&alone, Joined::Leads(..)) && flights.len() == 1);
        let is_kept = || {
            let (Joined::Leads(flight, _), mut kept) = (&alone, false) else { panic!("it leads") };
            flight.keep(|| kept = true);
            kept
        };
        // One in so many others looks like it.
        let place = |key: &str| place(flights.hasher.hash_one(key));
        let other = (0..).map(|other| other.to_string()).find(|other| place(other) != place("a"));
        flights.forget(other.as_deref());
        assert!(is_kept());
        flights.forget(Some("a"));
        assert!(!is_kept());
        drop((long, alone));
        assert!(flights.lock().calls.is_empty());
    }

    #[test]
    fn what_is_forgotten_is_joined_by_nobody_in_any_variant() {
        let flights = Arc::new(Flights::<()>::default());
        let keys = [("a", None), ("a", Some(1)), ("b", None)];
        let calls = keys.map(|(key, variant)| flights.join(key, &Which { variant, ..Which::default() }));
        flights.forget(Some("a"));
        assert_eq!(flights.len(), 1);
        let mut kept = Vec::new();
        for (call, (key, _)) in calls.iter().zip(keys) {
            let Joined::Leads(flight, _) = call else { panic!("{key} was not there") };
            flight.keep(|| kept.push(key));
        }
        assert_eq!(kept, ["b"]);
    }
}
