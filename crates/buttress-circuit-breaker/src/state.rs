//! The decision: a state machine without time, locks or events of its own.

mod change;

use std::num::NonZeroU32;
use std::time::Duration;

use buttress_core::Reason;
use buttress_core::clock::LazyNow;
use buttress_core::observe::{CircuitCause, CircuitState};

use crate::config::{Abandoned, Config, ProbeExpiry};
use crate::probing::Probing;
use crate::trip::RateRule;
use crate::window::{Mark, Tally, Totals, Window};

/// The windows' lock-free halves, if there are any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tallies<'a> {
    pub(crate) failures: Option<&'a Tally>,
    pub(crate) slow: Option<&'a Tally>,
}

/// Everything that is needed to decide, kept under one lock.
#[derive(Debug)]
pub(crate) struct Machine {
    state: State,
    /// Kept aside, because most circuits never need it.
    cold: Option<Box<Cold>>,
}

/// What each state needs. `reopens` counts how often probes have failed since the circuit was last closed.
#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32, any_success: bool },
    Open { reopens: u32 },
    HalfOpen { reopens: u32 },
    Isolated,
}

#[derive(Debug, Default)]
struct Cold {
    failures: Option<Window>,
    slow: Option<Window>,
    probing: Probing,
    /// Results that did not vote.
    stale: u64,
}

/// How a call may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Flow,
    Probe(NonZeroU32),
    Refuse(Reason),
}

/// How an admitted call ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// It took too long.
    pub(crate) slow: bool,
    /// The window over failures has it already.
    pub(crate) in_failures: bool,
    /// The window over slow calls has it already.
    pub(crate) in_slow: bool,
    pub(crate) probe: Option<NonZeroU32>,
    /// What the server asked for, if it failed.
    pub(crate) hint: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    Failed,
    /// Its caller went away, and that counts as a failure unless anything succeeded.
    AbandonedUnlessSuccess,
    Ignored,
}

/// A transition to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) from: CircuitState,
    pub(crate) to: CircuitState,
    pub(crate) cause: CircuitCause,
    /// For how long it refuses, if it opened.
    pub(crate) open_for: Option<Duration>,
}

/// Whether a result voted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    Counted,
    /// The probe's lease had expired.
    Stale,
    /// The breaker is switched off.
    Off,
}

