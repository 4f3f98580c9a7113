//! What is kept, by key: bounded in bytes. What has not been used for long goes first.

use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::Guard;
use hashbrown::DefaultHashBuilder;

use super::Entry;
use super::front::{Front, Held};
use super::shard::{NONE, Shard, Slot};

/// What one entry takes beside its key and its value: its place here, and what the allocator rounds up.
pub(crate) const OVERHEAD: usize = 192;

/// A map in several shards, each with a lock, a bound and an order of its own.
///
/// The order is that of arrival, with a second chance: the oldest goes, unless it has been used since its turn came last, and then
/// counts as new. So a hit marks its entry and moves nothing; most find it in the shard's [`Front`] and do not lock.
///
/// A key is hashed once, by foldhash with seeds of its own: whoever chooses keys does not learn which ones collide, and a SipHash would
/// take as long as all of the rest. The bound is hard: room is made before anything is
/// added, and what is larger than a shard's share is not kept.
#[derive(Debug)]
pub(crate) struct Lru<V> {
    shards: Box<[Aligned<V>]>,
    hasher: DefaultHashBuilder,
}

/// In cache lines of its own (processors fetch them in pairs): what locks one does not slow down the other.
#[derive(Debug)]
#[repr(align(128))]
struct Aligned<V> {
    front: Front<V>,
    locked: Locked<V>,
}

/// Apart from what is read without it.
#[derive(Debug)]
#[repr(align(128))]
struct Locked<V>(Mutex<Shard<V>>);

/// A shard smaller than this would refuse answers of common sizes.
const SMALLEST_SHARD: usize = 4 * 1024 * 1024;

impl<V> Lru<V> {
    pub(crate) fn new(max_bytes: usize) -> Self {
        let shards = (max_bytes / SMALLEST_SHARD).clamp(1, 16);
        // The greatest power of two within it.
        let shards = 1 << shards.ilog2();
        let shard = || {
            let max_bytes = max_bytes / shards;
            let front = Front::new(max_bytes);
            let shard = Shard::new(max_bytes - front.max_bytes());
            Aligned { front, locked: Locked(Mutex::new(shard)) }
        };
        Self { shards: (0..shards).map(|_| shard()).collect(), hasher: DefaultHashBuilder::default() }
    }

    #[inline(always)]
    fn shard(&self, key: &str) -> (u64, &Aligned<V>) {
        let hash = self.hasher.hash_one(key);
        // The table and the front use the bottom bits, the table the top ones, too.
        (hash, &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)])
    }

    /// The entry of this key, which has been used by that.
    #[inline(always)]
    pub(crate) fn get(&self, key: &str) -> Option<Held<V>> {
        let (hash, shard) = self.shard(key);
        match shard.front.get(hash, key) {
            Some(held) => {
                held.as_ref()?.note_use();
                Some(held)
            }
            None => shard.get(hash, key),
        }
    }

    /// Keeps this entry, unless it alone is too large, and gives what goes for it: what was there before goes in either case. To drop
    /// that may run code of others, and is not to be done under a lock.
    #[must_use]
    pub(crate) fn insert(&self, entry: Arc<Entry<V>>, size: usize) -> Vec<Arc<Entry<V>>> {
        let bytes = size.saturating_add(entry.key.len()).saturating_add(OVERHEAD);
        let mut gone = Vec::new();
        let (hash, Aligned { front, locked }) = self.shard(&entry.key);
        let mut shard = locked.lock();
        if let Some(old) = shard.find(hash, &entry.key) {
            gone.extend(shard.remove(old, front));
        }
        if bytes > shard.max_bytes {
            gone.push(entry);
            return gone;
        }
        while shard.bytes > shard.max_bytes - bytes {
            let oldest = shard.oldest();
            gone.extend(shard.remove(oldest, front));
        }
        shard.push(Slot { hash, entry: Some(entry), bytes, newer: NONE, older: NONE }, front);
        gone
    }

    /// Forgets this key; whether it was there.
    pub(crate) fn remove(&self, key: &str) -> bool {
        let (hash, Aligned { front, locked }) = self.shard(key);
        let mut shard = locked.lock();
        let removed = shard.find(hash, key).map(|slot| shard.remove(slot, front));
        drop(shard);
        removed.is_some()
    }

    /// Keeps only what this says is worth keeping; how many went.
    pub(crate) fn retain(&self, worth: impl Fn(&Entry<V>) -> bool) -> usize {
        let mut removed = 0;
        for Aligned { front, locked } in &self.shards {
            let mut shard = locked.lock();
            let useless = |slot: &Slot<V>| slot.entry.as_ref().is_some_and(|entry| !worth(entry));
            let gone: Vec<u32> =
                (0..).zip(&shard.slots).filter(|(_, slot)| useless(slot)).map(|(at, _)| at).collect();
            let gone: Vec<_> = gone.into_iter().map(|slot| shard.remove(slot, front)).collect();
            shard.compact(front);
            drop(shard);
            removed += gone.len();
        }
        removed
    }

    /// Forgets what has not been used for longest, one of each shard in turn, until no more than this is left.
    pub(crate) fn shrink_to(&self, bytes: usize) {
        let mut left = self.bytes();
        while left > bytes {
            let before = left;
            for Aligned { front, locked } in &self.shards {
                let mut shard = locked.lock();
                if left > bytes && shard.bytes > 0 {
                    let (all, oldest) = (shard.bytes, shard.oldest());
                    let gone = shard.remove(oldest, front);
                    left = left.saturating_sub(all - shard.bytes);
                    drop(shard);
                    drop(gone);
                }
            }
            if left == before {
                break;
            }
        }
        self.shards.iter().for_each(|shard| shard.locked.lock().compact(&shard.front));
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.locked.lock().table.len()).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.locked.lock().bytes).sum()
    }
}

