use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use buttress::core::{Discard, Settle, Watch};
use buttress::http::{BodyDeadlineLayer, Http, HttpWatch};
use buttress::{BoxError, Verdict, find};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::runtime::Runtime;
use tower::{Layer, Service};

use crate::draw::Draw;

/// A body that comes in any pieces, at any pace, and ends in any way.
#[derive(Debug)]
pub(super) struct Source {
    items: VecDeque<Item>,
    promise: Promise,
    /// Whether it says that it is at its end without being asked for another frame.
    tells_end: bool,
}

#[derive(Debug)]
enum Item {
    Data(Bytes),
    Trailers(HeaderMap),
    /// Not yet, but soon.
    Pending,
    Error,
}

/// What it says of its length.
#[derive(Clone, Copy, Debug)]
enum Promise {
    Nothing,
    Between(u64, u64),
    Exactly(u64),
}

/// What reading it as a whole must come to.
#[derive(Debug)]
pub(super) struct Facts {
    /// All data, up to where it fails.
    pub(super) data: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) fails: bool,
    /// Trailers come once, and last.
    pub(super) conforming: bool,
    /// It keeps what it says of its length.
    pub(super) honest: bool,
    /// The exact length that it promised.
    pub(super) exact: Option<u64>,
}

/// The error of a [`Source`].
#[derive(Debug)]
pub(super) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {}

static CONTENTS: LazyLock<Bytes> = LazyLock::new(|| (0..100_000_u32).map(|n| (n % 251) as u8).collect());

pub(super) fn any_source(draw: &mut Draw) -> (Source, Facts) {
    let mut items = VecDeque::new();
    let (mut data, mut trailers, mut fails): (Vec<u8>, Option<HeaderMap>, bool) = (Vec::new(), None, false);
    let (chaotic, mut after_trailers) = (draw.one_in(20), false);
    for _ in 0..draw.below(8) {
        if draw.one_in(4) {
            items.push_back(Item::Pending);
        }
        if chaotic && draw.one_in(4) {
            let fields = any_trailers(draw);
            trailers.get_or_insert_default().extend(fields.clone());
            items.push_back(Item::Trailers(fields));
            after_trailers = true;
        }
        let longest = draw.pick(&[0, 1, 10, 10, 100, 100, 100, 5000]);
        let (length, start) = (draw.below(longest + 1), draw.below(50_000));
        let piece = CONTENTS.slice(start..start + length);
        data.extend_from_slice(&piece);
        items.push_back(Item::Data(piece));
    }
    if draw.one_in(4) {
        items.push_back(Item::Pending);
    }
    match draw.below(5) {
        0 => {
            fails = true;
            items.push_back(Item::Error);
        }
        1 => {
            let fields = any_trailers(draw);
            trailers.get_or_insert_default().extend(fields.clone());
            items.push_back(Item::Trailers(fields));
        }
        _ => {}
    }
    let length = data.len() as u64;
    let honest = !draw.one_in(5);
    let says = if honest { length } else { draw.between(0, length * 2 + 10) };
    let promise = match draw.below(4) {
        0 => Promise::Nothing,
        1 => Promise::Between(says.saturating_sub(draw.between(0, 100)), says + draw.between(0, 100)),
        _ => Promise::Exactly(says),
    };
    let exact = if let Promise::Exactly(length) = promise { Some(length) } else { None };
    let tells_end = (honest || exact.is_none()) && draw.one_in(2);
    let facts = Facts { data, trailers, fails, conforming: !after_trailers, honest, exact };
    (Source { items, promise, tells_end }, facts)
}

impl Source {
    /// One piece, of a length that is not told before.
    pub(super) fn of(data: Bytes) -> Self {
        Self { items: VecDeque::from([Item::Data(data)]), promise: Promise::Nothing, tells_end: false }
    }
}

fn any_trailers(draw: &mut Draw) -> HeaderMap {
    let names = ["grpc-status", "grpc-message", "x-checksum"];
    let field = |_| {
        let name = HeaderName::from_static(draw.pick(&names));
        (name, HeaderValue::from(draw.below(100)))
    };
    (0..2).map(field).collect()
}

