use std::error::Error;
use std::fmt;

use buttress::BoxError;
use buttress::core::Judged;

use crate::error::judged;

/// What a stack says in place of an answer, inside `reqwest_middleware::Error::Middleware`.
///
/// Its `source()` is the stack's error, in which `buttress::find` finds a `Refused`, an `Exhausted` or an `Elapsed`. Its
/// `Display` is that error's own, so that a log of the outermost error alone says what happened.
#[derive(Debug)]
pub struct StackError(BoxError);

impl StackError {
    /// The stack's error.
    pub fn into_inner(self) -> BoxError {
        self.0
    }
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for StackError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// A request reached the innermost service of a [`StackMiddleware`](crate::StackMiddleware) without the way back to its
/// call: a layer has dropped the request's extensions, or sent it when the call was over; or, of a stack that is to work
/// [in place](crate::StackMiddleware::in_place), from another task. It was not sent, unless only its answer was waited for in
/// another task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detached {
    _made_here: (),
}

impl Detached {
    pub(crate) fn new() -> Self {
        Self { _made_here: () }
    }
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the request has lost its way back to its call: a layer drops the extensions of requests, or sends them when \
             the call is over, or from another task (which is for `StackMiddleware::new`, and not for `in_place`)",
        )
    }
}

impl Error for Detached {}

/// What lies beneath has failed: the error for the stack.
pub(crate) fn from_middleware(error: reqwest_middleware::Error) -> BoxError {
    match error {
        reqwest_middleware::Error::Reqwest(error) => judged(error),
        error @ reqwest_middleware::Error::Middleware(_) => error.into(),
    }
}

/// The stack has failed: what came from beneath goes on as it came.
pub(crate) fn to_middleware(error: BoxError) -> reqwest_middleware::Error {
    let error = error.downcast::<Judged>().map_or_else(|error| error, |judged| judged.into_inner());
    let error = match error.downcast::<reqwest_middleware::Error>() {
        Ok(error) => return *error,
        Err(error) => error,
    };
    match error.downcast::<reqwest::Error>() {
        Ok(error) => reqwest_middleware::Error::Reqwest(*error),
        Err(error) => reqwest_middleware::Error::middleware(StackError(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buttress::core::Reason;
    use buttress::{Refused, find};

    #[test]
    fn a_refusal_is_found_and_shown_through_all_that_wraps_it() {
        let refused = Refused::new("circuit breaker", "datadog".into(), Reason::CircuitOpen);
        let error = to_middleware(refused.clone().into());
        assert_eq!(find::<Refused>(&error), Some(&refused));
        assert_eq!(error.to_string(), refused.to_string());
        let reqwest_middleware::Error::Middleware(error) = error else { panic!("{error:?}") };
        assert!(error.downcast_ref::<StackError>().is_some());
        assert!(error.chain().any(<dyn Error>::is::<Refused>));
    }

    #[test]
    fn what_another_middleware_says_passes_unchanged() {
        let error = reqwest_middleware::Error::middleware(Detached::new());
        let reqwest_middleware::Error::Middleware(error) = to_middleware(from_middleware(error)) else {
            panic!("it was none of reqwest's")
        };
        assert!(error.is::<Detached>());
    }
}
