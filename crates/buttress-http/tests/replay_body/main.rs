//! Request bodies that are read more than once.

mod readers;

use std::pin::Pin;
use std::task::{Context, Poll};

use buttress_core::{BoxError, Replay, find};
use buttress_http::{HttpReplay, ReplayBody, ReplayError};
use buttress_testkit::clock::poll_once;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::channel::Sender;
use http_body_util::{BodyExt, Channel, Full};

type Chan = Channel<Bytes, BoxError>;

fn streamed(replay: &HttpReplay) -> (Sender<Bytes, BoxError>, ReplayBody<Chan>, Again<Chan>) {
    let (sender, body) = Channel::new(16);
    let (first, again) = save(replay, body);
    (sender, first, again)
}

/// Gives further copies, one after the other.
struct Again<B: Body>(HttpReplay, <HttpReplay as Replay<Request<B>>>::Saved)
where
    HttpReplay: Replay<Request<B>>;

impl<B> Again<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    fn next(&mut self) -> Option<ReplayBody<B>> {
        self.0.replay(&mut self.1).map(Request::into_body)
    }
}

fn save<B>(replay: &HttpReplay, body: B) -> (ReplayBody<B>, Again<B>)
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let (request, saved) = replay.save(Request::put("/").body(body).unwrap());
    (request.into_body(), Again(replay.clone(), saved))
}

async fn data<B>(body: &mut ReplayBody<B>) -> Bytes
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    body.frame().await.expect("more").expect("no error").into_data().expect("data")
}

async fn failure<B>(body: &mut ReplayBody<B>) -> ReplayError
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let error = body.frame().await.expect("an error").expect_err("an error");
    *find::<ReplayError>(&*error).expect("of the replay")
}

#[tokio::test]
async fn a_body_in_memory_is_not_copied() {
    let bytes = Bytes::from(vec![7; 1000]);
    let (first, mut again) = save(&HttpReplay::new(), Full::new(bytes.clone()));
    for mut body in [first, again.next().unwrap(), again.next().unwrap()] {
        assert_eq!(body.as_bytes().unwrap().as_ptr(), bytes.as_ptr());
        assert_eq!((body.size_hint().exact(), body.is_complete()), (Some(1000), true));
        assert_eq!(data(&mut body).await.as_ptr(), bytes.as_ptr());
        assert_eq!(body.as_bytes(), None, "it has been read");
        assert_eq!(data(&mut body.fork()).await.as_ptr(), bytes.as_ptr(), "a fork starts again");
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }
}

/// Each copy of it is whole: there is nothing that a later attempt would have to take over.
#[tokio::test]
async fn a_body_in_memory_that_has_trailers_is_read_on_beside_a_later_attempt() {
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("digest"), "x".parse().unwrap())]);
    let body = Full::new(Bytes::from_static(b"body"));
    let body = body.with_trailers(std::future::ready(Some(Ok(trailers.clone()))));
    let (mut first, mut again) = save(&HttpReplay::new(), body);
    assert_eq!(data(&mut first).await, "body");
    let second = again.next().unwrap().collect().await.unwrap();
    let first = first.collect().await.unwrap();
    assert_eq!((first.trailers(), second.trailers()), (Some(&trailers), Some(&trailers)));
    assert_eq!((first.to_bytes(), second.to_bytes()), ("".into(), "body".into()));
}

#[tokio::test]
async fn an_empty_body_is_empty_every_time() {
    let (first, mut again) = save(&HttpReplay::new(), Full::new(Bytes::new()));
    for mut body in [first, again.next().unwrap()] {
        assert!(body.is_end_stream() && body.frame().await.is_none());
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}

#[tokio::test]
async fn a_stream_is_recorded_while_it_is_read() {
    let (mut sender, mut first, mut again) = streamed(&HttpReplay::new());
    sender.send_data("one ".into()).await.unwrap();
    assert_eq!(data(&mut first).await, "one ");
    assert!(!first.is_complete() && first.is_replayable());
    let mut second = again.next().unwrap();
    sender.send_data("two".into()).await.unwrap();
    drop(sender);
    assert_eq!(second.frame().await.unwrap().unwrap().into_data().unwrap(), "one ", "from the start");
    assert_eq!(second.collect().await.unwrap().to_bytes(), "two", "and on with the source");
    let third = again.next().unwrap();
    assert!(third.is_complete());
    assert_eq!(third.size_hint().exact(), Some(7));
    assert_eq!(third.collect().await.unwrap().to_bytes(), "one two");
}

#[tokio::test]
async fn trailers_are_replayed() {
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "0".parse().unwrap())]);
    let (mut sender, first, mut again) = streamed(&HttpReplay::new());
    sender.send_data("x".into()).await.unwrap();
    sender.send_trailers(trailers.clone()).await.unwrap();
    drop(sender);
    let first = first.collect().await.unwrap();
    let second = again.next().unwrap().collect().await.unwrap();
    for collected in [first, second] {
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), "x");
    }
}

