//! Faults of HTTP and gRPC.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{BoxError, ConfigError, Kind, Timer, Verdict};
use bytes::{Buf, Bytes};
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::error::Injected;
use crate::fault::{Answer, Code, Cut, Fault, FaultKind};
use crate::inject::{Inject, Protocol};
use crate::rule::{Field, Rule};

/// Faults of HTTP: rules may look at method, path, authority and headers, answer with statuses and gRPC codes, cut bodies
/// off and slow them down. The key of a request is its authority.
///
/// Bodies become [`ChaosBody`]s; their data must be what [`Bytes`] can become.
///
/// ```
/// use buttress_chaos::{Answer, ChaosLayer, Config, Cut, Field, Rule};
///
/// # fn main() -> Result<(), buttress_core::ConfigError> {
/// let config = Config::seeded(7)
///     .rule(Rule::respond(Answer::status(429).header("retry-after", "2")).when(Field::Method, "POST").rate(0.1))
///     .rule(Rule::grpc(14, "no backend").when_begins(Field::Path, "/orders.v1.Orders/").first(3))
///     .rule(Rule::truncate(512, Cut::Error).every_nth(100));
/// let layer = ChaosLayer::http("api", config)?;
/// # let _ = layer;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http;

impl Protocol for Http {
    fn check(rule: &Rule) -> Result<(), ConfigError> {
        let Fault::Respond(answer) = &rule.fault else { return Ok(()) };
        if let Code::Status(status @ (..200 | 600..)) = answer.code {
            return Err(ConfigError::new(
                "status",
                status,
                "a final status of HTTP lies between 200 and 599",
            ));
        }
        for (name, value) in &answer.headers {
            if HeaderName::try_from(name).is_err() || HeaderValue::try_from(value).is_err() {
                return Err(ConfigError::new("headers", (name, value), "HTTP allows no such header"));
            }
        }
        Ok(())
    }
}

impl<B, ResB> Inject<Request<B>, Response<ResB>> for Http
where
    ResB: Body,
    ResB::Data: From<Bytes>,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<ChaosBody<ResB>>;

    fn field<'a>(&self, request: &'a Request<B>, field: &Field) -> Option<Cow<'a, str>> {
        let header = |name: &str| request.headers().get(name)?.to_str().ok();
        let value = match field {
            Field::Method => Some(request.method().as_str()),
            Field::Path => Some(request.uri().path()),
            Field::Header(name) => header(name),
            Field::Key | Field::Authority => {
                let authority = request.uri().authority().map(http::uri::Authority::as_str);
                authority.or_else(|| header(HOST.as_str()))
            }
        };
        value.map(Cow::Borrowed)
    }

    fn pass(&self, response: Response<ResB>) -> Self::Response {
        response.map(ChaosBody::live)
    }

    fn respond(&self, answer: &Answer) -> Option<Self::Response> {
        let mut response = Response::new(ChaosBody::answer(answer.body.clone().into()));
        let status = match &answer.code {
            Code::Status(status) => StatusCode::from_u16(*status).ok()?,
            Code::Grpc(code, message) => {
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                headers.insert("grpc-status", HeaderValue::from(u16::from(*code)));
                if !message.is_empty() {
                    headers.insert("grpc-message", HeaderValue::try_from(percent_encoded(message)).ok()?);
                }
                StatusCode::OK
            }
        };
        *response.status_mut() = status;
        for (name, value) in &answer.headers {
            let name = HeaderName::try_from(name).ok()?;
            response.headers_mut().append(name, HeaderValue::try_from(value).ok()?);
        }
        Some(response)
    }

    fn spoil(&self, response: Response<ResB>, fault: &Fault, name: &Arc<str>) -> Self::Response {
        match *fault {
            Fault::Truncate { after, end } => {
                let harm = Harm::Cut { left: after, end, name: Arc::clone(name) };
                response.map(|body| ChaosBody::spoilt(body, harm))
            }
            Fault::SlowBody { bytes, pause } => {
                let harm = Harm::Slow { bytes, pause, timer: Timer::default() };
                response.map(|body| ChaosBody::spoilt(body, harm))
            }
            _ => response.map(ChaosBody::live),
        }
    }
}

/// As gRPC over HTTP/2 sends `grpc-message`: what is not printable ASCII, and the percent sign.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

pin_project! {
    /// The body of an answer: live, spoilt, or one that no server gave.
    #[derive(Debug)]
    pub struct ChaosBody<B> {
        #[pin]
        live: Option<B>,
        rare: Option<Box<Rare>>,
    }
}

