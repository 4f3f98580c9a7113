//! Several who read one body: attempts that follow each other, and those that go on beside each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use buttress_testkit::clock::settle;

use super::*;

#[tokio::test]
async fn a_later_attempt_cuts_off_the_earlier_one() {
    let (mut sender, mut first, mut again) = streamed(&HttpReplay::new());
    sender.send_data("one".into()).await.unwrap();
    data(&mut first).await;
    let waiting = tokio::spawn(async move { failure(&mut first).await });
    settle().await;
    let mut second = again.next().unwrap();
    assert_eq!(waiting.await.unwrap(), ReplayError::Superseded, "and wakes it");
    assert_eq!(data(&mut second).await, "one");
}

/// As hedged attempts are.
#[tokio::test]
async fn several_readers_at_once_each_get_everything() {
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(16);
    let (mut first, mut again) = save(&HttpReplay::new(), body);
    let mut second = first.fork();
    let mut waiting = Box::pin(second.frame());
    assert!(poll_once(&mut waiting).is_pending());
    drop(waiting);
    let send = async {
        settle().await;
        sender.send_data("one".into()).await.unwrap();
    };
    let (a, b, ()) = tokio::join!(data(&mut first), data(&mut second), send);
    assert_eq!((a, b), ("one".into(), "one".into()), "both are woken by one piece");
    drop(first);
    sender.send_data("two".into()).await.unwrap();
    drop(sender);
    assert_eq!(
        second.collect().await.unwrap().to_bytes(),
        "two",
        "one that is gone does not hold up the other"
    );
    assert!(again.next().is_some());
}

/// A connection that is held up reads no further, though it was the last to ask.
#[tokio::test]
async fn a_reader_that_waits_is_woken_although_another_one_asked_last() {
    let (mut sender, mut first, _again) = streamed(&HttpReplay::new());
    let mut second = first.fork();
    let waiting = tokio::spawn(async move { data(&mut first).await });
    settle().await;
    assert!(poll_once(&mut Box::pin(second.frame())).is_pending());
    sender.send_data("one".into()).await.unwrap();
    settle().await;
    assert!(waiting.is_finished());
    assert_eq!((waiting.await.unwrap(), data(&mut second).await), ("one".into(), "one".into()));
}

/// Ends when it is told to, and wakes nobody.
struct Silent(Arc<AtomicBool>);

impl Body for Silent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.0.load(Relaxed) { Poll::Ready(None) } else { Poll::Pending }
    }
}

/// A source need wake nobody but the last who asked it, and nobody at all if it was ready for them.
#[tokio::test]
async fn whoever_finds_a_body_ready_wakes_the_readers_that_wait() {
    let ends = Arc::new(AtomicBool::new(false));
    let (mut first, _again) = save(&HttpReplay::new(), Silent(Arc::clone(&ends)));
    let mut second = first.fork();
    let waiting = tokio::spawn(async move { first.frame().await.is_none() });
    settle().await;
    ends.store(true, Relaxed);
    assert!(second.frame().await.is_none());
    settle().await;
    assert!(waiting.is_finished() && waiting.await.unwrap());
}

#[tokio::test]
async fn a_reader_that_is_behind_when_the_body_outgrows_its_cap_fails_and_the_front_does_not() {
    let (mut sender, mut first, mut again) = streamed(&HttpReplay::new().limits(5, 1000));
    let mut behind = first.fork();
    for piece in ["0123", "4567"] {
        sender.send_data(piece.into()).await.unwrap();
        assert_eq!(data(&mut first).await, piece);
    }
    assert_eq!(failure(&mut behind).await, ReplayError::Overtaken);
    assert!(again.next().is_none());
}
