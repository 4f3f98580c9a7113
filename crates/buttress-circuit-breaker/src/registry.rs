//! Breakers by key, in bounded memory.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buttress_core::observe::CircuitState;
use buttress_core::{Event, Mode, ModeCell};
use hashbrown::HashTable;

use crate::config::Config;
use crate::shared::{Breaker, Holder, Keyed, Settings};

/// Keys are spread over so many locks, once there are enough of them.
const SHARDS: usize = 16;

#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) settings: Arc<Settings>,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    max_keys: usize,
    /// How many keys there are in all shards, so that none gives one up while there is room.
    known: AtomicUsize,
    /// What breakers of new keys start in.
    mode: ModeCell,
}

/// Entries in the order of the clock's hand, and where each is by the hash of its key.
#[derive(Debug, Default)]
struct Shard {
    entries: Vec<Entry>,
    places: HashTable<u32>,
    hand: usize,
}

#[derive(Debug)]
struct Entry {
    keyed: Arc<Keyed>,
    /// Used since the hand last passed: it gets a second chance.
    used: bool,
}

impl Registry {
    pub(crate) fn new(settings: Arc<Settings>, max_keys: NonZeroUsize) -> Self {
        let count = if max_keys.get() < SHARDS * SHARDS { 1 } else { SHARDS };
        let max_keys = max_keys.get().min(u32::MAX as usize);
        let shards = std::iter::repeat_with(Mutex::default).take(count).collect();
        let mode = ModeCell::new(settings.config().mode);
        Self { settings, hasher: RandomState::new(), shards, max_keys, known: AtomicUsize::new(0), mode }
    }

    /// The breaker of this key, made if it is new.
    pub(crate) fn get(&self, key: &str) -> Arc<Keyed> {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        if let Some(keyed) = shard.find(hash, key) {
            return keyed;
        }
        let mut evicted = None;
        if !self.reserve() && !shard.evict_closed(&self.hasher) {
            if self.shards.len() == 1 {
                evicted = shard.evict_first(&self.hasher);
            } else {
                drop(shard);
                evicted = self.evict();
                shard = self.shard(hash);
                if let Some(keyed) = shard.find(hash, key) {
                    // Somebody else has made it meanwhile; the room is for another.
                    self.known.fetch_sub(1, Relaxed);
                    drop(shard);
                    self.report(evicted);
                    return keyed;
                }
            }
        }
        let breaker = Breaker::new(Arc::clone(&self.settings));
        breaker.set_mode(self.mode.get());
        let keyed = Arc::new(Keyed { breaker, key: key.into() });
        shard.insert(hash, Arc::clone(&keyed), &self.hasher);
        drop(shard);
        self.report(evicted);
        keyed
    }

    /// Takes room for one more key, if there is any.
    fn reserve(&self) -> bool {
        let one_more = |known| Some(known + 1).filter(|&known| known <= self.max_keys);
        self.known.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    /// Makes room for one key, wherever there is a closed circuit; when none is, where one is open whose time ends first. The
    /// key of an open one is returned.
    #[cold]
    fn evict(&self) -> Option<Arc<str>> {
        let mut first: Option<(u64, &Mutex<Shard>)> = None;
        for shard in &self.shards {
            let mut entries = lock(shard);
            if entries.evict_closed(&self.hasher) {
                return None;
            }
            let ends = entries.first().map(|at| entries.ends(at));
            if let Some(ends) = ends.filter(|&ends| first.is_none_or(|first| ends < first.0)) {
                first = Some((ends, shard));
            }
        }
        lock(first?.1).evict_first(&self.hasher)
    }

    fn report(&self, evicted: Option<Arc<str>>) {
        if let Some(key) = evicted {
            self.settings.observer.emit(&self.settings.name, || Event::Evicted { key });
        }
    }

    /// The breaker of this key, if it is known.
    pub(crate) fn known(&self, key: &str) -> Option<Arc<Keyed>> {
        let hash = self.hasher.hash_one(key);
        self.shard(hash).find(hash, key)
    }

    /// Switches all breakers, and those to come.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.set(mode);
        self.all().iter().for_each(|keyed| keyed.breaker.set_mode(mode));
    }

    /// Puts a configuration in force for all breakers. Those to come are made of it already: whoever makes one holds its
    /// shard's lock from before it asks for the configuration until it can be found here.
    pub(crate) fn set_config(&self, config: Config) {
        self.settings.set_config(config);
        self.all().into_iter().for_each(|keyed| Holder::Keyed(keyed).configure());
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode.get()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Keyed>> {
        let shards = self.shards.iter().map(lock);
        shards
            .flat_map(|shard| shard.entries.iter().map(|entry| Arc::clone(&entry.keyed)).collect::<Vec<_>>())
            .collect()
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The table uses the low bits and the top seven.
        lock(&self.shards[(hash >> 32) as usize % self.shards.len()])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn find(&mut self, hash: u64, key: &str) -> Option<Arc<Keyed>> {
        let place = *self.places.find(hash, |&place| *self.entries[place as usize].keyed.key == *key)?;
        let entry = &mut self.entries[place as usize];
        entry.used = true;
        Some(Arc::clone(&entry.keyed))
    }

    fn insert(&mut self, hash: u64, keyed: Arc<Keyed>, hasher: &RandomState) {
        let place = self.entries.len() as u32;
        self.entries.push(Entry { keyed, used: true });
        let entries = &self.entries;
        self.places.insert_unique(hash, place, |&place| hasher.hash_one(&*entries[place as usize].keyed.key));
    }

    /// Lets a closed circuit go, one not used lately before the others; `false` if there is none.
    fn evict_closed(&mut self, hasher: &RandomState) -> bool {
        let len = self.entries.len();
        for _ in 0..2 * len {
            let at = self.hand % len;
            self.hand = at + 1;
            let entry = &mut self.entries[at];
            if entry.keyed.breaker.state().0 != CircuitState::Closed {
                continue;
            }
            if !std::mem::take(&mut entry.used) {
                self.remove(at, hasher);
                return true;
            }
        }
        false
    }

    /// The circuit whose open time ends first.
    fn first(&self) -> Option<usize> {
        (0..self.entries.len()).min_by_key(|&at| self.ends(at))
    }

    /// Isolated circuits go last: an operator's word does not come back by itself.
    fn ends(&self, at: usize) -> u64 {
        match self.entries[at].keyed.breaker.state() {
            (CircuitState::Isolated, ..) => u64::MAX,
            (_, _, until) => until.unwrap_or(0),
        }
    }

    /// Lets the circuit go whose open time ends first, and returns its key.
    fn evict_first(&mut self, hasher: &RandomState) -> Option<Arc<str>> {
        Some(self.remove(self.first()?, hasher))
    }

    fn remove(&mut self, at: usize, hasher: &RandomState) -> Arc<str> {
        let removed = self.entries.swap_remove(at).keyed;
        let place = |key: &str| hasher.hash_one(key);
        if let Ok(found) = self.places.find_entry(place(&removed.key), |&known| known as usize == at) {
            found.remove();
        }
        if let Some(moved) = self.entries.get(at) {
            let last = self.entries.len();
            if let Some(known) =
                self.places.find_mut(place(&moved.keyed.key), |&known| known as usize == last)
            {
                *known = at as u32;
            }
        }
        Arc::clone(&removed.key)
    }
}
