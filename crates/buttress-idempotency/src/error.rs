use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use buttress_core::clock::Seconds;
use buttress_core::{BoxError, Hint, Judged, Kind, Verdict, error_verdict};
use buttress_store::StoreError;

/// Why a call was not carried out, or why its answer cannot be given. Neither keys nor answers are printed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The same call is under way. Nothing was done; ask again, with the same key.
    InFlight {
        /// When.
        retry_after: Duration,
    },
    /// The key was used for another call. Nothing was done; that is a mistake of the caller.
    Mismatch,
    /// The call has no key, and needs one. Nothing was done.
    KeyMissing,
    /// The key is none. Nothing was done.
    KeyInvalid(InvalidKey),
    /// The request is larger than what is compared. Nothing was done.
    RequestTooLarge {
        /// The bound, in bytes.
        limit: usize,
    },
    /// The request did not arrive as a whole. Nothing was done.
    RequestFailed(BoxError),
    /// The store failed, so that nobody knows whether the call was carried out before. Nothing was done.
    Store(StoreError),
    /// Too many calls whose callers went away are still being carried out. Nothing was done.
    Overloaded,
    /// The layer is being shut down. Nothing was done.
    ShuttingDown,
    /// The call outlived its lease and somebody else has taken its key: their answer is the one that counts. Ask again, with
    /// the same key.
    Lost {
        /// When.
        retry_after: Duration,
    },
    /// An earlier attempt may have been carried out; nobody knows, and it is not tried again.
    Unknown,
    /// The call was carried out before; its answer could not be kept: it was too large, or it broke off, or did not end.
    AnswerTooLarge,
    /// The call was carried out before; what is stored of its answer cannot be read.
    Unreadable(BoxError),
    /// An earlier attempt may have been carried out, and looking whether it was has failed. Nothing was done.
    Unreconciled(BoxError),
    /// There is no tokio runtime here.
    NoRuntime,
}

impl Error {
    /// Whether it is certain that this attempt had no effect, so that it may be made again.
    pub fn is_safe_to_retry(&self) -> bool {
        !matches!(self, Self::Lost { .. })
    }

    /// What it means to layers around this one. A mistake of the caller is [`Rejected`](Verdict::Rejected). What was refused for now
    /// is [`Refused`](Kind::Refused), certainly without an effect of this attempt, with [when](Error::retry_after) to come back.
    /// What was done, or may have been, and cannot be answered is [`Permanent`](Kind::Permanent). A call that was taken over is
    /// [`Transient`](Kind::Transient): the same key will have an answer.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Mismatch
            | Self::KeyMissing
            | Self::KeyInvalid(_)
            | Self::RequestTooLarge { .. }
            | Self::RequestFailed(_) => Verdict::Rejected,
            Self::InFlight { .. }
            | Self::Store(_)
            | Self::Overloaded
            | Self::ShuttingDown
            | Self::Unreconciled(_)
            | Self::NoRuntime => Verdict::failure(Kind::Refused).with_hint(self.hint()),
            Self::Lost { .. } => Verdict::failure(Kind::Transient).with_hint(self.hint()),
            Self::Unknown | Self::AnswerTooLarge | Self::Unreadable(_) => {
                Verdict::failure(Kind::Permanent).with_hint(Hint::DoNotRetry)
            }
        }
    }

    fn hint(&self) -> Hint {
        self.retry_after().map_or(Hint::None, Hint::RetryAfter)
    }

    /// In a box, with its [verdict](Error::verdict), as [`Keyed`](crate::Keyed) gives it: [`find`](buttress_core::find) finds it,
    /// and [`error_verdict`](buttress_core::error_verdict) what it means.
    pub fn into_boxed(self) -> BoxError {
        Judged::transparent(self.verdict(), self).into()
    }

    /// When it is worth asking again; `None` if that would not help, or if nobody knows.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::InFlight { retry_after } | Self::Lost { retry_after } => Some(*retry_after),
            Self::Overloaded | Self::ShuttingDown | Self::Unreconciled(_) => Some(Duration::from_secs(1)),
            Self::Store(error) if error.is_transient() => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InFlight { retry_after } => write!(
                f,
                "the same call is under way; ask again with the same key in {}",
                Seconds(*retry_after)
            ),
            Self::Mismatch => f.write_str(
                "the idempotency key was used for another call; a new call needs a new key, a repeated one the same content",
            ),
            Self::KeyMissing => f.write_str("the call needs an idempotency key"),
            Self::KeyInvalid(why) => write!(f, "the idempotency key is invalid: {why}"),
            Self::RequestTooLarge { limit } => {
                write!(f, "the request is larger than {limit} bytes; send less")
            }
            Self::RequestFailed(_) => f.write_str("the request did not arrive as a whole; nothing was done"),
            Self::Store(_) => f.write_str(
                "the store of idempotency keys failed, and without it nothing is done; try again with the same key",
            ),
            Self::Overloaded => f.write_str("too many calls are under way; try again with the same key"),
            Self::ShuttingDown => f.write_str("the service is shutting down; try again with the same key"),
            Self::Lost { retry_after } => write!(
                f,
                "the call outlived its lease and was taken over; ask again with the same key in {}",
                Seconds(*retry_after)
            ),
            Self::Unknown => f.write_str(
                "an earlier attempt with this key may have been carried out, and it is not tried again; look whether it was",
            ),
            Self::AnswerTooLarge => {
                f.write_str("the call was carried out before, and its answer could not be kept; look at what it did")
            }
            Self::Unreadable(_) => {
                f.write_str("the call was carried out before, but its stored answer cannot be read")
            }
            Self::Unreconciled(_) => f.write_str(
                "an earlier attempt may have been carried out, and looking whether it was has failed; try again with the same key",
            ),
            Self::NoRuntime => f.write_str("no tokio runtime here: make the call inside of one"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::RequestFailed(error) | Self::Unreadable(error) | Self::Unreconciled(error) => {
                Some(&**error)
            }
            _ => None,
        }
    }
}

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidKey {
    /// It is empty.
    Empty,
    /// It has more than 255 bytes.
    TooLong,
    /// It has characters that are not visible ASCII, or its quotes do not match.
    Malformed,
    /// There are two.
    Repeated,
}

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::TooLong => "it is longer than 255 bytes",
            Self::Malformed => "it has characters other than visible ASCII, or quotes that do not match",
            Self::Repeated => "there is more than one",
        })
    }
}

/// How [`Idempotency::run`](crate::Idempotency::run) failed.
#[derive(Debug)]
pub enum RunError<E> {
    /// The effect's own error.
    Effect(E),
    /// It was not run, or its answer cannot be given.
    Idempotency(Error),
}

impl<E: StdError + Send + Sync + 'static> RunError<E> {
    /// What it means to whoever would retry: the [verdict](buttress_core::error_verdict) of the effect's own error, or that of
    /// [`Error`].
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Effect(error) => error_verdict(error),
            Self::Idempotency(error) => error.verdict(),
        }
    }

    /// In a box, with its verdict, for a retry or a circuit breaker around it.
    pub fn into_boxed(self) -> BoxError {
        match self {
            Self::Effect(error) => error.into(),
            Self::Idempotency(error) => error.into_boxed(),
        }
    }
}

impl<E: fmt::Display> fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Effect(error) => error.fmt(f),
            Self::Idempotency(error) => error.fmt(f),
        }
    }
}

impl<E: StdError + 'static> StdError for RunError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Effect(error) => error.source(),
            Self::Idempotency(error) => error.source(),
        }
    }
}
