use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{NoTimer, Seconds};
use crate::exhausted::Exhausted;
use crate::refused::Refused;
use crate::verdict::{Hint, Kind, Verdict};

/// The error of every layer that can refuse or classify: a typed error inside a box, found again with [`find`].
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// Finds the first `T` in an error and everything below it.
///
/// Follows [`source`](Error::source), and looks into an [`io::Error`] and a [`Judged`], whose `source` may skip the error it wraps.
///
/// ```
/// use buttress_core::{BoxError, Reason, Refused, find};
///
/// let error: BoxError = Box::new(std::io::Error::other(Refused::new("retry", "datadog".into(), Reason::RateLimited)));
/// assert_eq!(find::<Refused>(&*error).unwrap().reason(), Reason::RateLimited);
/// ```
pub fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// An error and all that it was caused by, outermost first.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        if let Some(judged) = error.downcast_ref::<Judged>() {
            return Some(&*judged.source);
        }
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

/// The verdict that an error of Buttress's own carries, if there is one in the chain.
///
/// The outermost one speaks: it knows what those below it do not (a retry whose last attempt was refused may have been
/// applied by its first).
pub fn own_verdict(error: &(dyn Error + 'static)) -> Option<Verdict> {
    chain(error).find_map(|error| {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            let hint = refused.retry_after().map_or(Hint::None, Hint::RetryAfter);
            Some(Verdict::failure(Kind::Refused).with_hint(hint))
        } else if error.is::<Elapsed>() {
            Some(Verdict::failure(Kind::Timeout))
        } else if let Some(judged) = error.downcast_ref::<Judged>() {
            Some(judged.verdict)
        } else if let Some(recorded) = error.downcast_ref::<Recorded>() {
            Some(recorded.verdict)
        } else if error.is::<NoTimer>() {
            // Says nothing about the dependency.
            Some(Verdict::Ignored)
        } else if let Some(exhausted) = error.downcast_ref::<Exhausted>() {
            Some(exhausted.verdict)
        } else {
            towers_verdict(error)
        }
    })
}

/// tower's own layers say as much as ours: what they shed was not sent, and costs the dependency nothing.
#[cfg(feature = "tower")]
fn towers_verdict(error: &(dyn Error + 'static)) -> Option<Verdict> {
    if error.is::<tower::load_shed::error::Overloaded>() {
        return Some(Verdict::failure(Kind::Refused));
    }
    error.is::<tower::timeout::error::Elapsed>().then_some(Verdict::failure(Kind::Timeout))
}

#[cfg(not(feature = "tower"))]
fn towers_verdict(_: &(dyn Error + 'static)) -> Option<Verdict> {
    None
}

/// A time limit ran out while a call was under way; the request may have been applied.
#[derive(Clone, Debug)]
pub struct Elapsed {
    name: Arc<str>,
    limit: Duration,
}

impl Elapsed {
    /// `name` is the service's, `limit` the time that the call had.
    pub fn new(name: Arc<str>, limit: Duration) -> Self {
        Self { name, limit }
    }

    /// The name of the service that did not answer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The time that the call had.
    pub fn limit(&self) -> Duration {
        self.limit
    }
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, limit } = self;
        write!(f, "`{name}` did not answer within {}; the request may have been applied", Seconds(*limit))
    }
}

impl Error for Elapsed {}

/// A client's error with its meaning, from a leaf that knows its client's errors better than a classifier can: which of
/// them are time-outs, which say nothing about the dependency.
///
/// ```
/// use buttress_core::{Judged, Kind, Verdict, own_verdict};
///
/// let error = Judged::new(Verdict::failure(Kind::Timeout), "a time-out by another name");
/// assert_eq!(own_verdict(&error), Some(Verdict::failure(Kind::Timeout)));
/// assert_eq!(error.into_inner().to_string(), "a time-out by another name");
/// ```
#[derive(Debug)]
pub struct Judged {
    verdict: Verdict,
    source: BoxError,
    transparent: bool,
}

impl Judged {
    /// This error, which means this.
    pub fn new(verdict: Verdict, error: impl Into<BoxError>) -> Self {
        Self { verdict, source: error.into(), transparent: false }
    }

    /// The same for an error that says by itself what failed and what to do: this reads as that does. [`find`] finds it.
    ///
    /// ```
    /// use buttress_core::{Judged, Verdict, own_verdict};
    ///
    /// let error = Judged::transparent(Verdict::Rejected, "the key was used for another call");
    /// assert_eq!(error.to_string(), "the key was used for another call");
    /// assert_eq!(own_verdict(&error), Some(Verdict::Rejected));
    /// ```
    pub fn transparent(verdict: Verdict, error: impl Into<BoxError>) -> Self {
        Self { verdict, source: error.into(), transparent: true }
    }

