/// What became of a call with an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IdempotencyResult {
    /// It was carried out, and its answer is stored.
    Executed,
    /// It had been carried out before, and that answer was given.
    Replayed,
    /// It was refused because the same call is under way.
    InFlight,
    /// It was refused because its key was used for something else.
    Mismatch,
    /// It was refused because its key is missing, or is none.
    Invalid,
    /// It was not carried out after all, and its key is free again.
    Released,
    /// Nobody knows whether it was carried out: its claim is kept until the lease ends.
    Unknown,
    /// It outlived its lease, and somebody else took its key.
    Lost,
    /// It was carried out, and its answer could not be kept: it was too large, or it broke off, or did not end.
    TooLarge,
    /// It was refused because the store failed, or because the layer is shutting down or has too much to do.
    Unavailable,
    /// It was carried out without protection although the store failed.
    Unprotected,
    /// It was answered, but the store failed to record it; that is tried again.
    Unrecorded,
    /// The store has recorded what it had failed to record.
    Recorded,
    /// In [`Mode::Observe`](crate::Mode::Observe): it was carried out, and would have been answered from the store.
    WouldReplay,
    /// In [`Mode::Observe`](crate::Mode::Observe): it was carried out, and would have been refused.
    WouldRefuse,
}

impl IdempotencyResult {
    /// Every result, in the order of the enum.
    pub const ALL: [Self; 15] = [
        Self::Executed,
        Self::Replayed,
        Self::InFlight,
        Self::Mismatch,
        Self::Invalid,
        Self::Released,
        Self::Unknown,
        Self::Lost,
        Self::TooLarge,
        Self::Unavailable,
        Self::Unprotected,
        Self::Unrecorded,
        Self::Recorded,
        Self::WouldReplay,
        Self::WouldRefuse,
    ];

    /// The result in one word, as metrics label it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::Replayed => "replayed",
            Self::InFlight => "in_flight",
            Self::Mismatch => "mismatch",
            Self::Invalid => "invalid",
            Self::Released => "released",
            Self::Unknown => "unknown",
            Self::Lost => "lost",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::Unprotected => "unprotected",
            Self::Unrecorded => "unrecorded",
            Self::Recorded => "recorded",
            Self::WouldReplay => "would_replay",
            Self::WouldRefuse => "would_refuse",
        }
    }
}
