//! A body that is read by several readers, and recorded for those to come.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use buttress_core::BoxError;
use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::replay_body::{ReplayError, concat};

/// Bounds what all recordings hold together.
#[derive(Debug)]
pub(crate) struct Pool {
    used: AtomicUsize,
    limit: usize,
}

impl Pool {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.limit);
        self.used.fetch_update(Relaxed, Relaxed, taken).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// What a body turned out to be.
pub(crate) enum Taken<B> {
    /// All there already.
    Whole(Bytes, Option<HeaderMap>),
    Reader(Reader<B>),
}

/// One reader of a body that is not all there yet.
pub(crate) struct Reader<B> {
    shared: Arc<Shared<B>>,
    /// The next frame.
    next: usize,
    read: u64,
    trailers_read: bool,
    generation: u64,
}

struct Shared<B> {
    state: Mutex<State<B>>,
    wakers: Arc<Wakers>,
}

struct State<B> {
    source: Option<B>,
    frames: Vec<Bytes>,
    /// How many frames the source has given; `frames` has them all while the body is replayable.
    front: usize,
    buffered: usize,
    trailers: Option<HeaderMap>,
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
    /// Readers of earlier generations are cut off.
    generation: u64,
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

/// Wakes all readers of a body: any of them may go on when the source does.
#[derive(Debug, Default)]
struct Wakers(Mutex<Vec<Waker>>);

impl Wakers {
    fn add(&self, waker: &Waker) {
        let mut wakers = lock(&self.0);
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        let wakers = std::mem::take(&mut *lock(&self.0));
        wakers.into_iter().for_each(Waker::wake);
    }
}

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
        let mut state = State::new(body, hint.exact(), per_body, pool);
        let mut cx = Context::from_waker(Waker::noop());
        while state.length.is_some() && (state.replayable || state.front == 0) {
            match state.poll_source(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(frame))) => state.keep_unread(frame),
                // A body that ends before what it promised must go on being one that does.
                Poll::Ready(None) if state.length == Some(state.buffered as u64) => {
                    return Taken::Whole(concat(&state.frames), state.trailers.take());
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
        let shared = Arc::new(Shared { state: Mutex::new(state), wakers: Arc::default() });
        Taken::Reader(Self::at_start(shared, 0))
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = lock(&self.shared.state);
        if self.generation < state.generation {
            return Poll::Ready(Some(Err(ReplayError::Superseded.into())));
        }
        loop {
            if self.next < state.front {
                let Some(data) = state.frames.get(self.next).cloned() else {
                    return Poll::Ready(Some(Err(ReplayError::Overtaken.into())));
                };
                self.next += 1;
                self.read += data.len() as u64;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            match state.progress {
                Progress::Reading => {}
                Progress::Failed => {
                    let error = state.error.take().unwrap_or_else(|| ReplayError::SourceFailed.into());
                    return Poll::Ready(Some(Err(error)));
                }
                Progress::Ended => {
                    let trailers =
                        state.trailers.clone().filter(|_| !std::mem::replace(&mut self.trailers_read, true));
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
            }
            // Whoever reads at the front may be any of the readers: all are woken.
            self.shared.wakers.add(cx.waker());
            let waker = Waker::from(Arc::clone(&self.shared.wakers));
            let frame = match ready!(state.poll_source(&mut Context::from_waker(&waker))) {
                Some(frame) => frame?,
                None => continue,
            };
            // Without anybody left who could read it again, there is nothing to record for.
            let alone = Arc::strong_count(&self.shared) == 1;
            if let Some(data) = state.keep(frame, alone) {
                self.next += 1;
                self.read += data.len() as u64;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }
}

impl<B> Reader<B> {
    fn at_start(shared: Arc<Shared<B>>, generation: u64) -> Self {
        Self { shared, next: 0, read: 0, trailers_read: false, generation }
    }

    /// The only reader from now on: earlier ones are cut off, and told so. `None` if the body is not replayable.
    pub(crate) fn restarted(&self) -> Option<Self> {
        let mut state = lock(&self.shared.state);
        if !state.is_replayable() {
            return None;
        }
        state.generation += 1;
        let reader = Self::at_start(Arc::clone(&self.shared), state.generation);
        drop(state);
        Arc::clone(&self.shared.wakers).wake();
        Some(reader)
    }

    /// One more reader.
    pub(crate) fn fork(&self) -> Self {
        let generation = lock(&self.shared.state).generation;
        Self::at_start(Arc::clone(&self.shared), generation)
    }

    pub(crate) fn is_replayable(&self) -> bool {
        lock(&self.shared.state).is_replayable()
    }
}

impl<B: Body> Reader<B> {
    /// Also of a source that has ended and that nobody has asked: who sees that a body is at its end reads no further.
    pub(crate) fn is_complete(&self) -> bool {
        let state = lock(&self.shared.state);
        let ended = || state.source.as_ref().is_some_and(Body::is_end_stream);
        state.replayable && (state.progress == Progress::Ended || ended())
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let state = lock(&self.shared.state);
        let ended = match &state.source {
            Some(source) => source.is_end_stream(),
            None => state.progress == Progress::Ended,
        };
        ended && self.next == state.front && (state.trailers.is_none() || self.trailers_read)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let state = lock(&self.shared.state);
        if let Some(length) = state.length {
            return SizeHint::with_exact(length.saturating_sub(self.read));
        }
        let unread: u64 = state.frames.iter().skip(self.next).map(|data| data.len() as u64).sum();
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
        f.write_str(if self.is_replayable() { "recording" } else { "not kept" })
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
        let whole = self.front == 0 && self.length == Some(data.len() as u64);
        self.replayable &= whole || self.buffered <= self.per_body;
        self.front += 1;
        self.frames.push(data);
    }

    /// While it is being read. The data, if it is any.
    fn keep(&mut self, frame: Frame<B::Data>, alone: bool) -> Option<Bytes> {
        let data = self.take_data(frame)?;
        self.front += 1;
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
    fn new(source: B, length: Option<u64>, per_body: usize, pool: Option<Arc<Pool>>) -> Self {
        Self {
            source: Some(source),
            frames: Vec::new(),
            front: 0,
            buffered: 0,
            trailers: None,
            progress: Progress::Reading,
            length,
            per_body,
            replayable: pool.is_some(),
            pool,
            charged: 0,
            error: None,
            generation: 0,
        }
    }

    fn is_replayable(&self) -> bool {
        self.replayable && self.progress != Progress::Failed
    }

    /// Accounts for what has been recorded; `false` if there is no room for it.
    fn charge(&mut self) -> bool {
        let Some(pool) = &self.pool else { return false };
        let owed = self.buffered + self.frames.len() * FRAME_OVERHEAD - self.charged;
        let charged = pool.take(owed);
        self.charged += if charged { owed } else { 0 };
        charged
    }

    /// Forgets the recording. Only whoever reads at the front can go on.
    fn stop_recording(&mut self) {
        self.replayable = false;
        self.frames = Vec::new();
        if let Some(pool) = &self.pool {
            pool.give_back(std::mem::take(&mut self.charged));
        }
    }
}

impl<B> Drop for State<B> {
    fn drop(&mut self) {
        self.stop_recording();
    }
}
