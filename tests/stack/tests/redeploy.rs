//! A server that goes, and one that gives requests back, over real HTTP/2: what was not processed is nobody's failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use buttress::circuit_breaker::CircuitState;
use buttress::core::{Backoff, Effect, Kind};
use buttress::http::ReplayBody;
use buttress::retry::Budget;
use buttress::{Exhausted, HttpLayer, ResponseExt, Stop, Verdict, find};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, Service, ServiceExt};

const STREAMS: usize = 5;

/// An HTTP/2 frame of the connection itself: length, type, flags, stream 0, payload.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, 0], &[0; 4], payload].concat()
}

/// Waits for the heads of so many requests, and closes in good order without having looked at any of them.
async fn go_away(mut stream: TcpStream) {
    const PREFACE: usize = 24;
    const HEADER: usize = 9;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    stream.write_all(&frame(SETTINGS, &[])).await.unwrap();
    let (mut seen, mut at, mut heads) = (Vec::new(), PREFACE, 0);
    while heads < STREAMS {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "the client went away");
        while let Some(header) = seen.get(at..at + HEADER) {
            heads += usize::from(header[3] == HEADERS);
            at += HEADER + u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        }
    }
    // The last stream is none, and the reason NO_ERROR.
    stream.write_all(&frame(GOAWAY, &[0; 8])).await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// Answers every stream, or gives it back, and counts them.
async fn serve(stream: TcpStream, refuse: bool, streams: Arc<AtomicUsize>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_request, mut respond))) = connection.accept().await {
        streams.fetch_add(1, Relaxed);
        if refuse {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        } else {
            respond.send_response(Response::new(()), true).unwrap();
        }
    }
}

type Http2 = Client<HttpConnector, ReplayBody<Full<Bytes>>>;

fn client() -> Http2 {
    Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

/// A POST without a key: it may not be done twice.
fn post(url: &str) -> Request<Full<Bytes>> {
    Request::post(url).body(Full::from("{}")).unwrap()
}

fn stack(retries: u32) -> HttpLayer {
    let backoff = Backoff::constant(std::time::Duration::from_millis(1));
    buttress::http("inventory")
        .silent()
        .map_retry(|retry| {
            retry.max_retries(retries).backoff(backoff).budget(Budget::ratio(0.0, 10).unwrap())
        })
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_redeploy_that_meets_five_streams_opens_no_circuit_and_costs_neither_an_attempt_nor_a_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let streams = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&streams);
    tokio::spawn(async move {
        let (old, _) = listener.accept().await.unwrap();
        tokio::spawn(go_away(old));
        while let Ok((new, _)) = listener.accept().await {
            tokio::spawn(serve(new, false, Arc::clone(&counted)));
        }
    });
    let layer = stack(1);
    let service = layer.layer(client());
    let calls: Vec<_> = (0..STREAMS).map(|_| tokio::spawn(service.clone().oneshot(post(&url)))).collect();
    for call in calls {
        let response = call.await.unwrap().unwrap();
        assert_eq!((response.status().as_u16(), response.attempts()), (200, 1));
    }
    assert_eq!(streams.load(Relaxed), STREAMS);
    let handle = layer.circuit_breaker().handle();
    assert_eq!((handle.state(), handle.metrics().consecutive_failures), (CircuitState::Closed, 0));
    assert_eq!(layer.retry().budget().tokens(), 10.0);
}

#[tokio::test]
async fn without_retries_it_opens_no_circuit_either() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { go_away(listener.accept().await.unwrap().0).await });
    let layer = stack(0);
    let service = layer.layer(client());
    let calls: Vec<_> = (0..STREAMS).map(|_| tokio::spawn(service.clone().oneshot(post(&url)))).collect();
    for call in calls {
        call.await.unwrap().unwrap_err();
    }
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Closed);
}

#[tokio::test]
async fn a_server_that_gives_everything_back_gets_it_once_more_and_then_as_often_as_the_policy_says() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let streams = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&streams);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, true, Arc::clone(&counted)));
        }
    });
    let layer = stack(2);
    let mut service = layer.layer(client());
    let error = service.ready().await.unwrap().call(post(&url)).await.unwrap_err();
    let exhausted = find::<Exhausted>(&*error).unwrap();
    assert_eq!((streams.load(Relaxed), exhausted.attempts, exhausted.stop), (4, 3, Stop::MaxRetries));
    assert!(exhausted.safe_to_retry);
    let Verdict::Failure { kind, effect, .. } = exhausted.verdict else { panic!("{exhausted:?}") };
    assert_eq!((kind, effect), (Kind::Unprocessed, Effect::NotSent));
    assert_eq!(layer.retry().budget().tokens(), 8.0, "two retries");
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Closed);
}
