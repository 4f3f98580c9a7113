//! What has been recorded of a body, and the room for it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

/// Bounds what all recordings hold together.
#[derive(Debug)]
pub(crate) struct Pool {
    used: AtomicUsize,
    limit: usize,
}

impl Pool {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    pub(super) fn take(&self, bytes: usize) -> bool {
        let taken = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.limit);
        self.used.fetch_update(Relaxed, Relaxed, taken).is_ok()
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// What has been recorded; mostly one frame.
#[derive(Debug, Default)]
pub(super) struct Frames {
    first: Option<Bytes>,
    more: Vec<Bytes>,
}

impl Frames {
    pub(super) fn push(&mut self, data: Bytes) {
        if self.first.is_none() {
            self.first = Some(data);
        } else {
            self.more.push(data);
        }
    }

    pub(super) fn get(&self, index: u32) -> Option<&Bytes> {
        match index.checked_sub(1) {
            None => self.first.as_ref(),
            Some(index) => self.more.get(index as usize),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Bytes> + Clone {
        self.first.iter().chain(&self.more)
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }
}