/// Says how long it is, and takes its time.
struct Sized(Chan, u64);

impl Body for Sized {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.0).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.1 = self.1.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        polled
    }
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.1)
    }
}

#[tokio::test]
async fn the_length_stays_exact_for_every_copy() {
    let (mut sender, body) = Channel::new(4);
    sender.send_data("one ".into()).await.unwrap();
    let (mut first, mut again) = save(&HttpReplay::new(), Sized(body, 7));
    assert_eq!(first.size_hint().exact(), Some(7));
    data(&mut first).await;
    assert_eq!(first.size_hint().exact(), Some(3));
    let second = again.next().unwrap();
    assert_eq!(second.size_hint().exact(), Some(7));
    sender.send_data("two".into()).await.unwrap();
    drop(sender);
    assert_eq!(second.collect().await.unwrap().to_bytes(), "one two");
}

#[tokio::test]
async fn over_the_cap_the_running_attempt_goes_on_and_there_is_no_other() {
    let (mut sender, mut first, mut again) = streamed(&HttpReplay::new().limits(10, 1000));
    for piece in ["01234", "56789", "x", "y"] {
        sender.send_data(piece.into()).await.unwrap();
        assert_eq!(data(&mut first).await, piece);
    }
    drop(sender);
    assert!(again.next().is_none());
    assert!(first.frame().await.is_none(), "asking for another does not cut it off");
}

#[tokio::test]
async fn a_body_in_memory_is_kept_whatever_its_size() {
    let (first, mut again) = save(&HttpReplay::new().limits(10, 0), Full::<Bytes>::from("0123456789+"));
    for body in [first, again.next().unwrap()] {
        assert_eq!(body.collect().await.unwrap().to_bytes(), "0123456789+");
    }
}

#[tokio::test]
async fn a_stream_that_says_it_is_too_long_is_not_recorded_at_all() {
    let (mut sender, body) = Channel::new(4);
    sender.send_data("01234567".into()).await.unwrap();
    let (first, mut again) = save(&HttpReplay::new().limits(10, 1000), Sized(body, 16));
    assert!(again.next().is_none());
    assert_eq!((first.size_hint().exact(), first.is_replayable()), (Some(16), false));
    sender.send_data("89abcdef".into()).await.unwrap();
    drop(sender);
    assert_eq!(first.collect().await.unwrap().to_bytes(), "0123456789abcdef", "and sent as a whole");
}

#[tokio::test]
async fn a_body_that_ends_before_what_it_promised_does_so_every_time() {
    let (mut sender, body) = Channel::new(4);
    sender.send_data("one ".into()).await.unwrap();
    drop(sender);
    let (first, _again) = save(&HttpReplay::new(), Sized(body, 100));
    for mut body in [first.fork(), first] {
        assert_eq!((body.size_hint().exact(), body.as_bytes()), (Some(100), None));
        assert_eq!(data(&mut body).await, "one ");
        assert!(body.frame().await.is_none());
        assert_eq!(body.size_hint().exact(), Some(96), "it is not a whole one of four bytes");
    }
}

#[tokio::test]
async fn a_body_that_exceeds_what_it_promised_is_not_lost() {
    let (mut sender, body) = Channel::new(4);
    for _ in 0..2 {
        sender.send_data("0123456789".into()).await.unwrap();
    }
    drop(sender);
    let (first, mut again) = save(&HttpReplay::new().limits(15, 1000), Sized(body, 12));
    assert!(again.next().is_none());
    assert_eq!(first.collect().await.unwrap().to_bytes().len(), 20);
}

#[tokio::test]
async fn empty_and_small_frames_cost_what_they_cost() {
    let replay = HttpReplay::new().limits(10_000, 1000);
    let (mut sender, mut first, mut again) = streamed(&replay);
    let large = Bytes::from(vec![0; 100_000]);
    for n in 0..3 {
        sender.send_data(Bytes::new()).await.unwrap();
        sender.send_data(large.slice(n..n + 1)).await.unwrap();
        data(&mut first).await;
    }
    let mut second = again.next().unwrap();
    for n in 0..3 {
        let piece = data(&mut second).await;
        assert_ne!(
            piece.as_ptr(),
            large[n..].as_ptr(),
            "a small slice is copied, so that it does not hold the whole"
        );
    }
    // 1000 bytes in all are room for no more than 15 frames, however small.
    let (mut sender, mut third, _again) = streamed(&HttpReplay::new().limits(10_000, 1000));
    for _ in 0..16 {
        sender.send_data(".".into()).await.unwrap();
        data(&mut third).await;
    }
    assert!(!third.is_replayable());
}

