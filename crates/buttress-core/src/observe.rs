//! What layers report: one small event type, one trait that receives it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::error::Stop;
use crate::level::Level;
use crate::verdict::{Kind, Verdict};

mod healing;
mod outbox;
pub use healing::{HealResult, HealState, Health, PageKind};
pub use outbox::Outbox;

#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "metrics")]
pub use metrics::Metrics;

#[cfg(feature = "tracing")]
mod tracing;
#[cfg(feature = "tracing")]
pub use tracing::Tracing;

/// Receives every event of a layer.
///
/// It is called on the task of the call that caused the event, outside of all locks; it must not block. A panic in it
/// is caught and forgotten.
pub trait Observe: Send + Sync {
    /// `service` is the name that the layer was given.
    fn event(&self, service: &str, event: &Event);
}

/// The place where a layer keeps its observer. Silence costs nothing.
#[derive(Default)]
pub struct Observer(OnceLock<Arc<dyn Observe>>);

impl Observer {
    /// Reports to this observer from now on. The first one stays; a `Vec` of several is one.
    pub fn set(&self, observer: Arc<dyn Observe>) {
        let _ = self.0.set(observer);
    }

    /// Whether anybody listens.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    /// Reports an event if anybody listens. `event` is made only then.
    #[inline]
    pub fn emit(&self, service: &str, event: impl FnOnce() -> Event) {
        if let Some(observer) = self.0.get() {
            guarded(observer.as_ref(), service, &event());
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "Observer(set)" } else { "Observer(silent)" })
    }
}

impl From<Arc<dyn Observe>> for Observer {
    fn from(observer: Arc<dyn Observe>) -> Self {
        Self(OnceLock::from(observer))
    }
}

/// Reports to each of these in turn.
impl Observe for Vec<Arc<dyn Observe>> {
    fn event(&self, service: &str, event: &Event) {
        for observer in self {
            guarded(observer.as_ref(), service, event);
        }
    }
}

/// An observer from a closure.
///
/// ```
/// let observer = buttress_core::observe_fn(|service, event| eprintln!("{service}: {event:?}"));
/// # let _: std::sync::Arc<dyn buttress_core::Observe> = observer;
/// ```
pub fn observe_fn(f: impl Fn(&str, &Event) + Send + Sync + 'static) -> Arc<dyn Observe> {
    struct ObserveFn<F>(F);
    impl<F: Fn(&str, &Event) + Send + Sync> Observe for ObserveFn<F> {
        fn event(&self, service: &str, event: &Event) {
            (self.0)(service, event);
        }
    }
    Arc::new(ObserveFn(f))
}

fn guarded(observer: &dyn Observe, service: &str, event: &Event) {
    // The observer's own state may be torn by its panic; that is its affair, and nothing of ours is in its hands.
    let _ = catch_unwind(AssertUnwindSafe(|| observer.event(service, event)));
}

