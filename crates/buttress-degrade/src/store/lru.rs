//! What is kept, by key: bounded in bytes. What has not been used for long goes first.

use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::{DefaultHashBuilder, HashTable};

/// What one entry takes beside its key and its value: its place here, and what the allocator rounds up.
pub(crate) const OVERHEAD: usize = 192;

/// A map in several shards, each with a lock, a bound and an order of its own.
///
/// The order is that of arrival, with a second chance: the oldest goes, unless it has been used since its turn came last, and then
/// counts as new. So a hit marks its entry and moves nothing.
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
struct Aligned<V>(Mutex<Shard<V>>);

#[derive(Debug)]
struct Shard<V> {
    table: HashTable<u32>,
    slots: Vec<Slot<V>>,
    free: Vec<u32>,
    /// The newest and the oldest.
    ends: (u32, u32),
    bytes: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Slot<V> {
    hash: u64,
    key: Box<str>,
    /// `None` in a slot that is free.
    value: Option<Arc<V>>,
    bytes: usize,
    used: bool,
    newer: u32,
    older: u32,
}

const NONE: u32 = u32::MAX;

/// A shard smaller than this would refuse answers of common sizes.
const SMALLEST_SHARD: usize = 4 * 1024 * 1024;

impl<V> Lru<V> {
    pub(crate) fn new(max_bytes: usize) -> Self {
        let shards = (max_bytes / SMALLEST_SHARD).clamp(1, 16);
        // The greatest power of two within it.
        let shards = 1 << shards.ilog2();
        let shard = || Aligned(Mutex::new(Shard::new(max_bytes / shards)));
        Self { shards: (0..shards).map(|_| shard()).collect(), hasher: DefaultHashBuilder::default() }
    }

    #[inline(always)]
    fn shard(&self, key: &str) -> (u64, MutexGuard<'_, Shard<V>>) {
        let hash = self.hasher.hash_one(key);
        // The table uses the top bits and the bottom ones.
        let shard = (hash >> 32) as usize & (self.shards.len() - 1);
        (hash, lock(&self.shards[shard]))
    }

    /// The value of this key, which has been used by that.
    #[inline]
    pub(crate) fn get(&self, key: &str) -> Option<Arc<V>> {
        let (hash, mut shard) = self.shard(key);
        let slot = shard.find(hash, key)?;
        let slot = &mut shard.slots[slot as usize];
        // Not written where it is so already: other processors may have it in their caches.
        if !slot.used {
            slot.used = true;
        }
        slot.value.clone()
    }

    /// Keeps this value, unless it alone is too large; whether it is kept. What was there before goes in either case.
    pub(crate) fn insert(&self, key: &str, value: Arc<V>, size: usize) -> bool {
        let bytes = size.saturating_add(key.len()).saturating_add(OVERHEAD);
        let mut gone = Vec::new();
        let (hash, mut shard) = self.shard(key);
        if let Some(old) = shard.find(hash, key) {
            gone.push(shard.remove(old));
        }
        let fits = bytes <= shard.max_bytes;
        if fits {
            while shard.bytes > shard.max_bytes - bytes {
                let oldest = shard.oldest();
                gone.push(shard.remove(oldest));
            }
            shard.add(hash, key, value, bytes);
        }
        // What is dropped may run code of others: not under the lock.
        drop(shard);
        drop(gone);
        fits
    }

    /// Forgets this key; whether it was there.
    pub(crate) fn remove(&self, key: &str) -> bool {
        let (hash, mut shard) = self.shard(key);
        let removed = shard.find(hash, key).map(|slot| shard.remove(slot));
        drop(shard);
        removed.is_some()
    }

    /// Keeps only what this says is worth keeping; how many went.
    pub(crate) fn retain(&self, worth: impl Fn(&V) -> bool) -> usize {
        let mut removed = 0;
        for shard in &self.shards {
            let mut shard = lock(shard);
            let useless = |slot: &Slot<V>| slot.value.as_ref().is_some_and(|value| !worth(value));
            let gone: Vec<u32> =
                (0..).zip(&shard.slots).filter(|(_, slot)| useless(slot)).map(|(at, _)| at).collect();
            let gone: Vec<_> = gone.into_iter().map(|slot| shard.remove(slot)).collect();
            shard.compact();
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
            for shard in &self.shards {
                let mut shard = lock(shard);
                if left > bytes && shard.bytes > 0 {
                    let (all, oldest) = (shard.bytes, shard.oldest());
                    let gone = shard.remove(oldest);
                    left = left.saturating_sub(all - shard.bytes);
                    drop(shard);
                    drop(gone);
                }
            }
            if left == before {
                break;
            }
        }
        self.shards.iter().for_each(|shard| lock(shard).compact());
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).table.len()).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).bytes).sum()
    }
}

