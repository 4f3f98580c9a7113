use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::wall;
use buttress_core::{Classify, ErrorRef, Hint, Kind, Verdict};
use http::{HeaderMap, StatusCode};

use crate::hint::hint;
use crate::transport::transport_verdict;

/// Hints beyond a day are as good as never; it is the policies that have real caps.
pub(crate) const LONGEST_HINT: Duration = Duration::from_secs(86_400);

/// HTTP, for every layer: what responses and errors mean, what travels with a message, what becomes of a response that
/// nobody sees, and whose state a request concerns.
///
/// | outcome | verdict |
/// |---|---|
/// | 1xx, 2xx, 3xx | success |
/// | 408, time-outs | timeout |
/// | 429 | throttled, and taken for not processed: a server that limits rates refuses before it works |
/// | 409 with `Retry-After` | a conflict that will be over then, such as a request with the same idempotency key that is under way |
/// | 425 | unprocessed: it came before a handshake was over (RFC 8470) |
/// | other 4xx | rejected |
/// | 501, 505 | permanent |
/// | other 5xx | transient |
/// | connect errors | transient, not sent |
/// | HTTP/2 REFUSED_STREAM, GOAWAY in good order beyond the last stream | [unprocessed](crate::transport_verdict) |
/// | other transport errors | transient |
///
/// Failures carry the server's [hint](crate::hint). It is cheap to clone.
///
/// ```
/// use buttress_core::{Classify, Kind, Verdict};
/// use buttress_http::{Http, Vendor};
/// use http::{Response, StatusCode};
///
/// // This API answers 409 while it is busy.
/// let http = Http::new().vendor(Vendor::Datadog).status(StatusCode::CONFLICT, Verdict::failure(Kind::Transient));
/// let busy = Response::builder().status(409).body(()).unwrap();
/// assert!(http.classify(Ok(&busy)).is_failure());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Http {
    vendor: Vendor,
    /// What differs from the defaults; usually nothing.
    custom: Option<Arc<Custom>>,
}

/// Whose dialect of rate limits a server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Vendor {
    /// The standards, and what most servers do.
    #[default]
    Generic,
    /// Datadog: `X-RateLimit-Reset` as a span or a moment.
    Datadog,
    /// GitHub: `X-RateLimit-Reset` as a moment; a 403 with no requests remaining, or with `Retry-After`, is throttling.
    GitHub,
    /// PagerDuty: `ratelimit-reset` as a span.
    PagerDuty,
    /// AWS: `x-amz-retry-after` in milliseconds; an `x-amzn-errortype` header that names throttling is throttling, whatever
    /// the status. Services that name it only in the body (AWS JSON 1.0 and 1.1, the query protocol) are judged by their
    /// status alone.
    Aws,
}

/// How much of a response that nobody sees is read, so that its connection can be used again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { bytes: 256 * 1024, time: Duration::from_millis(500) }
    }
}

type Judge = dyn Fn(StatusCode, &HeaderMap) -> Option<Verdict> + Send + Sync;

#[derive(Clone, Default)]
struct Custom {
    statuses: Vec<(StatusCode, Verdict)>,
    judge: Option<Arc<Judge>>,
    drain: Drain,
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { statuses, drain, .. } = self;
        f.debug_struct("Custom").field("statuses", statuses).field("drain", drain).finish_non_exhaustive()
    }
}

impl Http {
    /// The rules of the table above.
    pub fn new() -> Self {
        Self::default()
    }

    /// Understands this vendor's rate limits.
    #[must_use]
    pub fn vendor(self, vendor: Vendor) -> Self {
        Self { vendor, ..self }
    }

    /// Judges this status in this way; a failure without a hint of its own still gets the server's.
    #[must_use]
    pub fn status(self, status: StatusCode, verdict: Verdict) -> Self {
        self.change(|custom| {
            custom.statuses.retain(|(of, _)| *of != status);
            custom.statuses.push((status, verdict));
        })
    }

    /// Asks this first about every response; `None` leaves it to the other rules.
    #[must_use]
    pub fn judge(
        self,
        judge: impl Fn(StatusCode, &HeaderMap) -> Option<Verdict> + Send + Sync + 'static,
    ) -> Self {
        self.change(|custom| custom.judge = Some(Arc::new(judge)))
    }

    /// Reads at most so much, for at most so long, of a response that is thrown away. Default 256 KiB and 500 ms; zero
    /// bytes drop it at once, and its connection with it.
    #[must_use]
    pub fn drain(self, bytes: u64, time: Duration) -> Self {
        self.change(|custom| custom.drain = Drain { bytes, time })
    }