    /// What it means.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The client's error.
    pub fn into_inner(self) -> BoxError {
        self.source
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.transparent {
            return self.source.fmt(f);
        }
        match self.verdict {
            Verdict::Failure { kind, .. } => write!(f, "the client failed ({})", kind.as_str()),
            Verdict::Success | Verdict::Rejected | Verdict::Ignored => {
                f.write_str("the client could not make the request")
            }
        }
    }
}

impl Error for Judged {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if self.transparent { self.source.source() } else { Some(&*self.source) }
    }
}

/// An error that was stored as text and is given again, with what it meant when it happened: every layer judges the
/// replay as it judged the error itself.
///
/// ```
/// use buttress_core::{Kind, Recorded, Verdict, own_verdict};
///
/// let error = Recorded::new(Verdict::failure(Kind::Timeout), "no answer within 5 s");
/// assert_eq!(own_verdict(&error), Some(Verdict::failure(Kind::Timeout)));
/// assert_eq!(error.to_string(), "no answer within 5 s");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    verdict: Verdict,
    text: String,
}

impl Recorded {
    /// This text of an error, which meant this.
    pub fn new(verdict: Verdict, text: impl Into<String>) -> Self {
        Self { verdict, text: text.into() }
    }

    /// What it meant.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Recorded {}

/// A configuration that breaks a rule: which field, what it held, and the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: &'static str,
    value: String,
    rule: Cow<'static, str>,
}

impl ConfigError {
    /// `field` as the user wrote it, the `value` it had, and the `rule` that the value breaks ("must be …").
    pub fn new(field: &'static str, value: impl fmt::Debug, rule: impl Into<Cow<'static, str>>) -> Self {
        Self { field, value: format!("{value:?}"), rule: rule.into() }
    }

    /// The field that holds the bad value.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// The bad value, as it is shown.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The rule that it breaks: "must be …".
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is {}, but {}", self.field, self.value, self.rule)
    }
}

impl Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exhausted::Stop;
    use crate::refused::Reason;
    use tokio::time::Instant;

    fn refused() -> Refused {
        Refused::new("circuit breaker", "datadog".into(), Reason::CircuitOpen)
            .until(Instant::now() + Duration::from_secs(3))
    }

    fn exhausted(source: BoxError) -> Exhausted {
        Exhausted {
            name: "datadog".into(),
            stop: Stop::MaxRetries,
            attempts: 3,
            elapsed: Duration::from_millis(2500),
            verdict: Verdict::failure(Kind::Transient),
            safe_to_retry: false,
            retry_at: None,
            source,
        }
    }

    #[test]
    fn find_looks_through_sources_and_into_io_errors() {
        let error = exhausted(Box::new(io::Error::other(refused())));
        assert_eq!(find::<Refused>(&error).unwrap().name(), "datadog");
        assert!(find::<Elapsed>(&error).is_none());
    }

    #[test]
    fn what_reads_as_another_error_is_that_and_has_its_verdict() {
        let error = Judged::transparent(Verdict::Rejected, io::Error::other(refused()));
        assert_eq!(own_verdict(&error), Some(Verdict::Rejected));
        assert!(find::<io::Error>(&error).is_some() && find::<Refused>(&error).is_some());
        assert_eq!(error.to_string(), io::Error::other(refused()).to_string());
        assert_eq!(error.source().is_some(), io::Error::other(refused()).source().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_outermost_of_our_errors_gives_the_verdict() {
        // Attempt 1 may have been applied; that attempt 2 was refused does not undo it.
        let error = exhausted(Box::new(refused()));
        assert_eq!(own_verdict(&error), Some(Verdict::failure(Kind::Transient)));
        let refusal = Verdict::failure(Kind::Refused).with_hint(Hint::RetryAfter(Duration::from_secs(3)));
        assert_eq!(own_verdict(&refused()), Some(refusal));
        assert_eq!(own_verdict(&NoTimer::new()), Some(Verdict::Ignored));
        assert_eq!(own_verdict(&Judged::new(Verdict::Rejected, refused())), Some(Verdict::Rejected));
        assert_eq!(own_verdict(&io::Error::other("x")), None);
    }

    #[test]
    fn errors_say_what_failed_why_and_what_to_do() {
        let error = exhausted("503".into());
        assert_eq!(
            error.to_string(),
            "`datadog` failed after 3 attempts in 2.5 s: all retries are used up; not safe to send again, it may have been applied"
        );
        assert_eq!(
            Elapsed::new("pagerduty".into(), Duration::from_millis(250)).to_string(),
            "`pagerduty` did not answer within 250 ms; the request may have been applied"
        );
        assert_eq!(
            ConfigError::new("probes", 0, "must be at least 1").to_string(),
            "`probes` is 0, but must be at least 1"
        );
    }
}