/// What happened in a layer. Durations are measured on the runtime's clock.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A call through a circuit breaker ended, or was refused.
    Call(CallResult),
    /// A circuit breaker changed its state.
    Circuit {
        /// The key of a keyed breaker.
        key: Option<Arc<str>>,
        /// The state before.
        from: CircuitState,
        /// The state now.
        to: CircuitState,
        /// What caused it.
        cause: CircuitCause,
        /// For how long it refuses, where it opened.
        open_for: Option<Duration>,
    },
    /// A circuit breaker in [`Mode::Observe`](crate::Mode::Observe) let through what it would have refused.
    WouldRefuse,
    /// A keyed breaker forgot this key, to keep its memory bounded, although its circuit was not closed.
    Evicted {
        /// The key that was forgotten.
        key: Arc<str>,
    },
    /// A retry's attempt ended.
    Attempt {
        /// 1 for the first.
        number: u32,
        /// What it meant.
        verdict: Verdict,
        /// What comes of it.
        severity: Severity,
        /// How long it took.
        elapsed: Duration,
    },
    /// A retry waits before its next attempt.
    Backoff {
        /// 1 for the first retry.
        retry: u32,
        /// How long.
        delay: Duration,
        /// The failure that is retried.
        kind: Kind,
        /// What the server asked for, where that was obeyed.
        hint: Option<Duration>,
    },
    /// A retry ended without success.
    GaveUp {
        /// How many attempts were made.
        attempts: u32,
        /// Why there is no further one.
        stop: Stop,
    },
    /// A retry in [`Mode::Observe`](crate::Mode::Observe) would have made another attempt.
    WouldRetry {
        /// After this time.
        delay: Duration,
    },
    /// What is left of a retry budget.
    Budget {
        /// Retries that could start now.
        tokens: f64,
    },
    /// A rate gate holds a request back until the server's pause is over.
    Held {
        /// How long.
        delay: Duration,
        /// Whether it waits; `false` in [`Mode::Observe`](crate::Mode::Observe).
        enforced: bool,
    },
    /// A time limit ran out.
    Elapsed {
        /// The limit.
        limit: Duration,
        /// Whether the call was cut off; `false` in [`Mode::Observe`](crate::Mode::Observe).
        enforced: bool,
    },
    /// A call with an idempotency key was decided, or ended.
    Idempotency(IdempotencyResult),
    /// A layer other than a circuit breaker refused a request before it was sent.
    Refused(crate::Reason),
    /// A chaos layer injected a fault.
    Injected {
        /// What kind of fault, as one lower-case word (`latency`, `lose_answer`).
        fault: &'static str,
        /// Whether it acts; `false` in [`Mode::Observe`](crate::Mode::Observe).
        enforced: bool,
    },
    /// A step of a workflow ended, or was skipped because its result is recorded.
    Step {
        /// The identity of the run.
        run: Arc<str>,
        /// The name of the step.
        step: Arc<str>,
        /// Which one of that name, from 0 on.
        occurrence: u32,
        /// How it ended.
        result: StepResult,
        /// How long its last attempt took; zero if it was skipped.
        elapsed: Duration,
    },
    /// Entries of a journal were stored.
    Saved {
        /// How many, in one write.
        entries: usize,
    },
    /// A run of a workflow changed hands or state.
    Run {
        /// The identity of the run.
        run: Arc<str>,
        /// What happened.
        change: RunChange,
    },
    /// A call got a degraded answer, or (level 4) none.
    Degraded {
        /// How good the answer is.
        level: Level,
        /// Where it comes from: the name of a rung, `last good answer`, `upstream`; `none` at level 4.
        source: Arc<str>,
    },
    /// A rung of a degradation chain gave no answer, and the next one was asked.
    Rung {
        /// The name of the rung.
        rung: Arc<str>,
        /// Why not, in a few words.
        cause: &'static str,
    },
    /// A background refresh of a stored answer ended.
    Refreshed {
        /// Whether there is a new answer.
        success: bool,
    },
    /// The degradation level of the whole system has changed.
    SystemLevel {
        /// What is true now.
        instant: Level,
        /// What is declared: one step at a time, and upwards only after a while.
        declared: Level,
    },
    /// A worker could not ask its store for runs, or the store behind a memory of good answers failed: both go on without, and ask
    /// again. The service is the worker's name, or the layer's.
    StoreFailed {
        /// The store's error, or what else is wrong with it.
        error: Arc<str>,
        /// It will not pass by itself: somebody has to change something.
        lasts: bool,
    },
    /// The supervisor of a service changed its state.
    Heal {
        /// The state before.
        from: HealState,
        /// The state now.
        to: HealState,
        /// How well the service is.
        health: Health,
        /// Why, in a few words.
        cause: &'static str,
        /// The generation that calls use; 0 while there is none.
        generation: u64,
        /// The key of the incident, if there is one.
        incident: Option<Arc<str>>,
        /// How many attempts have been made in this incident.
        attempts: u32,
    },
    /// A check of a supervised service gave another answer than the one before.
    Checked {
        /// The check.
        check: Arc<str>,
        /// Its answer in a few words.
        answer: &'static str,
    },
    /// An attempt to heal was decided.
    HealAttempt {
        /// The action.
        action: Arc<str>,
        /// How it ended.
        result: HealResult,
        /// From its start until that was known.
        elapsed: Duration,
        /// The key of the incident.
        incident: Arc<str>,
    },
    /// Calls of a supervised service use a new generation.
    Swapped {
        /// Its number, from 1 on.
        generation: u64,
        /// The target that it talks to, from 0 on.
        target: usize,
    },
    /// An incident is over.
    Healed {
        /// Its key.
        incident: Arc<str>,
        /// From the first symptom until all were gone.
        mttr: Duration,
        /// How many attempts were made.
        attempts: u32,
    },
    /// A pager was told something, or could not be.
    Paged {
        /// The key of the incident.
        incident: Arc<str>,
        /// What it was told.
        kind: PageKind,
        /// Whether it got through; if not, it is tried again.
        success: bool,
    },
    /// So many events were lost because the observer is slower than the layer.
    Lost(u64),
}

