//! A body that is read by several readers, and recorded for those to come.

mod frames;
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
use frames::Frames;
pub(crate) use frames::Pool;
use waiting::Waiting;

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

struct State<B> {
    source: Option<B>,
    /// All that the source has given, while the body is replayable; none of them is empty.
    frames: Frames,
    /// How many bytes the source has given: whoever has read as many is at the front.
    passed: u64,
    buffered: usize,
    trailers: Option<Box<HeaderMap>>,
    progress: Progress,
    /// The exact length, if the source promised one.
    length: Option<u64>,
    per_body: usize,
    /// `None` for a body that is not to be recorded.
    pool: Option<Arc<Pool>>,
    /// What the pool has been asked for.
    charged: usize,
    replayable: bool,
    /// Why the source failed, for whoever reads at the front.
    error: Option<BoxError>,
    /// Readers before this one are cut off.
    first: u32,
    /// The last reader there has been.
    last: u32,
    waiting: Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Reading,
    Ended,
    Failed,
}

/// What a frame costs beside its data.
const FRAME_OVERHEAD: usize = 64;

/// A smaller frame is copied when it is recorded: it may be a slice of a buffer many times its size.
const COPIED_BELOW: usize = 4096;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> Reader<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Takes what is there already of a body whose length is known, and records the rest as it is read.
    pub(crate) fn take(body: B, per_body: usize, pool: Option<Arc<Pool>>) -> Taken<B> {
        if body.is_end_stream() {
            return Taken::Whole(Bytes::new(), None);
        }
        let hint = body.size_hint();
        let mut state = State::new(Some(body), hint.exact(), per_body, pool);
        let mut cx = Context::from_waker(Waker::noop());
        while state.length.is_some() && (state.replayable || state.passed == 0) {
            match state.poll_source(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(frame))) => state.keep_unread(frame),
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

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { shared, place } = self;
        let mut state = lock(shared);
        if place.number < state.first {
            return Poll::Ready(Some(Err(ReplayError::Superseded.into())));
        }
        loop {
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
            let frame = match ready!(state.poll_front(place.number, cx)) {
                Some(frame) => frame?,
                None => continue,
            };
            // Without anybody left who could read it again, there is nothing to record for.
            let alone = Arc::strong_count(shared) == 1;
            if let Some(data) = state.keep(frame, alone) {
                return Poll::Ready(Some(Ok(place.gives(data))));
            }
        }
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

impl<B> State<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Before anybody reads: what has come is kept in any case, and one that exceeds the cap is the last.
    fn keep_unread(&mut self, frame: Frame<B::Data>) {
        let Some(data) = self.take_data(frame) else { return };
        self.buffered += data.len();
        // All there is, in one piece, costs nothing to keep.
        let whole = self.passed == 0 && self.length == Some(data.len() as u64);
        self.replayable &= whole || self.buffered <= self.per_body;
        self.passed += data.len() as u64;
        self.frames.push(data);
    }

    /// While it is being read. The data, if it is any.
    fn keep(&mut self, frame: Frame<B::Data>, alone: bool) -> Option<Bytes> {
        let data = self.take_data(frame)?;
        self.passed += data.len() as u64;
        if self.replayable {
            self.buffered += data.len();
            let recorded =
                if data.len() < COPIED_BELOW { Bytes::copy_from_slice(&data) } else { data.clone() };
            self.frames.push(recorded);
            if alone || self.buffered > self.per_body || !self.charge() {
                self.stop_recording();
            }
        }
        Some(data)
    }

    /// The data of a frame; trailers are kept aside, and empty frames say nothing.
    fn take_data(&mut self, frame: Frame<B::Data>) -> Option<Bytes> {
        match frame.into_data() {
            Ok(mut data) => Some(data.copy_to_bytes(data.remaining())).filter(|data| !data.is_empty()),
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.trailers.get_or_insert_default().extend(trailers);
                }
                None
            }
        }
    }

    /// For the reader of this number, which is at the front.
    fn poll_front(
        &mut self,
        number: u32,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        match self.waiting.shared(number, cx) {
            Some(waker) => self.poll_source(&mut Context::from_waker(&waker)),
            None => {
                let polled = self.poll_source(cx);
                if polled.is_pending() {
                    self.waiting.waits_alone(cx);
                }
                polled
            }
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(source).poll_frame(cx)).map(|frame| frame.map_err(Into::into));
        self.progress = match &frame {
            Some(Ok(_)) => Progress::Reading,
            Some(Err(_)) => Progress::Failed,
            None => Progress::Ended,
        };
        if self.progress != Progress::Reading {
            self.source = None;
        }
        Poll::Ready(frame)
    }
}

impl<B> State<B> {
    fn new(source: Option<B>, length: Option<u64>, per_body: usize, pool: Option<Arc<Pool>>) -> Self {
        Self {
            source,
            frames: Frames::default(),
            passed: 0,
            buffered: 0,
            trailers: None,
            progress: Progress::Reading,
            length,
            per_body,
            replayable: pool.is_some(),
            pool,
            charged: 0,
            error: None,
            first: 0,
            last: 0,
            waiting: Waiting::default(),
        }
    }

    fn is_replayable(&self) -> bool {
        self.replayable && self.progress != Progress::Failed
    }

    /// Whether it was all there before anybody read it.
    fn is_in_memory(&self) -> bool {
        self.replayable && self.pool.is_none()
    }

    /// Accounts for what has been recorded; `false` if there is no room for it.
    fn charge(&mut self) -> bool {
        let Some(pool) = &self.pool else { return false };
        let owed = self.buffered + self.frames.len() * FRAME_OVERHEAD - self.charged;
        let charged = owed == 0 || pool.take(owed);
        self.charged += if charged { owed } else { 0 };
        charged
    }

    /// Forgets the recording. Only whoever reads at the front can go on.
    fn stop_recording(&mut self) {
        self.replayable = false;
        self.frames = Frames::default();
        if let (Some(pool), 1..) = (&self.pool, self.charged) {
            pool.give_back(std::mem::take(&mut self.charged));
        }
    }
}

impl<B> Drop for State<B> {
    fn drop(&mut self) {
        self.stop_recording();
    }
}
