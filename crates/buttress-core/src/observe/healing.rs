/// How well a supervised service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Health {
    /// All checks pass.
    #[default]
    Healthy,
    /// It works, less well than it should.
    Degraded,
    /// It works at times.
    Unhealthy,
    /// It does not work.
    Critical,
}

impl Health {
    /// The health in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Critical => "critical",
        }
    }

    /// As metrics show it: 0 healthy, 1 degraded, 2 unhealthy, 3 critical.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }
}

/// What the supervisor of a service is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HealState {
    /// Nothing is wrong.
    #[default]
    Healthy,
    /// A check has failed, and not yet often enough to be believed.
    Suspect,
    /// Something is wrong; the next action is chosen, or waits for its cooldown.
    Ill,
    /// An action runs.
    Healing,
    /// An action has ended, and it is seen whether it helped.
    Verifying,
    /// The symptoms are gone, and not yet for long enough.
    Recovering,
    /// A human was called; the service keeps serving what it can.
    Escalated,
}

impl HealState {
    /// The state in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Ill => "ill",
            Self::Healing => "healing",
            Self::Verifying => "verifying",
            Self::Recovering => "recovering",
            Self::Escalated => "escalated",
        }
    }
}

/// How an attempt to heal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HealResult {
    /// The symptom was gone when it was verified.
    Cured,
    /// The action ended well, and the symptom stayed.
    NoEffect,
    /// The action failed.
    Failed,
    /// The action took too long.
    TimedOut,
    /// The action panicked.
    Panicked,
    /// It was cut off by an operator, or by the end of the supervisor.
    Cancelled,
    /// In [`Mode::Observe`](crate::Mode::Observe): it would have been tried.
    WouldAct,
}

impl HealResult {
    /// The result in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cured => "cured",
            Self::NoEffect => "no effect",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
            Self::Panicked => "panicked",
            Self::Cancelled => "cancelled",
            Self::WouldAct => "would act",
        }
    }
}

/// What a pager was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PageKind {
    /// A human is needed.
    Trigger,
    /// It got worse.
    Update,
    /// It is over.
    Resolve,
}

impl PageKind {
    /// The kind in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trigger => "trigger",
            Self::Update => "update",
            Self::Resolve => "resolve",
        }
    }
}
