use std::error::Error;
use std::time::Duration;

use buttress_core::{
    BoxError, Elapsed, Exhausted, Kind, NoTimer, Reason, Refused, Verdict, find, own_verdict,
};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;
use tokio::time::Instant;

/// What a server says to its own caller when a call of its own has failed: RFC 9457 problem details, and `Retry-After`
/// where it is known when to come back.
///
/// | the error, outermost first | status |
/// |---|---|
/// | [`Refused`], or a retry that ended in one | 503, 504 for [`Reason::DeadlinePassed`] |
/// | [`Elapsed`], or a retry that ended in a time-out | 504 |
/// | [`Exhausted`] | 503 if the server below asked for a pause, else 502 |
/// | a missing tokio timer | 500 |
/// | any other | 502 |
///
/// The detail names the layer, the dependency by the name that it has in the configuration, and the reason; nothing of
/// what lies below goes out, since the text of an error may hold what is nobody's business.
///
/// With the feature `axum` it is a response, so that a handler may end in `?`:
///
/// ```
/// use buttress_core::{BoxError, Reason, Refused};
/// use buttress_http::Problem;
///
/// async fn handler() -> Result<String, Problem> {
///     Ok(call().await?)
/// }
/// # async fn call() -> Result<String, BoxError> {
/// #     Err(Box::new(Refused::new("circuit breaker", "billing".into(), Reason::CircuitOpen)))
/// # }
/// # let problem = tokio::runtime::Builder::new_current_thread().build()?.block_on(handler()).unwrap_err();
/// assert_eq!(problem.status(), 503);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    retry_after: Option<Duration>,
}

impl Problem {
    /// The problem that an error of a call is to whoever caused the call.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let exhausted = find::<Exhausted>(error);
        let refused = find::<Refused>(error);
        let elapsed = find::<Elapsed>(error);
        let retry_at = exhausted.and_then(|exhausted| exhausted.retry_at);
        let retry_after = retry_at
            .map(|at| at.saturating_duration_since(Instant::now()))
            .or_else(|| refused.and_then(Refused::retry_after));
        let passed = refused.is_some_and(|refused| refused.reason() == Reason::DeadlinePassed);
        let status = match own_verdict(error) {
            _ if passed => StatusCode::GATEWAY_TIMEOUT,
            Some(Verdict::Failure { kind: Kind::Refused | Kind::Unprocessed, .. }) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Some(Verdict::Failure { kind: Kind::Timeout, .. }) => StatusCode::GATEWAY_TIMEOUT,
            Some(Verdict::Failure { .. }) if retry_after.is_some() => StatusCode::SERVICE_UNAVAILABLE,
            _ if find::<NoTimer>(error).is_some() => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_GATEWAY,
        };
        let detail = match (refused, elapsed, exhausted) {
            (Some(refused), ..) => format!("`{}`: {}", refused.name(), refused.reason().as_str()),
            (_, Some(elapsed), _) => format!("`{}` did not answer in time", elapsed.name()),
            (.., Some(exhausted)) => format!("`{}` failed", exhausted.name),
            _ => String::from("a service that this one depends on failed"),
        };
        Self { status, detail, retry_after }
    }

    /// A problem of the server's own.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), retry_after: None }
    }

    /// The same problem, to be tried again after this time.
    #[must_use]
    pub fn with_retry_after(self, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..self }
    }

    /// The same problem with this status.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The same problem in other words.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What is wrong, in words.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// When it is worth trying again; sent in whole seconds, rounded up.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The response, with any body that can be made of text (`String`, `Full<Bytes>`, axum's `Body`).
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        // RFC 9457 § 4.2.1: without a type of its own, a problem's title is the phrase of its status.
        let title = self.status.canonical_reason().unwrap_or_default();
        let body = json!({ "title": title, "status": self.status.as_u16(), "detail": self.detail });
        let mut response = Response::new(B::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(time) = self.retry_after {
            let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<BoxError> for Problem {
    fn from(error: BoxError) -> Self {
        Self::of(&*error)
    }
}

#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for Problem {
    fn into_response(self) -> axum_core::response::Response {
        Problem::into_response(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buttress_core::{Effect, Hint, Stop};
    use std::io;
    use std::sync::Arc;

    fn refused(reason: Reason) -> Refused {
        Refused::new("circuit breaker", "billing".into(), reason)
    }

    fn exhausted(kind: Kind, retry_at: Option<Instant>, source: BoxError) -> BoxError {
        Box::new(Exhausted {
            name: Arc::from("billing"),
            stop: Stop::MaxRetries,
            attempts: 3,
            elapsed: Duration::from_secs(1),
            verdict: Verdict::Failure { kind, effect: Effect::Unknown, hint: Hint::None },
            safe_to_retry: false,
            retry_at,
            source,
        })
    }

    fn secret() -> BoxError {
        io::Error::other("https://user:password@billing").into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_becomes_503_and_says_when_to_come_back() {
        let until = Instant::now() + Duration::from_millis(41_500);
        let error: BoxError = Box::new(refused(Reason::CircuitOpen).until(until));
        let response = Problem::from(error).into_response::<String>();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "42", "never too early");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body: serde_json::Value = serde_json::from_str(response.body()).unwrap();
        let detail = "`billing`: the circuit is open";
        assert_eq!(body, json!({ "title": "Service Unavailable", "status": 503, "detail": detail }));
    }

    #[tokio::test(start_paused = true)]
    async fn each_error_has_the_status_that_tells_a_caller_what_to_do() {
        let soon = Some(Instant::now() + Duration::from_secs(7));
        let elapsed = || Box::new(Elapsed::new("billing".into(), Duration::from_secs(5)));
        let cases: [(BoxError, u16, Option<u64>); 9] = [
            (Box::new(refused(Reason::CircuitIsolated)), 503, None),
            (Box::new(refused(Reason::DeadlinePassed)), 504, None),
            (elapsed(), 504, None),
            (exhausted(Kind::Timeout, None, elapsed()), 504, None),
            (exhausted(Kind::Transient, None, secret()), 502, None),
            (exhausted(Kind::Throttled, soon, secret()), 503, Some(7)),
            (exhausted(Kind::Refused, None, Box::new(refused(Reason::CircuitOpen))), 503, None),
            (io::Error::other(refused(Reason::ProbesInFlight)).into(), 503, None),
            (secret(), 502, None),
        ];
        for (error, status, after) in cases {
            let text = format!("{error:?}");
            let problem = Problem::from(error);
            let seen = (problem.status().as_u16(), problem.retry_after().map(|after| after.as_secs()));
            assert_eq!(seen, (status, after), "{text}");
            assert!(!problem.detail().contains("password"), "{}", problem.detail());
        }
    }

    #[test]
    fn words_and_status_can_be_replaced() {
        let problem =
            Problem::from(secret()).with_status(StatusCode::IM_A_TEAPOT).with_detail("a \"quoted\" word");
        let response = problem.into_response::<String>();
        assert_eq!(response.status(), 418);
        assert!(response.body().contains(r#"a \"quoted\" word"#), "{}", response.body());
    }

    #[test]
    fn the_longest_pause_is_sent_as_it_is() {
        let problem = Problem::new(StatusCode::CONFLICT, "").with_retry_after(Some(Duration::MAX));
        assert_eq!(problem.into_response::<String>().headers()[RETRY_AFTER], u64::MAX.to_string());
    }
}
