use std::sync::Arc;
use std::time::Duration;

use super::{
    CallResult, CircuitCause, CircuitState, HealResult, HealState, Health, IdempotencyResult, PageKind,
    RunChange, StepResult,
};
use crate::exhausted::Stop;
use crate::level::Level;
use crate::verdict::{Kind, Verdict};

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
        /// 1 for the first. What a protocol gave back unprocessed is sent again, once, under the same number.
        number: u32,
        /// What it meant.
        verdict: Verdict,
        /// What comes of it.
        severity: Severity,
        /// How long it took.
        elapsed: Duration,
    },
    /// A retry waits before its next attempt, or sends again at once what a protocol gave back unprocessed.
    Backoff {
        /// 1 for the first retry. What is sent again at once is none, and has the number of the one to come.
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
