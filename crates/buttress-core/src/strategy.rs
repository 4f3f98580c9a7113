//! Values that tell a layer how to treat the requests and responses of one protocol.
//!
//! They are values and not traits on foreign types, so that one protocol can have several and users can bring their
//! own. [`Plain`] and [`CloneReplay`] serve any type; `buttress-http` has those for HTTP.

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::classify::{Classify, ErrorRef, ErrorsAreFailures};
use crate::verdict::Verdict;

/// Keeps a request so that it can be sent again.
pub trait Replay<Req> {
    /// What the service inside is called with; differs from `Req` where the body has to be recorded.
    type Request;
    /// What is kept while an attempt is under way.
    type Saved;

    /// Whether applying the request several times is the same as applying it once, so that it may be sent again although
    /// it may already have been applied.
    fn is_repeatable(&self, request: &Req) -> bool;

    /// The request to send, when it will certainly be sent only once.
    fn once(&self, request: Req) -> Self::Request;

    /// The request to send first, when it may be sent again.
    fn record(&self, request: Req) -> Self::Request;

    /// What is kept of a request that was [prepared for it](Replay::record) and has not been sent yet.
    fn keep(&self, request: &Self::Request) -> Self::Saved;

    /// Splits a request into the one to send now and what is kept of it.
    fn save(&self, request: Req) -> (Self::Request, Self::Saved) {
        let request = self.record(request);
        let saved = self.keep(&request);
        (request, saved)
    }

    /// Another copy, for the next attempt in a row: whatever still reads an earlier copy may be cut off. `None`, and no
    /// harm done, if there is no complete copy: the body was too large to be kept, or failed.
    fn replay(&self, saved: &mut Self::Saved) -> Option<Self::Request>;
}

/// Replays by `Clone`, and holds that any request may be repeated: who retries a type of their own says so.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneReplay;

impl<Req: Clone> Replay<Req> for CloneReplay {
    type Request = Req;
    type Saved = Req;

    fn is_repeatable(&self, _: &Req) -> bool {
        true
    }

    fn once(&self, request: Req) -> Req {
        request
    }

    fn record(&self, request: Req) -> Req {
        request
    }

    fn keep(&self, request: &Req) -> Req {
        request.clone()
    }

    fn replay(&self, saved: &mut Req) -> Option<Req> {
        Some(saved.clone())
    }
}

/// Replays nothing: each request is sent once.
impl<Req> Replay<Req> for () {
    type Request = Req;
    type Saved = ();

    fn is_repeatable(&self, _: &Req) -> bool {
        false
    }

    fn once(&self, request: Req) -> Req {
        request
    }

    fn record(&self, request: Req) -> Req {
        request
    }

    fn keep(&self, _: &Req) {}

    fn replay(&self, (): &mut ()) -> Option<Req> {
        None
    }
}

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
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Carried {
    /// When the whole call has to be over; set by a total deadline, never moved later by what lies below.
    pub deadline: Option<Instant>,
    /// On a request: which attempt this is, from 2 on (0 stands for the first). On a response: how many attempts it
    /// took, from 2 on.
    pub attempt: u32,
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

/// Disposes of a response that nobody will see, such as that of a failed attempt.
pub trait Discard<Res> {
    /// Resolves when the response is gone; bounded in time by whoever implements it.
    type Future: Future<Output = ()>;

    /// Starts to dispose of the response, so that what it holds (a connection) can serve the next attempt.
    fn discard(&self, response: Res) -> Self::Future;
}

/// Names what a request is for (a host, a tenant), so that one layer keeps state for each.
pub trait KeyOf<Req> {
    /// The key; requests without one share the state of the empty key.
    fn key<'a>(&self, request: &'a Req) -> Option<Cow<'a, str>>;
}

/// A store of answers that an outage needs, where memory runs short: it gives back what it can spare, and nobody clears it.
pub trait Trim: Send + Sync {
    /// Forgets what can no longer be served, whatever happens; says how many these were.
    fn purge(&self) -> usize;

    /// Forgets what can no longer be served, and then what has not been used for longest, until so many bytes are left.
    fn shrink_to(&self, bytes: usize);

    /// About how many bytes it takes.
    fn bytes(&self) -> usize;
}

/// Stores a response and gives it back.
pub trait Capture<Res> {
    /// What the caller gets: live, or restored from a record.
    type Response;
    /// What is stored.
    type Record;
    /// Resolves to the record once the response is complete, or to the error that cut the response short.
    type Recording: Future<Output = Result<Captured<Self::Record>, crate::BoxError>>;

    /// Splits a response into the one for the caller and its recording. A streamed response flows while it is
    /// recorded; its end is withheld until the [`Seal`] is released.
    fn capture(&self, response: Res) -> (Self::Response, Self::Recording);

    /// The response that a record holds.
    ///
    /// # Errors
    ///
    /// If the record is marked as incomplete.
    fn restore(&self, record: &Self::Record) -> Result<Self::Response, crate::BoxError>;
}

/// A complete recording.
#[derive(Debug)]
pub struct Captured<R> {
    /// What is to be stored.
    pub record: R,
    /// Withholds the end of the live response until the record is durable.
    pub seal: Seal,
}

/// Withholds the end of a live response; released when dropped.
#[derive(Debug, Default)]
pub struct Seal(Option<tokio::sync::oneshot::Sender<crate::BoxError>>);

