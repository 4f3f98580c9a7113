use std::sync::Arc;
use std::task::{Context, Poll};

use buttress_core::clock::{before_poll, first_wait};
use buttress_core::sync::atomic::Ordering::Relaxed;
use buttress_core::{Kind, Settle, Verdict};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::lane::Lane;
use crate::unavailable::CutOff;

/// A call of one generation, which has to say how it ended.
///
/// Dropping it unsettled means that its caller went away: never a success. What it says counts for its own generation only.
#[derive(Debug, Default)]
pub struct Permit(Option<Open>);

#[derive(Debug)]
struct Open {
    lane: Arc<Lane>,
    /// One of the few calls that a slow start lets in at once.
    place: Option<OwnedSemaphorePermit>,
    parked: Option<usize>,
    waiting_since: Option<Instant>,
    /// The service has control: only a panic ends the call now.
    inside: bool,
}

impl Permit {
    #[inline]
    pub(crate) fn new(lane: Arc<Lane>, place: Option<OwnedSemaphorePermit>) -> Self {
        Self(Some(Open { lane, place, parked: None, waiting_since: None, inside: false }))
    }

    /// Gives control to the service: from here to [`leave`](Permit::leave), only a panic drops the permit.
    #[inline]
    pub(crate) fn enter(&mut self) {
        if let Some(open) = &mut self.0 {
            open.inside = true;
            if open.waiting_since.is_none() {
                before_poll();
            }
        }
    }

    #[inline]
    pub(crate) fn leave(&mut self) {
        if let Some(open) = &mut self.0 {
            open.inside = false;
        }
    }

    /// The call has to wait. Ready when its generation has been closed.
    #[inline]
    pub(crate) fn wait(&mut self, cx: &mut Context<'_>) -> Poll<CutOff> {
        let Some(open) = &mut self.0 else { return Poll::Pending };
        let state = &open.lane.state;
        if state.alarm.timed.load(Relaxed) && open.waiting_since.is_none() {
            open.waiting_since = Some(first_wait());
        }
        open.lane.park(&mut open.parked, cx.waker());
        // After it is parked: whoever closes the generation says so first, and wakes then.
        if state.is_closed() { Poll::Ready(CutOff::of(state)) } else { Poll::Pending }
    }
}

impl Settle for Permit {
    #[inline]
    fn settle(&mut self, verdict: Verdict) {
        let Some(open) = self.0.take() else { return };
        let lane = &open.lane;
        match verdict {
            // One that throttles is there, and a new client would be throttled too.
            Verdict::Success | Verdict::Rejected | Verdict::Failure { kind: Kind::Throttled, .. } => {
                lane.succeeded.fetch_add(1, Relaxed);
                lane.state.succeeded();
            }
            Verdict::Ignored | Verdict::Failure { kind: Kind::Refused, .. } => {
                lane.ignored.fetch_add(1, Relaxed);
            }
            Verdict::Failure { .. } => open.failed(),
        }
        open.end();
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.abandon();
        }
    }
}

impl Open {
    #[cold]
    fn failed(&self) {
        self.lane.failed.fetch_add(1, Relaxed);
        self.lane.state.did_not_succeed();
    }

    #[cold]
    fn abandon(self) {
        if self.inside {
            self.failed();
        } else {
            self.lane.abandoned.fetch_add(1, Relaxed);
            self.lane.state.did_not_succeed();
        }
        self.end();
    }

    #[inline]
    fn end(self) {
        if let Some(since) = self.waiting_since {
            let now = Instant::now();
            self.lane.state.latencies().record(now, now.saturating_duration_since(since));
        }
        if let Some(at) = self.parked {
            self.lane.unpark(at);
        }
        drop(self.place);
    }
}
