use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Seconds;

/// An error that a layer makes itself: the request never reached the service inside.
///
/// It is safe to send the request again. [`find`](crate::find) finds it anywhere in an error's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    layer: &'static str,
    name: Arc<str>,
    reason: Reason,
    retry_at: Option<Instant>,
}

/// Why a layer refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The circuit breaker is open.
    CircuitOpen,
    /// The circuit breaker is half-open and all its probes are under way.
    ProbesInFlight,
    /// An operator isolated the circuit breaker.
    CircuitIsolated,
    /// The deadline had passed before the request was sent.
    DeadlinePassed,
    /// The server asked for a pause that outlasts what this call may wait.
    RateLimited,
    /// Only reads are served for now.
    ReadOnly,
    /// There is no connection to send it over.
    Unavailable,
    /// As many calls are under way as are let through for now, since load is shed.
    Overloaded,
}

impl Reason {
    /// The reason in a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CircuitOpen => "the circuit is open",
            Self::ProbesInFlight => "the circuit is half-open and its probes are under way",
            Self::CircuitIsolated => "the circuit is isolated by an operator",
            Self::DeadlinePassed => "the deadline has already passed",
            Self::RateLimited => "the server asked for a longer pause than this call may wait",
            Self::ReadOnly => "only reads are served for now",
            Self::Unavailable => "there is no connection to send it over",
            Self::Overloaded => "as many calls are under way as are let through for now",
        }
    }
}

impl Refused {
    /// `layer` says which pattern refuses ("circuit breaker"), `name` which service it guards.
    pub fn new(layer: &'static str, name: Arc<str>, reason: Reason) -> Self {
        Self { layer, name, reason, retry_at: None }
    }

    /// The same refusal, to be tried again at this moment.
    #[must_use]
    pub fn until(self, retry_at: Instant) -> Self {
        Self { retry_at: Some(retry_at), ..self }
    }

    /// Which pattern refused.
    pub fn layer(&self) -> &'static str {
        self.layer
    }

    /// The name of the service that the layer guards.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why it refused.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The moment from which it is worth trying again; `None` if nobody can say.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// How long from now until [`retry_at`](Refused::retry_at): zero once it has passed.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_at.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, name, reason, .. } = self;
        write!(f, "{layer} `{name}` refused the request: {}", reason.as_str())?;
        match self.retry_after() {
            Some(after) => write!(f, "; try again in {}", Seconds(after)),
            None => Ok(()),
        }
    }
}

impl Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_names_the_layer_the_service_the_reason_and_the_remedy() {
        let refused = Refused::new("circuit breaker", "datadog".into(), Reason::CircuitOpen);
        assert_eq!(refused.to_string(), "circuit breaker `datadog` refused the request: the circuit is open");
        assert_eq!(
            refused.until(Instant::now() + Duration::from_millis(41_500)).to_string(),
            "circuit breaker `datadog` refused the request: the circuit is open; try again in 41.5 s"
        );
    }
}
