//! What an error meant, as it is stored.

use std::time::Duration;

use buttress_core::clock::nanos;
use buttress_core::{Effect, Hint, Kind, Verdict};
use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// The error of a call that is a step: its text, and what it meant when it happened.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Judged {
    #[serde(flatten)]
    pub(crate) failure: Failure,
    pub(crate) verdict: Stored,
}

impl std::fmt::Display for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.failure.fmt(f)
    }
}

/// A verdict, in words that do not change with the code.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stored {
    Success,
    Rejected,
    Ignored,
    Failure {
        kind: StoredKind,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        not_sent: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<StoredHint>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoredKind {
    Transient,
    Throttled,
    Conflict,
    Unprocessed,
    Timeout,
    Refused,
    Permanent,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoredHint {
    /// In microseconds.
    RetryAfter(u64),
    DoNotRetry,
}

impl From<Verdict> for Stored {
    fn from(verdict: Verdict) -> Self {
        let (kind, effect, hint) = match verdict {
            Verdict::Success => return Self::Success,
            Verdict::Rejected => return Self::Rejected,
            Verdict::Ignored => return Self::Ignored,
            Verdict::Failure { kind, effect, hint } => (kind, effect, hint),
        };
        Self::Failure {
            kind: match kind {
                Kind::Transient => StoredKind::Transient,
                Kind::Throttled => StoredKind::Throttled,
                Kind::Conflict => StoredKind::Conflict,
                Kind::Unprocessed => StoredKind::Unprocessed,
                Kind::Timeout => StoredKind::Timeout,
                Kind::Refused => StoredKind::Refused,
                Kind::Permanent => StoredKind::Permanent,
            },
            not_sent: effect == Effect::NotSent,
            hint: match hint {
                Hint::None => None,
                Hint::RetryAfter(after) => Some(StoredHint::RetryAfter(nanos(after) / 1000)),
                Hint::DoNotRetry => Some(StoredHint::DoNotRetry),
            },
        }
    }
}

impl From<Stored> for Verdict {
    fn from(stored: Stored) -> Self {
        let (kind, not_sent, hint) = match stored {
            Stored::Success => return Self::Success,
            Stored::Rejected => return Self::Rejected,
            Stored::Ignored => return Self::Ignored,
            Stored::Failure { kind, not_sent, hint } => (kind, not_sent, hint),
        };
        Self::Failure {
            kind: match kind {
                StoredKind::Transient => Kind::Transient,
                StoredKind::Throttled => Kind::Throttled,
                StoredKind::Conflict => Kind::Conflict,
                StoredKind::Unprocessed => Kind::Unprocessed,
                StoredKind::Timeout => Kind::Timeout,
                StoredKind::Refused => Kind::Refused,
                StoredKind::Permanent => Kind::Permanent,
            },
            effect: if not_sent { Effect::NotSent } else { Effect::Unknown },
            hint: match hint {
                None => Hint::None,
                Some(StoredHint::RetryAfter(micros)) => Hint::RetryAfter(Duration::from_micros(micros)),
                Some(StoredHint::DoNotRetry) => Hint::DoNotRetry,
            },
        }
    }
}
