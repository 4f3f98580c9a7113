use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::exhausted::Stop;

/// Reads and writes what travels with a message: on a request from the outer layers to the inner ones, on a response
/// back to the caller.
pub trait Carry<M> {
    /// Whether anything is carried at all. Where it is `false` layers read no clock and write nothing for it.
    const ACTIVE: bool;

    /// What travels with this message, if anything does.
    fn carried<'a>(&self, message: &'a M) -> Option<&'a Carried>;

    /// Changes what travels with this message.
    fn carry(&self, message: &mut M, change: impl FnOnce(&mut Carried));

    /// Whether applying this request several times is the same as applying it once, by what it is and by what travels with
    /// it: whether it may go to somebody else after an outcome that leaves open whether it was applied. `true` unless an
    /// implementation knows better.
    fn may_repeat(&self, message: &M) -> bool {
        let _ = message;
        true
    }
}

/// What travels with a request or a response.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Carried {
    /// When the whole call has to be over; set by a total deadline, never moved later by what lies below.
    pub deadline: Option<Instant>,
    /// On a request: which attempt this is, from 2 on (0 stands for the first). On a response: how many attempts it
    /// took, from 2 on.
    pub attempt: u32,
    /// On a response that a retry gave up on: why there was no further attempt. On a good one nothing.
    pub stop: Option<Stop>,
    /// The key under which the receiver recognises a repetition.
    pub idempotency_key: Option<Arc<str>>,
    /// The caller says that applying this request several times is the same as applying it once.
    pub repeatable: bool,
    /// The caller's own limit on retries for this request: `Some(0)` sends it once.
    pub max_retries: Option<u32>,
    /// The delays before this request's retries, in place of the layer's.
    pub backoff: Option<Arc<Backoff>>,
    /// The caller's own total time limit for this request, in place of the layer's.
    pub time_limit: Option<Duration>,
    /// The caller's own time limit for each attempt at this request, in place of the layer's.
    pub attempt_limit: Option<Duration>,
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            deadline,
            attempt,
            stop,
            idempotency_key,
            repeatable,
            max_retries,
            backoff,
            time_limit,
            attempt_limit,
        } = self;
        let mut debug = f.debug_struct("Carried");
        debug.field("deadline", deadline).field("attempt", attempt).field("stop", stop);
        // Whoever knows a key can learn what was answered to it.
        debug.field("idempotency_key", &idempotency_key.as_ref().map(|_| "not shown"));
        debug.field("repeatable", repeatable).field("max_retries", max_retries).field("backoff", backoff);
        debug.field("time_limit", time_limit).field("attempt_limit", attempt_limit).finish()
    }
}

/// Says of a request what [`Carried::repeatable`] does, where there is nothing else to say: it takes no memory. In the
/// extensions of HTTP requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repeatable;

/// Carries nothing.
impl<M> Carry<M> for () {
    const ACTIVE: bool = false;

    fn carried<'a>(&self, _: &'a M) -> Option<&'a Carried> {
        None
    }

    fn carry(&self, _: &mut M, _: impl FnOnce(&mut Carried)) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_not_shown() {
        let carried = Carried { idempotency_key: Some("incident-42".into()), ..Carried::default() };
        let shown = format!("{carried:?}");
        assert!(!shown.contains("incident-42") && shown.contains("idempotency_key: Some"), "{shown}");
    }
}
