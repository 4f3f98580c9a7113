use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use buttress_core::Mode;
use buttress_core::clock::LazyNow;
use buttress_core::observe::{CircuitCause, CircuitState};
use tokio::time::Instant;

use crate::error::InvalidTransition;
use crate::shared::{Holder, WeakHolder};
use crate::state::{Change, Machine, Tallies};

/// Reads and controls one circuit.
///
/// Clones act on the same circuit. Every transition is reported to the layer's observer, once and in order; asking for
/// the state that the circuit is in already reports nothing.
#[derive(Clone, Debug)]
pub struct CircuitBreakerHandle {
    breaker: Holder,
}

/// What a circuit has seen lately, all of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// Failures since the last success; only while closed.
    pub consecutive_failures: u32,
    /// Calls in the window over failures; while half-open, and while open again after that, the probes' results.
    pub calls: u64,
    /// How many of them failed.
    pub failures: u64,
    /// The share of failures, 0 to 1; `None` below the minimum number of calls, or without such a rule.
    pub failure_rate: Option<f64>,
    /// Calls in the window over slow calls.
    pub timed_calls: u64,
    /// How many of them were slow.
    pub slow: u64,
    /// The share of slow calls; as for failures.
    pub slow_rate: Option<f64>,
    /// Calls refused since the last transition, at most 16 million.
    pub refused: u64,
    /// Results that did not vote, because the circuit had changed its state in between.
    pub stale: u64,
}

impl CircuitBreakerHandle {
    pub(crate) fn new(breaker: Holder) -> Self {
        Self { breaker }
    }

    /// The name of the dependency.
    pub fn name(&self) -> &str {
        &self.breaker.settings.name
    }

    /// The state. An open circuit whose time is over is open until the next call, unless it is eager.
    pub fn state(&self) -> CircuitState {
        self.breaker.tick(false);
        self.breaker.state().0
    }

    /// How long an open circuit still refuses; `None` in every other state.
    pub fn retry_after(&self) -> Option<Duration> {
        let until = self.breaker.state().2?;
        Some(Duration::from_nanos(until.saturating_sub(self.breaker.settings.clock.now())))
    }

    /// What the circuit has seen lately.
    pub fn metrics(&self) -> Metrics {
        let seen = self.breaker.seen();
        let config = &self.breaker.settings.config;
        let rate = |bad: u64, calls: u64, minimum: Option<u32>| {
            let enough = calls > 0 && minimum.is_some_and(|minimum| calls >= minimum.into());
            enough.then(|| bad as f64 / calls as f64)
        };
        let judged = match config.recovery {
            crate::Recovery::Ratio { calls, .. } if seen.probing => Some(calls),
            _ => None,
        };
        let failure_minimum = judged.or(config.failure_rate.map(|rule| rule.minimum_calls));
        let slow_minimum = config.slow_calls.map(|(_, rule)| judged.unwrap_or(rule.minimum_calls));
        Metrics {
            consecutive_failures: seen.consecutive_failures,
            calls: seen.failures.calls,
            failures: seen.failures.bad,
            failure_rate: rate(seen.failures.bad, seen.failures.calls, failure_minimum),
            timed_calls: seen.slow.calls,
            slow: seen.slow.bad,
            slow_rate: rate(seen.slow.bad, seen.slow.calls, slow_minimum),
            refused: self.breaker.refused(),
            stale: seen.stale,
        }
    }

    /// Refuses every call until [`close`](CircuitBreakerHandle::close).
    pub fn isolate(&self) {
        self.operate(|machine, _| match machine.state() {
            CircuitState::Isolated => None,
            _ => Some(machine.isolate()),
        });
    }

    /// Lets calls flow, and forgets all that was counted.
    pub fn close(&self) {
        self.operate(|machine, tallies| Some(machine.close(tallies, CircuitCause::Operator)));
    }

    /// Refuses every call for this long from now.
    pub fn open_for(&self, time: Duration) {
        self.operate(|machine, _| Some(machine.open_for(time, machine.reopens(), CircuitCause::Operator)));
    }

    /// Refuses every call until this moment.
    pub fn open_until(&self, until: Instant) {
        self.open_for(until.saturating_duration_since(Instant::now()));
    }

    /// Lets an open circuit probe now.
    ///
    /// # Errors
    ///
    /// If the circuit is closed or isolated. That it is half-open already is no error, and changes nothing.
    pub fn half_open(&self) -> Result<(), InvalidTransition> {
        let to = CircuitState::HalfOpen;
        let (result, _) =
            self.breaker.apply(&mut LazyNow::new(&self.breaker.settings.clock), |machine, _, _| {
                match (machine.state(), machine.half_open(CircuitCause::Operator)) {
                    (_, Some(change)) => (Ok(()), Some(change)),
                    (CircuitState::HalfOpen, None) => (Ok(()), None),
                    (from, None) => (Err(InvalidTransition { from, to }), None),
                }
            });
        result
    }

    /// The mode that calls obey.
    pub fn mode(&self) -> Mode {
        self.breaker.mode()
    }

    /// Switches the mode for calls that start from now on; the circuit's state stays as it is. Results that arrive
    /// while it is [`Mode::Off`] are not recorded.
    pub fn set_mode(&self, mode: Mode) {
        self.breaker.set_mode(mode);
    }

    fn operate(&self, f: impl FnOnce(&mut Machine, &Tallies) -> Option<Change>) {
        let mut now = LazyNow::new(&self.breaker.settings.clock);
        self.breaker.apply(&mut now, |machine, tallies, _| ((), f(machine, tallies)));
    }

    pub(crate) fn breaker(&self) -> &Holder {
        &self.breaker
    }
}

/// One switch for several circuits: isolates and closes them together.
///
/// It keeps none of them alive.
#[derive(Clone, Debug, Default)]
pub struct Control {
    breakers: Arc<Mutex<Vec<WeakHolder>>>,
}

impl Control {
    /// A control over nothing yet; see [`CircuitBreakerLayer::control`](crate::CircuitBreakerLayer::control).
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a circuit.
    pub fn add(&self, handle: &CircuitBreakerHandle) {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        breakers.retain(|breaker| breaker.upgrade().is_some());
        breakers.push(handle.breaker.downgrade());
    }

    /// Isolates every circuit.
    pub fn isolate(&self) {
        self.each(CircuitBreakerHandle::isolate);
    }

    /// Closes every circuit.
    pub fn close(&self) {
        self.each(CircuitBreakerHandle::close);
    }

    fn each(&self, f: impl Fn(&CircuitBreakerHandle)) {
        let breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        breakers
            .iter()
            .filter_map(WeakHolder::upgrade)
            .for_each(|breaker| f(&CircuitBreakerHandle::new(breaker)));
    }
}
