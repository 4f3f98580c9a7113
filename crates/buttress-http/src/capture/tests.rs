use std::sync::Arc;

use super::*;
use buttress_testkit::clock::poll_once;
use http::StatusCode;
use http_body_util::{BodyExt, Channel, Full};

type Live = Answer<Channel<Bytes, BoxError>>;

#[tokio::test]
async fn the_end_is_withheld_until_the_record_is_durable() {
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(4);
    let response =
        Response::builder().status(201).header("x", "1").header("date", "now").header("connection", "x-hop");
    let response = response.header("x-hop", "1").header("set-cookie", "a").header("set-cookie", "b");
    let (live, recording) = HttpCapture::default().capture(response.body(body).unwrap());
    let mut body: Live = live.into_body();
    sender.send_data(Bytes::from_static(b"first ")).await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first ", "it streams");
    sender.send_data(Bytes::from_static(b"second")).await.unwrap();
    drop(sender);
    body.frame().await.unwrap().unwrap();
    let mut end = Box::pin(body.frame());
    assert!(poll_once(&mut end).is_pending(), "no end yet");
    let Captured { record, seal } = recording.await.unwrap();
    assert!(poll_once(&mut end).is_pending(), "nor while it is being stored");
    seal.release();
    assert!(end.await.is_none());

    assert_eq!(record.headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(
        (record.headers.len(), record.headers.contains_key("x-hop")),
        (3, false),
        "{:?}",
        record.headers
    );
    let restored: Response<Live> = HttpCapture::default().restore(&record).unwrap();
    assert_eq!((restored.status(), restored.headers()["x"].as_bytes()), (StatusCode::CREATED, &b"1"[..]));
    assert_eq!(restored.into_body().collect().await.unwrap().to_bytes(), "first second");
}

#[tokio::test]
async fn who_knows_the_length_does_not_get_the_last_byte_early() {
    let (live, recording) = HttpCapture::default().capture(Response::new(Full::<Bytes>::from("whole")));
    let mut body = live.into_body();
    assert_eq!((body.is_end_stream(), body.size_hint().exact()), (false, Some(5)));
    let mut frame = Box::pin(body.frame());
    assert!(poll_once(&mut frame).is_pending());
    drop(recording.await.unwrap().seal);
    assert_eq!(frame.await.unwrap().unwrap().into_data().unwrap(), "whole");
    assert!(body.is_end_stream());
}

/// Says that each piece is the last.
struct Hasty(Channel<Bytes, BoxError>);

impl Body for Hasty {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

#[tokio::test]
async fn what_comes_after_the_supposed_end_does_not_displace_what_came_before() {
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(8);
    let (live, recording) = HttpCapture::default().capture(Response::new(Hasty(body)));
    for piece in ["one ", "", "two ", "three", ""] {
        sender.send_data(piece.into()).await.unwrap();
    }
    drop(sender);
    let read = tokio::spawn(live.into_body().collect());
    let record = recording.await.unwrap().record;
    assert_eq!(record.body.as_deref(), Some(&b"one two three"[..]));
    assert_eq!(read.await.unwrap().unwrap().to_bytes(), "one two three");
}

#[tokio::test]
async fn an_answer_without_a_body_is_recorded_though_nobody_reads_it() {
    let (live, recording) = HttpCapture::default().capture(Response::new(Full::<Bytes>::default()));
    drop(live);
    let record = recording.await.unwrap().record;
    assert_eq!(record.body.as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn trailers_are_withheld_with_the_end_and_restored() {
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), "5".parse().unwrap())]);
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(4);
    let (live, recording) = HttpCapture::default().capture(Response::new(body));
    let mut body: Live = live.into_body();
    sender.send_data(Bytes::from_static(b"data")).await.unwrap();
    sender.send_trailers(trailers.clone()).await.unwrap();
    drop(sender);
    body.frame().await.unwrap().unwrap();
    let mut end = Box::pin(body.frame());
    assert!(poll_once(&mut end).is_pending());
    let Captured { record, seal } = recording.await.unwrap();
    assert!(poll_once(&mut end).is_pending());
    seal.release();
    assert_eq!(end.await.unwrap().unwrap().into_trailers().unwrap(), trailers);
    let restored: Response<Live> = HttpCapture::default().restore(&record).unwrap();
    let collected = restored.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers));
    assert_eq!(collected.to_bytes(), "data");
}

