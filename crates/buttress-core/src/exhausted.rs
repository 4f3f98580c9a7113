use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Seconds;
use crate::error::BoxError;
use crate::verdict::Verdict;

/// A retry gave up; [`source`](Error::source) is the error of its last attempt.
#[derive(Debug)]
pub struct Exhausted {
    /// The name of the service.
    pub name: Arc<str>,
    /// Why there was no further attempt.
    pub stop: Stop,
    /// How many attempts were made, the first one and those that a layer below refused included. What a protocol gave back
    /// unprocessed and was sent again at once counts as one.
    pub attempts: u32,
    /// The time from the first attempt to giving up.
    pub elapsed: Duration,
    /// What the whole call means: the last attempt's verdict, with [`Effect::NotSent`] only if not one attempt can have
    /// had an effect.
    ///
    /// [`Effect::NotSent`]: crate::Effect::NotSent
    pub verdict: Verdict,
    /// Whether the request may be sent again without the risk of doing its work twice: no attempt had an effect, or
    /// the request is idempotent.
    pub safe_to_retry: bool,
    /// The earliest moment at which the server wants to hear from us again, if it said so.
    pub retry_at: Option<Instant>,
    /// The error of the last attempt.
    pub source: BoxError,
}

/// Why a retry made no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stop {
    /// All permitted retries were made.
    MaxRetries,
    /// The retry budget is spent.
    Budget,
    /// The next attempt would have started after the request's deadline.
    Deadline,
    /// The next attempt would have started after the retry's own limit on the whole call.
    TotalWait,
    /// The server asked for a longer wait than the policy accepts.
    HintTooLong,
    /// The server asked not to be tried again.
    DoNotRetry,
    /// The request's body is gone: too large to be kept, or it failed while it was read.
    NotReplayable,
    /// The request may have been applied, and it is not idempotent.
    NotIdempotent,
    /// The last outcome is not one that is retried.
    NotRetryable,
    /// A layer below, such as an open circuit, refused the last attempt.
    Refused,
}

impl Stop {
    /// Every reason, in the order of the enum.
    pub const ALL: [Self; 10] = [
        Self::MaxRetries,
        Self::Budget,
        Self::Deadline,
        Self::TotalWait,
        Self::HintTooLong,
        Self::DoNotRetry,
        Self::NotReplayable,
        Self::NotIdempotent,
        Self::NotRetryable,
        Self::Refused,
    ];

    /// The reason in one word, as metrics label it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::MaxRetries => "max_retries",
            Self::Budget => "budget",
            Self::Deadline => "deadline",
            Self::TotalWait => "total_wait",
            Self::HintTooLong => "hint_too_long",
            Self::DoNotRetry => "do_not_retry",
            Self::NotReplayable => "not_replayable",
            Self::NotIdempotent => "not_idempotent",
            Self::NotRetryable => "not_retryable",
            Self::Refused => "refused",
        }
    }

    /// The reason in a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxRetries => "all retries are used up",
            Self::Budget => "the retry budget is spent",
            Self::Deadline => "the next attempt would start after the deadline",
            Self::TotalWait => "the next attempt would exceed the limit on the whole call",
            Self::HintTooLong => "the server asked for a longer wait than is accepted",
            Self::DoNotRetry => "the server asked not to be tried again",
            Self::NotReplayable => "the request's body cannot be sent again",
            Self::NotIdempotent => "the request may have been applied and is not idempotent",
            Self::NotRetryable => "the last outcome is not one that is retried",
            Self::Refused => "a layer below refused the last attempt",
        }
    }
}

impl Exhausted {
    /// How long from now until [`retry_at`](Exhausted::retry_at): zero once it has passed.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_at.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, attempts, .. } = self;
        let plural = if *attempts == 1 { "" } else { "s" };
        write!(f, "`{name}` failed after {attempts} attempt{plural} in {}", Seconds(self.elapsed))?;
        write!(f, ": {}", self.stop.as_str())?;
        if let Some(after) = self.retry_after() {
            write!(f, "; try again in {}", Seconds(after))?;
        }
        f.write_str(if self.safe_to_retry {
            "; safe to send again"
        } else {
            "; not safe to send again, it may have been applied"
        })
    }
}

impl Error for Exhausted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}
