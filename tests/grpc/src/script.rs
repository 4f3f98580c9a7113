use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

/// What the server does with a call.
#[derive(Clone, Debug)]
pub enum Do {
    /// Hands it to the service.
    Pass,
    /// A status in the headers: "trailers-only".
    TrailersOnly(Code, &'static [(&'static str, &'static str)]),
    /// Headers, then trailers with a status.
    Trailers(Code, &'static [(&'static str, &'static str)]),
    /// Headers, an answer, then trailers with a status.
    MessageThenTrailers(Code),
    /// An HTTP status and nothing of gRPC, as a proxy answers.
    Http(u16),
    /// Headers, an answer, and an end without trailers.
    Truncated,
    /// Headers, an answer, and after this time RST_STREAM.
    Reset(Duration),
    /// Headers, and nothing for this time; then the service's answer.
    HeadersThenWait(Duration),
    /// Nothing at all.
    Hang,
}

/// A call as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `/package.Service/Method`.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// When.
    pub at: Instant,
}

impl Seen {
    /// A header, as text; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// The script of a server, and what it has seen.
#[derive(Clone, Debug)]
pub(crate) struct Script(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    steps: VecDeque<Do>,
    then: Do,
    seen: Vec<Seen>,
}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Do>, then: Do) -> Self {
        let steps = steps.into_iter().collect();
        Self(Arc::new(Mutex::new(State { steps, then, seen: Vec::new() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    pub(crate) fn set(&self, steps: impl IntoIterator<Item = Do>, then: Do) {
        let mut state = self.state();
        state.steps = steps.into_iter().collect();
        state.then = then;
    }

    fn step(&self, request: &Request<Body>) -> Do {
        let mut state = self.state();
        let seen = Seen {
            path: request.uri().path().to_owned(),
            headers: request.headers().clone(),
            at: Instant::now(),
        };
        state.seen.push(seen);
        state.steps.pop_front().unwrap_or_else(|| state.then.clone())
    }
}

impl<S> Layer<S> for Script {
    type Service = Scripted<S>;

    fn layer(&self, inner: S) -> Scripted<S> {
        Scripted { inner, script: self.clone() }
    }
}

/// A server's services behind a script.
#[derive(Clone, Debug)]
pub(crate) struct Scripted<S> {
    inner: S,
    script: Script,
}

impl<S, E> Service<Request<Body>> for Scripted<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = E> + Clone + Send + 'static,
    S::Future: Send + 'static,
    E: Send + 'static,
{
    type Response = Response<Body>;
    type Error = E;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let step = self.script.step(&request);
        if let Do::Pass = step {
            return Box::pin(self.inner.call(request));
        }
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            if let Do::HeadersThenWait(wait) = step {
                let (sender, body) = streamed();
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    let Ok(answer) = inner.call(request).await else { return };
                    let mut body = answer.into_body();
                    while let Some(frame) = body.frame().await {
                        let _ = sender.send(frame).await;
                    }
                });
                return Ok(answer(body));
            }
            // A server reads what it is asked before it answers.
            let _ = request.into_body().collect().await;
            Ok(act(step).await)
        })
    }
}

type Sender = tokio::sync::mpsc::Sender<Result<Frame<Bytes>, Status>>;

/// A body, and who sends its frames.
fn streamed() -> (Sender, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    (sender, Body::new(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver))))
}

async fn act(step: Do) -> Response<Body> {
    match step {
        Do::TrailersOnly(code, headers) => {
            let mut response = answer(Body::empty());
            response.headers_mut().extend(status(code, headers));
            response
        }
        Do::Trailers(code, headers) => answer(frames([Frame::trailers(status(code, headers))], None)),
        Do::MessageThenTrailers(code) => {
            answer(frames([Frame::data(message("half")), Frame::trailers(status(code, &[]))], None))
        }
        Do::Http(code) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(code).expect("a status");
            response
        }
        Do::Truncated => answer(frames([Frame::data(message("half"))], None)),
        Do::Reset(after) => answer(frames([Frame::data(message("half"))], Some(after))),
        Do::Hang => std::future::pending().await,
        Do::Pass | Do::HeadersThenWait(_) => unreachable!("the service answers"),
    }
}

fn answer(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn status(code: Code, headers: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert("grpc-status", HeaderValue::from(code as i32));
    map.insert("grpc-message", HeaderValue::from_static("as scripted"));
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}

/// These frames, and then, if so, RST_STREAM after this time.
fn frames<const N: usize>(frames: [Frame<Bytes>; N], reset: Option<Duration>) -> Body {
    let (sender, body) = streamed();
    tokio::spawn(async move {
        for frame in frames {
            let _ = sender.send(Ok(frame)).await;
        }
        if let Some(after) = reset {
            tokio::time::sleep(after).await;
            let _ = sender.send(Err(Status::from(h2::Error::from(h2::Reason::INTERNAL_ERROR)))).await;
        }
    });
    body
}

/// A message of gRPC that holds an answer.
fn message(text: &str) -> Bytes {
    let answer = prost::Message::encode_to_vec(&crate::echo::Answer { text: text.into() });
    let mut framed = vec![0];
    framed.extend((answer.len() as u32).to_be_bytes());
    framed.extend(answer);
    framed.into()
}