/// What became of a call with an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IdempotencyResult {
    /// It was carried out, and its answer is stored.
    Executed,
    /// It had been carried out before, and that answer was given.
    Replayed,
    /// It was refused because the same call is under way.
    InFlight,
    /// It was refused because its key was used for something else.
    Mismatch,
    /// It was refused because its key is missing, or is none.
    Invalid,
    /// It was not carried out after all, and its key is free again.
    Released,
    /// Nobody knows whether it was carried out: its claim is kept until the lease ends.
    Unknown,
    /// It outlived its lease, and somebody else took its key.
    Lost,
    /// It was carried out, and its answer could not be kept: it was too large, or it broke off, or did not end.
    TooLarge,
    /// It was refused because the store failed, or because the layer is shutting down or has too much to do.
    Unavailable,
    /// It was carried out without protection although the store failed.
    Unprotected,
    /// It was answered, but the store failed to record it; that is tried again.
    Unrecorded,
    /// The store has recorded what it had failed to record.
    Recorded,
    /// In [`Mode::Observe`](crate::Mode::Observe): it was carried out, and would have been answered from the store.
    WouldReplay,
    /// In [`Mode::Observe`](crate::Mode::Observe): it was carried out, and would have been refused.
    WouldRefuse,
}

impl IdempotencyResult {
    /// Every result, in the order of the enum.
    pub const ALL: [Self; 15] = [
        Self::Executed,
        Self::Replayed,
        Self::InFlight,
        Self::Mismatch,
        Self::Invalid,
        Self::Released,
        Self::Unknown,
        Self::Lost,
        Self::TooLarge,
        Self::Unavailable,
        Self::Unprotected,
        Self::Unrecorded,
        Self::Recorded,
        Self::WouldReplay,
        Self::WouldRefuse,
    ];

    /// The result in one word, as metrics label it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::Replayed => "replayed",
            Self::InFlight => "in_flight",
            Self::Mismatch => "mismatch",
            Self::Invalid => "invalid",
            Self::Released => "released",
            Self::Unknown => "unknown",
            Self::Lost => "lost",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::Unprotected => "unprotected",
            Self::Unrecorded => "unrecorded",
            Self::Recorded => "recorded",
            Self::WouldReplay => "would_replay",
            Self::WouldRefuse => "would_refuse",
        }
    }
}

/// How a call through a circuit breaker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallResult {
    /// It succeeded in time (a request that was rejected as the caller's fault included).
    Success,
    /// It failed.
    Failure,
    /// It succeeded, but too slowly; reported once, when it became too slow.
    Slow,
    /// It was neutral.
    Ignored,
    /// Its caller went away; whether that counted depends on the configuration.
    Abandoned,
    /// It ended after the circuit had changed its state, and did not vote.
    Stale,
    /// It was refused.
    Refused,
}

