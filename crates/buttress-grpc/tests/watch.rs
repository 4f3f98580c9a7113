//! When a call is over for a breaker, and what it was.

use buttress_core::{BoxError, Classify, Kind, Verdict, Watch};
use buttress_grpc::{Code, Grpc, GrpcWatch, WatchBody};
use buttress_testkit::{Permit, Settled};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};

const TRANSIENT: Verdict = Verdict::failure(Kind::Transient);

fn watch(
    settled: &Settled,
    head: http::response::Builder,
) -> (Sender<Bytes, BoxError>, WatchBody<Channel<Bytes, BoxError>, Permit>) {
    let (sender, body) = Channel::new(8);
    let response = head.body(body).unwrap();
    let grpc = Grpc::new().code(Code::NotFound, TRANSIENT);
    let verdict = grpc.classify(Ok(&response));
    let mut permit = settled.permit();
    let watched = GrpcWatch::new(grpc).watch(response, &mut permit, verdict);
    assert!(!permit.is_open(), "it lives in the body");
    (sender, watched.into_body())
}

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(code))])
}

#[tokio::test]
async fn a_head_that_says_all_ends_the_call() {
    let settled = Settled::default();
    for (head, expected) in [
        (Response::builder().header("grpc-status", "14"), TRANSIENT),
        (Response::builder().header("grpc-status", "3"), Verdict::Rejected),
        (Response::builder().header("grpc-status", "0"), Verdict::Success),
        (Response::builder().status(503), TRANSIENT),
        (Response::builder().status(404), Verdict::Rejected),
    ] {
        let (_sender, body) = watch(&settled, head);
        assert_eq!(settled.take(), [Some(expected)]);
        drop(body);
        assert_eq!(settled.take(), [], "once");
    }
}

#[tokio::test]
async fn trailers_end_the_call_with_their_status() {
    let settled = Settled::default();
    for (code, expected) in [
        ("0", Verdict::Success),
        ("14", TRANSIENT),
        ("5", TRANSIENT),
        ("7", Verdict::Rejected),
        ("1", Verdict::Ignored),
    ] {
        let (mut sender, mut body) = watch(&settled, Response::builder());
        sender.send_data(Bytes::from_static(b"one")).await.unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(settled.take(), [], "the end may be another");
        sender.send_trailers(status(code)).await.unwrap();
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert_eq!(settled.take(), [Some(expected)], "{code}");
        drop(body);
        assert_eq!(settled.take(), []);
    }
}

/// Bridges § 4: to the classifier that there was, a stream that was cut off was OK.
#[tokio::test]
async fn an_end_without_trailers_and_an_error_are_failures() {
    let settled = Settled::default();
    let (mut sender, mut body) = watch(&settled, Response::builder());
    sender.send_data(Bytes::from_static(b"one")).await.unwrap();
    drop(sender);
    body.frame().await.unwrap().unwrap();
    assert!(body.frame().await.is_none());
    assert_eq!(settled.take(), [Some(TRANSIENT)]);

    let (mut sender, mut body) = watch(&settled, Response::builder());
    sender.send_trailers(HeaderMap::new()).await.unwrap();
    body.frame().await.unwrap().unwrap();
    assert_eq!(settled.take(), [Some(TRANSIENT)], "trailers without a status");

    let (sender, mut body) = watch(&settled, Response::builder());
    sender.abort("reset".into());
    body.frame().await.unwrap().unwrap_err();
    assert_eq!(settled.take(), [Some(TRANSIENT)]);
}

#[tokio::test]
async fn a_body_that_is_dropped_is_abandoned_before_its_first_message_and_good_after_it() {
    let settled = Settled::default();
    drop(watch(&settled, Response::builder()));
    assert_eq!(settled.take(), [None]);

    let (mut sender, mut body) = watch(&settled, Response::builder());
    sender.send_data(Bytes::from_static(b"one")).await.unwrap();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(settled.take(), [Some(Verdict::Success)], "an hour of messages is one");
}

/// HTTP/2 ends many a stream with an empty frame, and a proxy that breaks off may send no more than that.
#[tokio::test]
async fn an_empty_frame_is_no_message() {
    let settled = Settled::default();
    let (mut sender, mut body) = watch(&settled, Response::builder());
    sender.send_data(Bytes::new()).await.unwrap();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(settled.take(), [None], "nothing has flowed");
}