/// What most bodies have nothing of.
#[derive(Debug)]
struct Rare {
    harm: Harm,
    /// What is still to be given out.
    rest: Bytes,
    trailers: Option<http::HeaderMap>,
}

#[derive(Debug)]
enum Harm {
    None,
    Cut { left: u64, end: Cut, name: Arc<str> },
    Slow { bytes: u64, pause: Duration, timer: Timer },
}

impl Harm {
    /// That of the layer, where it is needed.
    fn name(&self) -> Arc<str> {
        match self {
            Self::Cut { name, .. } => Arc::clone(name),
            Self::None | Self::Slow { .. } => Arc::from(""),
        }
    }
}

impl<B> ChaosBody<B> {
    fn live(body: B) -> Self {
        Self { live: Some(body), rare: None }
    }

    fn spoilt(body: B, harm: Harm) -> Self {
        Self { live: Some(body), rare: Some(Box::new(Rare::new(harm))) }
    }

    fn answer(rest: Bytes) -> Self {
        Self { live: None, rare: Some(Box::new(Rare { rest, ..Rare::new(Harm::None) })) }
    }
}

impl<B> Body for ChaosBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let Some(rare) = this.rare else {
            return this.live.as_pin_mut().map_or(Poll::Ready(None), |live| {
                live.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            });
        };
        loop {
            if let Some(end) = rare.ends() {
                let name = rare.harm.name();
                **rare = Rare::new(Harm::None);
                // What is below is given up now.
                this.live.set(None);
                return Poll::Ready(match end {
                    Cut::Error => Some(Err(cut_off(name))),
                    Cut::Silent => None,
                });
            }
            if let Some(data) = ready!(rare.poll_piece(cx))? {
                return Poll::Ready(Some(Ok(Frame::data(data.into()))));
            }
            if let Some(trailers) = rare.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            let Some(live) = this.live.as_mut().as_pin_mut() else { return Poll::Ready(None) };
            let Some(frame) = ready!(live.poll_frame(cx)) else {
                this.live.set(None);
                return Poll::Ready(None);
            };
            match frame.map_err(Into::into)?.into_data() {
                Ok(mut data) => rare.rest = data.copy_to_bytes(data.remaining()),
                Err(frame) => rare.trailers = frame.into_trailers().ok(),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.rare {
            None => self.live.as_ref().is_none_or(Body::is_end_stream),
            Some(rare) => {
                rare.rest.is_empty()
                    && rare.trailers.is_none()
                    && self.live.as_ref().is_none_or(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let live = || self.live.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        let Some(rare) = &self.rare else { return live() };
        let rest = rare.rest.len() as u64;
        if self.live.is_none() {
            return SizeHint::with_exact(rest);
        }
        // What is announced is what a whole body would have, unless that would give away a silent end.
        let mut hint = live();
        match rare.harm {
            Harm::Cut { left, end: Cut::Silent, .. } => {
                let upper = hint.upper().map_or(left, |upper| left.min(upper.saturating_add(rest)));
                hint = SizeHint::new();
                hint.set_upper(upper);
            }
            _ => {
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper.saturating_add(rest));
                }
                hint.set_lower(hint.lower().saturating_add(rest));
            }
        }
        hint
    }
}

impl Rare {
    fn new(harm: Harm) -> Self {
        Self { harm, rest: Bytes::new(), trailers: None }
    }

    /// How the body ends here, if this is where it is cut off: more would come.
    fn ends(&self) -> Option<Cut> {
        match self.harm {
            Harm::Cut { left: 0, end, .. } if !self.rest.is_empty() || self.trailers.is_some() => Some(end),
            _ => None,
        }
    }

    /// The next piece of what is left, as the harm allows it.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BoxError>> {
        if self.rest.is_empty() {
            return Poll::Ready(Ok(None));
        }
        let most = match &mut self.harm {
            Harm::None => u64::MAX,
            Harm::Cut { left, .. } => *left,
            Harm::Slow { bytes, pause, timer } => {
                if !timer.is_set() {
                    *timer = Timer::at(after(Instant::now(), *pause))?;
                }
                ready!(timer.poll(cx));
                *timer = Timer::default();
                *bytes
            }
        };
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(self.rest.len());
        let piece = self.rest.split_to(length);
        if let Harm::Cut { left, .. } = &mut self.harm {
            *left -= length as u64;
        }
        Poll::Ready(Ok(Some(piece)))
    }
}

/// That a body broke off says nothing of whether the request was applied.
fn cut_off(name: Arc<str>) -> BoxError {
    Injected::new(name, FaultKind::Truncate).judged(Verdict::failure(Kind::Transient))
}
