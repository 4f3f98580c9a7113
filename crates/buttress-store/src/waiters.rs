//! Who waits for which key in this process.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use buttress_core::{Timer, clock};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::claim::Waited;
use crate::error::{Fault, StoreError};
use crate::key::ScopedKey;

/// The first pause between two looks at a store that others write to, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// Wakes those who wait for a key when this process changes it. For a store that other processes write to as well, one of
/// those who wait looks now and then, on behalf of all.
#[derive(Debug)]
pub(crate) struct Waiters {
    store: &'static str,
    spots: Mutex<HashMap<ScopedKey, Arc<Spot>>>,
}

#[derive(Debug, Default)]
struct Spot {
    changed: Notify,
    /// The last pause; held during one by whoever looks after it.
    looks: tokio::sync::Mutex<Duration>,
}

struct Waiting<'a> {
    waiters: &'a Waiters,
    key: &'a ScopedKey,
    spot: Option<Arc<Spot>>,
}

impl Waiters {
    pub(crate) fn new(store: &'static str) -> Self {
        Self { store, spots: Mutex::default() }
    }

    /// The key may be free now, or done.
    pub(crate) fn wake(&self, key: &ScopedKey) {
        let spot = self.lock().get(key).cloned();
        if let Some(spot) = spot {
            spot.changed.notify_waiters();
        }
    }

    /// Looks until the key is no longer in flight, for `max` at most.
    pub(crate) async fn wait<Looking>(
        &self,
        key: &ScopedKey,
        max: Duration,
        shared: bool,
        look: impl Fn() -> Looking,
    ) -> Result<Waited, StoreError>
    where
        Looking: Future<Output = Result<Waited, StoreError>>,
    {
        if max.is_zero() {
            return look().await;
        }
        let no_timer = |error| StoreError::new(self.store, "wait", Fault::Misconfigured).caused_by(error);
        Timer::at(Instant::now()).map_err(no_timer)?;
        let deadline = clock::after(Instant::now(), max);
        let waiting = self.join(key);
        loop {
            let mut changed = pin!(waiting.spot().changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let found = look().await?;
            let Waited::InFlight { remaining } = found else {
                // Others need not find out by themselves; another fingerprint says nothing to them.
                if matches!(found, Waited::Done(_) | Waited::Free) {
                    waiting.spot().changed.notify_waiters();
                }
                return Ok(found);
            };
            if Instant::now() >= deadline {
                return Ok(found);
            }
            let over = clock::after(Instant::now(), remaining.max(Duration::from_millis(1))).min(deadline);
            if !shared {
                let _ = timeout_at(over, changed).await;
                continue;
            }
            let mut turn = pin!(waiting.spot().looks.lock());
            let mut turned = None;
            let either = poll_fn(|cx| {
                if changed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                turn.as_mut().poll(cx).map(|guard| turned = Some(guard))
            });
            let _ = timeout_at(over, either).await;
            if let Some(mut pause) = turned {
                // Kept until it is over, or this future is dropped: then another one takes the turn.
                *pause = (*pause * 2).clamp(PAUSES.0, PAUSES.1);
                let next = clock::after(Instant::now(), *pause).min(over);
                let _ = timeout_at(next, changed).await;
            }
        }
    }

    fn join<'a>(&'a self, key: &'a ScopedKey) -> Waiting<'a> {
        let spot = self.lock().entry(key.clone()).or_default().clone();
        Waiting { waiters: self, key, spot: Some(spot) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ScopedKey, Arc<Spot>>> {
        self.spots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    fn spot(&self) -> &Spot {
        self.spot.as_ref().expect("taken only when dropped")
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut spots = self.waiters.lock();
        drop(self.spot.take());
        // The last one to leave: the map's is the only one left. Nobody joins while the lock is held.
        if spots.get(self.key).is_some_and(|spot| Arc::strong_count(spot) == 1) {
            spots.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Somebody who waits for one key, and counts how often they looked.
    async fn wait(waiters: Arc<Waiters>, shared: bool, looks: Arc<AtomicU32>, found: Waited) {
        let key = ScopedKey::try_new("", "key").unwrap();
        let look = || async {
            looks.fetch_add(1, Ordering::Relaxed);
            Ok(found.clone())
        };
        waiters.wait(&key, HOUR, shared, look).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_for_one_key_share_the_looks_at_it_and_the_pauses_between_them() {
        let (waiters, looks) = (Arc::new(Waiters::new("test")), Arc::new(AtomicU32::new(0)));
        let mut waiting = JoinSet::new();
        for _ in 0..100 {
            waiting.spawn(wait(waiters.clone(), true, looks.clone(), Waited::InFlight { remaining: HOUR }));
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let more = looks.load(Ordering::Relaxed) - 100;
        assert!((15..40).contains(&more), "{more} looks beside everybody's first");
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_with_another_fingerprint_wakes_nobody() {
        let (waiters, looks) = (Arc::new(Waiters::new("test")), Arc::new(AtomicU32::new(0)));
        let waiting =
            tokio::spawn(wait(waiters.clone(), false, looks.clone(), Waited::InFlight { remaining: HOUR }));
        tokio::task::yield_now().await;
        wait(waiters, false, Arc::default(), Waited::Mismatch).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        waiting.abort();
    }
}
