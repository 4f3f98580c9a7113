use buttress_core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Tokens, in amounts of any unit: what is paid is there, and what is earned beyond the size is lost.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: AtomicU64,
    capacity: std::sync::atomic::AtomicU64,
}

impl Bucket {
    pub(super) fn full(capacity: u64) -> Self {
        Self { tokens: AtomicU64::new(capacity), capacity: capacity.into() }
    }

    /// Holds so many from now on; what does not fit any more is lost.
    pub(super) fn resize(&self, capacity: u64) {
        self.capacity.store(capacity, Relaxed);
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, |tokens| Some(tokens.min(capacity)));
    }

    pub(super) fn refill(&self, capacity: u64) {
        self.capacity.store(capacity, Relaxed);
        self.tokens.swap(capacity, Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.tokens.load(Relaxed)
    }

    pub(super) fn add(&self, amount: u64) {
        // A full bucket, which is the usual one, is not written.
        let capacity = self.capacity.load(Relaxed);
        let added = |tokens: u64| (tokens < capacity).then(|| capacity.min(tokens.saturating_add(amount)));
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, added);
    }

    pub(super) fn take(&self, amount: u64) -> bool {
        self.tokens.fetch_update(Relaxed, Relaxed, |tokens| tokens.checked_sub(amount)).is_ok()
    }

    pub(super) fn take_up_to(&self, amount: u64) {
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, |tokens| Some(tokens.saturating_sub(amount)));
    }
}
