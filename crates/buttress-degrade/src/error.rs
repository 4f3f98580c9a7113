use std::error::Error;
use std::fmt;
use std::sync::Arc;

use buttress_core::BoxError;

use crate::served::Cause;

/// The service failed, and no rung of its chain had an answer.
///
/// [`source`](Error::source) is the service's own error, so that what is known of it (whether it is safe to send again, when
/// to come back) is found as without a chain.
#[derive(Debug)]
pub struct Unanswered {
    pub(crate) name: Arc<str>,
    pub(crate) tried: Vec<Tried>,
    pub(crate) source: BoxError,
}

/// A rung that gave no answer.
#[derive(Debug)]
pub struct Tried {
    pub(crate) rung: Arc<str>,
    pub(crate) cause: Cause,
    pub(crate) error: Option<BoxError>,
}

impl Tried {
    /// The name of the rung.
    pub fn rung(&self) -> &str {
        &self.rung
    }

    /// Why it gave none.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Its own error, if it had one.
    pub fn error(&self) -> Option<&BoxError> {
        self.error.as_ref()
    }
}

impl Unanswered {
    /// The name of the service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rungs, in the order in which they were asked.
    pub fn tried(&self) -> &[Tried] {
        &self.tried
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed, and none of its fallbacks answered", self.name)?;
        for (n, Tried { rung, cause, .. }) in self.tried.iter().enumerate() {
            write!(f, "{} `{rung}` {cause}", if n == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

impl Error for Unanswered {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

/// The call that asked the service for several callers failed; this is the error that all of them get.
#[derive(Clone, Debug)]
pub(crate) struct SharedFailure(pub(crate) Arc<BoxError>);

impl fmt::Display for SharedFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call that was made for all who asked for the same has failed")
    }
}

impl Error for SharedFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&**self.0)
    }
}

/// The call that asked the service for several callers panicked, or its runtime has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vanished;

impl fmt::Display for Vanished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call that was made for all who asked for the same panicked or was shut down")
    }
}

impl Error for Vanished {}

/// The service was not called: its last call failed a moment ago, or a drill is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotAsked(pub(crate) Cause);

impl fmt::Display for NotAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the service was not asked: {}", self.0)
    }
}

impl Error for NotAsked {}

/// A body of which only a part would be kept.
#[derive(Debug)]
#[cfg_attr(not(feature = "http"), allow(dead_code, reason = "values are never too large"))]
pub(crate) struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body is too large to be kept")
    }
}

impl std::error::Error for TooLarge {}
