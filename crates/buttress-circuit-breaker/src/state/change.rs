//! How the machine goes from one state to another, and what is seen of it from outside.

use std::time::Duration;

use buttress_core::clock::LazyNow;
use buttress_core::observe::CircuitCause;

use super::{Change, Machine, Seen, State, Tallies};
use crate::config::Config;
use crate::probing::Probing;
use crate::window::{Tally, Totals, Window};

impl Machine {
    /// Opens for as long as the configuration says, or longer where the server asked for it.
    pub(super) fn open(&mut self, config: &Config, cause: CircuitCause, hint: Option<Duration>) -> Change {
        let reopens = match self.state {
            State::HalfOpen { reopens } => reopens.saturating_add(1),
            _ => 0,
        };
        let time = config.open.delays().nth(reopens as usize).unwrap_or(config.open.cap());
        let hinted = hint.zip(config.hint_cap).map_or(Duration::ZERO, |(hint, cap)| hint.min(cap));
        self.open_for(time.max(hinted), reopens, cause)
    }

    /// Opens for this long.
    pub(crate) fn open_for(&mut self, time: Duration, reopens: u32, cause: CircuitCause) -> Change {
        Change { open_for: Some(time), ..self.go(State::Open { reopens }, cause) }
    }

    /// Closes and forgets all that was counted.
    pub(crate) fn close(&mut self, tallies: Tallies<'_>, cause: CircuitCause) -> Change {
        if let Some(cold) = &mut self.cold {
            let windows = [(&mut cold.failures, tallies.failures), (&mut cold.slow, tallies.slow)];
            for (window, tally) in windows {
                if let (Some(window), Some(tally)) = (window, tally) {
                    window.reset(tally);
                }
            }
        }
        self.go(State::CLOSED, cause)
    }

    pub(crate) fn isolate(&mut self) -> Change {
        self.go(State::Isolated, CircuitCause::Operator)
    }

    /// Becomes half-open, from open only.
    pub(crate) fn half_open(&mut self, cause: CircuitCause) -> Option<Change> {
        let State::Open { reopens } = self.state else { return None };
        self.cold().probing.reset();
        Some(self.go(State::HalfOpen { reopens }, cause))
    }

    pub(super) fn go(&mut self, next: State, cause: CircuitCause) -> Change {
        let from = self.state();
        self.state = next;
        Change { from, to: self.state(), cause, open_for: None }
    }

    pub(crate) fn seen(&self, tallies: Tallies<'_>, now: &mut LazyNow<'_>) -> Seen {
        let consecutive_failures = match self.state {
            State::Closed { failures, .. } => failures,
            _ => 0,
        };
        let Some(cold) = &self.cold else { return Seen { consecutive_failures, ..Seen::default() } };
        let probing = match self.state {
            State::HalfOpen { .. } => true,
            State::Open { reopens } => reopens > 0,
            State::Closed { .. } | State::Isolated => false,
        };
        if probing {
            let Probing { calls, failed, slow, .. } = cold.probing;
            let totals = |bad: u32| Totals { calls: calls.into(), bad: bad.into() };
            let (failures, slow) = (totals(failed), totals(slow));
            return Seen { consecutive_failures, failures, slow, probing, stale: cold.stale };
        }
        let mut totals = |window: &Option<Window>, tally: Option<&Tally>| match (window, tally) {
            (Some(window), Some(tally)) => window.totals(tally, now.get()),
            _ => Totals::default(),
        };
        let failures = totals(&cold.failures, tallies.failures);
        let slow = totals(&cold.slow, tallies.slow);
        Seen { consecutive_failures, failures, slow, probing, stale: cold.stale }
    }
}