impl<V> Aligned<V> {
    /// In the table, and from now on in front if there is room.
    #[cold]
    #[inline(never)]
    fn get(&self, hash: u64, key: &str) -> Option<Held<V>> {
        let shard = self.locked.lock();
        let entry = shard.slots[shard.find(hash, key)? as usize].entry.as_ref()?;
        entry.note_use();
        self.front.put(hash, entry);
        Some(Guard::from_inner(Some(Arc::clone(entry))))
    }
}

impl<V> Locked<V> {
    fn lock(&self) -> MutexGuard<'_, Shard<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::store::Lifetime;
    use proptest::prelude::*;

    const EACH: usize = OVERHEAD + 1;

    fn entry<V>(key: &str, value: V) -> Arc<Entry<V>> {
        Arc::new(Entry::new(key.into(), value, Lifetime::default(), std::time::Duration::ZERO))
    }

    fn is_there<V>(lru: &Lru<V>, key: &str) -> bool {
        let (hash, shard) = lru.shard(key);
        shard.locked.lock().find(hash, key).is_some()
    }

    fn kept(lru: &Lru<u8>) -> String {
        let mut names: Vec<String> = Vec::new();
        for name in 'a'..='f' {
            names.extend(is_there(lru, &name.to_string()).then(|| name.to_string()));
        }
        names.concat()
    }

    #[test]
    fn the_oldest_that_was_not_used_goes_first() {
        let lru = Lru::new(3 * EACH);
        for name in ["a", "b", "c"] {
            assert!(lru.insert(entry(name, 1), 0).is_empty());
        }
        assert_eq!(lru.get("a").and_then(|held| Some(held.as_ref()?.record)), Some(1));
        assert_eq!(&*lru.insert(entry("d", 4), 0)[0].key, "b");
        assert_eq!(kept(&lru), "acd");
        assert_eq!(lru.insert(entry("c", 3), EACH).len(), 2);
        assert_eq!(
            (kept(&lru).as_str(), lru.bytes()),
            ("cd", 3 * EACH),
            "a larger one takes the room of two"
        );
        assert_eq!(lru.insert(entry("c", 3), 3 * EACH).len(), 2, "too large");
        assert_eq!(kept(&lru), "d", "and the old one is out of date");
        assert_eq!((lru.retain(|entry| entry.record != 4), lru.len(), lru.bytes()), (1, 0, 0));
    }

    #[test]
    fn what_is_freed_is_given_back_and_the_order_stays() {
        let lru = Lru::new(SMALLEST_SHARD);
        for n in 0..10_000 {
            drop(lru.insert(entry(&n.to_string(), n % 1000 == 0), 0));
        }
        let places = || {
            let shard = lru.shards[0].locked.lock();
            shard.slots.capacity() + shard.table.capacity()
        };
        let before = places();
        assert_eq!(lru.retain(|entry| entry.record), 9990);
        assert!(places() < before / 100, "{} of {before}", places());
        let there = |n: u32| is_there(&lru, &n.to_string());
        let bytes = lru.bytes();
        assert_eq!((bytes, lru.len()), (10 * OVERHEAD + 4 * 9 + 1, 10));
        for left in (0..10).rev() {
            assert_eq!(
                (0..10).filter(|n| there(n * 1000)).collect::<Vec<_>>(),
                (9 - left..10).collect::<Vec<_>>()
            );
            lru.shrink_to(lru.bytes() - 1);
        }
        assert!(lru.bytes() == 0 && places() < 20);
    }

