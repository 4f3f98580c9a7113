use std::borrow::Cow;
use std::fmt;

use buttress_core::{Carried, Carry, Classify, Discard, Effect, ErrorRef, Hint, KeyOf, Kind, Verdict};

/// A policy in which a closure says what is retried; see [`RetryLayer::retry_if`](crate::RetryLayer::retry_if).
#[derive(Clone, Copy)]
pub struct RetryIf<P, F> {
    pub(crate) policy: P,
    pub(crate) retry_if: F,
}

impl<P: fmt::Debug, F> fmt::Debug for RetryIf<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryIf").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl<P, F, Res> Classify<Res> for RetryIf<P, F>
where
    P: Classify<Res>,
    F: for<'a> Fn(Result<&'a Res, ErrorRef<'a>>, Verdict) -> bool,
{
    fn classify(&self, outcome: Result<&Res, ErrorRef<'_>>) -> Verdict {
        let verdict = self.policy.classify(outcome);
        if (self.retry_if)(outcome, verdict) { retried(verdict) } else { not_retried(verdict) }
    }
}

/// The same verdict, as one that a retry acts upon.
fn retried(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Failure { kind: Kind::Permanent, effect, hint } => {
            Verdict::Failure { kind: Kind::Transient, effect, hint }
        }
        Verdict::Failure { .. } => verdict,
        Verdict::Success | Verdict::Rejected | Verdict::Ignored => {
            Verdict::Failure { kind: Kind::Transient, effect: Effect::Unknown, hint: Hint::None }
        }
    }
}

/// The same verdict, as one that a retry leaves alone.
fn not_retried(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Failure { effect, hint, .. } => Verdict::Failure { kind: Kind::Permanent, effect, hint },
        other => other,
    }
}

impl<P: Carry<M>, F, M> Carry<M> for RetryIf<P, F> {
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

impl<P: Discard<Res>, F, Res> Discard<Res> for RetryIf<P, F> {
    type Future = P::Future;

    fn discard(&self, response: Res) -> P::Future {
        self.policy.discard(response)
    }
}

impl<P: KeyOf<Req>, F, Req> KeyOf<Req> for RetryIf<P, F> {
    fn key<'a>(&self, request: &'a Req) -> Option<Cow<'a, str>> {
        self.policy.key(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says `Ignored` of everything, and otherwise something that can be recognised.
    struct Known;

    impl Classify<u32> for Known {
        fn classify(&self, _: Result<&u32, ErrorRef<'_>>) -> Verdict {
            Verdict::Ignored
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

    impl Discard<u32> for Known {
        type Future = std::future::Ready<()>;

        fn discard(&self, _: u32) -> Self::Future {
            std::future::ready(())
        }
    }

    impl KeyOf<u32> for Known {
        fn key<'a>(&self, _: &'a u32) -> Option<Cow<'a, str>> {
            Some("known".into())
        }
    }

    /// Whoever wraps a policy and forgets one of its parts loses deadlines, or every host's rate gate.
    #[test]
    fn all_but_the_verdict_is_the_policys_own() {
        fn check<P>(policy: &P)
        where
            P: Classify<u32> + Carry<u32> + Discard<u32, Future = std::future::Ready<()>> + KeyOf<u32>,
        {
            let mut message = 7;
            policy.carry(&mut message, |_| {});
            assert!(P::ACTIVE && message == 8 && policy.may_repeat(&message) && !policy.may_repeat(&7));
            assert_eq!((policy.key(&0).as_deref(), policy.carried(&0)), (Some("known"), None));
            let () = policy.discard(0).into_inner();
            assert_eq!(policy.classify(Ok(&0)), Verdict::failure(Kind::Transient));
            assert_eq!(policy.classify(Ok(&1)), Verdict::Ignored);
        }
        let retry_if = |outcome: Result<&u32, ErrorRef<'_>>, verdict: Verdict| {
            assert_eq!(verdict, Verdict::Ignored);
            outcome.is_ok_and(|answer| *answer == 0)
        };
        check(&RetryIf { policy: Known, retry_if });
    }
}
