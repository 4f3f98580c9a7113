use std::error::Error;
use std::io;

use crate::error::{chain, own_verdict};
use crate::verdict::{Kind, Verdict};

/// Says what an outcome means.
///
/// Layers ask once per attempt, with the response or the error as the service inside gave it. `buttress-http` has the
/// classifier for HTTP; closures enter through [`classify_fn`].
pub trait Classify<Res> {
    /// The verdict on one outcome. Must not block; a panic counts as a failed call and passes on.
    fn classify(&self, outcome: Result<&Res, ErrorRef<'_>>) -> Verdict;
}

/// A borrowed [`BoxError`](crate::BoxError).
pub type ErrorRef<'a> = &'a (dyn Error + Send + Sync + 'static);

impl<Res, C: Classify<Res> + ?Sized> Classify<Res> for std::sync::Arc<C> {
    fn classify(&self, outcome: Result<&Res, ErrorRef<'_>>) -> Verdict {
        (**self).classify(outcome)
    }
}

/// The default classifier: every response is a success, and every error is what [`error_verdict`] says of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorsAreFailures;

impl<Res> Classify<Res> for ErrorsAreFailures {
    fn classify(&self, outcome: Result<&Res, ErrorRef<'_>>) -> Verdict {
        match outcome {
            Ok(_) => Verdict::Success,
            Err(error) => error_verdict(error),
        }
    }
}

/// What an error means when nothing is known about its protocol.
///
/// Buttress's own errors carry their verdict. A refused connection was not sent; a time-out of `std::io` or `tokio` is
/// a [`Timeout`](Kind::Timeout); everything else is [`Transient`](Kind::Transient) with an unknown effect.
pub fn error_verdict(error: ErrorRef<'_>) -> Verdict {
    if let Some(verdict) = own_verdict(error) {
        return verdict;
    }
    let known = chain(error).find_map(|error| {
        if error.is::<tokio::time::error::Elapsed>() {
            return Some(Verdict::failure(Kind::Timeout));
        }
        match error.downcast_ref::<io::Error>()?.kind() {
            io::ErrorKind::ConnectionRefused => Some(Verdict::failure(Kind::Transient).not_sent()),
            io::ErrorKind::TimedOut => Some(Verdict::failure(Kind::Timeout)),
            _ => None,
        }
    });
    known.unwrap_or(Verdict::failure(Kind::Transient))
}

/// A classifier from a closure, with the bounds that such a closure needs.
///
/// ```
/// use buttress_core::{Classify, Kind, Verdict, classify_fn};
///
/// let policy = classify_fn(|outcome: Result<&u32, _>| match outcome {
///     Ok(0..=9) => Verdict::Success,
///     Ok(_) => Verdict::failure(Kind::Permanent),
///     Err(error) => buttress_core::error_verdict(error),
/// });
/// assert_eq!(policy.classify(Ok(&7)), Verdict::Success);
/// assert!(policy.classify(Ok(&10)).is_failure());
/// ```
pub fn classify_fn<Res, F>(f: F) -> crate::Plain<ClassifyFn<F>>
where
    F: for<'a> Fn(Result<&'a Res, ErrorRef<'a>>) -> Verdict,
{
    crate::Plain::new(ClassifyFn(f))
}

/// The classifier that [`classify_fn`] makes of a closure.
#[derive(Clone, Copy)]
pub struct ClassifyFn<F>(F);

impl<F> std::fmt::Debug for ClassifyFn<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClassifyFn")
    }
}

impl<Res, F> Classify<Res> for ClassifyFn<F>
where
    F: for<'a> Fn(Result<&'a Res, ErrorRef<'a>>) -> Verdict,
{
    fn classify(&self, outcome: Result<&Res, ErrorRef<'_>>) -> Verdict {
        (self.0)(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BoxError, Elapsed};
    use std::time::Duration;

    fn verdict(error: impl Into<BoxError>) -> Verdict {
        Classify::<()>::classify(&ErrorsAreFailures, Err(&*error.into()))
    }

    #[test]
    fn a_refused_connection_was_not_sent_and_a_reset_one_may_have_been() {
        let io = |kind| io::Error::new(kind, "x");
        assert_eq!(
            verdict(io(io::ErrorKind::ConnectionRefused)),
            Verdict::failure(Kind::Transient).not_sent()
        );
        assert_eq!(verdict(io(io::ErrorKind::ConnectionReset)), Verdict::failure(Kind::Transient));
        assert_eq!(verdict("anything"), Verdict::failure(Kind::Transient));
    }

    #[tokio::test(start_paused = true)]
    async fn time_outs_are_recognised_whoever_made_them() {
        let tokio =
            tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await.unwrap_err();
        let ours = Elapsed::new("x".into(), Duration::from_secs(1));
        let io = io::Error::from(io::ErrorKind::TimedOut);
        for verdict in [verdict(tokio), verdict(ours), verdict(io)] {
            assert_eq!(verdict, Verdict::failure(Kind::Timeout));
        }
    }

    #[test]
    fn a_response_is_a_success() {
        assert_eq!(ErrorsAreFailures.classify(Ok(&())), Verdict::Success);
    }
}
