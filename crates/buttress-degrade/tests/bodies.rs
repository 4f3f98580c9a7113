//! One call for all: while its body is read.
#![cfg(feature = "http")]

#[path = "support/origin.rs"]
mod origin;
mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use buttress_core::{BoxError, Level};
use buttress_degrade::{Chain, DegradeLayer, Grade, HttpRules, LastGood, Recalling};
use buttress_http::{Answer, Http};
use buttress_testkit::clock::settle;
use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt;
use origin::{Asked, Origin, body, get, layer, response, store};
use support::{ms, secs};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

const KEEPS: &[(&str, &str)] = &[("cache-control", "max-age=600")];

#[tokio::test(start_paused = true)]
async fn those_who_wait_do_not_wait_for_a_caller_who_does_not_read() {
    let store = store(HttpRules::private());
    let layer = layer(&store);
    let origin = Origin::of(200, KEEPS);
    let service = layer.layer(origin.service());
    let unread = service.clone().oneshot(get(&[])).await.unwrap();
    let start = Instant::now();
    let answer = service.clone().oneshot(get(&[])).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "2");
    assert!(start.elapsed() <= secs(1), "{:?}", start.elapsed());
    // Nor is what he reads late kept over what they have got.
    assert_eq!(unread.into_body().collect().await.unwrap().to_bytes(), "1");
    settle().await;
    assert_eq!((body(&layer, &origin, &[]).await.as_str(), origin.calls(), store.in_flight()), ("2", 2, 0));
    // What is read late is kept all the same, if nothing has happened meanwhile.
    store.clear();
    let unread = service.oneshot(get(&[])).await.unwrap();
    sleep(secs(2)).await;
    assert_eq!(store.in_flight(), 0, "who comes now makes a call");
    unread.into_body().collect().await.unwrap();
    settle().await;
    assert_eq!((body(&layer, &origin, &[]).await.as_str(), origin.calls()), ("3", 3));
}

#[tokio::test(start_paused = true)]
async fn what_is_read_late_is_not_kept_over_a_write_or_a_newer_answer() {
    let key = HttpRules::private().key_of(&get(&[])).unwrap();
    for (write, kept) in [(None, "2"), (Some(key.as_str()), "2"), (Some("another"), "1")] {
        let store = store(HttpRules::private());
        let layer = layer(&store);
        let origin = Origin::of(200, KEEPS);
        let unread = layer.layer(origin.service()).oneshot(get(&[])).await.unwrap();
        sleep(secs(2)).await;
        if let Some(key) = write {
            store.invalidate(key);
        } else {
            assert_eq!(body(&layer, &origin, &[]).await, "2");
        }
        unread.into_body().collect().await.unwrap();
        settle().await;
        assert_eq!(body(&layer, &origin, &[]).await, kept);
    }
}

/// A body of one piece, and then an error, or nothing ever, or its end.
#[derive(Clone, Copy, PartialEq)]
enum Piece {
    Breaks,
    Hangs,
    Ends,
    LargeAndHangs,
    Over,
}

impl http_body::Body for Piece {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let this = self.get_mut();
        match std::mem::replace(this, Piece::Over) {
            Piece::Breaks => Poll::Ready(Some(Err(std::io::Error::other("connection reset")))),
            Piece::Hangs => {
                *this = Piece::Hangs;
                Poll::Pending
            }
            Piece::Ends => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x"))))),
            Piece::LargeAndHangs => {
                *this = Piece::Hangs;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"large")))))
            }
            Piece::Over => Poll::Ready(None),
        }
    }
}

type OfPieces = Response<Answer<Piece>>;