/// What a circuit has seen lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) consecutive_failures: u32,
    pub(crate) failures: Totals,
    pub(crate) slow: Totals,
    /// Whether the totals are those of probes.
    pub(crate) probing: bool,
    pub(crate) stale: u64,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { state: State::CLOSED, cold: None }
    }

    /// Has the windows that this configuration wants; one of another kind or size begins anew.
    pub(crate) fn adapt(&mut self, config: &Config, tallies: Tallies<'_>) {
        let (failures, slow) = config.rates();
        if let Some(tally) = tallies.failures.filter(|tally| !tally.is_for(failures)) {
            tally.begin(failures);
            self.cold().failures = failures.map(Window::new);
        }
        if let Some(tally) = tallies.slow.filter(|tally| !tally.is_for(slow)) {
            tally.begin(slow);
            self.cold().slow = slow.map(Window::new);
        }
    }

    /// Obeys another configuration, to which it has been [adapted](Machine::adapt).
    pub(crate) fn configure(
        &mut self,
        config: &Config,
        tallies: Tallies<'_>,
        now: &mut LazyNow<'_>,
    ) -> Option<Change> {
        if !matches!(self.state, State::HalfOpen { .. }) {
            return None;
        }
        // What is known of the probes may be enough now, and then no further one would ever say so.
        self.tick(config, tallies, false, now.get()).or_else(|| self.decide(config, tallies, None))
    }

    /// Whether it wants to hear of every call.
    pub(crate) fn is_windowed(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.failures.is_some() || cold.slow.is_some())
    }

    pub(crate) fn state(&self) -> CircuitState {
        match self.state {
            State::Closed { .. } => CircuitState::Closed,
            State::Open { .. } => CircuitState::Open,
            State::HalfOpen { .. } => CircuitState::HalfOpen,
            State::Isolated => CircuitState::Isolated,
        }
    }

    pub(crate) fn reopens(&self) -> u32 {
        match self.state {
            State::Open { reopens } | State::HalfOpen { reopens } => reopens,
            State::Closed { .. } | State::Isolated => 0,
        }
    }

    /// Whether a good call would change nothing, so that it needs no lock.
    pub(crate) fn is_clean(&self, config: &Config, tallies: Tallies<'_>, now: &mut LazyNow<'_>) -> bool {
        let State::Closed { failures: 0, any_success } = self.state else {
            return false;
        };
        if config.abandoned == Abandoned::CountUnlessAnySuccess && !any_success {
            return false;
        }
        let Some(cold) = &self.cold else { return true };
        let now = if cold.failures.is_some() || cold.slow.is_some() { now.get() } else { return true };
        let clean = |window: &Option<Window>, tally: Option<&Tally>| match (window, tally) {
            (Some(window), Some(tally)) => window.is_clean(tally, now),
            _ => true,
        };
        clean(&cold.failures, tallies.failures) && clean(&cold.slow, tallies.slow)
    }

    /// Whether it is worth asking for admission, once [`tick`](Machine::tick) has ended the probes that expired.
    pub(crate) fn would_admit(&self, config: &Config) -> bool {
        match (self.state, &self.cold) {
            (State::HalfOpen { .. }, Some(cold)) => cold.probing.has_room(config),
            // It has changed since the caller looked at the gate.
            _ => true,
        }
    }

    /// Lets a call in, or not. `due`: the open time is over.
    pub(crate) fn admit(
        &mut self,
        config: &Config,
        tallies: Tallies<'_>,
        due: bool,
        now: u64,
    ) -> (Admission, Option<Change>) {
        let change = self.tick(config, tallies, due, now);
        let admission = match self.state {
            State::Closed { .. } => Admission::Flow,
            State::Isolated => Admission::Refuse(Reason::CircuitIsolated),
            State::Open { .. } => Admission::Refuse(Reason::CircuitOpen),
            State::HalfOpen { .. } => match self.cold().probing.start(config, now) {
                Some(number) => Admission::Probe(number),
                None => Admission::Refuse(Reason::ProbesInFlight),
            },
        };
        (admission, change)
    }

    /// Does what time alone has brought about.
    pub(crate) fn tick(
        &mut self,
        config: &Config,
        tallies: Tallies<'_>,
        due: bool,
        now: u64,
    ) -> Option<Change> {
        match self.state {
            State::Open { reopens } if due => {
                self.cold().probing.reset();
                Some(self.go(State::HalfOpen { reopens }, CircuitCause::OpenTimeOver))
            }
            State::HalfOpen { .. } => {
                if !self.cold().probing.expire(now) {
                    return None;
                }
                match config.on_probe_expiry {
                    // It may have been the last one to be waited for.
                    ProbeExpiry::Replace => self.decide(config, tallies, None),
                    ProbeExpiry::Reopen => Some(self.open(config, CircuitCause::ProbeExpired, None)),
                    ProbeExpiry::Close => Some(self.close(tallies, CircuitCause::ProbeExpired)),
                }
            }
            _ => None,
        }
    }

    /// Takes the result of a call that was admitted since the last transition.
    pub(crate) fn record(
        &mut self,
        config: &Config,
        tallies: Tallies<'_>,
        ended: Ended,
        now: &mut LazyNow<'_>,
    ) -> (Vote, Option<Change>) {
        match self.state {
            State::Closed { .. } => (Vote::Counted, self.record_closed(config, tallies, ended, now)),
            State::HalfOpen { .. } => match self.tick(config, tallies, false, now.get()) {
                Some(change) => (self.record_stale(), Some(change)),
                None => self.record_probe(config, tallies, ended),
            },
            State::Open { .. } | State::Isolated => (self.record_stale(), None),
        }
    }

    /// Takes the end of a call without its result.
    pub(crate) fn release(
        &mut self,
        config: &Config,
        tallies: Tallies<'_>,
        probe: Option<NonZeroU32>,
        now: &mut LazyNow<'_>,
    ) -> Option<Change> {
        let change = probe.and_then(|_| self.tick(config, tallies, false, now.get()));
        let Some(cold) = &mut self.cold else { return change };
        if cold.probing.release(probe) != Some(true) {
            return change;
        }
        cold.probing.good += 1;
        change.or_else(|| self.decide(config, tallies, None))
    }

    /// Takes a result that does not vote.
    pub(crate) fn record_stale(&mut self) -> Vote {
        self.cold().stale += 1;
        Vote::Stale
    }

    fn record_closed(
        &mut self,
        config: &Config,
        tallies: Tallies<'_>,
        ended: Ended,
        now: &mut LazyNow<'_>,
    ) -> Option<Change> {
        let State::Closed { failures, any_success } = &mut self.state else { return None };
        let mark = match ended.outcome {
            Outcome::Ignored => return None,
            Outcome::Good => {
                (*failures, *any_success) = (0, true);
                Mark::Good
            }
            Outcome::Failed => {
                *failures = failures.saturating_add(1);
                Mark::Bad
            }
            Outcome::AbandonedUnlessSuccess => {
                *failures = failures.saturating_add(u32::from(!*any_success));
                Mark::Abandoned
            }
        };
        if let Some(cold) = &mut self.cold {
            if let (Some(window), Some(tally), false) =
                (&mut cold.failures, tallies.failures, ended.in_failures)
            {
                window.record(tally, mark, now.get());
            }
            if let (Some(window), Some(tally), false) = (&mut cold.slow, tallies.slow, ended.in_slow) {
                if mark != Mark::Abandoned {
                    window.record(tally, if ended.slow { Mark::Bad } else { Mark::Good }, now.get());
                }
            }
        }
        self.trip(config, tallies, ended.hint, now)
    }

    /// A call that is still running has become slow. Whether that counts already.
    pub(crate) fn record_slow(
        &mut self,
        config: &Config,
        tallies: Tallies<'_>,
        probe: Option<NonZeroU32>,
        now: &mut LazyNow<'_>,
    ) -> (bool, Option<Change>) {
        match self.state {
            State::Closed { .. } => {
                let window = self.cold.as_mut().and_then(|cold| cold.slow.as_mut());
                let (Some(window), Some(tally)) = (window, tallies.slow) else { return (false, None) };
                window.record(tally, Mark::Bad, now.get());
                (true, self.trip(config, tallies, None, now))
            }
            State::HalfOpen { .. } => match self.tick(config, tallies, false, now.get()) {
                Some(change) => (false, Some(change)),
                // It keeps its slot: there may be no more at once, and it may still fail.
                None if self.cold().probing.count_slow(probe) => (true, self.decide(config, tallies, None)),
                None => (false, None),
            },
            _ => (false, None),
        }
    }

    /// Opens if a rule says so.
    fn trip(
        &mut self,
        config: &Config,
        tallies: Tallies<'_>,
        hint: Option<Duration>,
        now: &mut LazyNow<'_>,
    ) -> Option<Change> {
        let State::Closed { failures, .. } = self.state else { return None };
        let reached = |rule: &RateRule, totals: Totals| {
            totals.calls >= rule.minimum_calls.into() && rule.at_least.reached(totals.bad, totals.calls)
        };
        let seen = self.seen(tallies, now);
        let cause = if config.consecutive_failures.is_some_and(|limit| failures >= limit) {
            CircuitCause::ConsecutiveFailures
        } else if config.failure_rate.is_some_and(|rule| reached(&rule, seen.failures)) {
            CircuitCause::FailureRate
        } else if config.slow_calls.is_some_and(|(_, rule)| reached(&rule, seen.slow)) {
            CircuitCause::SlowCalls
        } else {
            return None;
        };
        Some(self.open(config, cause, hint))
    }

    fn record_probe(
        &mut self,
        config: &Config,
        tallies: Tallies<'_>,
        ended: Ended,
    ) -> (Vote, Option<Change>) {
        let probing = &mut self.cold().probing;
        let Some(counted) = probing.release(ended.probe) else { return (self.record_stale(), None) };
        probing.count(ended, counted);
        (Vote::Counted, self.decide(config, tallies, ended.hint))
    }

    /// Closes or opens again if the probes of a half-open circuit have decided it.
    fn decide(&mut self, config: &Config, tallies: Tallies<'_>, hint: Option<Duration>) -> Option<Change> {
        let State::HalfOpen { .. } = self.state else { return None };
        Some(if self.cold().probing.recovered(config)? {
            self.close(tallies, CircuitCause::ProbesSucceeded)
        } else {
            self.open(config, CircuitCause::ProbeFailed, hint)
        })
    }

    fn cold(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }
}

impl State {
    const CLOSED: Self = Self::Closed { failures: 0, any_success: false };
}
