//! One throttled answer holds back everybody who asks the same server.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use buttress_core::Clock;
use buttress_core::clock::nanos;

/// More keys than this are never held at once; what would end first is let go.
const MAX_KEYS: usize = 1024;

/// Until when each key is held.
#[derive(Debug)]
pub(crate) struct Gate {
    clock: Clock,
    /// When the last hold ends; zero if there never was one.
    last: AtomicU64,
    /// By the hash of the key.
    until: Mutex<HashMap<u64, u64>>,
    hasher: RandomState,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let clock = Clock::start();
        Self { clock, last: AtomicU64::new(0), until: Mutex::default(), hasher: RandomState::new() }
    }

    /// How long a request of this key has to wait.
    pub(crate) fn held(&self, key: u64) -> Option<Duration> {
        let last = self.last.load(Relaxed);
        if last == 0 {
            return None;
        }
        let now = self.clock.now();
        if now >= last {
            return None;
        }
        let until = *self.lock().get(&key)?;
        (until > now).then(|| Duration::from_nanos(until - now))
    }

    /// Lets everybody go.
    pub(crate) fn open(&self) {
        self.lock().clear();
        self.last.store(0, Relaxed);
    }

    /// Holds this key for so long from now, or longer if it is held already.
    pub(crate) fn hold(&self, key: u64, time: Duration) {
        let now = self.clock.now();
        let end = now.saturating_add(nanos(time));
        let mut held = self.lock();
        if held.len() >= MAX_KEYS && !held.contains_key(&key) {
            held.retain(|_, until| *until > now);
            if held.len() >= MAX_KEYS {
                let first = held.iter().min_by_key(|(_, until)| **until).map(|(key, _)| *key);
                first.and_then(|key| held.remove(&key));
            }
        }
        let until = held.entry(key).or_default();
        *until = end.max(*until);
        self.last.fetch_max(end, Relaxed);
    }

    pub(crate) fn hash(&self, key: Option<&str>) -> u64 {
        self.hasher.hash_one(key)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_held_until_its_time_and_the_longest_hold_counts() {
        let gate = Gate::new();
        assert_eq!(gate.held(1), None);
        gate.hold(1, Duration::from_secs(3));
        gate.hold(1, Duration::from_secs(1));
        assert_eq!((gate.held(1), gate.held(2)), (Some(Duration::from_secs(3)), None));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(gate.held(1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn its_memory_is_bounded() {
        let gate = Gate::new();
        (0..10_000).for_each(|key| gate.hold(key, Duration::from_secs(key + 1)));
        assert_eq!(gate.lock().len(), MAX_KEYS);
        assert!(gate.held(9999).is_some() && gate.held(0).is_none());
    }
}