    fn change(self, change: impl FnOnce(&mut Custom)) -> Self {
        let mut custom = self.custom.unwrap_or_default();
        change(Arc::make_mut(&mut custom));
        Self { custom: Some(custom), ..self }
    }

    pub(crate) fn drain_limits(&self) -> Drain {
        self.custom.as_ref().map_or(Drain::default(), |custom| custom.drain)
    }

    /// The verdict on a response's head.
    pub fn verdict(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let own = self.custom.as_ref().and_then(|custom| {
            let judged = custom.judge.as_ref().and_then(|judge| judge(status, headers));
            judged
                .or_else(|| custom.statuses.iter().find(|(of, _)| *of == status).map(|(_, verdict)| *verdict))
        });
        let verdict = own.unwrap_or_else(|| self.by_the_book(status, headers));
        let Verdict::Failure { kind, hint: Hint::None, .. } = verdict else { return verdict };
        verdict.with_hint(hint(self.vendor, kind == Kind::Throttled, headers, wall(), LONGEST_HINT))
    }

    fn by_the_book(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        if status.is_success() {
            return Verdict::Success;
        }
        if self.throttles(status, headers) {
            return Verdict::failure(Kind::Throttled).not_sent();
        }
        match self.aws_error(headers) {
            // A request with the same token is being processed.
            Some("TransactionInProgressException") => return Verdict::failure(Kind::Conflict),
            Some("RequestTimeout" | "RequestTimeoutException") => return Verdict::failure(Kind::Timeout),
            _ => {}
        }
        match status.as_u16() {
            408 => Verdict::failure(Kind::Timeout),
            // A conflict that is over at a known time: a request with the same idempotency key is being processed.
            409 if headers.contains_key(http::header::RETRY_AFTER) => Verdict::failure(Kind::Conflict),
            425 => Verdict::failure(Kind::Unprocessed),
            501 | 505 => Verdict::failure(Kind::Permanent),
            400..=499 => Verdict::Rejected,
            500.. => Verdict::failure(Kind::Transient),
            _ => Verdict::Success,
        }
    }

    fn throttles(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        match (self.vendor, status.as_u16()) {
            (_, 429) => true,
            (Vendor::GitHub, 403) => {
                headers.contains_key(http::header::RETRY_AFTER)
                    || header("x-ratelimit-remaining") == Some("0")
            }
            (Vendor::Aws, 400..) => self.aws_error(headers).is_some_and(is_aws_throttling),
            _ => false,
        }
    }

    /// The code in AWS's error type header, which may have a namespace before it and a URL after it.
    fn aws_error<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let error_type =
            headers.get("x-amzn-errortype").filter(|_| self.vendor == Vendor::Aws)?.to_str().ok()?;
        let code = error_type.split(':').next().unwrap_or_default();
        code.rsplit('#').next()
    }
}

/// The codes that AWS SDKs take for throttling.
fn is_aws_throttling(code: &str) -> bool {
    matches!(
        code,
        "BandwidthLimitExceeded"
            | "EC2ThrottledException"
            | "LimitExceededException"
            | "PriorRequestNotComplete"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "SlowDown"
            | "ThrottledException"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequestsException"
    )
}

