use std::borrow::Cow;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::wall;
use buttress_core::{Carried, Carry, Classify, Discard, ErrorRef, Hint, KeyOf, Kind, Verdict};
use buttress_http::{Http, Vendor, grpc_pushback, hint};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};

use crate::code::{Code, Codes};

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Hints beyond a day are as good as never; it is the policies that have real caps.
const LONGEST_HINT: Duration = Duration::from_secs(86_400);

/// gRPC, for every layer: what responses and errors mean, what travels with a message, and whose state a request concerns.
/// It is the `policy` of a breaker or a retry, and the `carry` of a deadline.
///
/// | code | verdict | for a breaker | retried, if the call may be repeated |
/// |---|---|---|---|
/// | `OK` | success | good | |
/// | `UNAVAILABLE` | transient | bad | yes |
/// | `RESOURCE_EXHAUSTED` | throttled | bad (selectable there) | yes |
/// | `DEADLINE_EXCEEDED` | timeout | bad | yes |
/// | `UNKNOWN`, `INTERNAL`, `DATA_LOSS` | permanent | bad | no |
/// | `CANCELLED` | ignored | nothing | no |
/// | `INVALID_ARGUMENT`, `NOT_FOUND`, `ALREADY_EXISTS`, `PERMISSION_DENIED`, `FAILED_PRECONDITION`, `ABORTED`, `OUT_OF_RANGE`, `UNIMPLEMENTED`, `UNAUTHENTICATED` | rejected | good | no |
///
/// A failure's effect is unknown, that of `UNAVAILABLE` too: the server may have done the work before it went away. Whether
/// a call may be repeated all the same is for its user to say, method by method: see
/// [`ServiceConfig`](crate::ServiceConfig).
///
/// What has no code:
///
/// | outcome | verdict |
/// |---|---|
/// | an HTTP status other than 200 without `grpc-status`, from a proxy | by the code that gRPC maps it to: 400 `INTERNAL`, 401 `UNAUTHENTICATED`, 403 `PERMISSION_DENIED`, 404 `UNIMPLEMENTED`, 502 to 504 `UNAVAILABLE`, others `UNKNOWN` |
/// | HTTP 429 | throttled and not sent, as for HTTP: retried whatever the method and its list of codes |
/// | a response that ends without a status | transient; `INTERNAL` for a list of codes |
/// | connect errors | transient, not sent: retried whatever the method |
/// | REFUSED_STREAM, GOAWAY in good order beyond the last stream | [unprocessed](buttress_http::transport_verdict), nothing for a breaker: retried whatever the method, the first time transparently (A6) |
/// | other transport errors | transient |
///
/// `grpc-retry-pushback-ms` (gRPC A6) becomes the failure's hint, from headers and trailers alike: that many milliseconds, or,
/// if it is negative, no number, or there are several, not at all. `Retry-After` counts in an HTTP error of a proxy, and with the
/// feature `tonic` `google.rpc.RetryInfo` in the details of a status.
///
/// A status in trailers is seen by a retry if [`AttemptLayer`](crate::AttemptLayer) stands below it, and by a breaker if it
/// has a [`GrpcWatch`](crate::GrpcWatch).
///
/// ```
/// use buttress_core::{Classify, Kind, Verdict};
/// use buttress_grpc::{Code, Grpc};
/// use http::Response;
///
/// let gone = Response::builder().header("grpc-status", "14").body(()).unwrap();
/// assert_eq!(Grpc::new().classify(Ok(&gone)), Verdict::failure(Kind::Transient));
/// // This server aborts what is in conflict, and means for it to be tried again.
/// let grpc = Grpc::new().code(Code::Aborted, Verdict::failure(Kind::Transient));
/// # let _ = grpc;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Grpc {
    /// What differs from the table; usually nothing. One word: it lies in services, futures and bodies, which are moved.
    custom: Option<Arc<Vec<(Code, Verdict)>>>,
}

