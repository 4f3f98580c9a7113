//! The probes of a half-open circuit.

use std::num::NonZeroU32;

use buttress_core::clock::nanos;

use crate::config::{Config, Recovery};
use crate::state::{Ended, Outcome};

/// The probes of the current, or else of the last, half-open state.
#[derive(Debug, Default)]
pub(crate) struct Probing {
    under_way: Vec<Probe>,
    last: Option<NonZeroU32>,
    pub(crate) calls: u32,
    /// Those of which it is known that they have not failed; of one whose lease is over, nothing ever will be.
    pub(crate) good: u32,
    pub(crate) failed: u32,
    pub(crate) slow: u32,
}

/// One that is under way.
#[derive(Debug)]
struct Probe {
    number: NonZeroU32,
    lease_ends: u64,
    /// It is among the calls already, as a slow one; whether it fails is still to come.
    counted: bool,
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
        under_way < config.probes as usize && under_way - self.counted() + (self.calls as usize) < judged
    }

    /// The number of another probe, if there is room for one.
    pub(crate) fn start(&mut self, config: &Config, now: u64) -> Option<NonZeroU32> {
        if !self.has_room(config) {
            return None;
        }
        let number = self.last.and_then(|last| last.checked_add(1)).unwrap_or(NonZeroU32::MIN);
        self.last = Some(number);
        let lease_ends = now.saturating_add(nanos(config.lease()));
        self.under_way.push(Probe { number, lease_ends, counted: false });
        Some(number)
    }

    /// How many of those under way are among the calls.
    fn counted(&self) -> usize {
        self.under_way.iter().filter(|probe| probe.counted).count()
    }

    /// Counts a probe that is slow and still runs; `false` if it has no slot any more.
    pub(crate) fn count_slow(&mut self, probe: Option<NonZeroU32>) -> bool {
        let Some(probe) = self.under_way.iter_mut().find(|known| Some(known.number) == probe) else {
            return false;
        };
        probe.counted = true;
        self.calls += 1;
        self.slow += 1;
        true
    }

    /// Gives a probe's slot back: whether it has been counted already. `None` if it has no slot, or none any more.
    pub(crate) fn release(&mut self, probe: Option<NonZeroU32>) -> Option<bool> {
        let at = self.under_way.iter().position(|known| Some(known.number) == probe)?;
        Some(self.under_way.swap_remove(at).counted)
    }

    /// Ends the probes whose lease is over; whether there were any.
    pub(crate) fn expire(&mut self, now: u64) -> bool {
        let before = self.under_way.len();
        self.under_way.retain(|probe| probe.lease_ends >= now);
        self.under_way.len() < before
    }

    /// Counts a probe that has ended and has no slot any more.
    pub(crate) fn count(&mut self, ended: Ended, counted: bool) {
        let failed = match ended.outcome {
            Outcome::Ignored => None,
            Outcome::AbandonedUnlessSuccess if self.good > 0 => None,
            Outcome::Good => Some(false),
            Outcome::Failed | Outcome::AbandonedUnlessSuccess => Some(true),
        };
        // For one that is among the calls, as a slow one, not to have failed is as good as it gets.
        let Some(failed) = failed.or(counted.then_some(false)) else { return };
        self.failed += u32::from(failed);
        self.good += u32::from(!failed);
        if !counted {
            self.calls += 1;
            self.slow += u32::from(ended.slow);
        }
    }

    /// Whether the dependency has recovered, once that is decided.
    pub(crate) fn recovered(&self, config: &Config) -> Option<bool> {
        let Self { calls, failed, slow, .. } = *self;
        match config.recovery {
            Recovery::Successes(_) if failed > 0 || slow > 0 => Some(false),
            Recovery::Successes(threshold) => (calls >= threshold).then_some(true),
            Recovery::Ratio { calls: judged, at_least } => {
                let slow_rule = config.slow_calls.map(|(_, rule)| rule.at_least);
                let too_slow = slow_rule.is_some_and(|ratio| ratio.reached(slow.into(), calls.into()));
                let ill = at_least.reached(failed.into(), calls.into()) || too_slow;
                // One that is merely slow so far may still fail.
                (calls >= judged && (ill || self.counted() == 0)).then_some(!ill)
            }
        }
    }
}
