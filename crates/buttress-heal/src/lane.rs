//! Where calls of a generation leave their marks: one lane for each few threads, so that calls on different threads write no
//! common cache line.

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;

use buttress_core::sync::Mutex;
use buttress_core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use slab::Slab;
use tokio::sync::{Notify, oneshot};

use crate::latencies::Latencies;
use crate::signals::Outcomes;

/// Calls hold a share in their lane as long as they run, and nobody else does once the generation drains: the last one to end
/// lets go of the lane, and of the last share in what says so.
#[repr(align(64))]
pub(crate) struct Lane {
    succeeded: AtomicU64,
    failed: AtomicU64,
    pub(crate) ignored: AtomicU64,
    abandoned: AtomicU64,
    pub(crate) state: Arc<State>,
    /// The calls that wait, to be woken when they are cut off.
    parked: Mutex<Slab<Waker>>,
    _drained: Arc<oneshot::Sender<()>>,
}

impl Lane {
    fn new(state: &Arc<State>, drained: &Arc<oneshot::Sender<()>>) -> Self {
        let [succeeded, failed, ignored, abandoned] = [(); 4].map(|()| AtomicU64::new(0));
        let (state, parked) = (Arc::clone(state), Mutex::new(Slab::new()));
        Self { succeeded, failed, ignored, abandoned, state, parked, _drained: Arc::clone(drained) }
    }

    /// As many lanes as are of use, and what resolves when all of them are gone.
    pub(crate) fn several(state: &Arc<State>) -> (Box<[Arc<Self>]>, oneshot::Receiver<()>) {
        let (sender, drained) = oneshot::channel();
        let sender = Arc::new(sender);
        ((0..number()).map(|_| Arc::new(Self::new(state, &sender))).collect(), drained)
    }

    #[inline]
    pub(crate) fn succeeded(&self) {
        self.succeeded.fetch_add(1, Relaxed);
        self.state.succeeded();
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
        self.state.did_not_succeed();
    }

    pub(crate) fn abandoned(&self) {
        self.abandoned.fetch_add(1, Relaxed);
        self.state.did_not_succeed();
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
        drop(parked);
        drop(waker);
    }

    /// Wakes all calls that wait. Their places stay theirs.
    pub(crate) fn wake_all(&self) {
        let wakers: Vec<Waker> = self.parked().iter().map(|(_, waker)| waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("generation", &self.state.generation).finish_non_exhaustive()
    }
}

/// The lane for this thread, while the generation takes calls.
#[inline]
pub(crate) fn enter(lanes: &[Weak<Lane>]) -> Option<Arc<Lane>> {
    // A power of two.
    lanes.get(thread() & lanes.len().wrapping_sub(1))?.upgrade()
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

/// As many as threads can run at once, but no more than eight: each takes a few cache lines in every generation.
fn number() -> usize {
    static NUMBER: OnceLock<usize> = OnceLock::new();
    *NUMBER.get_or_init(|| {
        std::thread::available_parallelism().map_or(1, |threads| threads.get().min(8).next_power_of_two())
    })
}

/// Another generation takes the calls now.
const SUPERSEDED: u8 = 1;
/// Nobody but calls holds its lanes.
const DRAINING: u8 = 2;
/// What still runs is cut off.
const CLOSED: u8 = 4;
/// It takes only so many calls at once.
const SLOW_START: u8 = 8;
/// Somebody wants to know how long its calls take.
const TIMED: u8 = 16;

/// What is true of a whole generation, and seldom changes.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) generation: u64,
    flags: AtomicU8,
    /// Calls in a row that have not succeeded.
    streak: AtomicU32,
    pub(crate) alarm: Arc<Alarm>,
    latencies: OnceLock<Box<Latencies>>,
}

impl State {
    pub(crate) fn new(generation: u64, alarm: &Arc<Alarm>, slow_start: bool) -> Self {
        let flags =
            if slow_start { SLOW_START } else { 0 } | if alarm.timed.load(Relaxed) { TIMED } else { 0 };
        let flags = AtomicU8::new(flags);
        let (streak, latencies) = (AtomicU32::new(0), OnceLock::new());
        Self { generation, flags, streak, alarm: Arc::clone(alarm), latencies }
    }

    /// Whether it takes calls, as many as come.
    #[inline]
    pub(crate) fn flows(&self) -> bool {
        self.flags.load(Acquire) & !TIMED == 0
    }

    /// Whether a call that was let in may begin, and if so, whether its time is taken.
    #[inline]
    pub(crate) fn takes_a_call(&self) -> Option<bool> {
        let flags = self.flags.load(Acquire);
        (flags & CLOSED == 0).then_some(flags & TIMED != 0)
    }

    pub(crate) fn time(&self) {
        self.alarm.timed.store(true, Relaxed);
        self.flags.fetch_or(TIMED, Relaxed);
    }

    pub(crate) fn starts_slowly(&self) -> bool {
        self.flags.load(Acquire) & SLOW_START != 0
    }

    pub(crate) fn is_superseded(&self) -> bool {
        self.flags.load(Acquire) & SUPERSEDED != 0
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.flags.load(Acquire) & DRAINING != 0
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.flags.load(Acquire) & CLOSED != 0
    }

    pub(crate) fn end_slow_start(&self) {
        self.flags.fetch_and(!SLOW_START, Release);
    }

    pub(crate) fn supersede(&self) {
        self.flags.fetch_or(SUPERSEDED, Release);
    }

    pub(crate) fn drain(&self) {
        self.flags.fetch_or(SUPERSEDED | DRAINING, Release);
    }

    pub(crate) fn close(&self) {
        self.flags.fetch_or(SUPERSEDED | CLOSED, Release);
    }

    #[inline]
    pub(crate) fn succeeded(&self) {
        if self.streak.load(Relaxed) != 0 {
            self.streak.store(0, Relaxed);
        }
    }

    /// A call failed, or its caller left. So many in a row are a reason to look, but not those of a generation that is gone.
    pub(crate) fn did_not_succeed(&self) {
        let streak = self.streak.fetch_add(1, Relaxed).wrapping_add(1);
        if streak % self.alarm.after == 0 && !self.is_superseded() {
            self.alarm.raised.notify_one();
        }
    }

    /// It cannot take a call: no need to see that several times.
    pub(crate) fn is_broken(&self) {
        self.streak.fetch_max(self.alarm.after, Relaxed);
        if !self.is_superseded() {
            self.alarm.raised.notify_one();
        }
    }

    pub(crate) fn streak(&self) -> u32 {
        self.streak.load(Relaxed)
    }

    pub(crate) fn latencies(&self) -> &Latencies {
        self.latencies.get_or_init(Box::default)
    }
}

/// What all generations of a service have in common: who is told that calls fail, and whether anybody wants to know how long
/// they take.
#[derive(Debug)]
pub(crate) struct Alarm {
    pub(crate) name: Arc<str>,
    pub(crate) raised: Notify,
    pub(crate) timed: AtomicBool,
    /// So many calls in a row that did not succeed.
    after: u32,
}

impl Alarm {
    pub(crate) fn new(name: Arc<str>, after: u32) -> Self {
        Self { name, raised: Notify::new(), timed: AtomicBool::new(false), after: after.max(1) }
    }
}

impl Default for Alarm {
    fn default() -> Self {
        Self::new("".into(), 1)
    }
}
