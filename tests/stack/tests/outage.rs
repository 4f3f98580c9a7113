//! A hyper client behind the facade's stack, and a server that fails in every way, over real sockets and in real time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::circuit_breaker::{CircuitState, Config};
use buttress::core::Backoff;
use buttress::http::ReplayBody;
use buttress::{BoxError, Exhausted, Refused, RequestExt, find, retry};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Channel, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};

/// What the server does with one request.
#[derive(Clone, Copy, Debug)]
enum Do {
    Answer(u16),
    Hang,
    Reset,
}

#[derive(Debug)]
struct Seen {
    body: Bytes,
    content_length: Option<String>,
}

#[derive(Clone, Default)]
struct Server {
    script: Arc<Mutex<Vec<Do>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    /// Follows this script; what comes after it is answered with 200.
    async fn start(script: &[Do]) -> (Self, String) {
        let server = Self::default();
        server.script.lock().unwrap().extend(script.iter().rev());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *serving.connections.lock().unwrap() += 1;
                let server = serving.clone();
                let service = service_fn(move |request| server.clone().answer(request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        (server, url)
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, BoxError> {
        let content_length =
            request.headers().get("content-length").map(|value| value.to_str().unwrap().to_owned());
        let body = request.into_body().collect().await?.to_bytes();
        self.seen.lock().unwrap().push(Seen { body, content_length });
        let step = self.script.lock().unwrap().pop().unwrap_or(Do::Answer(200));
        match step {
            Do::Answer(status) => {
                Ok(Response::builder().status(status).body(Full::from(vec![b'.'; 10_000]))?)
            }
            Do::Hang => std::future::pending().await,
            // An error of the service closes the connection without an answer.
            Do::Reset => Err("reset".into()),
        }
    }
}

fn builder() -> buttress::HttpBuilder {
    let backoff = Backoff::exponential(Duration::from_millis(1), 2.0, Duration::from_millis(5)).unwrap();
    let retry = retry::Config::background().backoff(backoff);
    buttress::http("api").total(Duration::from_secs(120)).attempt(Duration::from_secs(3)).retry(retry)
}

type Body = ReplayBody<Full<Bytes>>;

fn client() -> Client<hyper_util::client::legacy::connect::HttpConnector, Body> {
    Client::builder(TokioExecutor::new()).build_http()
}

#[tokio::test]
async fn every_kind_of_failure_passes_and_the_body_arrives_unchanged_each_time() {
    let script = [Do::Answer(503), Do::Reset, Do::Hang, Do::Answer(502)];
    let (server, url) = Server::start(&script).await;
    let api = builder().build().unwrap().layer(client());
    let request = Request::put(&url).body(Full::<Bytes>::from("the body")).unwrap();
    let response = api.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 10_000);
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.len(), 5);
    for Seen { body, content_length } in &*seen {
        assert_eq!((&body[..], content_length.as_deref()), (&b"the body"[..], Some("8")));
    }
}

#[tokio::test]
async fn a_streamed_body_is_replayed_too() {
    let (server, url) = Server::start(&[Do::Answer(503)]).await;
    let client = Client::builder(TokioExecutor::new()).build_http::<ReplayBody<Channel<Bytes, BoxError>>>();
    let api = builder().build().unwrap().layer(client);
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        for piece in ["one ", "two ", "three"] {
            sender.send_data(piece.into()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let response = api.oneshot(Request::put(&url).body(body).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.iter().map(|seen| &seen.body[..]).collect::<Vec<_>>(), [b"one two three"; 2]);
}

/// Promises a hundred bytes.
struct Short(Channel<Bytes, BoxError>);

impl http_body::Body for Short {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(100)
    }
}

#[tokio::test]
async fn a_body_that_ends_too_early_does_not_arrive_as_a_whole_one() {
    let (server, url) = Server::start(&[]).await;
    let client = Client::builder(TokioExecutor::new()).build_http::<ReplayBody<Short>>();
    let api = builder().build().unwrap().layer(client);
    let (mut sender, body) = Channel::new(1);
    sender.send_data("one ".into()).await.unwrap();
    drop(sender);
    let result = api.oneshot(Request::post(&url).body(Short(body)).unwrap()).await;
    assert!(result.is_err());
    assert!(server.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_post_whose_answer_was_lost_is_not_sent_again_unless_it_has_a_key() {
    let (server, url) = Server::start(&[Do::Reset, Do::Reset]).await;
    let api = builder().build().unwrap().layer(client());
    let post = || Request::post(&url).body(Full::<Bytes>::from("{}")).unwrap();
    let error = api.clone().oneshot(post()).await.unwrap_err();
    let exhausted = find::<Exhausted>(&*error).unwrap();
    assert!(!exhausted.safe_to_retry, "{error}");
    assert_eq!(server.seen.lock().unwrap().len(), 1);
    let response = api.oneshot(post().with_idempotency_key("k1")).await.unwrap();
    assert_eq!((response.status().as_u16(), server.seen.lock().unwrap().len()), (200, 3));
}

#[tokio::test]
async fn thrown_away_answers_do_not_cost_a_connection_each() {
    let (server, url) = Server::start(&[Do::Answer(503); 4]).await;
    // Longer delays, so that the pool has time to take each connection back.
    let retry = retry::Config::background().backoff(Backoff::constant(Duration::from_millis(300)));
    let api = builder().retry(retry).build().unwrap().layer(client());
    let response = api.oneshot(Request::get(&url).body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(*server.connections.lock().unwrap(), 1, "for five requests");
}

#[tokio::test]
async fn the_circuit_opens_refuses_without_a_connection_and_closes_again() {
    let (server, url) = Server::start(&[Do::Answer(500); 3]).await;
    let config = Config::critical().open_for(Duration::from_secs(300)).success_threshold(1);
    let layer = builder().circuit_breaker(config).build().unwrap();
    let api = layer.layer(client());
    let get = || api.clone().oneshot(Request::get(&url).body(Full::default()).unwrap());
    let error = get().await.unwrap_err();
    assert!(find::<Refused>(&*error).is_some(), "the third failure opened it: {error}");
    let calls = server.seen.lock().unwrap().len();
    assert_eq!((calls, layer.circuit_breaker().handle().state()), (3, CircuitState::Open));
    get().await.unwrap_err();
    assert_eq!(server.seen.lock().unwrap().len(), 3);
    layer.circuit_breaker().handle().half_open().unwrap();
    assert_eq!(get().await.unwrap().status(), 200);
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Closed);
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind() {
    let (server, url) = Server::start(&[Do::Hang; 20]).await;
    let layer = builder().build().unwrap();
    let api = layer.layer(client());
    for _ in 0..20 {
        let call = api.clone().oneshot(Request::get(&url).body(Full::default()).unwrap());
        assert!(tokio::time::timeout(Duration::from_millis(20), call).await.is_err());
    }
    let handle = layer.circuit_breaker().handle();
    assert_eq!(
        (handle.state(), handle.metrics().consecutive_failures),
        (CircuitState::Closed, 0),
        "20 ms say nothing"
    );
    let response = api.oneshot(Request::get(&url).body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(server.seen.lock().unwrap().len() <= 21);
}