impl<B> Classify<http::Response<B>> for Http {
    fn classify(&self, outcome: Result<&http::Response<B>, ErrorRef<'_>>) -> Verdict {
        match outcome {
            Ok(response) => self.verdict(response.status(), response.headers()),
            Err(error) => transport_verdict(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buttress_core::Effect;

    fn verdict(http: &Http, status: u16, headers: &[(&'static str, &'static str)]) -> Verdict {
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        http.classify(Ok(&response.body(()).unwrap()))
    }

    /// R-16, statuses
    #[test]
    fn what_is_retried_by_status_and_what_is_not() {
        let retried = |status| {
            let kinds = [Kind::Transient, Kind::Throttled, Kind::Timeout];
            matches!(verdict(&Http::new(), status, &[]), Verdict::Failure { kind, .. } if kinds.contains(&kind))
        };
        assert!(!retried(200) && !retried(400) && !retried(413));
        assert!(retried(408) && retried(429) && retried(500) && retried(502) && retried(503) && retried(504));
        assert!(!retried(501) && !retried(505), "permanent");
    }

    #[test]
    fn statuses_are_judged_by_the_book() {
        let http = Http::new();
        for (statuses, expected) in [
            (&[200, 204, 301, 304][..], Verdict::Success),
            (&[400, 401, 403, 404, 409, 422][..], Verdict::Rejected),
            (&[408][..], Verdict::failure(Kind::Timeout)),
            (&[429][..], Verdict::failure(Kind::Throttled).not_sent()),
            (&[425][..], Verdict::failure(Kind::Unprocessed)),
            (&[500, 502, 503, 504, 507, 529][..], Verdict::failure(Kind::Transient)),
            (&[501, 505][..], Verdict::failure(Kind::Permanent)),
        ] {
            for status in statuses {
                assert_eq!(verdict(&http, *status, &[]), expected, "{status}");
            }
        }
    }

    #[test]
    fn failures_carry_the_hint_and_answers_do_not() {
        let hint = |status| verdict(&Http::new(), status, &[("retry-after", "7")]).hint();
        assert_eq!(hint(503), Hint::RetryAfter(Duration::from_secs(7)));
        assert_eq!(hint(429), Hint::RetryAfter(Duration::from_secs(7)));
        assert_eq!((hint(200), hint(404)), (Hint::None, Hint::None));
    }

    /// draft-ietf-httpapi-idempotency-key-header § 2.6: the same request is under way.
    #[test]
    fn a_conflict_that_says_when_it_is_over_is_tried_again_then() {
        let expected = Verdict::failure(Kind::Conflict).with_hint(Hint::RetryAfter(Duration::from_secs(1)));
        assert_eq!(verdict(&Http::new(), 409, &[("retry-after", "1")]), expected);
        assert_eq!(verdict(&Http::new(), 409, &[]), Verdict::Rejected);
    }

    #[test]
    fn a_hostile_hint_does_not_overflow() {
        let hint = verdict(&Http::new(), 503, &[("retry-after", "99999999999999999999999999")]).hint();
        assert_eq!(hint, Hint::RetryAfter(LONGEST_HINT));
    }

    #[test]
    fn overrides_come_first_the_closure_before_the_table() {
        let http = Http::new()
            .status(StatusCode::NOT_FOUND, Verdict::failure(Kind::Transient))
            .status(StatusCode::NOT_FOUND, Verdict::failure(Kind::Permanent))
            .judge(|status, headers| {
                let busy = status == StatusCode::OK && headers.contains_key("x-busy");
                busy.then(|| Verdict::failure(Kind::Throttled))
            });
        assert_eq!(verdict(&http, 404, &[]), Verdict::failure(Kind::Permanent));
        assert_eq!(verdict(&http, 200, &[]), Verdict::Success);
        let locked = http.clone().status(StatusCode::LOCKED, Verdict::failure(Kind::Transient));
        let hint = verdict(&locked, 423, &[("retry-after", "7")]).hint();
        assert_eq!(hint, Hint::RetryAfter(Duration::from_secs(7)), "any failure takes the server's hint");
        let busy = verdict(&http, 200, &[("x-busy", "1"), ("retry-after", "3")]);
        assert_eq!(busy.hint(), Hint::RetryAfter(Duration::from_secs(3)));
        assert_eq!(verdict(&Http::new(), 404, &[]), Verdict::Rejected, "the other one is untouched");
    }

    #[test]
    fn vendors_have_throttling_of_their_own() {
        let is_throttled = |vendor, status, headers: &[_]| {
            let verdict = verdict(&Http::new().vendor(vendor), status, headers);
            matches!(verdict, Verdict::Failure { kind: Kind::Throttled, effect: Effect::NotSent, .. })
        };
        let none_left = [("x-ratelimit-remaining", "0")];
        assert!(is_throttled(Vendor::GitHub, 403, &none_left));
        assert!(is_throttled(Vendor::GitHub, 403, &[("retry-after", "60")]));
        assert!(!is_throttled(Vendor::GitHub, 403, &[]) && !is_throttled(Vendor::Generic, 403, &none_left));
        let error = |code| [("x-amzn-errortype", code)];
        assert!(is_throttled(Vendor::Aws, 400, &error("ThrottlingException")));
        assert!(is_throttled(Vendor::Aws, 400, &error("com.amazonaws.ecs#ThrottlingException:http://x/")));
        assert!(!is_throttled(Vendor::Aws, 400, &error("ValidationException")));
        let aws = Http::new().vendor(Vendor::Aws);
        assert_eq!(verdict(&aws, 400, &error("RequestTimeout")), Verdict::failure(Kind::Timeout));
        let in_progress = verdict(&aws, 400, &error("TransactionInProgressException"));
        assert_eq!(in_progress, Verdict::failure(Kind::Conflict), "it may yet be applied");
    }
}
