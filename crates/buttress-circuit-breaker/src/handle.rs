use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use buttress_core::clock::LazyNow;
use buttress_core::observe::{CircuitCause, CircuitState};
use buttress_core::{ConfigError, Mode, Refused};
use tokio::time::Instant;

use crate::config::Config;
use crate::error::InvalidTransition;
use crate::permit::Permit;
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
        let config = self.breaker.settings.config();
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

    /// Lets one call in by hand: for streams, for synchronous code, for whatever is no service and no future. Whoever makes the
    /// call ends it by settling the permit; a permit that is dropped, by a panic too, is an abandoned call.
    ///
    /// The call begins here. That it is slow, where a rule asks for it, is found when it is settled. No runtime is needed.
    ///
    /// ```
    /// use buttress_circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer, Refused};
    ///
    /// /// Blocking code.
    /// fn read(breaker: &CircuitBreakerHandle, path: &str) -> Result<String, Box<dyn std::error::Error>> {
    ///     let permit = breaker.try_acquire()?;
    ///     let read = std::fs::read_to_string(path);
    ///     match &read {
    ///         Ok(_) => permit.success(),
    ///         Err(_) => permit.failure(),
    ///     }
    ///     Ok(read?)
    /// }
    ///
    /// let breaker = CircuitBreakerLayer::standard("network drive").handle();
    /// for _ in 0..5 {
    ///     read(&breaker, "/mnt/no such drive").unwrap_err();
    /// }
    /// let error = read(&breaker, "/mnt/no such drive").unwrap_err();
    /// assert!(error.downcast_ref::<Refused>().unwrap().retry_after().is_some());
    /// ```
    ///
    /// # Errors
    ///
    /// [`Refused`], with the time to come back, if the circuit lets no call in.
    pub fn try_acquire(&self) -> Result<Permit, Refused> {
        match self.breaker.admit() {
            Ok(permit) => Ok(permit.begun()),
            Err(refusal) => Err(self.breaker.refused_call(refusal)),
        }
    }

    /// Waits until the circuit is in a state that this accepts, and says which one that is.
    ///
    /// It looks at the state now and after every transition, and none is missed between looking and waiting; a state that is over
    /// before the waiting task runs may be. Any number of tasks may wait. Dropping the future ends the wait.
    ///
    /// Waiting probes nothing: an open circuit goes on when somebody calls ([`eager`](crate::Config::eager) gets it to half-open,
    /// no further). A task that is the only one to call must not wait for the circuit to close, but come back after
    /// [`retry_after`](CircuitBreakerHandle::retry_after). Of a key that a keyed layer has forgotten, nothing more is heard.
    ///
    /// ```
    /// use buttress_circuit_breaker::{CircuitBreakerLayer, CircuitState};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let handle = CircuitBreakerLayer::standard("datadog").handle();
    /// let watched = handle.clone();
    /// let trouble = tokio::spawn(async move { watched.wait_for(|state| state != CircuitState::Closed).await });
    /// tokio::task::yield_now().await;
    /// handle.isolate();
    /// assert_eq!(trouble.await.unwrap(), CircuitState::Isolated);
    /// # }
    /// ```
    pub async fn wait_for(&self, mut accept: impl FnMut(CircuitState) -> bool) -> CircuitState {
        loop {
            // Made before the look, it hears of what changes after it, polled or not.
            let changed = self.breaker.settings.changed.notified();
            let state = self.state();
            if accept(state) {
                return state;
            }
            changed.await;
        }
    }

    /// Waits until the circuit is closed: at once, if it is; see [`wait_for`](CircuitBreakerHandle::wait_for).
    pub async fn closed(&self) {
        self.wait_for(|state| state == CircuitState::Closed).await;
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
            self.breaker.apply(&mut LazyNow::new(&self.breaker.settings.clock), |machine, _, _, _| {
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

    /// The configuration in force. Its mode is the one to start in; [`mode`](CircuitBreakerHandle::mode) says the present one.
    pub fn config(&self) -> Config {
        Config::clone(&self.breaker.settings.config())
    }

    /// Puts another configuration in force, for all services of the layer and all their clones, without losing the state.
    ///
    /// * An open circuit stays open until its time is over, a half-open one keeps its probes and an isolated one stays
    ///   isolated. If the probes that have ended are enough by the new rules, they decide at once.
    /// * Failures in a row go on counting. A window whose kind and size stay is kept; one of another kind or size begins
    ///   anew. What has been counted is judged by the new rules with the next call that is recorded.
    /// * A call that waits already keeps the time after which it is slow; what its end means is judged by the new rules.
    /// * The mode stays as it is: [`set_mode`](CircuitBreakerHandle::set_mode) switches it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use buttress_circuit_breaker::CircuitBreakerLayer;
    ///
    /// # fn main() -> Result<(), buttress_core::ConfigError> {
    /// let circuit = CircuitBreakerLayer::standard("datadog").handle();
    /// circuit.set_config(circuit.config().open_for(Duration::from_secs(5)))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the configuration breaks a rule, or if this is the circuit of one key: all keys of a layer have one configuration,
    /// which [`KeyedCircuitBreakerHandle::set_config`](crate::KeyedCircuitBreakerHandle::set_config) changes. The old one
    /// then stays.
    pub fn set_config(&self, config: Config) -> Result<(), ConfigError> {
        if let Holder::Keyed(keyed) = &self.breaker {
            let rule =
                "must be left to the handle of its layer: the circuits of all keys have one configuration";
            return Err(ConfigError::new("key", &keyed.key, rule));
        }
        config.check()?;
        self.breaker.settings.set_config(config);
        self.breaker.configure();
        Ok(())
    }

    fn operate(&self, f: impl FnOnce(&mut Machine, Tallies<'_>) -> Option<Change>) {
        let mut now = LazyNow::new(&self.breaker.settings.clock);
        self.breaker.apply(&mut now, |machine, _, tallies, _| ((), f(machine, tallies)));
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
