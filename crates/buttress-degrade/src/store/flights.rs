//! One call of the service for all who ask for the same at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

/// The calls under way, by key.
#[derive(Debug)]
pub(crate) struct Flights<T>(Mutex<Current<T>>);

#[derive(Debug)]
struct Current<T> {
    calls: HashMap<Arc<str>, watch::Receiver<Option<T>>>,
    /// How often something was forgotten.
    forgotten: u64,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::new(Current { calls: HashMap::new(), forgotten: 0 }))
    }
}

/// What becomes of a caller.
pub(crate) enum Joined<T> {
    /// It makes the call.
    Leads(Flight<T>),
    /// It waits for the one that is under way.
    Waits(watch::Receiver<Option<T>>),
}

/// A call under way. Dropped before it has landed, those who wait learn that it is gone.
#[derive(Debug)]
pub(crate) struct Flight<T> {
    key: Arc<str>,
    told: watch::Sender<Option<T>>,
    flights: Arc<Flights<T>>,
    /// How often something had been forgotten when it began.
    forgotten: u64,
    /// From when on others made the same call again.
    released: Option<Instant>,
}

impl<T> Flights<T> {
    pub(crate) fn join(self: &Arc<Self>, key: &str) -> Joined<T> {
        let mut current = self.lock();
        if let Some(told) = current.calls.get(key) {
            return Joined::Waits(told.clone());
        }
        let (told, waits) = watch::channel(None);
        let (key, forgotten): (Arc<str>, _) = (key.into(), current.forgotten);
        current.calls.insert(Arc::clone(&key), waits);
        Joined::Leads(Flight { key, told, flights: Arc::clone(self), forgotten, released: None })
    }

    fn lock(&self) -> MutexGuard<'_, Current<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call under way for this key, or all of them: nobody joins it any more, and its answer is not kept.
    pub(crate) fn forget(&self, key: Option<&str>) {
        let mut current = self.lock();
        current.forgotten = current.forgotten.wrapping_add(1);
        match key {
            Some(key) => drop(current.calls.remove(key)),
            None => current.calls.clear(),
        }
    }

    /// Whether such a call is under way.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.lock().calls.contains_key(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().calls.len()
    }
}

impl<T> Flight<T> {
    pub(crate) fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Tells all who wait. What is to be found by those who come later has to be in the store by now.
    pub(crate) fn land(mut self, outcome: T) {
        self.release(outcome);
    }

    /// The same, while the call goes on.
    pub(crate) fn release(&mut self, outcome: T) {
        self.leave();
        self.released = Some(Instant::now());
        self.told.send_replace(Some(outcome));
    }

    pub(crate) fn released(&self) -> Option<Instant> {
        self.released
    }

    /// Keeps its answer, unless the one of its key has been forgotten since it began; once it is released, unless any has.
    pub(crate) fn keep(&self, keep: impl FnOnce()) {
        let current = self.flights.lock();
        if current.forgotten == self.forgotten || self.is_in(&current) {
            keep();
        }
    }

    fn is_in(&self, current: &Current<T>) -> bool {
        current.calls.get(&self.key).is_some_and(|waits| waits.same_channel(&self.told.subscribe()))
    }

    /// Lets nobody join any more; how many wait.
    pub(crate) fn close(&self) -> usize {
        self.leave();
        self.told.receiver_count()
    }

    fn leave(&self) {
        let mut current = self.flights.lock();
        // After `land` there may be another one of the same key.
        if self.is_in(&current) {
            current.calls.remove(&self.key);
        }
    }
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        self.leave();
    }
}
