use std::error::Error;
use std::fmt;

use buttress_core::{BoxError, Effect};

/// What went wrong in a store.
///
/// The rule for all of them is to fail closed: what cannot be claimed is not run, and what cannot be recorded has not
/// happened. What else to do depends on the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The store cannot be reached, or the connection broke. Try again.
    Unavailable,
    /// The store did not answer in time. Try again.
    Timeout,
    /// Others kept the store busy for longer than it waits for them. Try again.
    Busy,
    /// There is no room: the disk is full, or the bound on memory is reached. Nothing was changed. Make room.
    Full,
    /// What is stored is not what was written. It is never used, and never overwritten: look at it, or restore it.
    Corrupt,
    /// It was written by a newer release than this. Upgrade this one.
    Version,
    /// What was to be written is larger than the store takes. Nothing was changed. Store less, or raise the bound.
    TooLarge,
    /// What was to be written cannot be stored. Nothing was changed. Write something else.
    Invalid,
    /// The store was shut down.
    Closed,
    /// The store is set up in a way that would lose what is written.
    Misconfigured,
    /// What the store said was not expected.
    Internal,
}

impl Fault {
    /// The fault in a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "the store cannot be reached",
            Self::Timeout => "the store did not answer in time",
            Self::Busy => "the store is busy",
            Self::Full => "the store is full",
            Self::Corrupt => "what is stored is damaged",
            Self::Version => "it was written by a newer release",
            Self::TooLarge => "the value is too large",
            Self::Invalid => "the value cannot be stored",
            Self::Closed => "the store was shut down",
            Self::Misconfigured => "the store's set-up would lose what is written",
            Self::Internal => "the store failed in an unexpected way",
        }
    }

    /// What to do about it.
    const fn advice(self) -> &'static str {
        match self {
            Self::Unavailable | Self::Timeout | Self::Busy => "try again",
            Self::Full => "make room",
            Self::Corrupt => "the row is left as it is; look at it, or restore it",
            Self::Version => "upgrade this process",
            Self::TooLarge => "store less, or raise the store's bound",
            Self::Invalid => "write something else",
            Self::Closed => "open it again",
            Self::Misconfigured => "change the set-up",
            Self::Internal => "see what caused it",
        }
    }
}

/// A store could not do what it was asked to.
///
/// Names the store, the verb and the fault, and whether the write may have been applied all the same. Repeating a verb
/// with the same arguments is always safe. Neither keys nor values are printed.
#[derive(Debug)]
pub struct StoreError {
    store: &'static str,
    verb: &'static str,
    fault: Fault,
    effect: Effect,
    detail: Option<Box<str>>,
    source: Option<BoxError>,
}

impl StoreError {
    /// `store` failed to `verb`, and nothing was changed.
    pub fn new(store: &'static str, verb: &'static str, fault: Fault) -> Self {
        Self { store, verb, fault, effect: Effect::NotSent, detail: None, source: None }
    }

    /// The answer was lost: what was to be written may have been.
    #[must_use]
    pub fn may_have_been_applied(mut self) -> Self {
        self.effect = Effect::Unknown;
        self
    }

    /// What is known beside the fault: a bound, a version, a file. Neither keys nor values.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The client's error.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Which store: `memory`, `sqlite`, `postgres`, `redis`, or what a third party calls its own.
    pub fn store(&self) -> &'static str {
        self.store
    }

    /// Which verb failed.
    pub fn verb(&self) -> &'static str {
        self.verb
    }

    /// What went wrong.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// [`NotSent`](Effect::NotSent) if nothing was changed, [`Unknown`](Effect::Unknown) if the write may have been
    /// applied and only its answer was lost.
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// Whether the same call may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self.fault, Fault::Unavailable | Fault::Timeout | Fault::Busy)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, verb, fault, .. } = self;
        write!(f, "`{store}` failed to {verb}: {}", fault.as_str())?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        write!(f, "; {}", fault.advice())?;
        if self.effect == Effect::Unknown {
            f.write_str("; it may have been applied, and is safe to repeat")?;
        }
        Ok(())
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_failed_why_and_what_to_do() {
        let error = StoreError::new("postgres", "complete", Fault::Unavailable)
            .detail("connection reset")
            .may_have_been_applied();
        assert_eq!(
            error.to_string(),
            "`postgres` failed to complete: the store cannot be reached (connection reset); try again; \
             it may have been applied, and is safe to repeat"
        );
        assert!(error.is_transient());
    }
}
