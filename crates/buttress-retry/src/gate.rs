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
    held: Mutex<HashMap<u64, Hold>>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug, Default)]
struct Hold {
    until: u64,
    refuses: bool,
}

/// What is to become of a request that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Waits(Duration),
    /// The server wants a pause that nobody waits for, until it is asked again after this time.
    Refused(Duration),
}

impl Held {
    pub(crate) fn time(self) -> Duration {
        let (Self::Waits(time) | Self::Refused(time)) = self;
        time
    }
}

impl Gate {
    pub(crate) fn new() -> Self {
        let clock = Clock::start();
        Self { clock, last: AtomicU64::new(0), held: Mutex::default(), hasher: RandomState::new() }
    }

    /// Whether a request of this key is held, and for how long.
    pub(crate) fn held(&self, key: u64) -> Option<Held> {
        let last = self.last.load(Relaxed);
        if last == 0 {
            return None;
        }
        let now = self.clock.now();
        if now >= last {
            return None;
        }
        let Hold { until, refuses } = *self.lock().get(&key)?;
        let time = Duration::from_nanos(until.checked_sub(now).filter(|left| *left > 0)?);
        Some(if refuses { Held::Refused(time) } else { Held::Waits(time) })
    }

    /// Lets everybody go.
    pub(crate) fn open(&self) {
        self.lock().clear();
        self.last.store(0, Relaxed);
    }

    /// Holds this key from now, unless it is held for longer already.
    pub(crate) fn hold(&self, key: u64, hold: Held) {
        let now = self.clock.now();
        let end = now.saturating_add(nanos(hold.time()));
        let mut held = self.lock();
        if held.len() >= MAX_KEYS && !held.contains_key(&key) {
            held.retain(|_, hold| hold.until > now);
            if held.len() >= MAX_KEYS {
                let first = held.iter().min_by_key(|(_, hold)| hold.until).map(|(key, _)| *key);
                first.and_then(|key| held.remove(&key));
            }
        }
        let present = held.entry(key).or_default();
        if end >= present.until {
            *present = Hold { until: end, refuses: matches!(hold, Held::Refused(_)) };
        }
        self.last.fetch_max(end, Relaxed);
    }

    pub(crate) fn hash(&self, key: Option<&str>) -> u64 {
        self.hasher.hash_one(key)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Hold>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_held_until_its_time_and_the_longest_hold_counts() {
        let gate = Gate::new();
        assert_eq!(gate.held(1), None);
        gate.hold(1, Held::Waits(Duration::from_secs(2)));
        gate.hold(1, Held::Refused(Duration::from_secs(3)));
        gate.hold(1, Held::Waits(Duration::from_secs(1)));
        assert_eq!((gate.held(1), gate.held(2)), (Some(Held::Refused(Duration::from_secs(3))), None));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(gate.held(1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn its_memory_is_bounded() {
        let gate = Gate::new();
        (0..10_000).for_each(|key| gate.hold(key, Held::Waits(Duration::from_secs(key + 1))));
        assert_eq!(gate.lock().len(), MAX_KEYS);
        assert!(gate.held(9999).is_some() && gate.held(0).is_none());
    }
}
