use std::fmt;
use std::time::Duration;

use buttress_core::observe::CircuitState;

use crate::BoxFuture;
use crate::check::{Answer, Check, CheckSettings, Subject, Symptom};

/// A check that reads a figure of this process, at once: made by [`queue_depth`] or [`circuit_breaker`].
pub struct Reading {
    name: &'static str,
    symptom: Symptom,
    settings: CheckSettings,
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
/// In doubt it is run each second, and believed after five failures: a burst is no illness.
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
    let (symptom, settings) = (Symptom::Queue, lasting());
    Reading { name: "queue depth", symptom, settings, excess: Box::new(excess) }
}

/// Fails while a circuit breaker is open; [`Symptom::CircuitBreaker`]. While it is half-open its probes have not decided
/// yet, and one that an operator has isolated is not ill: both pass.
///
/// An action against it is judged by whether the circuit is still open when its time to verify is over (5 s, if nothing
/// else is said), and a circuit stays open for a time of its own (60 s): set one of them so that it is half-open by then.
/// Where a check of the service itself says the same, use that.
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
    // The circuit has looked at several calls already.
    let settings = CheckSettings { fall: 1, rise: 1, ..CheckSettings::default() };
    Reading { name: "circuit breaker", symptom: Symptom::CircuitBreaker, settings, excess: Box::new(excess) }
}

impl<S> Check<S> for Reading {
    fn name(&self) -> &str {
        self.name
    }

    fn symptom(&self) -> Symptom {
        self.symptom.clone()
    }

    fn settings(&self) -> CheckSettings {
        self.settings.clone()
    }

    fn run<'a>(&'a self, _: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        Box::pin(async move { (self.excess)().map_or(Answer::Pass, Answer::fail) })
    }
}

/// For what goes up and down by itself: only what lasts is believed.
pub(super) fn lasting() -> CheckSettings {
    CheckSettings { in_doubt_every: Duration::from_secs(1), fall: 5, ..CheckSettings::default() }
}
