//! What the connection itself says, through tonic's channel: that a call was not processed, that it broke.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use buttress::grpc::{GrpcStack, attempts};
use buttress::http::ReplayBody;
use buttress::{Exhausted, find};
use bytes::Bytes;
use grpc_tests::echo::Ask;
use grpc_tests::echo::echo_client::EchoClient;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tower::limit::ConcurrencyLimitLayer;
use tower::util::MapRequestLayer;

/// What is done with a stream.
#[derive(Clone, Copy, Debug)]
enum Do {
    Reset(Reason),
    /// GOAWAY, without having looked at it, and the end of the connection.
    GoAway,
    Answer,
}

/// A server that does this with one stream after the other, on any connection; and how many it has seen.
async fn server(script: Vec<Do>) -> (String, mpsc::UnboundedReceiver<Do>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (seen, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut script = script.into_iter();
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut connection) = h2::server::handshake(socket).await else { continue };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let step = script.next().unwrap_or(Do::Answer);
                let _ = seen.send(step);
                match step {
                    Do::Reset(reason) => respond.send_reset(reason),
                    Do::GoAway => {
                        drop((request, respond));
                        connection.abrupt_shutdown(Reason::NO_ERROR);
                    }
                    Do::Answer => drop(tokio::spawn(answer(request, respond))),
                }
            }
        }
    });
    (url, receiver)
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = respond.send_response(head, false)?;
    // An empty message, and OK.
    stream.send_data(Bytes::from_static(&[0; 5]), false)?;
    stream.send_trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]))
}

fn client(url: &str) -> EchoClient<GrpcStack> {
    // Of no method is it said that it may be repeated.
    let stack = buttress::grpc("echo").retry(common::quick()).build().unwrap();
    EchoClient::new(stack.over(Endpoint::from_shared(url.to_owned()).unwrap().connect_lazy()))
}

/// A6: the first time without being counted, and then as the policy has it.
#[tokio::test]
async fn a_refused_stream_is_sent_again_whatever_the_method() {
    const REFUSED: Do = Do::Reset(Reason::REFUSED_STREAM);
    let (url, mut seen) = server(vec![REFUSED, REFUSED]).await;
    let response = client(&url).unary(Ask::default()).await.unwrap();
    assert_eq!(attempts(&response), 2);
    seen.close();
    let mut streams = 0;
    while seen.recv().await.is_some() {
        streams += 1;
    }
    assert_eq!(streams, 3);
}

/// A layer of one's own in the stack, over a channel, boxed and unboxed.
#[tokio::test]
async fn each_attempt_gets_a_token_of_its_own() {
    let counted = Arc::new(AtomicUsize::new(0));
    let mut given = 0;
    let count = Arc::clone(&counted);
    let token = MapRequestLayer::new(move |mut request: Request<ReplayBody<Body>>| {
        let token = format!("Bearer {}", count.fetch_add(1, Relaxed));
        request.headers_mut().insert("authorization", token.parse().unwrap());
        request
    });
    let stack = buttress::grpc("echo").repeatable("echo.v1.Echo").retry(common::quick());
    let stack = stack.per_attempt(ConcurrencyLimitLayer::new(1)).per_attempt(token).build_per_host().unwrap();
    for boxed in [true, false] {
        let (url, _seen) = server(vec![Do::Reset(Reason::REFUSED_STREAM)]).await;
        let channel = Endpoint::from_shared(url.clone()).unwrap().connect_lazy();
        let origin = url.parse().unwrap();
        let response = match boxed {
            true => EchoClient::with_origin(stack.over(channel), origin).unary(Ask::default()).await,
            false => EchoClient::with_origin(stack.service(channel), origin).unary(Ask::default()).await,
        };
        assert_eq!(attempts(&response.unwrap()), 1, "what the server gave back is not counted");
        given += 2;
        assert_eq!(counted.load(Relaxed), given);
        let host = url.strip_prefix("http://").unwrap();
        assert!(stack.circuit_breaker().get(host).is_some(), "the circuit of {host}");
    }
}

#[tokio::test]
async fn any_other_reset_may_come_after_the_work_was_done() {
    for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::ENHANCE_YOUR_CALM] {
        let (url, mut seen) = server(vec![Do::Reset(reason)]).await;
        let status = client(&url).unary(Ask::default()).await.unwrap_err();
        let exhausted = find::<Exhausted>(&status).unwrap();
        assert_eq!((exhausted.attempts, exhausted.safe_to_retry), (1, false), "{reason:?}");
        seen.recv().await.unwrap();
        assert!(seen.try_recv().is_err(), "{reason:?}");
    }
}

#[tokio::test]
async fn a_connection_that_goes_away_takes_one_call_with_it_at_most() {
    let (url, _seen) = server(vec![Do::Answer, Do::GoAway]).await;
    let mut client = client(&url);
    client.unary(Ask::default()).await.unwrap();
    // Whether the server had seen it is for GOAWAY to say; h2's says that it had.
    let _ = client.unary(Ask::default()).await;
    assert!(client.unary(Ask::default()).await.is_ok());
}