impl CallResult {
    /// The result as one lower-case word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Slow => "slow",
            Self::Ignored => "ignored",
            Self::Abandoned => "abandoned",
            Self::Stale => "stale",
            Self::Refused => "refused",
        }
    }
}

/// The states of a circuit breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CircuitState {
    /// Calls flow.
    #[default]
    Closed,
    /// Calls are refused until the open time is over.
    Open,
    /// A few calls probe whether the dependency has recovered.
    HalfOpen,
    /// Calls are refused until an operator says otherwise.
    Isolated,
}

impl CircuitState {
    /// The state in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::Isolated => "isolated",
        }
    }
}

/// Why a circuit breaker changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitCause {
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// Too large a share of calls failed.
    FailureRate,
    /// Too large a share of calls was slow.
    SlowCalls,
    /// The open time is over.
    OpenTimeOver,
    /// The probes succeeded.
    ProbesSucceeded,
    /// A probe failed.
    ProbeFailed,
    /// A probe did not end within its lease.
    ProbeExpired,
    /// An operator, or a restored snapshot.
    Operator,
}

impl CircuitCause {
    /// The cause in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive failures",
            Self::FailureRate => "failure rate",
            Self::SlowCalls => "slow calls",
            Self::OpenTimeOver => "open time over",
            Self::ProbesSucceeded => "probes succeeded",
            Self::ProbeFailed => "probe failed",
            Self::ProbeExpired => "probe expired",
            Self::Operator => "operator",
        }
    }
}

/// How a step of a workflow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StepResult {
    /// It succeeded.
    Succeeded,
    /// It failed for good.
    Failed,
    /// An attempt failed, and another one follows.
    WillRetry,
    /// Its recorded result was used.
    Skipped,
}

impl StepResult {
    /// The result in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::WillRetry => "will be retried",
            Self::Skipped => "skipped, since it is recorded",
        }
    }
}

/// What happened to a run of a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunChange {
    /// A worker took hold of it.
    Acquired,
    /// A worker took it over from one that had not given it up.
    Recovered,
    /// It was given back, or sleeps.
    Released,
    /// Its worker lost it, stopped its body and recorded nothing.
    Lost,
    /// It panicked, which recorded nothing.
    Panicked,
    /// It waits for an operator.
    Halted,
    /// It is over.
    Over,
    /// It is open, and this worker does not have its code.
    Unknown,
}

impl RunChange {
    /// What happened, in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acquired => "acquired",
            Self::Recovered => "recovered",
            Self::Released => "released",
            Self::Lost => "lost",
            Self::Panicked => "panicked",
            Self::Halted => "halted",
            Self::Over => "over",
            Self::Unknown => "of unknown code",
        }
    }
}

/// How much an attempt's outcome matters to whoever reads a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Not a failure that a retry handles: a success, or a fault of the caller.
    Information,
    /// A failure that is retried.
    Warning,
    /// A failure that a retry would handle, if there were one left.
    Error,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_panicking_observer_harms_nobody_and_the_next_one_is_told() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let both: Vec<Arc<dyn Observe>> = vec![
            observe_fn(|_, _| panic!("an observer's own fault")),
            observe_fn(move |service, event| {
                record.lock().unwrap().push((service.to_owned(), event.clone()))
            }),
        ];
        let observer = Observer::default();
        observer.set(Arc::new(both));
        observer.emit("datadog", || Event::WouldRefuse);
        assert_eq!(*seen.lock().unwrap(), [("datadog".to_owned(), Event::WouldRefuse)]);
    }

    #[test]
    fn silence_makes_no_event() {
        Observer::default().emit("datadog", || unreachable!("nobody listens"));
    }
}