impl Body for Source {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Poll::Ready(match self.items.pop_front() {
            None => None,
            Some(Item::Pending) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Item::Error) => Some(Err(Broken)),
            Some(Item::Trailers(fields)) => Some(Ok(Frame::trailers(fields))),
            Some(Item::Data(data)) => {
                let read = data.len() as u64;
                self.promise = match self.promise {
                    Promise::Nothing => Promise::Nothing,
                    Promise::Between(low, high) => {
                        Promise::Between(low.saturating_sub(read), high.saturating_sub(read))
                    }
                    Promise::Exactly(length) => Promise::Exactly(length.saturating_sub(read)),
                };
                Some(Ok(Frame::data(data)))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.tells_end && self.items.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let (low, high) = match self.promise {
            Promise::Nothing => return SizeHint::default(),
            Promise::Between(low, high) => (low, high),
            Promise::Exactly(length) => (length, length),
        };
        let mut hint = SizeHint::new();
        hint.set_upper(high);
        hint.set_lower(low);
        hint
    }
}

/// What a reader has got so far.
#[derive(Debug, Default)]
pub(super) struct Got {
    pub(super) data: usize,
    pub(super) trailers: bool,
}

/// What one more poll has come to.
pub(super) enum Polled {
    Frame,
    Pending,
    End,
    Failed(BoxError),
}

impl Got {
    /// Polls once, and checks that what comes is what comes next.
    pub(super) fn poll<B>(&mut self, body: &mut B, facts: &Facts) -> Polled
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let frame = match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => return Polled::Pending,
            Poll::Ready(None) => return Polled::End,
            Poll::Ready(Some(Err(error))) => return Polled::Failed(error.into()),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                assert_eq!(facts.data.get(self.data..self.data + data.len()), Some(&data[..]));
                self.data += data.len();
            }
            Err(frame) if facts.conforming => {
                assert_eq!((frame.trailers_ref(), self.data), (facts.trailers.as_ref(), facts.data.len()));
                assert!(!std::mem::replace(&mut self.trailers, true), "trailers come once");
            }
            Err(_) => self.trailers = true,
        }
        Polled::Frame
    }

    /// Whether this is all there is.
    pub(super) fn is_all(&self, facts: &Facts) -> bool {
        self.data == facts.data.len() && self.trailers == facts.trailers.is_some()
    }

    /// Polls to the end.
    pub(super) fn finish<B>(&mut self, body: &mut B, facts: &Facts) -> Option<BoxError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        for _ in 0..100 {
            match self.poll(body, facts) {
                Polled::Frame | Polled::Pending => {}
                Polled::End => {
                    assert!(matches!(self.poll(body, facts), Polled::End), "an end is final");
                    return None;
                }
                Polled::Failed(error) => return Some(error),
            }
        }
        panic!("no end in sight")
    }
}

/// Counts how often it was settled.
#[derive(Default)]
struct Permit(Option<Arc<AtomicUsize>>);

impl Settle for Permit {
    fn settle(&mut self, _: Verdict) {
        if let Some(settled) = self.0.take() {
            settled.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.settle(Verdict::Ignored);
    }
}

/// Time stands still in it.
pub(super) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
});

/// Wrapped bodies pass on what is in them, unchanged, and a permit is settled exactly once.
pub(super) fn pass(draw: &mut Draw) {
    let _inside = RUNTIME.enter();
    let (source, facts) = any_source(draw);
    let settled = Arc::new(AtomicUsize::new(0));
    let mut permit = Permit(Some(Arc::clone(&settled)));
    let response = HttpWatch.watch(Response::new(source), &mut permit, Verdict::Success);
    if draw.one_in(4) {
        let http = Http::new().drain(draw.between(0, 10_000), Duration::from_millis(100));
        let mut drain = pin!(http.discard(response));
        for _ in 0..draw.between(0, 30) {
            if drain.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                break;
            }
        }
    } else {
        let layer = BodyDeadlineLayer::new("fuzz", Duration::from_secs(1)).expect("a limit");
        let mut response = Some(response);
        let mut service = layer.layer(tower::service_fn(move |()| -> Ready<Result<_, Infallible>> {
            ready(Ok(response.take().expect("called once")))
        }));
        let mut future = pin!(service.call(()));
        let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it was ready")
        };
        let (mut body, mut got) = (response.into_body(), Got::default());
        if draw.one_in(4) {
            (0..draw.below(5)).for_each(|_| drop(got.poll(&mut body, &facts)));
        } else {
            match got.finish(&mut body, &facts) {
                Some(error) => assert!(facts.fails && find::<Broken>(&*error).is_some(), "{error}"),
                None => assert!(got.data == facts.data.len() && !facts.fails),
            }
        }
        drop(body);
    }
    assert_eq!(settled.load(Relaxed), 1, "drained, read or dropped: the permit is settled once");
}
