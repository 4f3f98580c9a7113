//! What real connections do, over real sockets.
#![cfg(feature = "hyper")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use buttress_core::{BoxError, Classify, Discard, Kind, Replay, Verdict};
use buttress_http::{Http, HttpReplay};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Channel, Full};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn client(http2: bool) -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).http2_only(http2).build_http()
}

async fn verdict(client: &Client<HttpConnector, Full<Bytes>>, address: &str) -> Verdict {
    let request = Request::post(format!("http://{address}/")).body(Full::from("{}")).unwrap();
    match client.request(request).await {
        Ok(response) => Http::new().classify(Ok(&response)),
        Err(error) => Classify::<Response<()>>::classify(&Http::new(), Err(&error)),
    }
}

/// A server that does this with every connection.
async fn server<F: Future<Output = ()> + Send>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve(stream).await;
        }
    });
    address
}

const NOT_SENT: Verdict = Verdict::failure(Kind::Transient).not_sent();
const UNPROCESSED: Verdict = Verdict::failure(Kind::Unprocessed);
const UNKNOWN: Verdict = Verdict::failure(Kind::Transient);

#[tokio::test]
async fn a_connection_that_cannot_be_made_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    assert_eq!(verdict(&client(false), &address).await, NOT_SENT);
}

#[tokio::test]
async fn a_request_that_its_connection_gives_back_was_not_processed() {
    let (io, server) = tokio::io::duplex(1024);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    let response = sender.send_request(Request::post("/").body(Full::<Bytes>::from("{}")).unwrap());
    // The connection ends before it has taken the request.
    drop((connection, server));
    let error = response.await.unwrap_err();
    assert_eq!(Classify::<Response<()>>::classify(&Http::new(), Err(&error)), UNPROCESSED);
}

/// As a load balancer without a backend does: it accepts, and hangs up. Whether hyper had begun to write is chance.
#[tokio::test]
async fn a_new_connection_that_closes_at_once_is_as_bad_as_one_that_cannot_be_made() {
    for http2 in [false, true] {
        let address = server(|stream| async move { drop(stream) }).await;
        for _ in 0..20 {
            let verdict = verdict(&client(http2), &address).await;
            assert!(matches!(verdict, NOT_SENT | UNKNOWN), "HTTP/2: {http2}, {verdict:?}");
        }
    }
}

/// It looks as if it were there still, and is not when the next request comes.
#[tokio::test]
async fn an_old_connection_that_has_closed_costs_nothing() {
    let address = server(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    })
    .await;
    let client = client(false);
    for _ in 0..20 {
        assert!(matches!(verdict(&client, &address).await, Verdict::Success | UNKNOWN));
    }
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_may_have_had_an_effect() {
    let address = server(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    assert_eq!(verdict(&client(false), &address).await, UNKNOWN);
}

#[tokio::test]
async fn a_refused_http2_stream_was_not_processed_and_one_that_is_reset_otherwise_may_have_been() {
    for (reason, expected) in
        [(h2::Reason::REFUSED_STREAM, UNPROCESSED), (h2::Reason::INTERNAL_ERROR, UNKNOWN)]
    {
        let address = server(move |stream| async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_reset(reason);
            }
        })
        .await;
        assert_eq!(verdict(&client(true), &address).await, expected, "{reason:?}");
    }
}

/// An HTTP/2 frame: length, type, flags, stream, payload.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &[0; 4], payload].concat()
}

/// Reads a request by hand and answers it with a GOAWAY that names this last stream, for this reason.
async fn go_away(mut stream: TcpStream, last_stream: u32, reason: h2::Reason) {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let mut seen = Vec::new();
    stream.write_all(&frame(SETTINGS, 0, &[])).await.unwrap();
    // The preface, and then enough for HEADERS and DATA to be there.
    while !seen.windows(3).any(|bytes| bytes == b"{}\0") && !seen.ends_with(b"{}") {
        let mut bytes = [0; 1024];
        let read = stream.read(&mut bytes).await.unwrap();
        assert!(read > 0, "the client went away");
        seen.extend_from_slice(&bytes[..read]);
    }
    stream.write_all(&frame(SETTINGS, 1, &[])).await.unwrap();
    let payload = [last_stream.to_be_bytes(), u32::from(reason).to_be_bytes()].concat();
    stream.write_all(&frame(GOAWAY, 0, &payload)).await.unwrap();
    if last_stream == 0 {
        // The connection stays open: it is the GOAWAY that counts, not the end of the connection.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

#[tokio::test]
async fn a_stream_beyond_the_last_one_of_a_goaway_was_not_processed_and_one_before_it_may_have_been() {
    for (last_stream, reason, expected) in [
        (0, h2::Reason::NO_ERROR, UNPROCESSED),
        (1, h2::Reason::NO_ERROR, UNKNOWN),
        // Nothing was done, and yet the server is not well.
        (0, h2::Reason::INTERNAL_ERROR, NOT_SENT),
    ] {
        let address = server(move |stream| go_away(stream, last_stream, reason)).await;
        assert_eq!(verdict(&client(true), &address).await, expected, "{last_stream} {reason:?}");
    }
}

#[tokio::test]
async fn an_error_of_the_requests_own_body_says_nothing_of_the_server() {
    for http2 in [false, true] {
        let address = server(move |stream| async move {
            let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                let _ = request.into_body().collect().await;
                Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(
                async move { builder.serve_connection(TokioIo::new(stream), service).await.is_ok() },
            );
        })
        .await;
        let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
        let (sender, body) = Channel::<Bytes, BoxError>::new(1);
        let request = Request::post(format!("http://{address}/")).body(body).unwrap();
        let response = client.request(HttpReplay::new().record(request));
        tokio::spawn(async move {
            tokio::task::yield_now().await;
            sender.abort("the file could not be read".into());
        });
        let error = response.await.unwrap_err();
        let verdict = Classify::<Response<()>>::classify(&Http::new(), Err(&error));
        assert_eq!(verdict, Verdict::Ignored, "HTTP/2: {http2}, {error:?}");
    }
}

/// A server that answers everything with a 503 of this size, and counts its connections.
async fn unavailable(size: usize) -> (String, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let address = server(move |stream| {
        counted.fetch_add(1, Relaxed);
        async move {
            let answer = service_fn(move |_| async move {
                let mut response = Response::new(Full::new(Bytes::from(vec![b'.'; size])));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                Ok::<_, std::convert::Infallible>(response)
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(connection);
        }
    })
    .await;
    (address, connections)
}

#[tokio::test]
async fn draining_a_thrown_away_response_lets_its_connection_serve_again() {
    let http = Http::new();
    // Usually one, but the pool may be late to take a connection back; without draining it is eleven or more.
    for (size, connections) in [(64 * 1024, 1..=4), (4 * 1024 * 1024, 15..=15)] {
        let (address, counted) = unavailable(size).await;
        let client = client(false);
        for _ in 0..15 {
            let request = Request::get(format!("http://{address}/")).body(Full::default()).unwrap();
            let response = client.request(request).await.unwrap();
            assert!(http.classify(Ok(&response)).is_failure());
            http.discard(response).await;
            // The pool takes the connection back on a task of its own.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let counted = counted.load(Relaxed);
        assert!(connections.contains(&counted), "{counted} connections for 15 responses of {size} bytes");
    }
}
