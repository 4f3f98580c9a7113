//! A body that is read by several readers, and recorded for those to come.

mod frames;
mod message;
mod state;
mod waiting;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use buttress_core::BoxError;
use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::replay_body::{ReplayError, concat};
pub(crate) use frames::Pool;
use message::message;
use state::{Progress, State};

/// What a body turned out to be.
pub(crate) enum Taken<B> {
    /// All there already.
    Whole(Bytes, Option<Box<HeaderMap>>),
    Reader(Reader<B>),
}

/// One reader of a body that is not all there yet, or of which something has been read.
///
/// As small as three words: a client moves a request, and its body with it, some twenty times.
pub(crate) struct Reader<B> {
    shared: Arc<Mutex<State<B>>>,
    place: Place,
}

/// How far a reader has come.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// So many bytes.
    read: u64,
    /// The next frame, as long as there is a recording, or [`TRAILERS_READ`].
    next: u32,
    /// Which of the readers it is.
    number: u32,
}

const TRAILERS_READ: u32 = u32::MAX;

/// So many frames without data are read at once, before others have a turn.
const EMPTY_FRAMES: usize = 64;

impl Place {
    fn start(number: u32) -> Self {
        Self { read: 0, next: 0, number }
    }

    fn gives(&mut self, data: Bytes) -> Frame<Bytes> {
        self.read += data.len() as u64;
        // Memory bounds how many frames a recording has; without one they are not counted to their end.
        self.next = self.next.saturating_add(1).min(TRAILERS_READ - 1);
        Frame::data(data)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What polling a body has given.
type Came<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

impl<B> Reader<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Takes what is there already of a body whose length is known, and records the rest as it is read.
    pub(crate) fn take(body: B, per_body: usize, pool: Option<&Arc<Pool>>) -> Taken<B> {
        if body.is_end_stream() {
            return Taken::Whole(Bytes::new(), None);
        }
        let hint = body.size_hint();
        let mut state = State::new(Some(body), hint.exact(), per_body, pool.cloned());
        let mut cx = Context::from_waker(Waker::noop());
        while state.length.is_some() && (state.replayable || state.passed == 0) {
            match state.poll_source(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(frame))) => {
                    let is_empty = frame.data_ref().is_some_and(|data| !data.has_remaining());
                    state.keep_unread(frame);
                    if is_empty {
                        break;
                    }
                }
                // A body that ends before what it promised must go on being one that does.
                Poll::Ready(None) if state.length == Some(state.buffered as u64) => {
                    return Taken::Whole(concat(state.frames.iter()), state.trailers.take());
                }
                Poll::Ready(None) => break,
                Poll::Ready(Some(Err(error))) => {
                    state.error = Some(error);
                    break;
                }
            }
        }
        if hint.lower() > per_body as u64 || !state.charge() {
            state.replayable = false;
        }
        Taken::Reader(Self::first(state))
    }

    /// As [`take`](Reader::take), but of a body whose length is not known its first frame is taken, too, if that is there
    /// already; one that ends with it, or before, is whole, whatever its size.
    pub(crate) fn take_ahead(mut body: B, per_body: usize, pool: &Arc<Pool>) -> Taken<B> {
        if body.is_end_stream() || body.size_hint().exact().is_some() {
            return match Self::take(body, per_body, Some(pool)) {
                Taken::Whole(data, trailers) => Taken::Whole(message(&data), trailers),
                reader => reader,
            };
        }
        let mut cx = Context::from_waker(Waker::noop());
        let first = match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(first))) if first.data_ref().is_some_and(Buf::has_remaining) => first,
            Poll::Ready(None) => return Taken::Whole(Bytes::new(), None),
            first => return Self::begun(body, per_body, pool, [first, Poll::Pending]),
        };
        match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(None) => {
                let whole = first.into_data().map(|mut data| message(&data.copy_to_bytes(data.remaining())));
                Taken::Whole(whole.unwrap_or_default(), None)
            }
            second => Self::begun(body, per_body, pool, [Poll::Ready(Some(Ok(first))), second]),
        }
    }

    /// Records a body of which this has come before anybody reads.
    fn begun(body: B, per_body: usize, pool: &Arc<Pool>, came: [Came<B>; 2]) -> Taken<B> {
        let mut state = State::new(Some(body), None, per_body, Some(Arc::clone(pool)));
        for came in came {
            match came {
                Poll::Pending => break,
                Poll::Ready(frame) => match state.came(frame) {
                    Some(Ok(frame)) => state.keep_unread(frame),
                    Some(Err(error)) => state.error = Some(error),
                    None => {}
                },
            }
        }
        state.replayable &= state.charge();
        Taken::Reader(Self::first(state))
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut others = Vec::new();
        let polled = self.poll_locked(cx, &mut others);
        // Not under the lock.
        others.into_iter().for_each(Waker::wake);
        polled
    }

    /// Gives back in `others` whom to wake.
    fn poll_locked(
        &mut self,
        cx: &mut Context<'_>,
        others: &mut Vec<Waker>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { shared, place } = self;
        let mut state = lock(shared);
        if place.number < state.first {
            return Poll::Ready(Some(Err(ReplayError::Superseded.into())));
        }
        for _ in 0..EMPTY_FRAMES {
            if place.read < state.passed {
                let Some(data) = state.frames.get(place.next).cloned() else {
                    return Poll::Ready(Some(Err(ReplayError::Overtaken.into())));
                };
                return Poll::Ready(Some(Ok(place.gives(data))));
            }
            match state.progress {
                Progress::Reading => {}
                Progress::Failed => {
                    let error = state.error.take().unwrap_or_else(|| ReplayError::SourceFailed.into());
                    return Poll::Ready(Some(Err(error)));
                }
                Progress::Ended => {
                    let trailers = state.trailers.as_ref().filter(|_| place.next != TRAILERS_READ);
                    return Poll::Ready(trailers.map(|trailers| {
                        place.next = TRAILERS_READ;
                        Ok(Frame::trailers(HeaderMap::clone(trailers)))
                    }));
                }
            }
            let frame = match ready!(state.poll_front(place.number, cx, others)) {
                Some(frame) => frame?,
                None => continue,
            };
            // Without anybody left who could read it again, there is nothing to record for.
            let alone = Arc::strong_count(shared) == 1;
            if let Some(data) = state.keep(frame, alone) {
                return Poll::Ready(Some(Ok(place.gives(data))));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<B> Reader<B> {
    fn first(state: State<B>) -> Self {
        Self { shared: Arc::new(Mutex::new(state)), place: Place::start(0) }
    }

    /// Of a body that is all there.
    pub(crate) fn of_whole(data: Bytes, trailers: Option<Box<HeaderMap>>) -> Self {
        let mut state = State::new(None, Some(data.len() as u64), 0, None);
        (state.progress, state.replayable, state.trailers) = (Progress::Ended, true, trailers);
        if !data.is_empty() {
            state.passed = data.len() as u64;
            state.frames.push(data);
        }
        Self::first(state)
    }

    fn next_of(&self, state: &mut State<B>) -> Self {
        state.last += 1;
        Self { shared: Arc::clone(&self.shared), place: Place::start(state.last) }
    }

    /// The only reader from now on: earlier ones are cut off, and told so. `None` if the body is not replayable.
    pub(crate) fn restarted(&self) -> Option<Self> {
        let mut state = lock(&self.shared);
        if !state.is_replayable() {
            return None;
        }
        if state.is_in_memory() {
            // Nobody has to make room.
            return Some(self.next_of(&mut state));
        }
        let reader = self.next_of(&mut state);
        state.first = reader.place.number;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.wake();
        Some(reader)
    }

    /// One more reader.
    pub(crate) fn fork(&self) -> Self {
        self.next_of(&mut lock(&self.shared))
    }

    pub(crate) fn is_replayable(&self) -> bool {
        lock(&self.shared).is_replayable()
    }
}

impl<B: Body> Reader<B> {
    /// Also of a source that has ended and that nobody has asked: who sees that a body is at its end reads no further.
    pub(crate) fn is_complete(&self) -> bool {
        let state = lock(&self.shared);
        let ended = || state.source.as_ref().is_some_and(Body::is_end_stream);
        state.replayable && (state.progress == Progress::Ended || ended())
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let state = lock(&self.shared);
        let ended = match &state.source {
            Some(source) => source.is_end_stream(),
            None => state.progress == Progress::Ended,
        };
        ended
            && self.place.read == state.passed
            && (state.trailers.is_none() || self.place.next == TRAILERS_READ)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let state = lock(&self.shared);
        if let Some(length) = state.length {
            return SizeHint::with_exact(length.saturating_sub(self.place.read));
        }
        let unread = state.passed - self.place.read;
        let rest = state.source.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(unread + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(unread + upper);
        }
        hint
    }
}

impl<B> fmt::Debug for Reader<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.shared);
        if state.is_in_memory() {
            return write!(f, "{} bytes in memory", state.passed);
        }
        f.write_str(if state.is_replayable() { "recording" } else { "not kept" })
    }
}