/// What is known of a response beyond its head, in its extensions; nothing is noted of one that is simply good.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Noted {
    /// The codes that the method's own policy retries.
    pub(crate) codes: Option<Codes>,
    /// It is a stream that may go on for ever.
    pub(crate) stream: bool,
    pub(crate) end: Option<End>,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Status {
        code: Code,
        hint: Hint,
    },
    /// Without a status.
    Truncated,
    /// By an error of the transport.
    Failed(Verdict),
}

impl End {
    /// What trailers, or headers in their place, say; `None` if they have no status.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let code = Code::from_header(field(headers, &GRPC_STATUS)?);
        // OK is looked at no further.
        let hint = if code == Code::Ok { Hint::None } else { pushback(headers) };
        Some(Self::Status { code, hint })
    }

    pub(crate) fn of_trailers(trailers: &HeaderMap) -> Self {
        Self::of(trailers).unwrap_or(Self::Truncated)
    }
}

/// The first value of a field. Messages of gRPC have a handful of them, and mostly not the one that is wanted: their names are
/// sooner compared than that one is hashed, and sooner read without their values.
#[inline]
pub(crate) fn field<'a>(headers: &'a HeaderMap, wanted: &HeaderName) -> Option<&'a HeaderValue> {
    if headers.len() > 8 {
        return headers.get(wanted);
    }
    let place = headers.keys().position(|name| name == wanted)?;
    if headers.len() == headers.keys_len() { headers.values().nth(place) } else { headers.get(wanted) }
}

fn pushback(headers: &HeaderMap) -> Hint {
    let mut values = headers.get_all(PUSHBACK).iter();
    match (values.next(), values.next()) {
        #[cfg(feature = "tonic")]
        (None, _) => crate::status::retry_info(headers)
            .map_or(Hint::None, |wait| Hint::RetryAfter(wait.min(LONGEST_HINT))),
        #[cfg(not(feature = "tonic"))]
        (None, _) => Hint::None,
        (Some(value), None) => grpc_pushback(value, LONGEST_HINT),
        (Some(_), Some(_)) => Hint::DoNotRetry,
    }
}

impl Grpc {
    /// The rules of the table above.
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges this code in this way; a failure without a hint of its own still gets the server's.
    #[must_use]
    pub fn code(self, code: Code, verdict: Verdict) -> Self {
        let others =
            self.custom.iter().flat_map(|custom| custom.iter()).filter(|(of, _)| *of != code).copied();
        Self { custom: Some(Arc::new(others.chain([(code, verdict)]).collect())) }
    }

    /// The verdict on a code, without a hint.
    pub fn verdict(&self, code: Code) -> Verdict {
        let custom = self.custom.as_ref().and_then(|custom| custom.iter().find(|(of, _)| *of == code));
        custom.map_or_else(|| by_the_book(code), |(_, verdict)| *verdict)
    }

    pub(crate) fn end_verdict(&self, end: End) -> Verdict {
        match end {
            End::Status { code, hint } => hinted(self.verdict(code), hint),
            End::Truncated => Verdict::failure(Kind::Transient),
            End::Failed(verdict) => verdict,
        }
    }

    /// The code of a response as far as it is known, what it means, and what the server asks for.
    pub(crate) fn judge<B>(&self, response: &Response<B>) -> Judged {
        let (status, headers) = (response.status(), response.headers());
        let noted = response.extensions().get::<Noted>().and_then(|noted| noted.end);
        match noted.or_else(|| End::of(headers)) {
            Some(end @ End::Status { code, hint }) => Judged { code, verdict: self.end_verdict(end), hint },
            Some(End::Truncated) => Judged::failed(Code::Internal, self.end_verdict(End::Truncated)),
            Some(End::Failed(verdict)) => Judged::failed(error_code(verdict), verdict),
            None if status == StatusCode::OK => {
                Judged { code: Code::Ok, verdict: Verdict::Success, hint: Hint::None }
            }
            None => self.judge_http(status, headers),
        }
    }

