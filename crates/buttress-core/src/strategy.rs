//! Values that tell a layer how to treat the requests and responses of one protocol.
//!
//! They are values and not traits on foreign types, so that one protocol can have several and users can bring their
//! own. [`Plain`] and [`CloneReplay`] serve any type; `buttress-http` has those for HTTP.

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, Ready, ready};

use crate::classify::{Classify, ErrorRef, ErrorsAreFailures};
use crate::verdict::Verdict;

mod capture;
mod carry;
mod replay;
pub use capture::{Capture, Captured, CloneCapture, Seal};
pub use carry::{Carried, Carry, Repeatable};
pub use replay::{CloneReplay, Replay};

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
    use crate::{Kind, error_verdict};

    /// Something that can be recognised in each part.
    struct Known;

    impl Classify<u32> for Known {
        fn classify(&self, outcome: Result<&u32, ErrorRef<'_>>) -> Verdict {
            outcome.map_or_else(error_verdict, |_| Verdict::failure(Kind::Throttled))
        }
    }

    impl Carry<u32> for Known {
        const ACTIVE: bool = true;

        fn carried<'a>(&self, _: &'a u32) -> Option<&'a Carried> {
            None
        }

        fn carry(&self, message: &mut u32, _: impl FnOnce(&mut Carried)) {
            *message += 1;
        }

        fn may_repeat(&self, message: &u32) -> bool {
            *message > 7
        }
    }

    /// Whoever wraps a policy and forgets one of its parts loses deadlines, or sends twice what must not be.
    #[test]
    fn all_but_the_key_is_the_policys_own() {
        fn check<P: Classify<u32> + Carry<u32> + KeyOf<u32>>(policy: &P) {
            let mut message = 7;
            policy.carry(&mut message, |_| {});
            assert!(P::ACTIVE && message == 8 && policy.may_repeat(&message) && !policy.may_repeat(&7));
            assert_eq!(policy.classify(Ok(&0)), Verdict::failure(Kind::Throttled));
            assert_eq!((policy.key(&0).as_deref(), policy.carried(&0)), (Some("key"), None));
        }
        check(&key_by(Known, |_: &u32| Some("key".into())));
    }
}
