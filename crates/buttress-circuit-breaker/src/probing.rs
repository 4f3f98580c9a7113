//! The probes of a half-open circuit.

use std::num::NonZeroU32;

use buttress_core::clock::nanos;

use crate::config::{Config, Recovery};
use crate::state::{Ended, Outcome};

/// The probes of the current, or else of the last, half-open state.
#[derive(Debug, Default)]
pub(crate) struct Probing {
    /// Those under way: number and the end of the lease.
    under_way: Vec<(NonZeroU32, u64)>,
    last: Option<NonZeroU32>,
    pub(crate) calls: u32,
    pub(crate) failed: u32,
    pub(crate) slow: u32,
}

impl Probing {
    /// Begins another half-open state.
    pub(crate) fn reset(&mut self) {
        // Numbers go on, so that a probe of an earlier half-open state is never taken for one of this.
        *self = Self { last: self.last, ..Self::default() };
    }

    pub(crate) fn has_room(&self, config: &Config) -> bool {
        let under_way = self.under_way.len();
        let judged = match config.recovery {
            Recovery::Successes(_) => usize::MAX,
            Recovery::Ratio { calls, .. } => calls as usize,
        };
        under_way < config.probes as usize && under_way + (self.calls as usize) < judged
    }

    /// The number of another probe, if there is room for one.
    pub(crate) fn start(&mut self, config: &Config, now: u64) -> Option<NonZeroU32> {
        if !self.has_room(config) {
            return None;
        }
        let number = self.last.and_then(|last| last.checked_add(1)).unwrap_or(NonZeroU32::MIN);
        self.last = Some(number);
        self.under_way.push((number, now.saturating_add(nanos(config.lease()))));
        Some(number)
    }

    pub(crate) fn is_under_way(&self, probe: Option<NonZeroU32>) -> bool {
        self.under_way.iter().any(|under_way| Some(under_way.0) == probe)
    }

    /// Gives a probe's slot back; `false` if it has none, or none any more.
    pub(crate) fn release(&mut self, probe: Option<NonZeroU32>) -> bool {
        let place = self.under_way.iter().position(|under_way| Some(under_way.0) == probe);
        place.map(|at| self.under_way.swap_remove(at)).is_some()
    }

    /// Ends the probes whose lease is over; whether there were any.
    pub(crate) fn expire(&mut self, now: u64) -> bool {
        let before = self.under_way.len();
        self.under_way.retain(|probe| probe.1 >= now);
        self.under_way.len() < before
    }

    /// Counts a probe that has ended; whether the dependency has recovered, once that is decided.
    pub(crate) fn judge(&mut self, config: &Config, ended: Ended) -> Option<bool> {
        let failed = match ended.outcome {
            Outcome::Ignored => return None,
            Outcome::AbandonedUnlessSuccess if self.calls > self.failed => return None,
            Outcome::Good => false,
            Outcome::Failed | Outcome::AbandonedUnlessSuccess => true,
        };
        self.calls += 1;
        self.failed += u32::from(failed);
        self.slow += u32::from(ended.slow);
        let Self { calls, failed, slow, .. } = *self;
        match config.recovery {
            Recovery::Successes(_) if failed > 0 || slow > 0 => Some(false),
            Recovery::Successes(threshold) => (calls >= threshold).then_some(true),
            Recovery::Ratio { calls: judged, at_least } => {
                let slow_rule = config.slow_calls.map(|(_, rule)| rule.at_least);
                let too_slow = slow_rule.is_some_and(|ratio| ratio.reached(slow.into(), calls.into()));
                let recovered = !at_least.reached(failed.into(), calls.into()) && !too_slow;
                (calls >= judged).then_some(recovered)
            }
        }
    }
}
