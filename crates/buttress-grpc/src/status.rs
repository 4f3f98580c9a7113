use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::{
    BoxError, Effect, Elapsed, ErrorRef, Exhausted, Kind, NoTimer, Reason, Refused, Verdict, chain, find,
    own_verdict,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use pin_project_lite::pin_project;
use tonic::metadata::MetadataMap;
use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, StatusExt};
use tower_layer::Layer;
use tower_service::Service;

use crate::grpc::field;

/// Turns the errors of a stack into [`tonic::Status`], which is what a client that tonic generates gives to its caller. Put
/// it above all other layers.
///
/// | error | code | details |
/// |---|---|---|
/// | [`Refused`] | `UNAVAILABLE`; `DEADLINE_EXCEEDED` if the deadline had passed | `google.rpc.RetryInfo`: when to come back, if that is known |
/// | [`Elapsed`] | `DEADLINE_EXCEEDED` | |
/// | [`Exhausted`] | that of the last attempt's own error | `RetryInfo`, if the server said when to come back |
/// | the transport's | as tonic has it, but `UNAVAILABLE` where a connection failed, and `DEADLINE_EXCEEDED` for a time-out | |
///
/// The error itself is the status's source: [`find`](buttress_core::find)`::<Refused>(&status)` finds it, and
/// `Exhausted` says how many attempts there were. A status that a server sent is a response, and passes as it came.
///
/// An error of `poll_ready` is kept for the next `call`: tonic calls any that it meets there `UNKNOWN`, whatever it says.
///
/// ```
/// use buttress_core::{Reason, Refused, find};
/// use buttress_grpc::to_status;
///
/// let status = to_status(Refused::new("circuit breaker", "greeter".into(), Reason::CircuitOpen).into());
/// assert_eq!(status.code(), tonic::Code::Unavailable);
/// assert_eq!(find::<Refused>(&status).unwrap().name(), "greeter");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusLayer;

impl<S> Layer<S> for StatusLayer {
    type Service = StatusService<S>;

    fn layer(&self, inner: S) -> StatusService<S> {
        StatusService { inner, failed: None }
    }
}

/// Turns errors into [`tonic::Status`]; made by [`StatusLayer`].
#[derive(Debug)]
pub struct StatusService<S> {
    inner: S,
    /// Why the service inside cannot become ready.
    failed: Option<Status>,
}

impl<S: Clone> Clone for StatusService<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), failed: None }
    }
}

impl<S, Req> Service<Req> for StatusService<S>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = Status;
    type Future = StatusFuture<S::Future>;

    /// That of the service inside, but never an error.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if self.failed.is_none() {
            self.failed = ready!(self.inner.poll_ready(cx)).err().map(|error| to_status(error.into()));
        }
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        match self.failed.take() {
            None => StatusFuture { state: State::Calling { inner: self.inner.call(request) } },
            failed => StatusFuture { state: State::Failed { failed } },
        }
    }
}

pin_project! {
    /// The response of a [`StatusService`].
    #[derive(Debug)]
    pub struct StatusFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Calling { #[pin] inner: F },
        Failed { failed: Option<Status> },
    }
}

impl<F, Res, E> Future for StatusFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, Status>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Calling { inner } => inner.poll(cx).map_err(|error| to_status(error.into())),
            StateProj::Failed { failed } => {
                Poll::Ready(Err(failed.take().expect("a future is not polled again after it was ready")))
            }
        }
    }
}

/// The status of an error out of a stack, as [`StatusLayer`] makes it; the error is its source.
#[cold]
pub fn to_status(error: BoxError) -> Status {
    let error = match error.downcast::<Status>() {
        Ok(status) => return *status,
        Err(error) => error,
    };
    let error: Arc<dyn Error + Send + Sync> = error.into();
    let mut status = status_of(&error);
    status.set_source(error);
    status
}

fn status_of(error: &Arc<dyn Error + Send + Sync>) -> Status {
    let exhausted = find::<Exhausted>(&**error);
    if let Some(refused) = find::<Refused>(&**error) {
        let code = match refused.reason() {
            Reason::DeadlinePassed => Code::DeadlineExceeded,
            _ => Code::Unavailable,
        };
        return with_retry_info(code, message(exhausted, refused), refused.retry_after());
    }
    if let Some(elapsed) = find::<Elapsed>(&**error) {
        return Status::deadline_exceeded(message(exhausted, elapsed));
    }
    if let Some(no_timer) = find::<NoTimer>(&**error) {
        return Status::internal(no_timer.to_string());
    }
    if let Some(truncated) = find::<crate::Truncated>(&**error) {
        return Status::internal(truncated.to_string());
    }
    let own = Status::from_error(Box::new(Shared(Arc::clone(error))));
    let last = exhausted.map_or(&**error, |exhausted| &*exhausted.source);
    let code = code(own.code(), crate::error_verdict(last));
    let Some(exhausted) = exhausted else {
        return if code == own.code() { own } else { Status::new(code, error.to_string()) };
    };
    if find::<Status>(exhausted).is_some() {
        return own;
    }
    with_retry_info(code, exhausted.to_string(), exhausted.retry_after())
}

