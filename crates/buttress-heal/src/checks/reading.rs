use std::fmt;

use buttress_core::ConfigError;
use buttress_core::observe::CircuitState;

use crate::BoxFuture;
use crate::check::{Answer, Check, Subject, Symptom};

/// A check that reads a figure of this process, at once: made by [`queue_depth`], [`pool_use`] or [`circuit_breaker`].
pub struct Reading {
    name: &'static str,
    symptom: Symptom,
    /// What is wrong, if anything is.
    excess: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("name", &self.name).field("symptom", &self.symptom).finish()
    }
}

/// Fails while more than `at_most` pieces of work wait; [`Symptom::Queue`].
///
/// ```
/// use tokio::sync::mpsc;
///
/// let (jobs, _worker) = mpsc::channel::<u32>(1000);
/// let check = buttress_heal::queue_depth(800, move || jobs.max_capacity() - jobs.capacity());
/// ```
pub fn queue_depth(at_most: usize, depth: impl Fn() -> usize + Send + Sync + 'static) -> Reading {
    let excess = move || {
        let depth = depth();
        (depth > at_most).then(|| format!("{depth} are waiting, more than {at_most}"))
    };
    Reading { name: "queue depth", symptom: Symptom::Queue, excess: Box::new(excess) }
}

/// Fails while at least so many per cent of a pool's connections are in use; [`Symptom::Pool`]. The closure says how many
/// are in use, and how many there can be.
///
/// A pool at its limit may just be busy: let it [`fall`](crate::Monitor::fall) slowly, or count those who wait for a
/// connection with [`queue_depth`].
///
/// # Errors
///
/// If `percent` is not 1 to 100.
pub fn pool_use(
    percent: u8,
    used_of: impl Fn() -> (usize, usize) + Send + Sync + 'static,
) -> Result<Reading, ConfigError> {
    if !(1..=100).contains(&percent) {
        return Err(ConfigError::new("percent", percent, "must be 1 to 100"));
    }
    let excess = move || {
        let (used, of) = used_of();
        let reached = of > 0 && used as u128 * 100 >= of as u128 * u128::from(percent);
        reached.then(|| format!("{used} of {of} connections are in use"))
    };
    Ok(Reading { name: "pool use", symptom: Symptom::Pool, excess: Box::new(excess) })
}

/// Fails while a circuit breaker is open; [`Symptom::CircuitBreaker`]. While it is half-open its probes have not decided
/// yet, and one that an operator has isolated is not ill: both pass.
///
/// ```
/// use buttress_core::observe::CircuitState;
/// # struct Handle; impl Handle { fn state(&self) -> CircuitState { CircuitState::Closed } }
/// # let handle = Handle;
/// // A handle of `buttress-circuit-breaker`.
/// let check = buttress_heal::circuit_breaker(move || handle.state());
/// ```
pub fn circuit_breaker(state: impl Fn() -> CircuitState + Send + Sync + 'static) -> Reading {
    let excess = move || (state() == CircuitState::Open).then(|| "the circuit is open".to_owned());
    Reading { name: "circuit breaker", symptom: Symptom::CircuitBreaker, excess: Box::new(excess) }
}

impl<S> Check<S> for Reading {
    fn name(&self) -> &str {
        self.name
    }

    fn symptom(&self) -> Symptom {
        self.symptom.clone()
    }

    fn run<'a>(&'a self, _: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        Box::pin(async move { (self.excess)().map_or(Answer::Pass, Answer::fail) })
    }
}
