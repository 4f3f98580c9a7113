use std::time::Duration;

use buttress_core::ConfigError;

use crate::outcome::{OnPanic, OnUnknown};

/// How calls are claimed, kept and waited for.
///
/// | | default |
/// |---|---|
/// | [`lease`](Config::lease), renewed at each third of it | 30 s |
/// | [`ceiling`](Config::ceiling), after which it is renewed no more | 10 min |
/// | [`ttl`](Config::ttl) of an answer, from completion | 24 h |
/// | [`in_flight`](Config::in_flight) | refuse |
/// | [`retry_after`](Config::retry_after) of a refusal | 1 s |
/// | [`store_timeout`](Config::store_timeout) | 5 s |
/// | [`fail_open`](Config::fail_open) | no: without the store nothing is done |
/// | [`on_unknown`](Config::on_unknown) | rerun |
/// | [`hold_unknown`](Config::hold_unknown) | the rest of the lease |
/// | [`on_panic`](Config::on_panic) | the claim lapses |
/// | [`max_detached`](Config::max_detached) | 1,024 |
#[derive(Clone, Debug)]
#[must_use]
pub struct Config {
    pub(crate) lease: Duration,
    pub(crate) ceiling: Duration,
    pub(crate) ttl: Duration,
    pub(crate) in_flight: InFlight,
    pub(crate) retry_after: Duration,
    pub(crate) store_timeout: Duration,
    pub(crate) fail_open: bool,
    pub(crate) on_unknown: OnUnknown,
    pub(crate) hold_unknown: Option<Duration>,
    pub(crate) on_panic: OnPanic,
    pub(crate) max_detached: usize,
}

/// What a call does while the same one is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InFlight {
    /// It fails at once with [`Error::InFlight`](crate::Error::InFlight) (HTTP 409).
    #[default]
    Refuse,
    /// It waits for the answer of the other, for so long at most; then it fails. Where that leaves no answer, one of those who
    /// wait makes the call; where that leaves none either, the others at this process fail, too.
    Wait(Duration),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            ceiling: Duration::from_secs(600),
            ttl: Duration::from_secs(86_400),
            in_flight: InFlight::Refuse,
            retry_after: Duration::from_secs(1),
            store_timeout: Duration::from_secs(5),
            fail_open: false,
            on_unknown: OnUnknown::Rerun,
            hold_unknown: None,
            on_panic: OnPanic::Lapse,
            max_detached: 1024,
        }
    }
}

impl Config {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a claim holds without a sign of life of its owner: so long a key is blocked after a crash.
    /// Default 30 s.
    ///
    /// It is renewed by the call itself, each time that it is polled and a third of it is over. An effect that blocks its thread
    /// for longer than this, or whose future is kept and not polled, loses its claim, and another call repeats it: let blocking
    /// work have a thread of its own (`spawn_blocking`), and the call a task.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long a lease is renewed at most. After that others may take the key, and work that goes on for a caller who went
    /// away is dropped. Default 10 min.
    pub fn ceiling(mut self, ceiling: Duration) -> Self {
        self.ceiling = ceiling;
        self
    }

    /// How long an answer is kept, counted from completion: for at least as long as callers retry. Default 24 h.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// What a call does while the same one is under way. Default [`InFlight::Refuse`].
    pub fn in_flight(mut self, in_flight: InFlight) -> Self {
        self.in_flight = in_flight;
        self
    }

    /// When a caller that was refused is told to come back. Default 1 s.
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// How long one verb of the store may take, and a renewal a third of the lease at most. A claim that succeeds later than that
    /// is released. Default 5 s.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.store_timeout = timeout;
        self
    }

    /// Carries calls out unprotected while the store cannot be reached, does not answer or has no room, where a refusal is worse
    /// than a repetition. Not where the store has said that the key is in use, or has something that it cannot read. By default
    /// nothing is done without the store.
    pub fn fail_open(mut self) -> Self {
        self.fail_open = true;
        self
    }

    /// What becomes of a call whose earlier attempt left its effect unknown. A protocol's own reconciliation goes before.
    /// Default [`OnUnknown::Rerun`].
    pub fn on_unknown(mut self, on_unknown: OnUnknown) -> Self {
        self.on_unknown = on_unknown;
        self
    }

    /// How long a key stays claimed after its effect was found to be unknown; zero lets the next call in at once. Default: the
    /// rest of its lease.
    pub fn hold_unknown(mut self, hold: Duration) -> Self {
        self.hold_unknown = Some(hold);
        self
    }

    /// What becomes of the key when the effect panics. Default [`OnPanic::Lapse`].
    pub fn on_panic(mut self, on_panic: OnPanic) -> Self {
        self.on_panic = on_panic;
        self
    }

    /// How many effects may be carried on for callers that went away. While there are as many, calls are refused before
    /// they are claimed; what has begun is never abandoned for it. Default 1024.
    pub fn max_detached(mut self, max: usize) -> Self {
        self.max_detached = max;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let positive = [("lease", self.lease), ("ttl", self.ttl), ("store_timeout", self.store_timeout)];
        for (field, value) in positive {
            if value.is_zero() {
                return Err(ConfigError::new(field, value, "must be longer than zero"));
            }
        }
        if self.ceiling < self.lease {
            let rule = format!("must be no shorter than the lease, {:?}", self.lease);
            return Err(ConfigError::new("ceiling", self.ceiling, rule));
        }
        if self.max_detached == 0 {
            return Err(ConfigError::new("max_detached", 0, "must be at least 1"));
        }
        Ok(())
    }
}
