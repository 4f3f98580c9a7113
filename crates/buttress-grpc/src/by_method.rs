use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use buttress_core::{
    BoxError, Carried, Carry, Classify, Discard, Effect, ErrorRef, Hint, KeyOf, Kind, Verdict, find,
};
use http::Response;

use crate::code::{Code, Codes};
use crate::grpc::{Grpc, Judged, Noted, error_code, error_verdict};

/// As [`Grpc`], for a retry that stands under a [`CallLayer`](crate::CallLayer): where a method has a policy of its own, its
/// list of codes decides what is retried, whatever the table says.
///
/// What is on the list is a failure; what is not is one that is not retried. A breaker keeps to the table: a method's
/// wish to have `ABORTED` retried does not make a conflict an illness.
///
/// An error of the transport counts as `UNAVAILABLE`, a time-out of its own as `DEADLINE_EXCEEDED`. An attempt that was cut off by the
/// stack's own attempt deadline, of which a service config knows nothing, is retried whatever the list says; so is what was
/// certainly not sent.
#[derive(Clone, Debug, Default)]
pub struct ByMethod(Grpc);

impl ByMethod {
    /// Where no method has a list, this table decides.
    pub fn new(grpc: Grpc) -> Self {
        Self(grpc)
    }
}

impl<B> Classify<Response<B>> for ByMethod {
    fn classify(&self, outcome: Result<&Response<B>, ErrorRef<'_>>) -> Verdict {
        let response = match outcome {
            Ok(response) => response,
            Err(error) => return unless_unlisted(error),
        };
        let Judged { code, verdict, hint } = self.0.judge(response);
        if verdict == Verdict::Success {
            return verdict;
        }
        let listed = response.extensions().get::<Noted>().and_then(|noted| noted.codes);
        match (verdict, listed.map(|codes| codes.contains(code))) {
            // A6: no status is worth a retry that the server forbids, and all such count against the throttle.
            (Verdict::Rejected | Verdict::Ignored, None | Some(false)) if hint == Hint::DoNotRetry => {
                Verdict::failure(Kind::Permanent).with_hint(hint)
            }
            (Verdict::Rejected | Verdict::Ignored, Some(true)) => {
                Verdict::failure(Kind::Transient).with_hint(hint)
            }
            (Verdict::Failure { kind: Kind::Permanent, effect, hint }, Some(true)) => {
                Verdict::Failure { kind: Kind::Transient, effect, hint }
            }
            (verdict, Some(false)) => not_retried(verdict),
            (verdict, _) => verdict,
        }
    }
}

impl<M> Carry<M> for ByMethod
where
    Grpc: Carry<M>,
{
    const ACTIVE: bool = true;

    fn carried<'a>(&self, message: &'a M) -> Option<&'a Carried> {
        self.0.carried(message)
    }

    fn carry(&self, message: &mut M, change: impl FnOnce(&mut Carried)) {
        self.0.carry(message, change);
    }

    fn may_repeat(&self, message: &M) -> bool {
        self.0.may_repeat(message)
    }
}

impl<Res> Discard<Res> for ByMethod
where
    Grpc: Discard<Res>,
{
    type Future = <Grpc as Discard<Res>>::Future;

    fn discard(&self, response: Res) -> Self::Future {
        self.0.discard(response)
    }
}

impl<Req> KeyOf<Req> for ByMethod
where
    Grpc: KeyOf<Req>,
{
    fn key<'a>(&self, request: &'a Req) -> Option<Cow<'a, str>> {
        self.0.key(request)
    }
}

/// The same failure, but one that is not retried, unless it has not even been sent.
fn not_retried(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Failure { effect: effect @ Effect::Unknown, hint, .. } => {
            Verdict::Failure { kind: Kind::Permanent, effect, hint }
        }
        other => other,
    }
}

fn unless_unlisted(error: ErrorRef<'_>) -> Verdict {
    let verdict = error_verdict(error);
    if find::<Unlisted>(error).is_some() { not_retried(verdict) } else { verdict }
}

/// A transport's error whose code is not on the list of the method's retry policy.
#[derive(Debug)]
pub(crate) struct Unlisted {
    code: Code,
    source: BoxError,
}

