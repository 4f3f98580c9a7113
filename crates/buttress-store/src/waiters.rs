//! Who waits for which key in this process.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// The pause where the store tells of changes.
const LIKELY: Duration = Duration::from_secs(2);

/// How whoever waits for a key learns that it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It is woken.
    Certain,
    /// It is woken, unless the message is lost.
    Likely,
    /// It is woken if this process makes the change, and has to look for others'.
    None,
}

/// Wakes those who wait for a key when it changes. Where changes may go unheard, one of those who wait looks now and then, on
/// behalf of all.
#[derive(Debug)]
pub(crate) struct Waiters {
    store: &'static str,
    spots: Mutex<BTreeMap<(u64, ScopedKey), Arc<Spot>>>,
}

#[derive(Debug, Default)]
struct Spot {
    changed: Notify,
    /// The last pause; held during one by whoever looks after it.
    looks: tokio::sync::Mutex<Duration>,
}

struct Waiting<'a> {
    waiters: &'a Waiters,
    place: (u64, ScopedKey),
    spot: Option<Arc<Spot>>,
}

impl Waiters {
    pub(crate) fn new(store: &'static str) -> Self {
        Self { store, spots: Mutex::default() }
    }

    /// The key may be free now, or done.
    pub(crate) fn wake(&self, key: &ScopedKey) {
        let spots = self.lock();
        // The common case, in which the key is not even hashed.
        if !spots.is_empty()
            && let Some(spot) = spots.get(&(tag(key), key.clone()))
        {
            spot.changed.notify_waiters();
        }
    }

    /// A key with this tag may be free now, or done.
    pub(crate) fn wake_tag(&self, tag: u64) {
        for (_, spot) in self.lock().range((tag, ScopedKey::least())..).take_while(|((at, _), _)| *at == tag)
        {
            spot.changed.notify_waiters();
        }
    }

    /// Any key may be free now, or done; or it is time to change how one waits.
    pub(crate) fn wake_all(&self) {
        for spot in self.lock().values() {
            spot.changed.notify_waiters();
        }
    }

    /// Looks until the key is no longer in flight, for `max` at most. A look says how a change after it is learnt of.
    pub(crate) async fn wait<Looking>(
        &self,
        key: &ScopedKey,
        max: Duration,
        look: impl Fn() -> Looking,
    ) -> Result<Waited, StoreError>
    where
        Looking: Future<Output = Result<(Waited, News), StoreError>>,
    {
        if max.is_zero() {
            return Ok(look().await?.0);
        }
        let no_timer = |error| StoreError::new(self.store, "wait", Fault::Misconfigured).caused_by(error);
        Timer::at(Instant::now()).map_err(no_timer)?;
        let deadline = clock::after(Instant::now(), max);
        let waiting = self.join(key);
        loop {
            let mut changed = pin!(waiting.spot().changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let (found, news) = look().await?;
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
            if news == News::Certain {
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
                let rest = if news == News::Likely {
                    LIKELY
                } else {
                    *pause = (*pause * 2).clamp(PAUSES.0, PAUSES.1);
                    *pause
                };
                let next = clock::after(Instant::now(), rest).min(over);
                let _ = timeout_at(next, changed).await;
            }
        }
    }

    fn join(&self, key: &ScopedKey) -> Waiting<'_> {
        let place = (tag(key), key.clone());
        let spot = self.lock().entry(place.clone()).or_default().clone();
        Waiting { waiters: self, place, spot: Some(spot) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u64, ScopedKey), Arc<Spot>>> {
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
        if spots.get(&self.place).is_some_and(|spot| Arc::strong_count(spot) == 1) {
            spots.remove(&self.place);
        }
    }
}

/// A number by which processes tell each other of a key without naming it, the same in all of them: FNV-1a over the scope's
/// length, the scope and the key.
pub(crate) fn tag(key: &ScopedKey) -> u64 {
    let bytes = (key.scope().len() as u64).to_be_bytes().into_iter();
    let bytes = bytes.chain(key.scope().bytes()).chain(key.key().bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Somebody who waits for one key, and counts how often they looked.
    async fn wait(waiters: Arc<Waiters>, news: News, looks: Arc<AtomicU32>, found: Waited) {
        let look = || async {
            looks.fetch_add(1, Ordering::Relaxed);
            Ok((found.clone(), news))
        };
        waiters.wait(&key("key"), HOUR, look).await.unwrap();
    }

    fn key(key: &str) -> ScopedKey {
        ScopedKey::try_new("", key).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_for_one_key_share_the_looks_at_it_and_the_pauses_between_them() {
        let (waiters, looks) = (Arc::new(Waiters::new("test")), Arc::new(AtomicU32::new(0)));
        let mut waiting = JoinSet::new();
        for _ in 0..100 {
            waiting.spawn(wait(
                waiters.clone(),
                News::None,
                looks.clone(),
                Waited::InFlight { remaining: HOUR },
            ));
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let more = looks.load(Ordering::Relaxed) - 100;
        assert!((15..40).contains(&more), "{more} looks beside everybody's first");
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_with_another_fingerprint_wakes_nobody() {
        let (waiters, looks) = (Arc::new(Waiters::new("test")), Arc::new(AtomicU32::new(0)));
        let waiting = tokio::spawn(wait(
            waiters.clone(),
            News::Certain,
            looks.clone(),
            Waited::InFlight { remaining: HOUR },
        ));
        tokio::task::yield_now().await;
        wait(waiters, News::Certain, Arc::default(), Waited::Mismatch).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        waiting.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_store_tells_of_changes_one_looks_rarely_and_when_it_is_told() {
        let (waiters, looks) = (Arc::new(Waiters::new("test")), Arc::new(AtomicU32::new(0)));
        let waiting = tokio::spawn(wait(
            waiters.clone(),
            News::Likely,
            looks.clone(),
            Waited::InFlight { remaining: HOUR },
        ));
        tokio::time::sleep(Duration::from_millis(10_500)).await;
        assert_eq!(looks.load(Ordering::Relaxed), 6);
        waiters.wake_tag(tag(&key("another")));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(looks.load(Ordering::Relaxed), 6);
        waiters.wake_tag(tag(&key("key")));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(looks.load(Ordering::Relaxed), 7);
        waiters.wake_all();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(looks.load(Ordering::Relaxed), 8);
        waiting.abort();
    }

    #[test]
    fn the_tag_of_a_key_is_the_same_in_every_process_and_release() {
        assert_eq!(tag(&ScopedKey::try_new("ab", "c").unwrap()), 0x6a44_30ca_b4e3_cf71);
        assert_ne!(
            tag(&ScopedKey::try_new("ab", "c").unwrap()),
            tag(&ScopedKey::try_new("a", "bc").unwrap())
        );
    }
}