impl Seal {
    /// A seal, and what resolves once it is broken: to the error of [`fail`](Seal::fail), or closed once it is released.
    pub fn new() -> (Self, tokio::sync::oneshot::Receiver<crate::BoxError>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    /// Lets the live response end.
    pub fn release(self) {
        drop(self.0);
    }

    /// Lets the live response fail in place of its end: what was recorded is not the answer of this call.
    pub fn fail(self, error: impl Into<crate::BoxError>) {
        if let Some(sender) = self.0 {
            // Nobody may be reading any more.
            let _ = sender.send(error.into());
        }
    }
}

/// Captures by `Clone`, for responses that are values.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneCapture;

impl<Res: Clone> Capture<Res> for CloneCapture {
    type Response = Res;
    type Record = Res;
    type Recording = Ready<Result<Captured<Res>, crate::BoxError>>;

    fn capture(&self, response: Res) -> (Res, Self::Recording) {
        let record = response.clone();
        (response, ready(Ok(Captured { record, seal: Seal::default() })))
    }

    fn restore(&self, record: &Res) -> Result<Res, crate::BoxError> {
        Ok(record.clone())
    }
}

/// The policy for any protocol: a classifier, and otherwise nothing carried, nothing drained, one key for all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain<C = ErrorsAreFailures> {
    classifier: C,
}

impl<C> Plain<C> {
    /// A policy that judges with this classifier.
    pub fn new(classifier: C) -> Self {
        Self { classifier }
    }
}

impl<C: Classify<Res>, Res> Classify<Res> for Plain<C> {
    fn classify(&self, outcome: Result<&Res, ErrorRef<'_>>) -> Verdict {
        self.classifier.classify(outcome)
    }
}

impl<C, M> Carry<M> for Plain<C> {
    const ACTIVE: bool = false;

    fn carried<'a>(&self, _: &'a M) -> Option<&'a Carried> {
        None
    }

    fn carry(&self, _: &mut M, _: impl FnOnce(&mut Carried)) {}
}

impl<C, Res> Discard<Res> for Plain<C> {
    type Future = Ready<()>;

    fn discard(&self, _: Res) -> Ready<()> {
        ready(())
    }
}

impl<C, Req> KeyOf<Req> for Plain<C> {
    fn key<'a>(&self, _: &'a Req) -> Option<Cow<'a, str>> {
        None
    }
}

/// The same policy, with keys from a closure.
///
/// ```
/// use buttress_core::{KeyOf, Plain, key_by};
///
/// struct Job { tenant: String }
/// let policy = key_by(Plain::<buttress_core::ErrorsAreFailures>::default(), |job: &Job| Some(job.tenant.as_str().into()));
/// assert_eq!(policy.key(&Job { tenant: "acme".into() }).unwrap(), "acme");
/// ```
pub fn key_by<Req, P, F>(policy: P, key: F) -> KeyBy<P, F>
where
    F: for<'a> Fn(&'a Req) -> Option<Cow<'a, str>>,
{
    KeyBy { policy, key }
}

/// A policy whose keys come from a closure; see [`key_by`].
#[derive(Clone, Copy)]
pub struct KeyBy<P, F> {
    policy: P,
    key: F,
}

impl<P, F> KeyBy<P, F> {
    /// The policy whose keys are replaced.
    pub fn get_ref(&self) -> &P {
        &self.policy
    }
}

impl<P: fmt::Debug, F> fmt::Debug for KeyBy<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyBy").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl<P, F, Req> KeyOf<Req> for KeyBy<P, F>
where
    F: for<'a> Fn(&'a Req) -> Option<Cow<'a, str>>,
{
    fn key<'a>(&self, request: &'a Req) -> Option<Cow<'a, str>> {
        (self.key)(request)
    }
}

impl<P: Classify<Res>, F, Res> Classify<Res> for KeyBy<P, F> {
    fn classify(&self, outcome: Result<&Res, ErrorRef<'_>>) -> Verdict {
        self.policy.classify(outcome)
    }
}

impl<P: Carry<M>, F, M> Carry<M> for KeyBy<P, F> {
    const ACTIVE: bool = P::ACTIVE;

    fn carried<'a>(&self, message: &'a M) -> Option<&'a Carried> {
        self.policy.carried(message)
    }

    fn carry(&self, message: &mut M, change: impl FnOnce(&mut Carried)) {
        self.policy.carry(message, change);
    }

    fn may_repeat(&self, message: &M) -> bool {
        self.policy.may_repeat(message)
    }
}

impl<P: Discard<Res>, F, Res> Discard<Res> for KeyBy<P, F> {
    type Future = P::Future;

    fn discard(&self, response: Res) -> P::Future {
        self.policy.discard(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_replayed_and_nothing_is_replayed_by_unit() {
        let (sent, mut saved) = CloneReplay.save(7_u64);
        assert_eq!((sent, CloneReplay.replay(&mut saved), CloneReplay.is_repeatable(&7)), (7, Some(7), true));
        let (sent, mut saved) = Replay::<u64>::save(&(), 7);
        assert_eq!((sent, Replay::<u64>::replay(&(), &mut saved)), (7, None));
    }

    #[tokio::test]
    async fn a_value_is_captured_and_restored_and_nothing_holds_back_its_end() {
        let (live, recording) = CloneCapture.capture(String::from("ok"));
        let Captured { record, seal } = recording.await.unwrap();
        seal.release();
        assert_eq!(live, Capture::<String>::restore(&CloneCapture, &record).unwrap());
    }

    #[tokio::test]
    async fn a_seal_is_released_when_dropped() {
        let (seal, released) = Seal::new();
        drop(seal);
        assert!(released.await.is_err());
    }

    #[tokio::test]
    async fn a_seal_can_end_a_response_with_an_error() {
        let (seal, released) = Seal::new();
        seal.fail("lost");
        assert_eq!(released.await.unwrap().to_string(), "lost");
    }
}
