//! What a stack is while it runs: the handle on its four layers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use buttress_circuit_breaker::{CircuitBreakerHandle, CircuitState, KeyedCircuitBreakerHandle};
use buttress_core::{CloneReplay, ConfigError, Mode, Plain};
use buttress_deadline::DeadlineLayer;
use buttress_retry::RetryLayer;

use crate::explain::Explanation;

/// What a file says of one stack: each key with its tables, and its value as it is written.
pub(crate) type Written = BTreeMap<String, String>;

/// The settings of a stack, all things considered.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) total: Duration,
    /// As it was asked for: no attempt gets more than the total.
    pub(crate) attempt: Duration,
    /// The total deadline, with every request.
    pub(crate) travels: bool,
    pub(crate) retry: buttress_retry::Config,
    pub(crate) breaker: buttress_circuit_breaker::Config,
    /// Of all layers, where the builder says one.
    pub(crate) mode: Option<Mode>,
    /// Where the stack comes from a file.
    pub(crate) written: Option<Arc<Written>>,
}

/// The circuits of a stack.
#[derive(Clone, Debug)]
pub enum Circuits {
    /// One for all calls.
    One(CircuitBreakerHandle),
    /// One for each host.
    PerHost(KeyedCircuitBreakerHandle),
}

/// Lists and controls the layers of one stack while it runs; [`HttpLayer::handle`](crate::HttpLayer::handle) gives it.
///
/// Clones act on the same stack, and so do the handles of its single layers.
///
/// ```
/// use buttress::Mode;
///
/// # fn main() -> Result<(), buttress::ConfigError> {
/// let layer = buttress::http("datadog").datadog().build()?;
/// let stack = layer.handle();
/// stack.set_mode(Mode::Observe);
/// stack.isolate();
/// println!("{stack}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct StackHandle {
    name: Arc<str>,
    protocol: &'static str,
    layers: Layers,
    travels: bool,
    /// The time of an attempt that was asked for: what is in force is no longer than the total.
    asked: Arc<Mutex<Duration>>,
    around: Arc<dyn Fn(Explanation) -> Explanation + Send + Sync>,
    written: Arc<Mutex<Option<Arc<Written>>>>,
}

/// The layers of a stack, whatever protocol they serve: each is a handle on those that do.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    total: DeadlineLayer,
    retry: RetryLayer,
    circuits: Circuits,
    attempt: DeadlineLayer,
}

impl Layers {
    pub(crate) fn new<K: Clone, L: Clone, P: Clone, R: Clone>(
        total: &DeadlineLayer<K>,
        retry: &RetryLayer<P, R>,
        circuits: Circuits,
        attempt: &DeadlineLayer<L>,
    ) -> Self {
        Self {
            total: total.clone().obey(()),
            retry: retry.clone().policy(Plain::default()).replay(CloneReplay),
            circuits,
            attempt: attempt.clone().obey(()),
        }
    }
}

impl StackHandle {
    /// `around` adds what lies above and below the four layers to what is said of them.
    pub(crate) fn new(
        (protocol, name): (&'static str, Arc<str>),
        layers: Layers,
        plan: &Plan,
        around: impl Fn(Explanation) -> Explanation + Send + Sync + 'static,
    ) -> Self {
        let (around, written) = (Arc::new(around), Arc::new(Mutex::new(plan.written.clone())));
        let (travels, asked) = (plan.travels, Arc::new(Mutex::new(plan.attempt)));
        let handle = Self { name, protocol, layers, travels, asked, around, written };
        if let Some(mode) = plan.mode {
            handle.set_mode(mode);
        }
        handle
    }

    /// The name of the dependency.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `http` or `grpc`.
    pub fn protocol(&self) -> &'static str {
        self.protocol
    }

    /// What the stack does now, one line a layer, and what looks wrong about it.
    pub fn explain(&self) -> Explanation {
        let layers = &self.layers;
        let (total, attempt) = (layers.total.limit(), layers.attempt.limit());
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been set since, at the layer itself.
        let asked = if attempt == asked.min(total) { asked } else { attempt };
        let (retry, breaker) = (layers.retry.config(), layers.circuits.config());
        (self.around)(Explanation::of(&self.name, (total, self.travels), (attempt, asked), &retry, &breaker))
    }

    /// The total deadline.
    pub fn total(&self) -> &DeadlineLayer {
        &self.layers.total
    }

    /// The retry: its configuration, its budget and its mode.
    pub fn retry(&self) -> &RetryLayer {
        &self.layers.retry
    }

    /// The circuits.
    pub fn circuits(&self) -> &Circuits {
        &self.layers.circuits
    }

    /// The attempt deadline.
    pub fn attempt(&self) -> &DeadlineLayer {
        &self.layers.attempt
    }

