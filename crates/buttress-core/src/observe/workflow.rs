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
    /// It panicked: it is run again after a while, or is halted.
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
