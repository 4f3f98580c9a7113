//! When a call that failed is worth making again, and for how long the agent tries.

use std::time::Duration;

use buttress::core::Backoff;
use buttress::{BoxError, Exhausted, Reason, Refused, find};

use http::StatusCode;

use crate::clients::Pace;
use crate::vendors::CallError;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// To treat the incident.
    pub(crate) treat: Duration,
    /// After that, to tell a person.
    pub(crate) tell: Duration,
    /// For what is good to know, and can be done without.
    pub(crate) context: Duration,
    /// Between two looks at the service.
    pub(crate) look: Duration,
    /// Before another try, where nobody says how long.
    pub(crate) pause: Duration,
    /// Below the calls there are stacks, so that to ask again and again is no storm.
    pub(crate) has_stacks: bool,
}

impl Patience {
    pub(crate) const fn of(pace: Pace) -> Self {
        let secs = Duration::from_secs;
        match pace {
            Pace::Demonstration => Self {
                treat: secs(38),
                tell: secs(12),
                context: secs(8),
                look: Duration::from_millis(500),
                pause: Duration::from_secs(1),
                has_stacks: true,
            },
            Pace::Production => Self {
                treat: secs(900),
                tell: secs(300),
                context: secs(60),
                look: secs(10),
                pause: secs(15),
                has_stacks: true,
            },
        }
    }

    /// Between two attempts at a step.
    pub(crate) fn again(&self) -> Backoff {
        Backoff::constant(self.pause)
    }

    /// How long to wait before a call that ended in this error is worth making again; `None` if it is not, or if it
    /// might do its work twice.
    pub(crate) fn before_another_try(&self, error: &CallError) -> Option<Duration> {
        match error {
            CallError::Status(_, status, said) => {
                let passes = status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS;
                (passes && self.has_stacks).then(|| said.retry_after.unwrap_or(self.pause))
            }
            CallError::Failed(_, error) => self.after(error),
            CallError::Unreadable(..) | CallError::OutOfTime(_) => None,
        }
    }

    fn after(&self, error: &BoxError) -> Option<Duration> {
        let exhausted = find::<Exhausted>(&**error);
        if exhausted.is_some_and(|exhausted| !exhausted.safe_to_retry) {
            return None;
        }
        let asked = match (find::<Refused>(&**error), exhausted) {
            (Some(refused), _) if !passes(refused.reason()) => return None,
            (Some(refused), _) => refused.retry_after(),
            (None, Some(exhausted)) => exhausted.retry_after(),
            // An error of the client's own does not say what may be done about it.
            (None, None) => return None,
        };
        Some(asked.unwrap_or(self.pause))
    }
}

/// Whether a refusal for this reason passes by itself.
fn passes(reason: Reason) -> bool {
    matches!(reason, Reason::CircuitOpen | Reason::ProbesInFlight | Reason::RateLimited)
}

#[cfg(test)]
mod tests {
    use super::*;
    use buttress::Stop;
    use buttress::core::{Kind, Verdict};
    use tokio::time::Instant;

    const PATIENCE: Patience = Patience::of(Pace::Demonstration);

    fn refused(reason: Reason) -> Refused {
        Refused::new("circuit breaker", "datadog".into(), reason)
    }

    fn exhausted(safe_to_retry: bool, source: impl Into<BoxError>) -> BoxError {
        Box::new(Exhausted {
            name: "datadog".into(),
            stop: Stop::NotRetryable,
            attempts: 3,
            elapsed: Duration::ZERO,
            verdict: Verdict::failure(Kind::Transient),
            safe_to_retry,
            retry_at: None,
            source: source.into(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_waited_for_as_long_as_it_says() {
        let until = refused(Reason::CircuitOpen).until(Instant::now() + Duration::from_secs(3));
        let wait = |error: BoxError| PATIENCE.after(&error);
        assert_eq!(wait(Box::new(until.clone())), Some(Duration::from_secs(3)));
        assert_eq!(wait(exhausted(true, until.clone())), Some(Duration::from_secs(3)));
        assert_eq!(wait(exhausted(false, until)), None, "it might do its work twice");
        assert_eq!(wait(Box::new(refused(Reason::ProbesInFlight))), Some(PATIENCE.pause));
        assert_eq!(wait(Box::new(refused(Reason::CircuitIsolated))), None, "somebody wants it so");
        assert_eq!(wait(exhausted(true, "reset")), Some(PATIENCE.pause));
        assert_eq!(wait("reset".into()), None);
    }
}