    #[test]
    fn what_has_no_place_in_front_is_found_all_the_same_and_what_is_gone_is_not() {
        let lru = Lru::new(SMALLEST_SHARD);
        let keys: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
        let value = |key: &String| lru.get(key).and_then(|held| Some(held.as_ref()?.record));
        for (n, key) in keys.iter().enumerate() {
            drop(lru.insert(entry(key, n), 0));
            assert_eq!(value(&keys[n / 2]), Some(n / 2));
        }
        for (n, key) in keys.iter().enumerate() {
            assert_eq!((value(key), value(key)), (Some(n), Some(n)));
        }
        let in_front =
            |key: &&String| lru.shards[0].front.get(lru.hasher.hash_one(key.as_str()), key).is_some();
        let places = keys.iter().filter(in_front).count();
        assert!((2000..=4096).contains(&places), "{places} of 4,096");
        for (n, key) in keys.iter().enumerate() {
            if n % 2 == 0 {
                assert!(lru.remove(key));
            } else {
                drop(lru.insert(entry(key, 2 * n), 0));
            }
            assert_eq!(value(key), (n % 2 == 1).then_some(2 * n));
        }
        lru.retain(|_| false);
        assert!(!keys.iter().any(|key| value(key).is_some()) && keys.iter().filter(in_front).count() == 0);
    }

    #[test]
    fn nobody_finds_what_was_forgotten_before_he_looked() {
        let lru = Lru::new(SMALLEST_SHARD);
        let forgotten = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while forgotten.load(Ordering::SeqCst) < 20_000 {
                        let before = forgotten.load(Ordering::SeqCst);
                        let found = lru.get("a").and_then(|held| Some(held.as_ref()?.record));
                        assert!(
                            found.is_none_or(|found| found > before),
                            "{found:?}, {before} were forgotten"
                        );
                    }
                });
            }
            for n in 1..=20_000 {
                drop(lru.insert(entry("a", n), 0));
                lru.remove("a");
                forgotten.store(n, Ordering::SeqCst);
            }
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

        /// Beside the plainest thing that does the same.
        #[test]
        fn it_does_what_a_list_does_and_never_exceeds_its_bound(
            steps in proptest::collection::vec((0_u8..4, 0_u8..6, 0_usize..900), 1..60),
            has_front in proptest::bool::ANY,
        ) {
            let lru = Lru::new(if has_front { 150_000 } else { 1500 });
            let max = lru.shards[0].locked.lock().max_bytes;
            let mut list: Vec<(String, usize, bool)> = Vec::new();
            for (what, key, size) in steps {
                let key = char::from(b'a' + key).to_string();
                let at = list.iter().position(|(name, ..)| *name == key);
                let size = if has_front { size * 100 } else { size };
                match what {
                    0 | 1 => {
                        at.map(|at| list.remove(at));
                        let bytes = size + OVERHEAD + 1;
                        if bytes <= max {
                            while list.iter().map(|(_, bytes, _)| bytes).sum::<usize>() + bytes > max {
                                let (name, bytes, used) = list.remove(0);
                                list.extend(used.then_some((name, bytes, false)));
                            }
                            list.push((key.clone(), bytes, false));
                        }
                        drop(lru.insert(entry(&key, 0), size));
                    }
                    2 => {
                        at.iter().for_each(|at| list[*at].2 = true);
                        prop_assert_eq!(lru.get(&key).is_some(), at.is_some());
                    }
                    _ => {
                        prop_assert_eq!(lru.remove(&key), at.is_some());
                        at.map(|at| list.remove(at));
                    }
                }
                let bytes: usize = list.iter().map(|(_, bytes, _)| bytes).sum();
                prop_assert_eq!((lru.len(), lru.bytes()), (list.len(), bytes));
                prop_assert!(lru.bytes() <= max);
                let mut names: Vec<&str> = list.iter().map(|(name, ..)| name.as_str()).collect();
                names.sort_unstable();
                prop_assert_eq!(kept(&lru), names.concat());
            }
        }
    }
}
