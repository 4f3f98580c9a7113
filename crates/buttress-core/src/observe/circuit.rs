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
