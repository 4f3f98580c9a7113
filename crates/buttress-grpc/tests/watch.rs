//! When a call is over for a breaker, and what it was.

use std::sync::{Arc, Mutex};

use buttress_core::{BoxError, Classify, Kind, Settle, Verdict, Watch};
use buttress_grpc::{Code, Grpc, GrpcWatch, WatchBody};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};

const TRANSIENT: Verdict = Verdict::failure(Kind::Transient);

/// How calls ended; `None` for one that was abandoned.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Option<Verdict>>>>);

#[derive(Default)]
struct Permit(Option<Log>);

impl Settle for Permit {
    fn settle(&mut self, verdict: Verdict) {
        if let Some(log) = self.0.take() {
            log.0.lock().unwrap().push(Some(verdict));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(log) = self.0.take() {
            log.0.lock().unwrap().push(None);
        }
    }
}

impl Log {
    fn take(&self) -> Vec<Option<Verdict>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn watch(
        &self,
        head: http::response::Builder,
    ) -> (Sender<Bytes, BoxError>, WatchBody<Channel<Bytes, BoxError>, Permit>) {
        let (sender, body) = Channel::new(8);
        let response = head.body(body).unwrap();
        let grpc = Grpc::new().code(Code::NotFound, TRANSIENT);
        let verdict = grpc.classify(Ok(&response));
        let mut permit = Permit(Some(self.clone()));
        let watched = GrpcWatch::new(grpc).watch(response, &mut permit, verdict);
        assert!(permit.0.is_none(), "it lives in the body");
        (sender, watched.into_body())
    }
}

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(code))])
}

#[tokio::test]
async fn a_head_that_says_all_ends_the_call() {
    let log = Log::default();
    for (head, expected) in [
        (Response::builder().header("grpc-status", "14"), TRANSIENT),
        (Response::builder().header("grpc-status", "3"), Verdict::Rejected),
        (Response::builder().header("grpc-status", "0"), Verdict::Success),
        (Response::builder().status(503), TRANSIENT),
        (Response::builder().status(404), Verdict::Rejected),
    ] {
        let (_sender, body) = log.watch(head);
        assert_eq!(log.take(), [Some(expected)]);
        drop(body);
        assert_eq!(log.take(), [], "once");
    }
}

#[tokio::test]
async fn trailers_end_the_call_with_their_status() {
    let log = Log::default();
    for (code, expected) in [
        ("0", Verdict::Success),
        ("14", TRANSIENT),
        ("5", TRANSIENT),
        ("7", Verdict::Rejected),
        ("1", Verdict::Ignored),
    ] {
        let (mut sender, mut body) = log.watch(Response::builder());
        sender.send_data(Bytes::from_static(b"one")).await.unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(log.take(), [], "the end may be another");
        sender.send_trailers(status(code)).await.unwrap();
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert_eq!(log.take(), [Some(expected)], "{code}");
        drop(body);
        assert_eq!(log.take(), []);
    }
}

/// Bridges § 4: to the classifier that there was, a stream that was cut off was OK.
#[tokio::test]
async fn an_end_without_trailers_and_an_error_are_failures() {
    let log = Log::default();
    let (mut sender, mut body) = log.watch(Response::builder());
    sender.send_data(Bytes::from_static(b"one")).await.unwrap();
    drop(sender);
    body.frame().await.unwrap().unwrap();
    assert!(body.frame().await.is_none());
    assert_eq!(log.take(), [Some(TRANSIENT)]);

    let (mut sender, mut body) = log.watch(Response::builder());
    sender.send_trailers(HeaderMap::new()).await.unwrap();
    body.frame().await.unwrap().unwrap();
    assert_eq!(log.take(), [Some(TRANSIENT)], "trailers without a status");

    let (sender, mut body) = log.watch(Response::builder());
    sender.abort("reset".into());
    body.frame().await.unwrap().unwrap_err();
    assert_eq!(log.take(), [Some(TRANSIENT)]);
}

#[tokio::test]
async fn a_body_that_is_dropped_is_abandoned_before_its_first_message_and_neutral_after_it() {
    let log = Log::default();
    drop(log.watch(Response::builder()));
    assert_eq!(log.take(), [None]);

    let (mut sender, mut body) = log.watch(Response::builder());
    sender.send_data(Bytes::from_static(b"one")).await.unwrap();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(log.take(), [Some(Verdict::Ignored)], "an hour of messages is no failure");
}

/// HTTP/2 ends many a stream with an empty frame, and a proxy that breaks off may send no more than that.
#[tokio::test]
async fn an_empty_frame_is_no_message() {
    let log = Log::default();
    let (mut sender, mut body) = log.watch(Response::builder());
    sender.send_data(Bytes::new()).await.unwrap();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(log.take(), [None], "nothing has flowed");
}
