use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::lane::{Lane, State};

/// What the calls of one generation met. The calls of other generations have no part in it.
#[derive(Debug, Default)]
pub struct Signals {
    pub(crate) state: Arc<State>,
    pub(crate) lanes: Box<[Weak<Lane>]>,
}

/// How the calls of a generation have ended so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcomes {
    /// They succeeded, or were rejected as the caller's fault, or throttled: the dependency was there and answered.
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

impl Signals {
    pub(crate) fn of(state: &Arc<State>, lanes: &[Arc<Lane>]) -> Self {
        Self { state: Arc::clone(state), lanes: lanes.iter().map(Arc::downgrade).collect() }
    }

    /// The generation that they are of; 0 for a service that takes no calls yet.
    pub fn generation(&self) -> u64 {
        self.state.generation
    }

    /// How its calls have ended so far. Of a generation that has drained, nothing is known any more.
    pub fn outcomes(&self) -> Outcomes {
        let own = if self.state.is_draining() { 0 } else { 1 };
        let mut outcomes = Outcomes::default();
        for lane in &self.lanes {
            let shares = (lane.strong_count() as u64).saturating_sub(own);
            let Some(lane) = lane.upgrade() else { continue };
            lane.count(&mut outcomes);
            outcomes.in_flight += shares;
        }
        outcomes
    }

    /// How many calls have failed or were given up by their callers since the last one that succeeded.
    pub fn failures_in_a_row(&self) -> u32 {
        self.state.streak()
    }

    /// How many of the calls that had to wait took longer than this, and how many those were; a call that its caller gave up counts
    /// with the time that it was given.
    ///
    /// Measuring begins when this is first asked of any generation of the service, since it costs each call two looks at the
    /// clock. `limit` is met to a quarter of its length.
    pub fn slower_than(&self, limit: Duration) -> (u64, u64) {
        self.state.time();
        self.state.latencies().slower_than(limit)
    }

    /// Ends what still runs.
    pub(crate) fn close(&self) {
        self.state.close();
        self.lanes.iter().filter_map(Weak::upgrade).for_each(|lane| lane.wake_all());
    }
}