#[tokio::test]
async fn all_recordings_together_are_bounded_and_give_back_what_they_held() {
    let replay = HttpReplay::new().limits(1000, 1000);
    let large = Bytes::from(vec![0; 900]);
    let (mut sender, mut first, again) = streamed(&replay);
    sender.send_data(large.clone()).await.unwrap();
    data(&mut first).await;
    assert!(first.is_replayable());

    let (mut other_sender, mut other, _other_again) = streamed(&replay);
    other_sender.send_data(large.clone()).await.unwrap();
    assert_eq!(data(&mut other).await, large, "it is sent all the same");
    assert!(!other.is_replayable());
    // In memory it takes no room.
    assert!(save(&replay, Full::new(large.clone())).0.is_replayable());

    drop((first, again));
    let (mut sender, mut third, _again) = streamed(&replay);
    sender.send_data(large).await.unwrap();
    data(&mut third).await;
    assert!(third.is_replayable(), "the room is free again, though the other is still being sent");
}

#[tokio::test]
async fn a_source_that_fails_gives_its_error_once_and_no_copy() {
    let (sender, mut first, mut again) = streamed(&HttpReplay::new());
    sender.abort("disk".into());
    assert_eq!(first.frame().await.unwrap().unwrap_err().to_string(), "disk");
    assert!(again.next().is_none());
    assert_eq!(failure(&mut first).await, ReplayError::SourceFailed);
}

#[tokio::test]
async fn a_body_of_known_length_that_fails_at_once_says_so_to_its_reader() {
    let (sender, body) = Channel::new(1);
    sender.abort("disk".into());
    let (mut first, mut again) = save(&HttpReplay::new(), Sized(body, 7));
    assert!(again.next().is_none());
    assert_eq!(first.frame().await.unwrap().unwrap_err().to_string(), "disk");
}

#[tokio::test]
async fn without_anybody_to_replay_for_nothing_is_recorded() {
    let replay = HttpReplay::new().limits(1000, 1000);
    let (mut sender, mut first, again) = streamed(&replay);
    drop(again);
    let large = Bytes::from(vec![0; 900]);
    sender.send_data(large.clone()).await.unwrap();
    data(&mut first).await;
    let (mut sender, mut other, _again) = streamed(&replay);
    sender.send_data(large).await.unwrap();
    data(&mut other).await;
    assert!(other.is_replayable(), "the first holds nothing of the room");
}

/// Promises five bytes, and gives them after two hundred frames without any.
struct Promising(u32);

impl Body for Promising {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0 += 1;
        let data = if self.0 > 200 { "12345" } else { "" };
        Poll::Ready(Some(Ok(Frame::data(data.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(5)
    }
}

#[tokio::test]
async fn empty_frames_keep_no_thread_busy() {
    let (mut body, _again) = save(&HttpReplay::new(), Promising(0));
    assert!(poll_once(&mut Box::pin(body.frame())).is_pending(), "others have a turn");
    assert_eq!(data(&mut body).await, "12345");
}

/// Not `Sync`, as boxed bodies are.
struct NotSync(std::cell::Cell<()>);

impl Body for NotSync {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.set(());
        Poll::Ready(None)
    }
}

#[test]
fn a_replay_body_is_sync_whatever_it_records() {
    fn check<T: Send + Sync>(_: &T) {}
    check(&save(&HttpReplay::new(), NotSync(std::cell::Cell::new(()))).0);
}

#[tokio::test]
async fn a_body_that_is_there_as_a_whole_is_made_without_a_stack() {
    let none = ReplayBody::<Full<Bytes>>::default();
    assert!(none.is_end_stream() && none.is_replayable());
    assert_eq!(none.collect().await.unwrap().to_bytes(), "");
    let mut ping = ReplayBody::<Full<Bytes>>::from(Bytes::from("ping"));
    assert_eq!((ping.size_hint().exact(), data(&mut ping.fork()).await), (Some(4), Bytes::from("ping")));
    assert_eq!(data(&mut ping).await, "ping");
}