fn pieces(store: &LastGood<HttpRules>) -> DegradeLayer<Recalling<Chain<Asked, OfPieces>, HttpRules>, Http> {
    let layer = DegradeLayer::new("search", Chain::<Asked, OfPieces>::new()).unwrap().policy(Http::new());
    layer.last_good(store.clone()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_a_failure_for_all_who_wait_for_it() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let service = pieces(&store(HttpRules::private())).layer(service_fn(move |_: Asked| {
        let body = if count.fetch_add(1, Relaxed) == 0 { Piece::Ends } else { Piece::Breaks };
        async move {
            sleep(ms(100)).await;
            Ok::<_, std::io::Error>(
                Response::builder().header("cache-control", "max-age=1").body(body).unwrap(),
            )
        }
    }));
    let ask = || {
        let call = service.clone().oneshot(get(&[]));
        tokio::spawn(async move {
            let answer = call.await.unwrap();
            let level = answer.level();
            answer.into_body().collect().await.map(|_| level).ok()
        })
    };
    assert_eq!(ask().await.unwrap(), Some(Level::Full));
    tokio::time::advance(secs(2)).await;
    let mut ended = Vec::new();
    for call in (0..100).map(|_| ask()).collect::<Vec<_>>() {
        ended.push(call.await.unwrap());
    }
    assert_eq!((ended[0], calls.load(Relaxed)), (None, 2));
    assert!(ended[1..].iter().all(|level| *level == Some(Level::Moderate)), "{ended:?}");
}

/// Of a body of unknown length it shows late.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_rest_of_what_has_turned_out_to_be_too_large() {
    let store = store(HttpRules::private().max_body(4));
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let service = pieces(&store).layer(service_fn(move |_: Asked| {
        count.fetch_add(1, Relaxed);
        let response = Response::builder().header("cache-control", "max-age=60").body(Piece::LargeAndHangs);
        async { Ok::<_, std::io::Error>(response.unwrap()) }
    }));
    let mut body = service.clone().oneshot(get(&[])).await.unwrap().into_body();
    let waits = tokio::spawn(service.clone().oneshot(get(&[])));
    settle().await;
    assert!(!waits.is_finished());
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "large");
    settle().await;
    assert!(waits.is_finished(), "at once");
    assert_eq!((waits.await.unwrap().unwrap().status().as_u16(), calls.load(Relaxed)), (200, 2));
}

/// What callers leave behind is bounded, and what was not begun does not begin.
#[tokio::test(start_paused = true)]
async fn calls_that_nobody_waits_for_are_bounded_in_number() {
    struct UnderWay(Arc<AtomicUsize>);
    impl Drop for UnderWay {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Relaxed);
        }
    }
    let store = store(HttpRules::private()).max_abandoned(10);
    let (begun, under_way) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let service = {
        let (begun, under_way) = (Arc::clone(&begun), Arc::clone(&under_way));
        pieces(&store).layer(service_fn(move |request: Asked| {
            begun.fetch_add(1, Relaxed);
            under_way.fetch_add(1, Relaxed);
            let guard = UnderWay(Arc::clone(&under_way));
            async move {
                let _guard = guard;
                if request.uri().path() != "/answers" {
                    std::future::pending::<()>().await;
                }
                Ok::<_, BoxError>(
                    Response::builder().header("cache-control", "max-age=60").body(Piece::Hangs).unwrap(),
                )
            }
        }))
    };
    let of = |path: &str, n: usize| {
        let mut request = get(&[]);
        *request.uri_mut() = format!("http://search.example{path}?{n}").parse().unwrap();
        request
    };
    for n in 0..100 {
        drop(service.clone().call(of("/", n)));
    }
    settle().await;
    assert_eq!((begun.load(Relaxed), store.in_flight()), (0, 0), "not begun");
    let calls: Vec<_> = (0..100).map(|n| tokio::spawn(service.clone().oneshot(of("/", n)))).collect();
    let waiting = tokio::spawn(service.clone().oneshot(of("/", 0)));
    settle().await;
    assert_eq!((begun.load(Relaxed), under_way.load(Relaxed)), (100, 100));
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    settle().await;
    assert_eq!((under_way.load(Relaxed), store.in_flight()), (11, 11), "ten, and the one that is waited for");
    // No place is left for the rest of a body.
    for n in 0..20 {
        drop(service.clone().oneshot(of("/answers", n)).await.unwrap());
    }
    settle().await;
    assert_eq!(store.in_flight(), 11);
    // Somebody waits again for one of the ten.
    let again = tokio::spawn(service.clone().oneshot(of("/", 1)));
    settle().await;
    assert_eq!((begun.load(Relaxed), store.in_flight()), (120, 11));
    sleep(secs(11)).await;
    assert!(waiting.await.unwrap().is_err() && again.await.unwrap().is_err());
    assert_eq!((under_way.load(Relaxed), store.in_flight()), (0, 0));
    // The places are free again.
    for n in 0..20 {
        drop(service.clone().oneshot(of("/answers", n)).await.unwrap());
    }
    settle().await;
    assert_eq!(store.in_flight(), 10);
}

/// A download, and a stream of events.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_cannot_be_kept() {
    for fields in [&[("content-length", "1099511627776")][..], &[("content-type", "text/event-stream; x")]] {
        let layer = layer(&store(HttpRules::private()));
        let origin = Origin::new(move |_| Ok(response(200, fields, "x")));
        let service = layer.layer(origin.service());
        let unread = service.clone().oneshot(get(&[])).await.unwrap();
        let start = Instant::now();
        service.oneshot(get(&[])).await.unwrap();
        assert_eq!((start.elapsed(), origin.calls()), (ms(0), 2), "{fields:?}");
        drop(unread);
    }
}