    /// The layers with their modes, from the outside in.
    pub fn modes(&self) -> [(&'static str, Mode); 4] {
        let circuits = match &self.layers.circuits {
            Circuits::One(circuit) => circuit.mode(),
            Circuits::PerHost(circuits) => circuits.mode(),
        };
        [
            ("deadline (total)", self.layers.total.mode()),
            ("retry", self.layers.retry.mode()),
            ("circuit breaker", circuits),
            ("deadline (attempt)", self.layers.attempt.mode()),
        ]
    }

    /// Switches the mode of all four layers.
    pub fn set_mode(&self, mode: Mode) {
        match &self.layers.circuits {
            Circuits::One(circuit) => circuit.set_mode(mode),
            Circuits::PerHost(circuits) => circuits.set_mode(mode),
        }
        self.layers.total.set_mode(mode);
        self.layers.retry.set_mode(mode);
        self.layers.attempt.set_mode(mode);
    }

    /// Refuses every call until [`close`](StackHandle::close); per host, every call to a host that is known.
    pub fn isolate(&self) {
        self.layers.circuits.each(CircuitBreakerHandle::isolate);
    }

    /// Lets calls flow, and forgets all that the circuits have counted.
    pub fn close(&self) {
        self.layers.circuits.each(CircuitBreakerHandle::close);
    }

    /// Puts these settings in force, all of them or, if one breaks a rule, none.
    pub(crate) fn apply(&self, plan: &Plan) -> Result<(), ConfigError> {
        plan.check()?;
        self.layers.retry.set_config(plan.retry.clone())?;
        match &self.layers.circuits {
            Circuits::One(circuit) => circuit.set_config(plan.breaker.clone())?,
            Circuits::PerHost(circuits) => circuits.set_config(plan.breaker.clone())?,
        }
        self.layers.total.set_limit(plan.total)?;
        self.layers.attempt.set_limit(plan.attempt.min(plan.total))?;
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = plan.attempt;
        if let Some(mode) = plan.mode {
            self.set_mode(mode);
        }
        Ok(())
    }

    /// Whether it came from a file, which controls it.
    pub fn is_from_file(&self) -> bool {
        self.written().is_some()
    }

    pub(crate) fn written(&self) -> Option<Arc<Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[cfg(feature = "config")]
    pub(crate) fn set_written(&self, written: Option<Arc<Written>>) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = written;
    }
}

impl Plan {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (field, limit) in [("total", self.total), ("attempt", self.attempt)] {
            if limit.is_zero() {
                return Err(ConfigError::new(
                    field,
                    limit,
                    "must be longer than zero, or no call can succeed",
                ));
            }
        }
        self.retry.check()?;
        self.breaker.check()
    }
}

impl Circuits {
    /// The configuration of all of them.
    pub fn config(&self) -> buttress_circuit_breaker::Config {
        match self {
            Self::One(circuit) => circuit.config(),
            Self::PerHost(circuits) => circuits.config(),
        }
    }

    /// The hosts that are known and the states of their circuits, in no order; without a host where there is one circuit for all.
    pub fn states(&self) -> Vec<(Option<Arc<str>>, CircuitState)> {
        match self {
            Self::One(circuit) => vec![(None, circuit.state())],
            Self::PerHost(circuits) => {
                let handles = circuits.handles().into_iter();
                handles.map(|(host, circuit)| (Some(host), circuit.state())).collect()
            }
        }
    }

    fn each(&self, act: impl Fn(&CircuitBreakerHandle)) {
        match self {
            Self::One(circuit) => act(circuit),
            Self::PerHost(circuits) => circuits.handles().iter().for_each(|(_, circuit)| act(circuit)),
        }
    }
}

impl fmt::Debug for StackHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("StackHandle");
        debug.field("name", &self.name).field("protocol", &self.protocol).field("modes", &self.modes());
        debug.field("circuits", &self.layers.circuits.states()).finish_non_exhaustive()
    }
}

/// What it does, and then what state it is in: modes that are not `Enforce`, circuits that are not closed, the budget.
impl fmt::Display for StackHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.explain())?;
        for (layer, mode) in self.modes() {
            if mode != Mode::Enforce {
                write!(f, "\nmode of {layer}: {mode:?}")?;
            }
        }
        for (host, state) in self.layers.circuits.states() {
            if state != CircuitState::Closed {
                let host = host.map(|host| format!(" of {host}")).unwrap_or_default();
                write!(f, "\ncircuit{host}: {}", state.as_str())?;
            }
        }
        match self.layers.retry.budget().tokens() {
            tokens if tokens.is_finite() => write!(f, "\nretry budget: {tokens:.1} in hand"),
            _ => Ok(()),
        }
    }
}
