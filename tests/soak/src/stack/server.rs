use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use buttress::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Channel, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use crate::draw::Draw;

/// A server on the loopback address that fails in every way: in bad times, which come and go, more often than not.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) url: Arc<str>,
    counts: Arc<Counts>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    open: AtomicUsize,
    most_open: AtomicUsize,
    well: AtomicBool,
}

/// Well for three seconds, ill for one.
const TIMES: (u64, u64) = (3, 4);

impl Server {
    pub(super) async fn start() -> Result<Self, BoxError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/", listener.local_addr()?).into();
        let server = Self { url, counts: Arc::default(), start: Instant::now() };
        tokio::spawn(server.clone().accept(listener));
        Ok(server)
    }

    /// From now on everything is answered, and at once.
    pub(super) fn recover(&self) {
        self.counts.well.store(true, Relaxed);
    }

    pub(super) fn requests(&self) -> u64 {
        self.counts.requests.load(Relaxed)
    }

    /// Connections that are open now.
    pub(super) fn open(&self) -> usize {
        self.counts.open.load(Relaxed)
    }

    /// The most that were open at once since this was asked last.
    pub(super) fn most_open(&self) -> usize {
        self.counts.most_open.swap(self.open(), Relaxed)
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(self.clone().serve(stream));
        }
    }

    async fn serve(self, stream: TcpStream) {
        let open = self.counts.open.fetch_add(1, Relaxed) + 1;
        self.counts.most_open.fetch_max(open, Relaxed);
        let service = service_fn(|request| self.answer(request));
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // A client that goes away, and a reset of our own, are errors here.
        let _ = connection.await;
        self.counts.open.fetch_sub(1, Relaxed);
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<BoxBody<Bytes, BoxError>>, BoxError> {
        let number = self.counts.requests.fetch_add(1, Relaxed);
        let mut draw = Draw::new(7, number);
        let body = request.into_body().collect().await?.to_bytes();
        // The caller says what it sends by sending nothing else.
        if body.iter().any(|byte| *byte != b'.') {
            return answer(400, None, "a body that is not what was sent");
        }
        let well = self.counts.well.load(Relaxed);
        let ill = self.start.elapsed().as_secs() % TIMES.1 >= TIMES.0;
        let trouble = if ill { draw.below(8) } else { draw.below(60) };
        match trouble {
            _ if well => answer(200, None, "fine"),
            0 | 1 => answer(503, None, "unavailable"),
            // A second holds back everybody.
            2 => answer(429, Some(if draw.one_in(30) { "1" } else { "0" }), "too many"),
            3 => std::future::pending().await,
            // An error of the service closes the connection without an answer.
            4 => Err("reset".into()),
            5 => Ok(Response::new(trickling(draw.between(1, 40)))),
            6 => answer(502, None, &".".repeat(50_000)),
            _ => answer(200, None, &".".repeat(draw.below(20_000))),
        }
    }
}

fn answer(
    status: u16,
    retry_after: Option<&str>,
    body: &str,
) -> Result<Response<BoxBody<Bytes, BoxError>>, BoxError> {
    let response = Response::builder().status(status);
    let response = match retry_after {
        Some(seconds) => response.header("retry-after", seconds),
        None => response,
    };
    let body = Full::from(body.to_owned());
    Ok(response.body(body.map_err(|never| match never {}).boxed())?)
}

/// A piece each 20 ms.
fn trickling(pieces: u64) -> BoxBody<Bytes, BoxError> {
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
    tokio::spawn(async move {
        for _ in 0..pieces {
            if sender.send_data(Bytes::from_static(b"........")).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    body.boxed()
}
