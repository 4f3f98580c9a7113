use std::time::Duration;

/// What one outcome means to every layer that judges it.
///
/// A [`Classify`](crate::Classify) gives a verdict; layers act on it. Each layer reads the part it needs: a breaker
/// asks [`is_failure`](Verdict::is_failure), a retry asks for the kind, the effect and the hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The call did what was asked.
    Success,
    /// The request was answered and the fault lies with the caller (HTTP 400, 404): healthy for the dependency,
    /// never retried, never masked by a fallback.
    Rejected,
    /// Neutral: counts neither for nor against the dependency, and consumes no probe.
    Ignored,
    /// The call failed.
    Failure {
        /// What kind of failure it was.
        kind: Kind,
        /// Whether the dependency may have acted on the request all the same.
        effect: Effect,
        /// What the server asked of whoever would retry.
        hint: Hint,
    },
}

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Likely to pass: a reset connection, HTTP 500, 502, 503, 504.
    Transient,
    /// The caller sends too much: HTTP 429.
    Throttled,
    /// What the request is about is busy, and will not be at a known time: HTTP 409 with `Retry-After`. An answer of a healthy
    /// dependency, which may be retried then; it says nothing of other requests.
    Conflict,
    /// The protocol gave the request back: an HTTP/2 stream that was refused, or lies beyond the last one that a connection serves
    /// which is being closed (RFC 9113 § 8.7); a request of which nothing had been written when its connection closed. It says
    /// nothing of the dependency's health, and the first time in a call it is sent again at once, at no cost (gRPC A6: a
    /// transparent retry).
    Unprocessed,
    /// No answer in time.
    Timeout,
    /// A layer on this side refused before anything was sent.
    Refused,
    /// Will fail again in the same way: HTTP 501, 505.
    Permanent,
}

/// Whether a failed request may have been acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The request certainly had no effect: it never left, or the server said that it was not processed.
    NotSent,
    /// The request may have been applied; only an idempotent one is safe to send again.
    Unknown,
}

/// What the server asked of whoever would retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hint {
    /// Nothing.
    None,
    /// Not before this much time has passed.
    RetryAfter(Duration),
    /// Not at all.
    DoNotRetry,
}

impl Verdict {
    /// A failure of this kind: effect [`Unknown`](Effect::Unknown) ([`NotSent`](Effect::NotSent) for
    /// [`Refused`](Kind::Refused) and [`Unprocessed`](Kind::Unprocessed)), without a hint.
    pub const fn failure(kind: Kind) -> Self {
        let effect = match kind {
            Kind::Refused | Kind::Unprocessed => Effect::NotSent,
            _ => Effect::Unknown,
        };
        Self::Failure { kind, effect, hint: Hint::None }
    }

    /// The same failure, certainly without an effect. Other verdicts stay as they are.
    #[must_use]
    pub const fn not_sent(self) -> Self {
        match self {
            Self::Failure { kind, hint, .. } => Self::Failure { kind, effect: Effect::NotSent, hint },
            other => other,
        }
    }

    /// The same failure with this hint. Other verdicts stay as they are.
    #[must_use]
    pub const fn with_hint(self, hint: Hint) -> Self {
        match self {
            Self::Failure { kind, effect, .. } => Self::Failure { kind, effect, hint },
            other => other,
        }
    }

    /// Whether this is a [`Failure`](Verdict::Failure).
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Failure { .. })
    }

    /// The hint of a failure; [`Hint::None`] for every other verdict.
    pub const fn hint(&self) -> Hint {
        match self {
            Self::Failure { hint, .. } => *hint,
            _ => Hint::None,
        }
    }
}

impl Kind {
    /// The kind as one lower-case word, as metrics and events print it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Throttled => "throttled",
            Self::Conflict => "conflict",
            Self::Unprocessed => "unprocessed",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Permanent => "permanent",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_or_not_processed_has_no_effect_and_every_other_failure_may_have_one() {
        for kind in [Kind::Transient, Kind::Throttled, Kind::Conflict, Kind::Timeout, Kind::Permanent] {
            assert_eq!(
                Verdict::failure(kind),
                Verdict::Failure { kind, effect: Effect::Unknown, hint: Hint::None }
            );
        }
        for kind in [Kind::Refused, Kind::Unprocessed] {
            assert_eq!(Verdict::failure(kind), Verdict::failure(kind).not_sent());
        }
    }

    #[test]
    fn only_failures_take_a_hint_or_an_effect() {
        let hint = Hint::RetryAfter(Duration::from_secs(3));
        assert_eq!(Verdict::failure(Kind::Throttled).with_hint(hint).hint(), hint);
        for other in [Verdict::Success, Verdict::Rejected, Verdict::Ignored] {
            assert_eq!(other.with_hint(hint).not_sent(), other);
            assert!(!other.is_failure());
        }
    }
}
