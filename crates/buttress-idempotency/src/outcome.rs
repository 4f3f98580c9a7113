/// What an answer says about the effect. There are three cases, and not two.
///
/// | | the key | the next call with it |
/// |---|---|---|
/// | [`Definitive`](Outcome::Definitive) | done | gets the same answer |
/// | [`NotExecuted`](Outcome::NotExecuted) | free at once | is carried out |
/// | [`Unknown`](Outcome::Unknown) | claimed until the lease ends | then as [`OnUnknown`] says |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// This is the answer: store it, and give it to whoever asks again.
    Definitive,
    /// The effect has certainly not begun, or was undone as a whole. [`Idempotency::run`](crate::Idempotency::run) takes it from
    /// the error's verdict: `Judged::new(Verdict::failure(Kind::Transient).not_sent(), error)` says so of a transaction that was
    /// rolled back.
    NotExecuted,
    /// The effect may have been applied, as a whole or in part.
    Unknown,
}

/// What becomes of a call whose earlier attempt left its effect unknown: the process died, the handler panicked or said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnUnknown {
    /// Carry it out again; safe where what lies below is keyed in turn (see [`Claim::derive`](crate::Claim::derive)).
    #[default]
    Rerun,
    /// Never carry it out again: this and every later call fail with [`Error::Unknown`](crate::Error::Unknown).
    Reject,
}

/// What is known about a call after somebody looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconciled<R> {
    /// It was carried out, and this is its answer.
    Done(R),
    /// It was not carried out: do so now.
    NotDone,
    /// Nobody can say: never carry it out again.
    Unknown,
}

/// What becomes of the key when the effect panics. Nothing is ever stored then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnPanic {
    /// The effect is unknown: the claim is kept until its lease ends.
    #[default]
    Lapse,
    /// The key is free at once.
    Release,
}
