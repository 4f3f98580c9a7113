//! Errors between the SDK and the stack.

use aws_smithy_runtime_api::client::result::ConnectorError;
use buttress::core::{Effect, Judged, Kind};
use buttress::http::transport_verdict;
use buttress::{BoxError, Exhausted, Stop, Verdict};

/// The connector's error with its meaning, where the connector alone knows it.
pub(crate) fn judged(error: ConnectorError) -> BoxError {
    let verdict = if error.is_user() {
        // The request could not be made, which says nothing about the server.
        Verdict::Ignored
    } else if error.is_timeout() && was_perhaps_sent(&error) {
        Verdict::failure(Kind::Timeout)
    } else {
        return error.into();
    };
    Judged::new(verdict, error).into()
}

fn was_perhaps_sent(error: &ConnectorError) -> bool {
    !matches!(transport_verdict(error), Verdict::Failure { effect: Effect::NotSent, .. })
}

/// What the SDK is told of an error of the stack.
///
/// | the error | becomes | and the SDK |
/// |---|---|---|
/// | a `ConnectorError` from beneath, also where a retry is switched off | itself | does as always |
/// | a time-out: `Elapsed`, tokio's, one of `std::io` | `ConnectorError::timeout` | retries |
/// | everything else: `Refused`, `Exhausted` | `ConnectorError::other` without a kind | does not retry |
///
/// tower's own time-out and load shed are of the last kind, since the error of a layer that is not known may be a refusal.
///
/// The stack's error stays in the chain: `buttress::find::<Refused>(&sdk_error)` finds it in what the operation returns.
pub fn to_connector_error(error: BoxError) -> ConnectorError {
    let error = match error.downcast::<Exhausted>() {
        // A retry that is switched off has nothing to say.
        Ok(exhausted) if exhausted.attempts <= 1 && exhausted.stop == Stop::MaxRetries => {
            return to_connector_error(exhausted.source);
        }
        Ok(exhausted) => return ConnectorError::other(exhausted, None),
        Err(error) => error,
    };
    let error = error.downcast::<Judged>().map_or_else(|error| error, |judged| judged.into_inner());
    let error = match error.downcast::<ConnectorError>() {
        Ok(error) => return *error,
        Err(error) => error,
    };
    match transport_verdict(&*error) {
        Verdict::Failure { kind: Kind::Timeout, .. } => ConnectorError::timeout(error),
        _ => ConnectorError::other(error, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buttress::core::Reason;
    use buttress::{Elapsed, Refused, find};
    use std::time::Duration;

    fn exhausted(attempts: u32, stop: Stop, source: impl Into<BoxError>) -> BoxError {
        Box::new(Exhausted {
            name: "sqs".into(),
            stop,
            attempts,
            elapsed: Duration::from_secs(1),
            verdict: Verdict::failure(Kind::Timeout),
            safe_to_retry: true,
            retry_at: None,
            source: source.into(),
        })
    }

    fn io() -> ConnectorError {
        ConnectorError::io("reset".into())
    }

    #[test]
    fn what_the_stack_has_decided_the_sdk_does_not_decide_again() {
        let refused = || Refused::new("circuit breaker", "sqs".into(), Reason::CircuitOpen);
        for error in [
            refused().into(),
            exhausted(3, Stop::MaxRetries, io()),
            exhausted(1, Stop::Budget, io()),
            exhausted(1, Stop::HintTooLong, io()),
            exhausted(2, Stop::Refused, refused()),
        ] {
            let shown = error.to_string();
            let error = to_connector_error(error);
            assert!(error.is_other() && error.as_other().is_none(), "{shown}");
        }
        assert!(find::<Refused>(&to_connector_error(refused().into())).is_some());
    }

    #[test]
    fn what_the_stack_leaves_open_the_sdk_decides() {
        assert!(to_connector_error(io().into()).is_io());
        assert!(to_connector_error(exhausted(1, Stop::MaxRetries, io())).is_io());
        let elapsed = || Elapsed::new("sqs".into(), Duration::from_secs(1));
        assert!(to_connector_error(elapsed().into()).is_timeout());
        assert!(to_connector_error(exhausted(1, Stop::MaxRetries, elapsed())).is_timeout());
        assert!(to_connector_error(judged(ConnectorError::timeout("read".into()))).is_timeout());
        assert!(to_connector_error(judged(ConnectorError::user("header".into()))).is_user());
    }

    #[test]
    fn the_connector_s_own_kinds_mean_something_to_the_classifier() {
        let verdict = |error| transport_verdict(&*judged(error));
        assert_eq!(verdict(ConnectorError::timeout("read".into())), Verdict::failure(Kind::Timeout));
        assert_eq!(verdict(ConnectorError::user("header".into())), Verdict::Ignored);
        assert_eq!(verdict(io()), Verdict::failure(Kind::Transient));
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let refused = ConnectorError::timeout(refused.into());
        assert_eq!(verdict(refused), Verdict::failure(Kind::Transient).not_sent());
    }
}