#[tokio::test]
async fn a_body_over_the_cap_is_delivered_and_marked() {
    let (live, recording) = HttpCapture::up_to(3).capture(Response::new(Full::<Bytes>::from("four")));
    let read = tokio::spawn(live.into_body().collect());
    let record = recording.await.unwrap().record;
    assert_eq!((read.await.unwrap().unwrap().to_bytes(), record.body.as_ref()), ("four".into(), None));
    let error = Capture::<Response<Full<Bytes>>>::restore(&HttpCapture::up_to(3), &record).unwrap_err();
    assert!(error.is::<Incomplete>());
}

#[tokio::test]
async fn a_body_that_fails_leaves_no_record() {
    let (sender, body) = Channel::<Bytes, BoxError>::new(1);
    let (live, recording) = HttpCapture::default().capture(Response::new(body));
    sender.abort("reset".into());
    live.into_body().collect().await.unwrap_err();
    assert!(recording.await.is_err());
}

/// IA-21: the answer is what the next attempt needs.
#[tokio::test]
async fn what_a_dropped_body_had_left_is_read_for_the_record() {
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(4);
    let (live, recording) = HttpCapture::default().capture(Response::new(body));
    let mut body: Live = live.into_body();
    sender.send_data(Bytes::from_static(b"first ")).await.unwrap();
    body.frame().await.unwrap().unwrap();
    drop(body);
    sender.send_data(Bytes::from_static(b"second")).await.unwrap();
    drop(sender);
    assert_eq!(recording.await.unwrap().record.body.unwrap(), "first second");
}

#[tokio::test]
async fn a_dropped_body_is_read_no_further_than_the_cap() {
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(4);
    let (live, recording) = HttpCapture::up_to(3).capture(Response::new(body));
    drop(live);
    sender.send_data(Bytes::from_static(b"four")).await.unwrap();
    assert_eq!(recording.await.unwrap().record.body, None, "although there is no end");
    drop(sender);
}

/// IA-10
#[tokio::test]
async fn a_seal_that_fails_ends_the_body_with_its_error() {
    let (live, recording) = HttpCapture::default().capture(Response::new(Full::<Bytes>::from("mine")));
    let mut body = live.into_body();
    assert!(poll_once(&mut Box::pin(body.frame())).is_pending());
    recording.await.unwrap().seal.fail("somebody else's call counts");
    let error = body.collect().await.unwrap_err();
    assert_eq!(error.to_string(), "somebody else's call counts");
}

#[tokio::test]
async fn without_anybody_waiting_for_the_record_the_body_just_ends() {
    let (live, recording) = HttpCapture::default().capture(Response::new(Full::<Bytes>::from("x")));
    drop(recording);
    assert_eq!(live.into_body().collect().await.unwrap().to_bytes(), "x");
}

/// Says how long it will be in its header, and nothing of it by itself.
fn declared(
    length: &str,
) -> (http_body_util::channel::Sender<Bytes, BoxError>, Response<Channel<Bytes, BoxError>>) {
    let (sender, body) = Channel::new(4);
    (sender, Response::builder().header("content-length", length).body(body).unwrap())
}

/// Servers stop at the declared length, and so do clients: that is the end.
#[tokio::test]
async fn the_last_byte_of_a_declared_length_is_withheld() {
    let (mut sender, response) = declared("5");
    let (live, recording) = HttpCapture::default().capture(response);
    let mut body: Live = live.into_body();
    sender.send_data("who".into()).await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "who");
    sender.send_data("le".into()).await.unwrap();
    let mut last = Box::pin(body.frame());
    assert!(poll_once(&mut last).is_pending());
    drop(sender);
    assert!(poll_once(&mut last).is_pending());
    drop(recording.await.unwrap().seal);
    assert_eq!(last.await.unwrap().unwrap().into_data().unwrap(), "le");
}

#[tokio::test]
async fn what_exceeds_a_declared_length_is_kept_all_the_same() {
    let (mut sender, response) = declared("3");
    let (live, recording) = HttpCapture::default().capture(response);
    for piece in ["one ", "two"] {
        sender.send_data(piece.into()).await.unwrap();
    }
    drop(sender);
    let read = tokio::spawn(live.into_body().collect());
    assert_eq!(recording.await.unwrap().record.body.unwrap(), "one two");
    assert_eq!(read.await.unwrap().unwrap().to_bytes(), "one two");
}

