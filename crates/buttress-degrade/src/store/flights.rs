//! One call of the service for all who ask for the same at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// The calls under way, by key.
#[derive(Debug)]
pub(crate) struct Flights<T>(Mutex<HashMap<Arc<str>, watch::Receiver<Option<T>>>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::default())
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
}

impl<T> Flights<T> {
    pub(crate) fn join(self: &Arc<Self>, key: &str) -> Joined<T> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = flights.get(key) {
            return Joined::Waits(told.clone());
        }
        let (told, waits) = watch::channel(None);
        let key: Arc<str> = key.into();
        flights.insert(Arc::clone(&key), waits);
        Joined::Leads(Flight { key, told, flights: Arc::clone(self) })
    }

    /// Whether such a call is under way.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl<T> Flight<T> {
    pub(crate) fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Tells all who wait. What is to be found by those who come later has to be in the store by now.
    pub(crate) fn land(self, outcome: T) {
        self.leave();
        self.told.send_replace(Some(outcome));
    }

    /// Lets nobody join any more; how many wait.
    pub(crate) fn close(&self) -> usize {
        self.leave();
        self.told.receiver_count()
    }

    fn leave(&self) {
        let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        // After `land` there may be another one of the same key.
        if flights.get(&self.key).is_some_and(|waits| waits.same_channel(&self.told.subscribe())) {
            flights.remove(&self.key);
        }
    }
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        self.leave();
    }
}
