mod plan;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::clock::{Seconds, before_poll};
use buttress_core::{BoxError, Carried, Repeatable, Shared, Timer};
use buttress_http::ReplayBody;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::by_method::Unlisted;
use crate::call::Known;
use crate::grpc::{End, field};
use crate::peeked_body::{PeekedBody, Time};
use crate::timeout::{GRPC_TIMEOUT, format_timeout};
use plan::{Depth, Plan, Until};

static PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// What each attempt at a call needs. Put it below everything else, right above the transport.
///
/// * **Headers.** `grpc-timeout`, where the call has one, says the time that is *left*; a client alone would send the
///   same one with every attempt. From the second attempt on, `grpc-previous-rpc-attempts` (gRPC A6) says how many there
///   were.
/// * **The peek.** A status may come in trailers, after headers that look good. Of a call that may be repeated, and whose
///   request has been sent whole and is kept, the first frame of the response is waited for; if that is a message, it is looked
///   once whether its trailers are there too. What was looked at is given back as it came. A message is never held up, and
///   neither is the head of a response for longer than [`peek`](AttemptLayer::peek) says. Methods that a
///   [`ServiceConfig`](crate::ServiceConfig) calls streams are not looked into at all, and of those that it says answer with one
///   message the status is waited for.
///
/// gRPC (A6) holds a call to be committed as soon as headers have come, since its clients give them to the application at
/// once. Here nothing is given out during the peek, and the call is committed with the first message that is.
///
/// It reads what a [`CallLayer`](crate::CallLayer) and the deadlines above note on the request. Dropping the future drops the
/// attempt. The service inside is called with the request as it comes, and ready when it is.
///
/// ```
/// use std::time::Duration;
/// use buttress_grpc::AttemptLayer;
///
/// let layer = AttemptLayer::new().peek(Duration::from_millis(100));
/// # tower::ServiceBuilder::new().layer(layer);
/// ```
#[derive(Clone, Debug)]
pub struct AttemptLayer {
    settings: Settings,
}

#[derive(Clone, Debug)]
struct Settings {
    peek: Option<Duration>,
    send_deadline: bool,
    above: Option<Above>,
}

/// How much time a deadline above gives an attempt.
#[derive(Clone)]
struct Above(Shared<dyn Fn() -> Option<Duration> + Send + Sync>);

impl fmt::Debug for Above {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Above({:?})", (self.0)())
    }
}

impl AttemptLayer {
    /// Looks into responses, for at most 500 ms after their head.
    pub fn new() -> Self {
        Self {
            settings: Settings { peek: Some(Duration::from_millis(500)), send_deadline: false, above: None },
        }
    }

    /// Waits at most so long after a response's head for its first message or its trailers; `None` looks into no response:
    /// then only a status in headers is seen by a retry. Default 500 ms.
    #[must_use]
    pub fn peek(self, wait: impl Into<Option<Duration>>) -> Self {
        Self { settings: Settings { peek: wait.into(), ..self.settings } }
    }

    /// Asks this, of each call that is looked into, how much time a deadline above gives the attempt: a look then ends before the
    /// attempt does, also of requests with which no deadline travels. `None` stands for no limit. Default: nothing is known of one.
    #[must_use]
    pub fn deadline_above(self, limit: impl Fn() -> Option<Duration> + Send + Sync + 'static) -> Self {
        Self { settings: Settings { above: Some(Above(Shared::Counted(Arc::new(limit)))), ..self.settings } }
    }

    /// For a layer that lives as long as the process: what its services share is never freed, and their clones count no references
    /// for it. Each use of this method takes a few bytes for good.
    #[must_use]
    pub fn leaked(self) -> Self {
        let above = self.settings.above.map(|Above(limit)| Above(limit.leaked()));
        Self { settings: Settings { above, ..self.settings } }
    }

    /// Tells the server of the stack's own deadline where the call has no `grpc-timeout`. Default `false`: a server ends a
    /// *stream* with it, too, while the deadline of a stack ends with the response's head. Methods that are called
    /// streams are left alone. It has to travel with requests: `DeadlineLayer::carry`.
    #[must_use]
    pub fn send_deadline(self, send: bool) -> Self {
        Self { settings: Settings { send_deadline: send, ..self.settings } }
    }

    /// Whether [servers are told](AttemptLayer::send_deadline) of deadlines.
    pub fn sends_deadline(&self) -> bool {
        self.settings.send_deadline
    }
}

/// One sentence, without a full stop.
impl fmt::Display for AttemptLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.settings.peek {
            None => f.write_str("a status is looked for in headers only")?,
            Some(wait) => write!(
                f,
                "what may be repeated is looked into for a status in trailers, up to {} after its head",
                Seconds(wait)
            )?,
        }
        if self.settings.send_deadline {
            f.write_str("; servers are told of the deadline")?;
        }
        Ok(())
    }
}

impl Default for AttemptLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for AttemptLayer {
    type Service = Attempt<S>;

    fn layer(&self, inner: S) -> Attempt<S> {
        Attempt { inner, settings: self.settings.clone() }
    }
}

/// Gives each attempt its headers, and looks into its response; made by [`AttemptLayer`].
#[derive(Clone, Debug)]
pub struct Attempt<S> {
    settings: Settings,
    // Cloned last, where it is to stay.
    inner: S,
}