impl Unlisted {
    /// The error as it came, if these codes are the only ones that are retried and its own is not among them.
    pub(crate) fn mark(error: BoxError, codes: Option<Codes>) -> BoxError {
        let Some(codes) = codes else { return error };
        let code = error_code(error_verdict(&*error));
        if codes.contains(code) { error } else { Box::new(Self { code, source: error }) }
    }
}

impl fmt::Display for Unlisted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the attempt failed as {}, which the method's retry policy does not list", self.code)
    }
}

impl Error for Unlisted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::End;
    use std::io;

    fn verdict(code: Code, hint: Hint, codes: Option<&[Code]>) -> Verdict {
        verdict_on(End::Status { code, hint }, codes)
    }

    fn verdict_on(end: End, codes: Option<&[Code]>) -> Verdict {
        let codes = codes.map(|codes| codes.iter().copied().collect());
        let mut response = Response::new(());
        response.extensions_mut().insert(Noted { codes, end: Some(end), stream: false });
        ByMethod::default().classify(Ok(&response))
    }

    #[test]
    fn a_list_of_codes_decides_what_is_retried() {
        let (transient, permanent) = (Verdict::failure(Kind::Transient), Verdict::failure(Kind::Permanent));
        let listed =
            |code| verdict(code, Hint::None, Some(&[Code::Aborted, Code::Internal, Code::ResourceExhausted]));
        assert_eq!(listed(Code::Ok), Verdict::Success);
        assert_eq!(listed(Code::Aborted), transient, "although it is the caller's fault");
        assert_eq!(listed(Code::Internal), transient, "although it is permanent");
        assert_eq!(listed(Code::ResourceExhausted), Verdict::failure(Kind::Throttled));
        assert_eq!(listed(Code::Unavailable), permanent);
        assert_eq!((listed(Code::NotFound), listed(Code::Cancelled)), (Verdict::Rejected, Verdict::Ignored));
        assert_eq!(verdict(Code::Unavailable, Hint::None, None), transient, "the table");
        assert_eq!(verdict(Code::Aborted, Hint::None, None), Verdict::Rejected);
    }

    #[test]
    fn what_the_server_forbids_counts_whatever_the_code() {
        for codes in [None, Some(&[Code::Unavailable][..]), Some(&[Code::NotFound])] {
            for code in [Code::NotFound, Code::Cancelled, Code::Unavailable] {
                let verdict = verdict(code, Hint::DoNotRetry, codes);
                assert_eq!(
                    (verdict.is_failure(), verdict.hint()),
                    (true, Hint::DoNotRetry),
                    "{code} {codes:?}"
                );
            }
        }
    }

    /// As one that comes before it.
    #[test]
    fn an_error_that_comes_after_the_message_has_the_code_that_is_listed_for_it() {
        for (kind, code, other) in [
            (Kind::Timeout, Code::DeadlineExceeded, Code::Unavailable),
            (Kind::Transient, Code::Unavailable, Code::DeadlineExceeded),
        ] {
            let failed = End::Failed(Verdict::failure(kind));
            assert_eq!(verdict_on(failed, Some(&[code])), Verdict::failure(kind), "{kind:?}");
            assert_eq!(verdict_on(failed, Some(&[other])), Verdict::failure(Kind::Permanent), "{kind:?}");
        }
    }

    #[test]
    fn an_error_that_is_not_listed_is_not_retried_unless_it_was_not_sent() {
        let verdict = |kind, codes: &[Code]| {
            let error =
                Unlisted::mark(Box::new(io::Error::from(kind)), Some(codes.iter().copied().collect()));
            assert!(find::<io::Error>(&*error).is_some());
            Classify::<Response<()>>::classify(&ByMethod::default(), Err(&*error))
        };
        let reset = io::ErrorKind::ConnectionReset;
        assert_eq!(verdict(reset, &[Code::Unavailable]), Verdict::failure(Kind::Transient));
        assert_eq!(verdict(reset, &[Code::Aborted]), Verdict::failure(Kind::Permanent));
        assert_eq!(
            verdict(io::ErrorKind::TimedOut, &[Code::DeadlineExceeded]),
            Verdict::failure(Kind::Timeout)
        );
        assert_eq!(verdict(io::ErrorKind::TimedOut, &[Code::Unavailable]), Verdict::failure(Kind::Permanent));
        let refused = Verdict::failure(Kind::Transient).not_sent();
        assert_eq!(verdict(io::ErrorKind::ConnectionRefused, &[Code::Aborted]), refused);
    }
}
