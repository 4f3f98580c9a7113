//! Where hits find what is kept without a lock.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwapOption, Guard};

use super::Entry;

/// An entry that stays as long as this does, without being counted by it.
pub(crate) type Held<V> = Guard<Option<Arc<Entry<V>>>>;

/// Places for entries of a shard, by their hashes: what is here is in the shard's table, but not all of that is here.
///
/// It is read by anybody and changed under the shard's lock. What must not be found any more has to be [taken](Self::take)
/// away; what has no place is found in the table. It begins small and grows fourfold, up to one place for each KiB of the shard's bound.
pub(super) struct Front<V> {
    levels: [OnceLock<Box<[Bucket<V>]>>; LEVELS],
    level: AtomicUsize,
    most: usize,
}

const LEVELS: usize = 8;
const SMALLEST: usize = 64;
const WAYS: usize = 4;

/// A cache line: of four places, the hashes tell which to look at.
#[repr(align(64))]
struct Bucket<V>([Place<V>; WAYS]);

struct Place<V> {
    hash: AtomicU64,
    entry: ArcSwapOption<Entry<V>>,
}

impl<V> fmt::Debug for Front<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Front({} places)", self.buckets().len() * WAYS)
    }
}

impl<V> Front<V> {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { levels: Default::default(), level: AtomicUsize::new(0), most: max_bytes / 1024 }
    }

    /// What all of its places together may take.
    pub(super) fn max_bytes(&self) -> usize {
        let places = (0..LEVELS).map(places).take_while(|places| *places <= self.most);
        places.map(|places| places * size_of::<Place<V>>()).sum()
    }

    /// The entry of this key, if it has a place.
    #[inline(always)]
    pub(super) fn get(&self, hash: u64, key: &str) -> Option<Held<V>> {
        let place = self.bucket(hash)?.0.iter().find(|place| place.hash.load(Ordering::Relaxed) == hash)?;
        let held = place.entry.load();
        held.as_ref().is_some_and(|entry| *entry.key == *key).then_some(held)
    }

    /// Gives this entry a place, if there is one that is free, or whose entry has not been used.
    pub(super) fn put(&self, hash: u64, entry: &Arc<Entry<V>>) {
        let Some(Bucket(places)) = self.bucket(hash) else { return };
        let is_free = |place: &&Place<V>| place.entry.load().as_ref().is_none_or(|other| !other.is_used());
        let same = places.iter().find(|place| place.hash.load(Ordering::Relaxed) == hash);
        let place = match same {
            Some(_) => same.filter(is_free),
            None => places.iter().find(is_free),
        };
        if let Some(place) = place {
            place.hash.store(hash, Ordering::Relaxed);
            place.entry.store(Some(Arc::clone(entry)));
        }
    }

    /// Takes this entry away.
    pub(super) fn take(&self, hash: u64, entry: &Arc<Entry<V>>) {
        for place in self.bucket(hash).iter().flat_map(|bucket| &bucket.0) {
            if place.entry.load().as_ref().is_some_and(|other| Arc::ptr_eq(other, entry)) {
                place.hash.store(0, Ordering::Relaxed);
                place.entry.store(None);
            }
        }
    }

    /// Makes more places, where there are too few for so many entries. All of these then have to be [put](Self::put) here again.
    pub(super) fn grow(&self, entries: usize) -> bool {
        let old = self.buckets();
        let level = if old.is_empty() { 0 } else { self.level.load(Ordering::Relaxed) + 1 };
        let places = places(level);
        if entries <= old.len() * WAYS / 4 || level == LEVELS || places > self.most {
            return false;
        }
        self.levels[level].get_or_init(|| (0..places / WAYS).map(|_| Bucket::default()).collect());
        self.level.store(level, Ordering::Release);
        // Whoever still looks there finds nothing, and looks into the table.
        old.iter().flat_map(|bucket| &bucket.0).for_each(|place| place.entry.store(None));
        true
    }

    #[inline(always)]
    fn buckets(&self) -> &[Bucket<V>] {
        self.levels[self.level.load(Ordering::Acquire) % LEVELS].get().map_or(&[], |buckets| buckets)
    }

    #[inline(always)]
    fn bucket(&self, hash: u64) -> Option<&Bucket<V>> {
        let buckets = self.buckets();
        // Their number is a power of two.
        buckets.get(hash as usize & buckets.len().wrapping_sub(1))
    }
}

fn places(level: usize) -> usize {
    SMALLEST << (2 * level)
}

impl<V> Default for Bucket<V> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Place { hash: AtomicU64::new(0), entry: ArcSwapOption::empty() }))
    }
}