    #[cold]
    fn judge_http(&self, status: StatusCode, headers: &HeaderMap) -> Judged {
        let code = Code::from_http(status);
        let throttled = status == StatusCode::TOO_MANY_REQUESTS;
        let verdict =
            if throttled { Verdict::failure(Kind::Throttled).not_sent() } else { self.verdict(code) };
        let hint = match pushback(headers) {
            Hint::None => hint(Vendor::Generic, throttled, headers, wall(), LONGEST_HINT),
            hint => hint,
        };
        Judged { code, verdict: hinted(verdict, hint), hint }
    }
}

/// The code that stands for an error that is judged like this.
pub(crate) fn error_code(verdict: Verdict) -> Code {
    match verdict {
        Verdict::Failure { kind: Kind::Timeout, .. } => Code::DeadlineExceeded,
        _ => Code::Unavailable,
    }
}

/// What an error of a gRPC transport means: as
/// [`transport_verdict`](buttress_http::transport_verdict) has it; with the feature `tonic` also its own time-outs, and
/// connections that it could not make, which have sent nothing.
pub fn error_verdict(error: ErrorRef<'_>) -> Verdict {
    #[cfg(feature = "tonic")]
    if let Some(verdict) = crate::status::error_verdict(error) {
        return verdict;
    }
    buttress_http::transport_verdict(error)
}

/// What there is to say of a response.
pub(crate) struct Judged {
    pub(crate) code: Code,
    pub(crate) verdict: Verdict,
    pub(crate) hint: Hint,
}

impl Judged {
    fn failed(code: Code, verdict: Verdict) -> Self {
        Self { code, verdict, hint: verdict.hint() }
    }
}

fn by_the_book(code: Code) -> Verdict {
    match code {
        Code::Ok => Verdict::Success,
        Code::Unavailable => Verdict::failure(Kind::Transient),
        Code::ResourceExhausted => Verdict::failure(Kind::Throttled),
        Code::DeadlineExceeded => Verdict::failure(Kind::Timeout),
        Code::Unknown | Code::Internal | Code::DataLoss => Verdict::failure(Kind::Permanent),
        Code::Cancelled => Verdict::Ignored,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => Verdict::Rejected,
    }
}

/// A failure's own hint counts before the server's.
fn hinted(verdict: Verdict, hint: Hint) -> Verdict {
    if verdict.hint() == Hint::None { verdict.with_hint(hint) } else { verdict }
}

impl<B> Classify<Response<B>> for Grpc {
    fn classify(&self, outcome: Result<&Response<B>, ErrorRef<'_>>) -> Verdict {
        match outcome {
            Ok(response) => self.judge(response).verdict,
            Err(error) => error_verdict(error),
        }
    }
}

/// In the extensions of requests and responses, as for HTTP.
impl<B> Carry<Request<B>> for Grpc {
    const ACTIVE: bool = true;

    fn carried<'a>(&self, request: &'a Request<B>) -> Option<&'a Carried> {
        request.extensions().get()
    }

    fn carry(&self, request: &mut Request<B>, change: impl FnOnce(&mut Carried)) {
        change(request.extensions_mut().get_or_insert_default());
    }

    /// Where the service's configuration or the caller says so: the method of HTTP, `POST`, says nothing.
    fn may_repeat(&self, request: &Request<B>) -> bool {
        Http::new().may_repeat(request)
    }
}

impl<B> Carry<Response<B>> for Grpc {
    const ACTIVE: bool = true;

    fn carried<'a>(&self, response: &'a Response<B>) -> Option<&'a Carried> {
        response.extensions().get()
    }

    fn carry(&self, response: &mut Response<B>, change: impl FnOnce(&mut Carried)) {
        change(response.extensions_mut().get_or_insert_default());
    }
}

/// Drops it: over HTTP/2 that ends the stream, and its connection serves the next attempt.
impl<B> Discard<Response<B>> for Grpc {
    type Future = Ready<()>;

    fn discard(&self, response: Response<B>) -> Ready<()> {
        drop(response);
        ready(())
    }
}

/// The authority, as for HTTP.
impl<B> KeyOf<Request<B>> for Grpc {
    fn key<'a>(&self, request: &'a Request<B>) -> Option<Cow<'a, str>> {
        Http::new().key(request)
    }
}

#[cfg(test)]
mod tests;
