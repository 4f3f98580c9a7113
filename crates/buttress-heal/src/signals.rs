use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use buttress_core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use tokio::sync::Notify;

use crate::gate::Hub;
use crate::lane::{Lane, lanes};
use crate::latencies::Latencies;

/// What the calls of one generation met. The calls of other generations have no part in it.
#[derive(Debug, Default)]
pub struct Signals {
    generation: u64,
    /// [`SUPERSEDED`] and the others.
    flags: AtomicU64,
    /// Calls in a row that have not succeeded.
    streak: AtomicU64,
    pub(crate) hub: Arc<Hub>,
    /// Each made when the first thread needs it.
    pub(crate) lanes: Box<[OnceLock<Weak<Lane>>]>,
    /// Lanes that there are.
    open: AtomicU64,
    /// There are none any more.
    drained: Notify,
    latencies: OnceLock<Box<Latencies>>,
}

/// How the calls of a generation have ended so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcomes {
    /// They succeeded, or were rejected as the caller's fault, or throttled, or met a conflict: the dependency was there and answered.
    pub succeeded: u64,
    /// They failed.
    pub failed: u64,
    /// They were neutral, or refused by a layer below.
    pub ignored: u64,
    /// Their callers went away, or they were cut off when their generation was closed.
    pub abandoned: u64,
    /// They are under way, or about to begin: an instance that is ready counts.
    pub in_flight: u64,
}

/// Another generation takes the calls now.
const SUPERSEDED: u64 = 1;
/// Nobody but calls holds its lanes.
const DRAINING: u64 = 2;
/// What still runs is cut off.
const CLOSED: u64 = 4;
/// It takes only so many calls at once.
const SLOW_START: u64 = 8;
/// Somebody wants to know how long its calls take.
const TIMED: u64 = 16;

impl Signals {
    pub(crate) fn new(generation: u64, hub: &Arc<Hub>, slow_start: bool) -> Self {
        let slow_start = if slow_start { SLOW_START } else { 0 };
        let timed = if hub.timed.load(Relaxed) { TIMED } else { 0 };
        let (flags, hub, lanes) = (AtomicU64::new(slow_start | timed), Arc::clone(hub), lanes());
        Self { generation, flags, hub, lanes, ..Self::default() }
    }

    /// The generation that they are of; 0 for a service that takes no calls yet.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How its calls have ended so far. Of a generation that has drained, nothing is known any more.
    pub fn outcomes(&self) -> Outcomes {
        let own = if self.has(DRAINING) { 0 } else { 1 };
        let mut outcomes = Outcomes::default();
        for lane in self.open_lanes() {
            lane.count(&mut outcomes);
            // One share is ours, here.
            outcomes.in_flight += (Arc::strong_count(&lane) as u64).saturating_sub(own + 1);
        }
        outcomes
    }

    /// How many calls have failed or were given up by their callers since the last one that succeeded.
    pub fn failures_in_a_row(&self) -> u32 {
        u32::try_from(self.streak.load(Relaxed)).unwrap_or(u32::MAX)
    }

    /// How many of the calls that had to wait took longer than this, and how many those were; a call that its caller gave up counts
    /// with the time that it was given.
    ///
    /// Measuring begins when this is first asked of any generation of the service, since it costs each call two looks at the
    /// clock. `limit` is met to a quarter of its length.
    pub fn slower_than(&self, limit: Duration) -> (u64, u64) {
        self.hub.timed.store(true, Relaxed);
        self.flags.fetch_or(TIMED, Relaxed);
        self.latencies().slower_than(limit)
    }

    fn open_lanes(&self) -> impl Iterator<Item = Arc<Lane>> {
        self.lanes.iter().filter_map(|lane| lane.get()?.upgrade())
    }

    fn has(&self, flag: u64) -> bool {
        self.flags.load(Acquire) & flag != 0
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

    pub(crate) fn starts_slowly(&self) -> bool {
        self.has(SLOW_START)
    }

    pub(crate) fn end_slow_start(&self) {
        self.flags.fetch_and(!SLOW_START, Release);
    }

    pub(crate) fn is_superseded(&self) -> bool {
        self.has(SUPERSEDED)
    }

    pub(crate) fn supersede(&self) {
        self.flags.fetch_or(SUPERSEDED, Release);
    }

    /// To be said before its own shares in the lanes are dropped.
    pub(crate) fn drain(&self) {
        self.flags.fetch_or(DRAINING, Release);
    }

    /// Resolves when all calls have ended, of a generation that drains.
    pub(crate) async fn drained(&self) {
        loop {
            let drained = self.drained.notified();
            if self.open.load(Acquire) == 0 {
                return;
            }
            drained.await;
        }
    }

    pub(crate) fn lane_opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    pub(crate) fn lane_closed(&self) {
        if self.open.fetch_sub(1, AcqRel) == 1 {
            self.drained.notify_waiters();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.has(CLOSED)
    }

    /// Ends what still runs.
    pub(crate) fn close(&self) {
        self.flags.fetch_or(SUPERSEDED | CLOSED, Release);
        self.open_lanes().for_each(|lane| lane.wake_all());
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
        if streak % u64::from(self.hub.settings.suspect_after.max(1)) == 0 {
            self.suspect();
        }
    }

    /// It cannot take a call: no need to see that several times.
    pub(crate) fn is_broken(&self) {
        self.streak.fetch_add(self.hub.settings.suspect_after.max(1).into(), Relaxed);
        self.suspect();
    }

    fn suspect(&self) {
        if !self.is_superseded() {
            self.hub.bell.suspect();
        }
    }

    pub(crate) fn latencies(&self) -> &Latencies {
        self.latencies.get_or_init(Box::default)
    }
}
