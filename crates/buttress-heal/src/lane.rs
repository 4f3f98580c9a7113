//! Where calls of a generation leave their marks: one lane for each few threads, so that calls on different threads write no
//! common cache line.

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::task::Waker;

use buttress_core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use buttress_core::sync::{Mutex, MutexGuard};
use slab::Slab;

use crate::signals::{Outcomes, Signals};

/// Calls hold a share in their lane as long as they run, and nobody else does once the generation drains.
///
/// What every call writes comes first, and all of it takes two cache lines, so that lanes which lie side by side do not share
/// one that is written.
#[repr(C)]
pub(crate) struct Lane {
    succeeded: AtomicU64,
    pub(crate) signals: Arc<Signals>,
    /// The calls that wait, to be woken when they are cut off.
    parked: Mutex<Slab<Waker>>,
    failed: AtomicU64,
    ignored: AtomicU64,
    abandoned: AtomicU64,
    _apart: [u64; 3],
}

/// Room for so many calls that wait is kept when none does.
const KEPT: usize = 1024;

impl Lane {
    fn new(signals: Arc<Signals>) -> Self {
        signals.lane_opened();
        let [succeeded, failed, ignored, abandoned] = [(); 4].map(|()| AtomicU64::new(0));
        Self {
            succeeded,
            signals,
            parked: Mutex::new(Slab::new()),
            failed,
            ignored,
            abandoned,
            _apart: [0; 3],
        }
    }

    #[inline]
    pub(crate) fn succeeded(&self) {
        self.succeeded.fetch_add(1, Relaxed);
        self.signals.succeeded();
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
        self.signals.did_not_succeed();
    }

    pub(crate) fn abandoned(&self) {
        self.abandoned.fetch_add(1, Relaxed);
        self.signals.did_not_succeed();
    }

    pub(crate) fn ignored(&self) {
        self.ignored.fetch_add(1, Relaxed);
    }

    /// Adds what has been counted here.
    pub(crate) fn count(&self, outcomes: &mut Outcomes) {
        outcomes.succeeded += self.succeeded.load(Relaxed);
        outcomes.failed += self.failed.load(Relaxed);
        outcomes.ignored += self.ignored.load(Relaxed);
        outcomes.abandoned += self.abandoned.load(Relaxed);
    }

    fn parked(&self) -> MutexGuard<'_, Slab<Waker>> {
        // No user code runs under this lock; a poisoned one is as good as any.
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this waker woken when the generation is closed, in place of the one of an earlier poll. The place is counted from 1.
    ///
    /// The one lock on the way of a healthy call, and only of one that waits: without it, nothing could reach a call that hangs.
    /// It is this thread's, and held for a few instructions.
    pub(crate) fn park(&self, place: &mut Option<NonZeroU32>, waker: &Waker) {
        // Cloned and dropped outside of the lock: a waker is user code.
        let waker = waker.clone();
        let mut parked = self.parked();
        let there = place.and_then(|place| parked.get_mut(place.get() as usize - 1));
        let _old = match there {
            Some(there) => Some(std::mem::replace(there, waker)),
            None => {
                let at = parked.insert(waker);
                *place = u32::try_from(at + 1).ok().and_then(NonZeroU32::new);
                None
            }
        };
        drop(parked);
    }

    pub(crate) fn unpark(&self, place: NonZeroU32) {
        let mut parked = self.parked();
        let waker = parked.try_remove(place.get() as usize - 1);
        if parked.is_empty() && parked.capacity() > KEPT {
            // What a burst has left.
            parked.shrink_to_fit();
        }
        drop(parked);
        drop(waker);
    }

    /// Wakes all calls that wait. Their places stay theirs.
    pub(crate) fn wake_all(&self) {
        // Not cloned under the lock: a waker is user code.
        let take = |(_, waker): (usize, &mut Waker)| std::mem::replace(waker, Waker::noop().clone());
        let wakers: Vec<Waker> = self.parked().iter_mut().map(take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.signals.lane_closed();
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("generation", &self.signals.generation()).finish_non_exhaustive()
    }
}

/// The generation's own shares in its lanes, while it takes calls.
#[derive(Debug)]
pub(crate) struct Lanes(Mutex<Option<Vec<Arc<Lane>>>>);

impl Lanes {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }

    /// A share in the lane for this thread, for one call, unless the generation has ended.
    #[inline]
    pub(crate) fn enter(&self, signals: &Arc<Signals>) -> Option<Arc<Lane>> {
        // A power of two.
        let at = thread() & signals.lanes.len().wrapping_sub(1);
        match signals.lanes.get(at)?.get() {
            Some(lane) => lane.upgrade(),
            None => self.open(signals, at),
        }
    }

    #[cold]
    fn open(&self, signals: &Arc<Signals>, at: usize) -> Option<Arc<Lane>> {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = own.as_mut()?;
        // Another thread with the same lane may have been faster.
        let lane = signals.lanes.get(at)?.get_or_init(|| {
            let lane = Arc::new(Lane::new(Arc::clone(signals)));
            own.reserve_exact(1);
            own.push(Arc::clone(&lane));
            Arc::downgrade(&lane)
        });
        lane.upgrade()
    }

    /// From now on only the calls under way hold the lanes.
    pub(crate) fn drain(&self, signals: &Signals) {
        signals.drain();
        let own = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(own);
    }
}

/// Room for as many lanes as threads can run at once, but for no more than eight.
pub(crate) fn lanes() -> Box<[OnceLock<Weak<Lane>>]> {
    static NUMBER: OnceLock<usize> = OnceLock::new();
    let number = *NUMBER.get_or_init(|| {
        std::thread::available_parallelism().map_or(1, |threads| threads.get().min(8).next_power_of_two())
    });
    (0..number).map(|_| OnceLock::new()).collect()
}

/// Threads are numbered as they come.
#[inline]
fn thread() -> usize {
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    match NUMBER.get() {
        usize::MAX => {
            let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            NUMBER.set(number);
            number
        }
        number => number,
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_models;

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_lane_takes_two_cache_lines_with_its_counts() {
        let counts = 2 * size_of::<usize>();
        assert_eq!(counts + size_of::<Lane>(), 128);
    }

    #[test]
    fn who_is_woken_is_let_go_of_and_not_copied() {
        struct Task;
        impl std::task::Wake for Task {
            fn wake(self: Arc<Self>) {}
        }
        let (lane, task) = (Lane::new(Arc::default()), Arc::new(Task));
        let mut place = None;
        lane.park(&mut place, &Waker::from(Arc::clone(&task)));
        assert_eq!(Arc::strong_count(&task), 2);
        lane.wake_all();
        assert_eq!(Arc::strong_count(&task), 1);
        lane.park(&mut place, &Waker::from(Arc::clone(&task)));
        assert_eq!(
            (place.map(NonZeroU32::get), Arc::strong_count(&task)),
            (Some(1), 2),
            "its place is its own"
        );
    }
}