/// What happened last, after what the retry has to say of it.
fn message(exhausted: Option<&Exhausted>, last: &dyn fmt::Display) -> String {
    exhausted.map_or_else(|| last.to_string(), |exhausted| format!("{exhausted}: {last}"))
}

/// tonic knows no connection that broke: neither one that a request never left on, nor one that was reset. And it calls its own
/// time-outs cancelled.
fn code(own: Code, verdict: Verdict) -> Code {
    match (own, verdict) {
        (Code::Unknown | Code::Cancelled, Verdict::Failure { kind: Kind::Timeout, .. }) => {
            Code::DeadlineExceeded
        }
        (Code::Unknown, Verdict::Failure { kind: Kind::Transient, .. })
        | (Code::Unknown | Code::Cancelled, Verdict::Failure { kind: Kind::Unprocessed, .. })
        | (Code::Cancelled, Verdict::Failure { kind: Kind::Transient, effect: Effect::NotSent, .. }) => {
            Code::Unavailable
        }
        (own, _) => own,
    }
}

fn with_retry_info(code: Code, message: String, retry_after: Option<Duration>) -> Status {
    match retry_after {
        None => Status::new(code, message),
        after => Status::with_error_details(code, message, ErrorDetails::with_retry_info(after)),
    }
}

/// An error that is shared, for who wants to own one.
#[derive(Debug)]
struct Shared(Arc<dyn Error + Send + Sync>);

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Shared {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

static DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// What the details of a status say about when to come back (`google.rpc.RetryInfo`).
pub(crate) fn retry_info(headers: &HeaderMap) -> Option<Duration> {
    let details = decoded(field(headers, &DETAILS)?)?;
    Status::with_details(Code::Unknown, "", details).get_details_retry_info()?.retry_delay
}

/// Takes details away that cannot be decoded: tonic panics when it finds them.
pub(crate) fn without_broken_details(headers: &mut HeaderMap) {
    if field(headers, &DETAILS).is_some_and(|details| decoded(details).is_none()) {
        headers.remove(&DETAILS);
    }
}

fn decoded(details: &HeaderValue) -> Option<Bytes> {
    let details = HeaderMap::from_iter([(DETAILS.clone(), details.clone())]);
    MetadataMap::from_headers(details).get_bin(DETAILS.as_str())?.to_bytes().ok()
}

/// What is tonic's own among the errors of a transport. A status that stands alone says what it means; one that has a
/// source stands for an error of the transport, which is judged as such.
pub(crate) fn error_verdict(error: ErrorRef<'_>) -> Option<Verdict> {
    if own_verdict(error).is_some() {
        return None;
    }
    chain(error).find_map(|error| {
        if error.is::<ConnectError>() {
            return Some(Verdict::failure(Kind::Transient).not_sent());
        }
        if error.is::<TimeoutExpired>() {
            return Some(Verdict::failure(Kind::Timeout));
        }
        let status = error.downcast_ref::<Status>()?;
        let code = crate::Code::from_number(status.code() as u64)?;
        status.source().is_none().then(|| crate::Grpc::new().verdict(code))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use buttress_core::{Classify, Hint, Stop};
    use std::future::{poll_fn, ready};
    use std::io;
    use tokio::time::Instant;

    fn refused(reason: Reason) -> Refused {
        Refused::new("circuit breaker", "greeter".into(), reason)
    }

    fn exhausted(source: impl Into<BoxError>) -> BoxError {
        Box::new(Exhausted {
            name: "greeter".into(),
            stop: Stop::MaxRetries,
            attempts: 3,
            elapsed: Duration::from_secs(1),
            verdict: Verdict::failure(Kind::Transient),
            safe_to_retry: false,
            retry_at: None,
            source: source.into(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_unavailable_and_says_when_to_come_back() {
        let until = Instant::now() + Duration::from_secs(30);
        let status = to_status(refused(Reason::CircuitOpen).until(until).into());
        assert_eq!(status.code(), Code::Unavailable);
        let info = status.get_details_retry_info().unwrap();
        assert_eq!(info.retry_delay, Some(Duration::from_secs(30)));
        assert_eq!(find::<Refused>(&status).unwrap().reason(), Reason::CircuitOpen);
        let status = to_status(refused(Reason::CircuitIsolated).into());
        assert_eq!((status.code(), status.details()), (Code::Unavailable, &[][..]), "nobody can say when");
        assert_eq!(to_status(refused(Reason::DeadlinePassed).into()).code(), Code::DeadlineExceeded);
    }

    #[test]
    fn a_time_out_is_a_deadline_exceeded() {
        let status = to_status(Elapsed::new("greeter".into(), Duration::from_secs(2)).into());
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(find::<Elapsed>(&status).unwrap().limit(), Duration::from_secs(2));
    }

    #[test]
    fn what_is_exhausted_has_the_code_of_its_last_attempt() {
        let status = to_status(exhausted(Status::resource_exhausted("no more")));
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "no more"));
        assert_eq!(find::<Exhausted>(&status).unwrap().attempts, 3);
        let status = to_status(exhausted(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().starts_with("`greeter` failed after 3 attempts"), "{status}");
        assert!(find::<io::Error>(&status).is_some());
        assert_eq!(to_status(exhausted(TimeoutExpired(()))).code(), Code::DeadlineExceeded);
        assert_eq!(to_status(TimeoutExpired(()).into()).code(), Code::DeadlineExceeded);
        let status = to_status(exhausted(refused(Reason::CircuitOpen)));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("3 attempts") && status.message().contains("the circuit is open"));
        let status = to_status(exhausted(Elapsed::new("greeter".into(), Duration::from_secs(2))));
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[test]
    fn a_status_of_the_clients_own_passes() {
        let status = to_status(Status::aborted("conflict").into());
        assert_eq!((status.code(), status.message()), (Code::Aborted, "conflict"));
        assert!(status.source().is_none());
    }

    #[test]
    fn errors_of_tonics_transport_are_judged() {
        let verdict = |error: BoxError| crate::error_verdict(&*error);
        let not_sent = Verdict::failure(Kind::Transient).not_sent();
        assert_eq!(verdict(ConnectError("no route".into()).into()), not_sent);
        assert_eq!(verdict(TimeoutExpired(()).into()), Verdict::failure(Kind::Timeout));
        assert_eq!(verdict(Status::not_found("x").into()), Verdict::Rejected);
        let mut reset = Status::cancelled("h2 protocol error");
        reset.set_source(Arc::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert_eq!(
            verdict(reset.into()),
            Verdict::failure(Kind::Transient),
            "the error counts, not the code"
        );
        assert_eq!(verdict(refused(Reason::CircuitOpen).into()), Verdict::failure(Kind::Refused));
    }

    #[test]
    fn details_say_when_to_come_back_and_broken_ones_are_taken_away() {
        let details = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(&DETAILS, HeaderValue::from_static(value));
            headers
        };
        let delay = Some(Duration::from_millis(1500));
        let status = Status::with_error_details(Code::Unavailable, "x", ErrorDetails::with_retry_info(delay));
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        assert_eq!(retry_info(&headers), delay);
        let mut response = http::Response::new(());
        *response.headers_mut() = headers.clone();
        let verdict = Classify::classify(&crate::Grpc::new(), Ok(&response));
        assert_eq!(verdict.hint(), Hint::RetryAfter(Duration::from_millis(1500)));
        response.headers_mut().insert("grpc-retry-pushback-ms", HeaderValue::from_static("-1"));
        let verdict = Classify::classify(&crate::Grpc::new(), Ok(&response));
        assert_eq!(verdict.hint(), Hint::DoNotRetry, "A6 comes first");
        without_broken_details(&mut headers);
        assert!(headers.contains_key(&DETAILS));
        // Base64, but nothing that protobuf would know.
        assert_eq!((retry_info(&details("AAAA")), retry_info(&details("%%%"))), (None, None));
        for broken in ["%%%", "A", "AAA=A"] {
            let mut headers = details(broken);
            without_broken_details(&mut headers);
            assert!(headers.is_empty(), "{broken}");
        }
    }

    /// Bridges: an error from `poll_ready` is always UNKNOWN to a generated client, even if it is a status.
    #[tokio::test]
    async fn an_error_of_readiness_comes_from_the_call() {
        struct Broken;
        impl Service<()> for Broken {
            type Response = ();
            type Error = BoxError;
            type Future = std::future::Ready<Result<(), BoxError>>;
            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
                Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset).into()))
            }
            fn call(&mut self, (): ()) -> Self::Future {
                ready(Ok(()))
            }
        }
        let mut service = StatusLayer.layer(Broken);
        for _ in 0..2 {
            poll_fn(|cx| service.poll_ready(cx)).await.unwrap();
            poll_fn(|cx| service.poll_ready(cx)).await.unwrap();
            assert_eq!(service.call(()).await.unwrap_err().code(), Code::Unavailable);
        }
    }
}
