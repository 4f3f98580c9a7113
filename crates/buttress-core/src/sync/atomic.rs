//! loom's atomics, of which every access is seen to conflict with every other.
//!
//! Of each atomic loom remembers the last access alone. So a thread that loads and then stores hides that the store
//! conflicts with what another one has loaded before, and the other order of the two is never tried. Here each access is
//! preceded by one that always conflicts, and that, being relaxed and elsewhere, orders nothing else.

use loom::sync::atomic::AtomicU64 as Modelled;
pub use std::sync::atomic::Ordering;

#[derive(Debug)]
pub struct AtomicU64 {
    turn: Modelled,
    value: Modelled,
}

impl AtomicU64 {
    pub fn new(value: u64) -> Self {
        Self { turn: Modelled::new(0), value: Modelled::new(value) }
    }

    fn value(&self) -> &Modelled {
        self.turn.fetch_add(1, Ordering::Relaxed);
        &self.value
    }

    pub fn load(&self, order: Ordering) -> u64 {
        self.value().load(order)
    }

    pub fn store(&self, value: u64, order: Ordering) {
        self.value().store(value, order);
    }

    pub fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.value().swap(value, order)
    }

    pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.value().fetch_add(value, order)
    }

    pub fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.value().fetch_sub(value, order)
    }

    pub fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.value().fetch_and(value, order)
    }

    pub fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.value().fetch_or(value, order)
    }

    pub fn fetch_xor(&self, value: u64, order: Ordering) -> u64 {
        self.value().fetch_xor(value, order)
    }

    pub fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.value().compare_exchange_weak(current, new, success, failure)
    }

    pub fn fetch_update(
        &self,
        set: Ordering,
        fetch: Ordering,
        mut f: impl FnMut(u64) -> Option<u64>,
    ) -> Result<u64, u64> {
        let mut known = self.load(fetch);
        while let Some(next) = f(known) {
            match self.compare_exchange_weak(known, next, set, fetch) {
                Ok(known) => return Ok(known),
                Err(current) => known = current,
            }
        }
        Err(known)
    }
}

impl Default for AtomicU64 {
    fn default() -> Self {
        Self::new(0)
    }
}

impl From<u64> for AtomicU64 {
    fn from(value: u64) -> Self {
        Self::new(value)
    }
}
