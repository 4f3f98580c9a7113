//! A scripted HTTP/1 server on loopback, for tests of real clients.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// What the server does with one request, once it has read its body.
#[derive(Clone, Debug)]
pub enum Do {
    /// Answers.
    Answer(Response<Full<Bytes>>),
    /// Never answers.
    Hang,
    /// Closes the connection.
    Reset,
}

/// An answer with this status.
///
/// # Panics
///
/// If it is no status.
pub fn status(status: u16) -> Do {
    Do::Answer(Response::builder().status(status).body(Full::default()).expect("a status"))
}

impl Do {
    /// The same answer with this header.
    ///
    /// # Panics
    ///
    /// If it is no header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Answer(answer) = &mut self {
            answer.headers_mut().append(name, value.parse().expect("a header"));
        }
        self
    }

    /// The same answer with this body.
    #[must_use]
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        match self {
            Self::Answer(answer) => Self::Answer(answer.map(|_| Full::new(body.into()))),
            other => other,
        }
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}

impl Seen {
    /// A header, as text; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Server {
    url: String,
    shared: Arc<Mutex<Shared>>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    script: VecDeque<Do>,
    then: Do,
    seen: Vec<Seen>,
    connections: usize,
    under_way: usize,
    most_under_way: usize,
    abandoned: usize,
}

impl Server {
    /// Follows the script, and answers 200 to what comes after it.
    pub async fn start(script: impl IntoIterator<Item = Do>) -> Self {
        Self::start_then(script, status(200)).await
    }

    /// Follows the script, and does this with what comes after it.
    ///
    /// # Panics
    ///
    /// If there is no loopback interface.
    pub async fn start_then(script: impl IntoIterator<Item = Do>, then: Do) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback interface");
        Self::on(listener, script, then)
    }

    /// The same where this listens.
    ///
    /// # Panics
    ///
    /// If it is not bound.
    pub fn on(listener: TcpListener, script: impl IntoIterator<Item = Do>, then: Do) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            script: script.into_iter().collect(),
            then,
            seen: Vec::new(),
            connections: 0,
            under_way: 0,
            most_under_way: 0,
            abandoned: 0,
        }));
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self { url, shared, accepting }
    }

    /// `http://127.0.0.1:<port>`, without a slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL of this path, which begins with a slash.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared).seen.clone()
    }

    /// How many requests there were so far.
    pub fn calls(&self) -> usize {
        lock(&self.shared).seen.len()
    }

    /// How many connections were opened so far.
    pub fn connections(&self) -> usize {
        lock(&self.shared).connections
    }

    /// How many requests were under way at once at most.
    pub fn most_under_way(&self) -> usize {
        lock(&self.shared).most_under_way
    }

    /// How many requests were given up by the client before they were answered.
    pub fn abandoned(&self) -> usize {
        lock(&self.shared).abandoned
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Mutex<Shared>>) {
    while let Ok((stream, _)) = listener.accept().await {
        lock(&shared).connections += 1;
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Mutex<Shared>>) -> io::Result<Response<Full<Bytes>>> {
    let under_way = UnderWay::begin(shared);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let seen = Seen { method: parts.method, uri: parts.uri, headers: parts.headers, body };
    let step = under_way.step(seen);
    let answer = match step {
        Do::Answer(answer) => Ok(answer),
        Do::Hang => std::future::pending().await,
        // An error of the service closes the connection without an answer.
        Do::Reset => Err(io::ErrorKind::ConnectionReset.into()),
    };
    under_way.end();
    answer
}

/// Notices when a request is dropped.
struct UnderWay {
    shared: Arc<Mutex<Shared>>,
    ended: bool,
}

impl UnderWay {
    fn begin(shared: Arc<Mutex<Shared>>) -> Self {
        let mut counts = lock(&shared);
        counts.under_way += 1;
        counts.most_under_way = counts.most_under_way.max(counts.under_way);
        drop(counts);
        Self { shared, ended: false }
    }

    fn step(&self, seen: Seen) -> Do {
        let mut shared = lock(&self.shared);
        shared.seen.push(seen);
        shared.script.pop_front().unwrap_or_else(|| shared.then.clone())
    }

    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.under_way -= 1;
        shared.abandoned += usize::from(!self.ended);
    }
}