fn lock<V>(shard: &Aligned<V>) -> MutexGuard<'_, Shard<V>> {
    shard.0.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<V> Shard<V> {
    fn new(max_bytes: usize) -> Self {
        let (table, slots, free) = (HashTable::new(), Vec::new(), Vec::new());
        Self { table, slots, free, ends: (NONE, NONE), bytes: 0, max_bytes }
    }

    fn find(&self, hash: u64, key: &str) -> Option<u32> {
        self.table.find(hash, |&slot| &*self.slots[slot as usize].key == key).copied()
    }

    fn add(&mut self, hash: u64, key: &str, value: Arc<V>, bytes: usize) {
        let (key, value) = (key.into(), Some(value));
        self.push(Slot { hash, key, value, bytes, used: false, newer: NONE, older: NONE });
    }

    /// As the newest.
    fn push(&mut self, slot: Slot<V>) {
        let (hash, bytes) = (slot.hash, slot.bytes);
        let at = if let Some(free) = self.free.pop() {
            self.slots[free as usize] = slot;
            free
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("four thousand million entries do not fit into memory")
        };
        self.bytes += bytes;
        self.link(at);
        let slots = &self.slots;
        self.table.insert_unique(hash, at, |&slot| slots[slot as usize].hash);
    }

    fn remove(&mut self, at: u32) -> Option<Arc<V>> {
        self.unlink(at);
        let slot = &mut self.slots[at as usize];
        slot.key = Box::default();
        self.bytes -= slot.bytes;
        let (hash, value) = (slot.hash, slot.value.take());
        if let Ok(entry) = self.table.find_entry(hash, |&slot| slot == at) {
            entry.remove();
        }
        self.free.push(at);
        value
    }

    /// Gives back what most of the places took, where most are free.
    fn compact(&mut self) {
        if self.table.len() >= self.slots.len() / 4 {
            return;
        }
        let mut sparse = std::mem::replace(self, Self::new(self.max_bytes));
        let mut at = sparse.ends.1;
        while at != NONE {
            let slot = &mut sparse.slots[at as usize];
            let (key, value) = (std::mem::take(&mut slot.key), slot.value.take());
            self.push(Slot { key, value, newer: NONE, older: NONE, ..*slot });
            at = sparse.slots[at as usize].newer;
        }
    }

    /// Whose turn it is to go. There has to be one.
    fn oldest(&mut self) -> u32 {
        loop {
            let oldest = self.ends.1;
            if !std::mem::take(&mut self.slots[oldest as usize].used) {
                return oldest;
            }
            self.unlink(oldest);
            self.link(oldest);
        }
    }

    fn link(&mut self, at: u32) {
        let newest = std::mem::replace(&mut self.ends.0, at);
        (self.slots[at as usize].newer, self.slots[at as usize].older) = (NONE, newest);
        match newest {
            NONE => self.ends.1 = at,
            newest => self.slots[newest as usize].newer = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let (newer, older) = (self.slots[at as usize].newer, self.slots[at as usize].older);
        match newer {
            NONE => self.ends.0 = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.ends.1 = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EACH: usize = OVERHEAD + 1;

    fn kept(lru: &Lru<u8>) -> String {
        let mut names: Vec<String> = Vec::new();
        for name in 'a'..='f' {
            let (hash, shard) = lru.shard(&name.to_string());
            names.extend(shard.find(hash, &name.to_string()).map(|_| name.to_string()));
        }
        names.concat()
    }

    #[test]
    fn the_oldest_that_was_not_used_goes_first() {
        let lru = Lru::new(3 * EACH);
        for name in ["a", "b", "c"] {
            assert!(lru.insert(name, Arc::new(1), 0));
        }
        assert_eq!(lru.get("a").as_deref(), Some(&1));
        lru.insert("d", Arc::new(4), 0);
        assert_eq!(kept(&lru), "acd");
        lru.insert("c", Arc::new(3), EACH);
        assert_eq!(
            (kept(&lru).as_str(), lru.bytes()),
            ("cd", 3 * EACH),
            "a larger one takes the room of two"
        );
        assert!(!lru.insert("c", Arc::new(3), 3 * EACH), "too large");
        assert_eq!(kept(&lru), "d", "and the old one is out of date");
        assert_eq!((lru.retain(|value| *value != 4), lru.len(), lru.bytes()), (1, 0, 0));
    }

    #[test]
    fn what_is_freed_is_given_back_and_the_order_stays() {
        let lru = Lru::new(SMALLEST_SHARD);
        for n in 0..10_000 {
            lru.insert(&n.to_string(), Arc::new(n % 1000 == 0), 0);
        }
        let places = || {
            let shard = lock(&lru.shards[0]);
            shard.slots.capacity() + shard.table.capacity()
        };
        let before = places();
        assert_eq!(lru.retain(|worth| *worth), 9990);
        assert!(places() < before / 100, "{} of {before}", places());
        let there = |n: u32| {
            lru.shard(&n.to_string()).1.find(lru.hasher.hash_one(n.to_string()), &n.to_string()).is_some()
        };
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

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

        /// Beside the plainest thing that does the same.
        #[test]
        fn it_does_what_a_list_does_and_never_exceeds_its_bound(
            steps in proptest::collection::vec((0_u8..4, 0_u8..6, 0_usize..900), 1..60),
        ) {
            const MAX: usize = 1500;
            let lru = Lru::new(MAX);
            let mut list: Vec<(String, usize, bool)> = Vec::new();
            for (what, key, size) in steps {
                let key = char::from(b'a' + key).to_string();
                let at = list.iter().position(|(name, ..)| *name == key);
                match what {
                    0 | 1 => {
                        at.map(|at| list.remove(at));
                        let bytes = size + OVERHEAD + 1;
                        if bytes <= MAX {
                            while list.iter().map(|(_, bytes, _)| bytes).sum::<usize>() + bytes > MAX {
                                let (name, bytes, used) = list.remove(0);
                                list.extend(used.then_some((name, bytes, false)));
                            }
                            list.push((key.clone(), bytes, false));
                        }
                        lru.insert(&key, Arc::new(0), size);
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
                prop_assert!(lru.bytes() <= MAX);
                let mut names: Vec<&str> = list.iter().map(|(name, ..)| name.as_str()).collect();
                names.sort_unstable();
                prop_assert_eq!(kept(&lru), names.concat());
            }
        }
    }
}
