use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::task::{Context, Poll};

use buttress_core::clock::{before_poll, first_wait};
use buttress_core::{Kind, Settle, Verdict};
use tokio::sync::OwnedSemaphorePermit;

use crate::lane::Lane;
use crate::unavailable::CutOff;

/// A call of one generation, which has to say how it ended.
///
/// Dropping it unsettled means that its caller went away: never a success. What it says counts for its own generation only.
#[derive(Debug, Default)]
pub struct Permit {
    /// None once the call has ended.
    lane: Option<Arc<Lane>>,
    /// One of the few calls that a slow start lets in at once; seldom, hence elsewhere.
    place: Option<Arc<OwnedSemaphorePermit>>,
    /// When the call first had to wait, where that is measured: the clock's reading, plus one.
    waiting_since: Option<NonZeroU64>,
    /// Where its waker is parked, plus one.
    parked: Option<NonZeroU32>,
    /// [`INSIDE`], [`TIMED`]: a whole word, because a permit is copied word by word.
    flags: u32,
}

/// The service has control: only a panic ends the call now.
const INSIDE: u32 = 1;
/// Somebody wants to know how long it takes.
const TIMED: u32 = 2;

impl Permit {
    #[inline]
    pub(crate) fn new(lane: Arc<Lane>, place: Option<Arc<OwnedSemaphorePermit>>, timed: bool) -> Self {
        let flags = if timed { TIMED } else { 0 };
        Self { lane: Some(lane), place, waiting_since: None, parked: None, flags }
    }

    /// Gives control to the service: from here to [`leave`](Permit::leave), only a panic drops the permit.
    #[inline]
    pub(crate) fn enter(&mut self) {
        self.flags |= INSIDE;
        if self.flags & TIMED != 0 {
            before_poll();
        }
    }

    #[inline]
    pub(crate) fn leave(&mut self) {
        self.flags &= !INSIDE;
    }

    /// The call has to wait. Ready when its generation has been closed.
    #[inline]
    pub(crate) fn wait(&mut self, cx: &mut Context<'_>) -> Poll<CutOff> {
        let Some(lane) = &self.lane else { return Poll::Pending };
        let signals = &lane.signals;
        if self.flags & TIMED != 0 && self.waiting_since.is_none() {
            let now = signals.latencies().clock.at(first_wait());
            self.waiting_since = NonZeroU64::new(now.saturating_add(1));
        }
        lane.park(&mut self.parked, cx.waker());
        // After it is parked: whoever closes the generation says so first, and wakes then.
        if signals.is_closed() { Poll::Ready(CutOff::of(signals)) } else { Poll::Pending }
    }

    /// Says how long it took, and gives back what it held.
    fn end(&mut self, lane: &Lane) {
        if let Some(since) = self.waiting_since.take() {
            lane.signals.latencies().record(since.get() - 1);
        }
        if let Some(at) = self.parked.take() {
            lane.unpark(at);
        }
        self.place = None;
    }

    #[cold]
    fn settle_otherwise(&mut self, lane: &Lane, verdict: Verdict) {
        match verdict {
            // One that throttles is there, and a new client would be throttled too.
            Verdict::Success
            | Verdict::Rejected
            | Verdict::Failure { kind: Kind::Throttled | Kind::Conflict, .. } => lane.succeeded(),
            Verdict::Ignored | Verdict::Failure { kind: Kind::Refused | Kind::Unprocessed, .. } => {
                lane.ignored();
            }
            Verdict::Failure { .. } => lane.failed(),
        }
        self.end(lane);
    }

    #[cold]
    fn abandon(&mut self, lane: &Lane) {
        if self.flags & INSIDE != 0 {
            lane.failed()
        } else {
            lane.abandoned()
        }
        self.end(lane);
    }
}

impl Settle for Permit {
    #[inline(always)]
    fn settle(&mut self, verdict: Verdict) {
        let Some(lane) = self.lane.take() else { return };
        if !matches!(verdict, Verdict::Success | Verdict::Rejected) {
            return self.settle_otherwise(&lane, verdict);
        }
        lane.succeeded();
        if self.parked.is_some() || self.place.is_some() {
            self.end(&lane);
        }
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            self.abandon(&lane);
        }
    }
}