/// One piece of data that says when it is gone.
struct Counted(Arc<()>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        let _ = &self.0;
        b"data"
    }
}

/// Reads a piece, and says how many hold it when the reader has dropped it.
async fn held_after_reading<B>(mut sender: http_body_util::channel::Sender<Bytes, BoxError>, body: B) -> usize
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let mut body = body;
    let alive = Arc::new(());
    sender.send_data(Bytes::from_owner(Counted(Arc::clone(&alive)))).await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data");
    Arc::strong_count(&alive) - 1
}

#[tokio::test]
async fn what_merely_passes_is_not_recorded() {
    let (sender, body) = Channel::<Bytes, BoxError>::new(4);
    let passing = HttpCapture::pass(Response::builder().header("date", "now").body(body).unwrap());
    assert_eq!(passing.headers()["date"], "now");
    assert!(!passing.body().is_stored());
    assert_eq!(held_after_reading(sender, passing.into_body()).await, 0);
    let whole = HttpCapture::pass(Response::new(Full::<Bytes>::from("whole"))).into_body();
    assert_eq!((whole.is_end_stream(), whole.size_hint().exact()), (false, Some(5)));
    assert_eq!(whole.collect().await.unwrap().to_bytes(), "whole");
}

#[tokio::test]
async fn once_nobody_waits_for_the_record_nothing_is_recorded() {
    let (sender, body) = Channel::<Bytes, BoxError>::new(4);
    let (live, recording) = HttpCapture::default().capture(Response::new(body));
    drop(recording);
    assert_eq!(held_after_reading(sender, live.into_body()).await, 0);
}

#[tokio::test]
async fn a_body_that_passes_is_told_as_it_is_and_a_fixed_one_has_its_length() {
    let body = Answer::passing(Full::new(Bytes::from_static(b"live")));
    assert_eq!((body.is_stored(), body.size_hint().exact()), (false, Some(4)));
    assert_eq!(body.collect().await.unwrap().to_bytes(), "live");
    let body = Answer::<Full<Bytes>>::from(Bytes::from_static(b"fixed"));
    assert_eq!((body.is_stored(), body.size_hint().exact(), body.is_end_stream()), (true, Some(5), false));
    assert_eq!(body.collect().await.unwrap().to_bytes(), "fixed");
    assert!(Answer::<Full<Bytes>>::from(Bytes::new()).is_end_stream());
}

#[tokio::test]
async fn a_response_in_memory_has_the_record_that_it_would_have_if_it_were_captured() {
    let response =
        || Response::builder().status(201).header("x", "1").header("date", "now").header("te", "x");
    let response = || response().header("connection", "x-hop").header("x-hop", "1");
    for cap in [5, 4] {
        let capture = HttpCapture::up_to(cap);
        let (live, recording) = capture.capture(response().body(Full::<Bytes>::from("whole")).unwrap());
        let read = tokio::spawn(live.into_body().collect());
        let captured = recording.await.unwrap().record;
        read.await.unwrap().unwrap();
        assert!(capture.record(&response().body("whole".into()).unwrap()) == captured, "{captured:?}");
    }
}

#[tokio::test]
async fn a_recording_may_end_at_the_cap_and_the_body_goes_on_to_its_end() {
    for trailers in [false, true] {
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(4);
        let (live, mut recording) = HttpCapture::up_to(4).stop_at_cap().capture(Response::new(body));
        let mut body: Live = live.into_body();
        for data in ["abc", "def", "ghi"] {
            assert!(data != "def" || poll_once(&mut Pin::new(&mut recording)).is_pending());
            sender.send_data(Bytes::from_static(data.as_bytes())).await.unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), data);
        }
        let record = recording.await.unwrap().record;
        assert_eq!((record.body, body.is_end_stream()), (None, false));
        if trailers {
            sender
                .send_trailers(HeaderMap::from_iter([(header::TRAILER, "x".parse().unwrap())]))
                .await
                .unwrap();
        }
        drop(sender);
        if trailers {
            assert!(body.frame().await.unwrap().unwrap().is_trailers());
        }
        assert!(body.frame().await.is_none() && body.frame().await.is_none() && body.is_end_stream());
    }
}

#[test]
fn an_answer_is_hardly_larger_than_a_body() {
    assert!(size_of::<Answer<Full<Bytes>>>() <= 48, "it is moved from layer to layer");
}