impl Settings {
    /// Writes the headers, and says what is to be done with the response, and when the call has to be over.
    fn prepare<B>(&self, request: &mut Request<B>) -> (Plan, Option<(Instant, Duration)>) {
        let known = request.extensions().get::<Known>().copied().unwrap_or_default();
        let (deadline, attempt, repeatable) =
            request.extensions().get::<Carried>().map_or((None, 0, false), |carried| {
                (carried.deadline, carried.attempt, carried.repeatable || carried.idempotency_key.is_some())
            });
        let repeatable = repeatable || request.extensions().get::<Repeatable>().is_some();
        let is_told = || {
            known.unary
                || field(request.headers(), &GRPC_TIMEOUT).is_some()
                || self.send_deadline && !known.stream
        };
        let told = match known.time {
            Some((time, _)) if known.unary => Some(deadline.map_or(time, |deadline| deadline.min(time))),
            // The deadline of an attempt is no limit to a stream.
            Some((time, _)) => Some(time),
            None => deadline.filter(|_| is_told()),
        };
        if let Some(told) = told {
            let left = format_timeout(told.saturating_duration_since(Instant::now()));
            request.headers_mut().insert(&GRPC_TIMEOUT, left);
        }
        if attempt > 1 {
            request.headers_mut().insert(&PREVIOUS_ATTEMPTS, HeaderValue::from(attempt - 1));
        }
        let depth = match self.peek {
            Some(_) if known.unary => Depth::Whole,
            Some(wait) if repeatable && !known.stream => Depth::First(wait),
            _ => Depth::Head,
        };
        let above = || self.above.as_ref().and_then(|Above(limit)| limit());
        let until = match (depth, deadline) {
            (Depth::First(_), Some(deadline)) => Until::At(deadline),
            (Depth::First(_), None) => above().map_or(Until::Unknown, Until::After),
            _ => Until::Unknown,
        };
        let Known { codes, stream, time, .. } = known;
        (Plan { codes, stream, depth, told, until }, time)
    }
}

impl<S, B, R> Service<Request<ReplayBody<B>>> for Attempt<S>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    R: Body + Unpin,
    R::Data: Unpin,
    R::Error: Into<BoxError>,
{
    type Response = Response<PeekedBody<R>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, B, R>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<ReplayBody<B>>) -> Self::Future {
        let (plan, time) = self.settings.prepare(&mut request);
        // One that is all there need not be asked.
        let asks = matches!(plan.depth, Depth::First(_)) && request.body().as_bytes().is_none();
        let sent = asks.then(|| Box::new(request.body().fork()));
        let time = time.map(|(deadline, limit)| {
            let method = request.uri().path().into();
            Box::new(Time { deadline, limit, method, timer: Timer::default() })
        });
        ResponseFuture { state: State::Head { inner: self.inner.call(request) }, plan, sent, time }
    }
}

pin_project! {
    /// The response of an [`Attempt`].
    pub struct ResponseFuture<F, B, R>
    where
        R: Body,
    {
        #[pin]
        state: State<F, R>,
        plan: Plan,
        // Of a request's body that is not all there; it is asked whether all of it has been sent, and never read. Boxed, as the
        // time, since most calls have neither.
        sent: Option<Box<ReplayBody<B>>>,
        time: Option<Box<Time>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, R>
    where
        R: Body,
    {
        Head { #[pin] inner: F },
        Peek { waiting: Option<Box<Waiting<R>>> },
    }
}

/// A response of which more is waited for; boxed, since it is large and exists only beside a wait.
struct Waiting<R: Body> {
    response: Response<PeekedBody<R>>,
    timer: Option<Timer>,
}

impl<F, B, R: Body> fmt::Debug for ResponseFuture<F, B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if matches!(self.state, State::Head { .. }) { "Head" } else { "Peek" };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}

impl<F, B, R, E> Future for ResponseFuture<F, B, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    R: Body + Unpin,
    R::Data: Unpin,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<PeekedBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        match this.state.as_mut().project() {
            StateProj::Head { inner } => {
                before_poll();
                #[cfg_attr(not(feature = "tonic"), expect(unused_mut, reason = "only tonic is protected"))]
                let mut response = match inner.poll(cx) {
                    Poll::Ready(Ok(response)) => response,
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(Unlisted::mark(error.into(), this.plan.codes)));
                    }
                    Poll::Pending => {
                        this.plan.wait();
                        return Poll::Pending;
                    }
                };
                let end = End::of(response.headers());
                // tonic reads them with a status only.
                #[cfg(feature = "tonic")]
                if end.is_some() {
                    crate::status::without_broken_details(response.headers_mut());
                }
                let is_open = response.status() == StatusCode::OK && end.is_none();
                let mut response = response.map(|body| PeekedBody::new(body, is_open, this.time.take()));
                let sent = this.sent.take();
                if response.body().is_truncated() {
                    this.plan.note(&mut response, Some(End::Truncated));
                } else if !(is_open && this.plan.looks(sent.as_deref())) {
                    this.plan.note(&mut response, end);
                } else {
                    let mut timer = None;
                    if this.plan.poll_look(&mut response, &mut timer, cx)?.is_pending() {
                        let waiting = Some(Box::new(Waiting { response, timer }));
                        this.state.set(State::Peek { waiting });
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Ok(response))
            }
            StateProj::Peek { waiting } => {
                let mut looked = waiting.take().expect("a future is not polled again after it was ready");
                if this.plan.poll_look(&mut looked.response, &mut looked.timer, cx)?.is_pending() {
                    *waiting = Some(looked);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(looked.response))
            }
        }
    }
}
