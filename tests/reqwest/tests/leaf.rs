//! A bare `reqwest::Client` as the innermost service of a stack.

mod common;

use std::task::{Context, Poll};
use std::time::Duration;

use buttress::core::{Classify, Effect, Kind};
use buttress::http::Http;
use buttress::{BoxError, ResponseExt, Verdict, find};
use buttress_reqwest::ReqwestService;
use bytes::Bytes;
use common::{stack, until};
use http::{Method, Request};
use http_body_util::{Channel, Full};
use loopback::{Do, Server, status};
use tower::{Layer, Service, ServiceExt};

fn leaf() -> ReqwestService {
    ReqwestService::new(reqwest::Client::new())
}

#[tokio::test]
async fn every_kind_of_failure_passes_and_the_body_arrives_unchanged_each_time() {
    let server = Server::start([status(503), Do::Reset, Do::Hang, status(502)]).await;
    let api = stack().build().unwrap().layer(leaf());
    let request = Request::put(server.at("/x?q=1")).body(Full::<Bytes>::from("the body")).unwrap();
    let response = api.oneshot(request).await.unwrap();
    assert_eq!((response.status().as_u16(), response.attempts()), (200, 5));
    for seen in server.seen() {
        assert_eq!((&seen.body[..], seen.header("content-length")), (&b"the body"[..], "8"));
        assert_eq!(seen.uri, "/x?q=1");
    }
}

#[tokio::test]
async fn a_body_in_pieces_streams_and_is_sent_again() {
    let server = Server::start([status(503)]).await;
    let api = stack().build().unwrap().layer(leaf());
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
    tokio::spawn(async move {
        for piece in ["one ", "two ", "three"] {
            sender.send_data(piece.into()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let response = api.oneshot(Request::put(server.url()).body(body).unwrap()).await.unwrap();
    assert_eq!(response.attempts(), 2);
    assert!(server.seen().iter().all(|seen| seen.body == "one two three"));
}

#[tokio::test]
async fn reqwest_s_response_comes_back_with_the_url_of_the_last_hop() {
    let server = Server::start([status(307).header("location", "/last").body("x")]).await;
    let api = stack().build().unwrap().layer(leaf());
    let request = Request::builder().method(Method::POST).uri(server.at("/first"));
    let request = request.body(Full::<Bytes>::from("kept")).unwrap();
    let response = reqwest::Response::from(api.oneshot(request).await.unwrap());
    assert_eq!((response.status().as_u16(), response.url().as_str()), (200, &*server.at("/last")));
    assert_eq!(server.seen()[1].body, "kept", "a body in memory follows");
}

#[tokio::test]
async fn a_service_can_be_called_from_a_spawned_task() {
    let server = Server::start([]).await;
    let api = stack().build().unwrap().layer(leaf());
    let request = Request::get(server.url()).body(Full::<Bytes>::default()).unwrap();
    let call = tokio::spawn(async move { api.oneshot(request).await.map(|response| response.status()) });
    assert_eq!(call.await.unwrap().unwrap(), 200);
}

#[tokio::test]
async fn a_dropped_call_drops_the_exchange() {
    let server = Server::start_then([], Do::Hang).await;
    let request = Request::get(server.url()).body(Full::<Bytes>::default()).unwrap();
    tokio::select! {
        answer = leaf().oneshot(request) => panic!("the server hangs: {answer:?}"),
        () = until(|| server.calls() == 1) => {}
    }
    until(|| server.abandoned() == 1).await;
}

async fn error(client: reqwest::Client, uri: &str) -> BoxError {
    let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
    ReqwestService::from(client).oneshot(request).await.unwrap_err()
}

fn verdict(error: &BoxError) -> Verdict {
    Classify::<http::Response<()>>::classify(&Http::new(), Err(&**error))
}

#[tokio::test]
async fn errors_mean_to_the_classifier_what_reqwest_says_they_are() {
    let failure = Verdict::failure;
    let refused = error(reqwest::Client::new(), "http://127.0.0.1:9/").await;
    assert_eq!(verdict(&refused), failure(Kind::Transient).not_sent());

    let server = Server::start([Do::Hang, Do::Reset]).await;
    let timed = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().unwrap();
    let timed_out = error(timed, server.url()).await;
    assert_eq!(verdict(&timed_out), failure(Kind::Timeout));
    let reset = error(reqwest::Client::new(), server.url()).await;
    assert!(matches!(
        verdict(&reset),
        Verdict::Failure { kind: Kind::Transient, effect: Effect::Unknown, .. }
    ));

    let server = Server::start_then([], status(302).header("location", "/again")).await;
    let looping = error(reqwest::Client::new(), server.url()).await;
    assert_eq!(verdict(&looping), failure(Kind::Permanent));

    for uri in ["/no-host", "ftp://127.0.0.1/"] {
        let impossible = error(reqwest::Client::new(), uri).await;
        assert_eq!(verdict(&impossible), Verdict::Ignored, "{uri}");
        assert!(find::<reqwest::Error>(&*impossible).unwrap().is_builder());
    }
}

/// Never connects.
#[derive(Clone)]
struct Never<S>(S);

impl<S: Service<Req>, Req> Service<Req> for Never<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::future::Pending<Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, _: Req) -> Self::Future {
        std::future::pending()
    }
}

#[tokio::test]
async fn a_connection_that_took_too_long_was_not_used() {
    let client = reqwest::Client::builder().connect_timeout(Duration::from_millis(50));
    let client = client.connector_layer(tower::layer::layer_fn(Never)).build().unwrap();
    let error = error(client, "http://127.0.0.1:9/").await;
    assert!(find::<reqwest::Error>(&*error).unwrap().is_timeout());
    assert_eq!(verdict(&error), Verdict::failure(Kind::Transient).not_sent());
}
