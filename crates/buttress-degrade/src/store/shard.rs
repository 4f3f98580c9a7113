//! A part of what is kept, under one lock.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashTable;

use super::Entry;
use super::front::Front;

pub(super) struct Shard<V> {
    pub(super) table: HashTable<u32>,
    pub(super) slots: Vec<Slot<V>>,
    free: Vec<u32>,
    /// The newest and the oldest.
    ends: (u32, u32),
    pub(super) bytes: usize,
    pub(super) max_bytes: usize,
}

pub(super) struct Slot<V> {
    pub(super) hash: u64,
    /// `None` in a slot that is free.
    pub(super) entry: Option<Arc<Entry<V>>>,
    pub(super) bytes: usize,
    pub(super) newer: u32,
    pub(super) older: u32,
}

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

impl<V> fmt::Debug for Shard<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shard({} bytes)", self.bytes)
    }
}

impl<V> Shard<V> {
    pub(super) fn new(max_bytes: usize) -> Self {
        let (table, slots, free) = (HashTable::new(), Vec::new(), Vec::new());
        Self { table, slots, free, ends: (NONE, NONE), bytes: 0, max_bytes }
    }

    pub(super) fn find(&self, hash: u64, key: &str) -> Option<u32> {
        let is_it = |&slot: &u32| self.slots[slot as usize].entry.as_ref().is_some_and(|e| *e.key == *key);
        self.table.find(hash, is_it).copied()
    }

    /// As the newest.
    pub(super) fn push(&mut self, slot: Slot<V>, front: &Front<V>) {
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
        if front.grow(self.table.len()) {
            slots.iter().for_each(|slot| slot.entry.iter().for_each(|entry| front.put(slot.hash, entry)));
        } else if let Some(entry) = &slots[at as usize].entry {
            front.put(hash, entry);
        }
    }

    pub(super) fn remove(&mut self, at: u32, front: &Front<V>) -> Option<Arc<Entry<V>>> {
        self.unlink(at);
        let slot = &mut self.slots[at as usize];
        self.bytes -= slot.bytes;
        let (hash, entry) = (slot.hash, slot.entry.take());
        entry.iter().for_each(|entry| front.take(hash, entry));
        if let Ok(entry) = self.table.find_entry(hash, |&slot| slot == at) {
            entry.remove();
        }
        self.free.push(at);
        entry
    }

    /// Gives back what most of the places took, where most are free.
    pub(super) fn compact(&mut self, front: &Front<V>) {
        if self.table.len() >= self.slots.len() / 4 {
            return;
        }
        let mut sparse = std::mem::replace(self, Self::new(self.max_bytes));
        let mut at = sparse.ends.1;
        while at != NONE {
            let slot = &mut sparse.slots[at as usize];
            self.push(Slot { entry: slot.entry.take(), newer: NONE, older: NONE, ..*slot }, front);
            at = sparse.slots[at as usize].newer;
        }
    }

    /// Whose turn it is to go. There has to be one.
    pub(super) fn oldest(&mut self) -> u32 {
        loop {
            let oldest = self.ends.1;
            if !self.slots[oldest as usize].entry.as_ref().is_some_and(|entry| entry.takes_chance()) {
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
