use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::{BoxError, Effect, Elapsed, Kind, NoTimer, Refused, Timer, Verdict, find};
use tokio::time::Instant;

use crate::served::Cause;

/// A call that the service has failed, as the rungs of a chain see it.
pub struct Fallen<Req, A> {
    pub(crate) request: Option<Req>,
    pub(crate) failure: Failure<A>,
    pub(crate) cause: Cause,
    pub(crate) deadline: Option<Instant>,
    pub(crate) may_repeat: bool,
}

/// How the service failed: with a response, such as an HTTP 503, or with an error.
#[derive(Debug)]
pub(crate) enum Failure<A> {
    Response(A),
    Error(BoxError),
}

impl<A> Failure<A> {
    pub(crate) fn into_response(self) -> Option<A> {
        match self {
            Self::Response(response) => Some(response),
            Self::Error(_) => None,
        }
    }
}

impl<Req, A> Fallen<Req, A> {
    /// The request, where the chain keeps one: see [`Chain::keep_requests`](crate::Chain::keep_requests).
    pub fn request(&self) -> Option<&Req> {
        self.request.as_ref()
    }

    /// The error, if it was one.
    pub fn error(&self) -> Option<&BoxError> {
        match &self.failure {
            Failure::Error(error) => Some(error),
            Failure::Response(_) => None,
        }
    }

    /// The response, if it was one that counts as a failure.
    pub fn response(&self) -> Option<&A> {
        match &self.failure {
            Failure::Response(response) => Some(response),
            Failure::Error(_) => None,
        }
    }

    /// Why the call fell.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Whether it does no harm if the request is done, too, by whoever answers now: it certainly had no effect yet, or doing
    /// it twice is the same as doing it once. What a policy for HTTP goes by: the method (RFC 9110 § 9.2.2), an idempotency key,
    /// or the caller's word. Other policies take all requests for such.
    pub fn may_repeat(&self) -> bool {
        self.may_repeat
    }

    /// When the whole call has to be over, if that travels with the request.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

impl<Req, A> fmt::Debug for Fallen<Req, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallen").field("cause", &self.cause).finish_non_exhaustive()
    }
}

/// Whether an outcome leaves open that the request was applied.
pub(crate) fn effect_of(verdict: Verdict) -> Effect {
    match verdict {
        Verdict::Failure { effect, .. } => effect,
        Verdict::Success | Verdict::Rejected | Verdict::Ignored => Effect::Unknown,
    }
}

/// The time that a call had is over; or there was no timer that could tell.
pub(crate) fn elapsed(name: &Arc<str>, limit: Duration) -> (Cause, BoxError) {
    match Timer::at(Instant::now()) {
        Ok(_) => (Cause::Elapsed, Elapsed::new(Arc::clone(name), limit).into()),
        Err(error) => (Cause::NoTimer, error.into()),
    }
}

/// Whether the service has not answered. A conflict is an answer: the service is well, and what the request is about is busy, at
/// whatever service one asks for it.
#[inline]
pub(crate) fn is_failure(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Failure { kind, .. } if *kind != Kind::Conflict)
}

/// What an outcome that is not good means for whoever reads of it.
pub(crate) fn cause_of(verdict: Verdict, error: Option<&BoxError>) -> Cause {
    let Verdict::Failure { kind, .. } = verdict else {
        let no_timer = error.is_some_and(|error| find::<NoTimer>(&**error).is_some());
        return if no_timer { Cause::NoTimer } else { Cause::Rejected };
    };
    match error {
        Some(error) if find::<Refused>(&**error).is_some() => Cause::Failed(Kind::Refused),
        Some(error) if find::<Elapsed>(&**error).is_some() => Cause::Failed(Kind::Timeout),
        _ => Cause::Failed(kind),
    }
}
