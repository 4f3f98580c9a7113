//! A request body that can be read again.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use buttress_core::BoxError;
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// A request body that is recorded while it is read, so that clones of it can be read again from the start.
///
/// * A body that is in memory is taken as it is: nothing is copied and nothing shared
///   ([`as_bytes`](ReplayBody::as_bytes)).
/// * Another one is recorded up to a cap as it streams. Several clones may read at once, each at its own pace; one that
///   falls behind a body that has meanwhile exceeded the cap fails with [`ReplayError::Overtaken`].
/// * Over the cap the recording is dropped. Whoever reads at the front goes on unharmed; there are no further clones
///   worth sending ([`is_replayable`](ReplayBody::is_replayable)).
/// * Trailers are replayed. `size_hint` is exact for every clone if it was exact at first, so that a `content-length`
///   stays one.
pub struct ReplayBody<B> {
    kind: Kind<B>,
}

enum Kind<B> {
    Memory(Memory),
    Shared(Reader<B>),
    /// Too large to be kept; behind a lock only so that it need not be `Sync`.
    Through(Mutex<B>),
}

/// A whole body.
#[derive(Clone, Debug, Default)]
struct Memory {
    data: Bytes,
    trailers: Option<Box<HeaderMap>>,
}

/// One reader of a shared body.
struct Reader<B> {
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
    /// The exact length, if the source knew it.
    length: Option<u64>,
    per_body: usize,
    pool: Arc<Pool>,
    /// What of `buffered` the pool has been asked for.
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

/// Why a clone of a body cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplayError {
    /// A later attempt has begun; nobody waits for this one.
    Superseded,
    /// The body exceeded its cap, and another reader was ahead.
    Overtaken,
    /// The body itself failed while another clone read it.
    SourceFailed,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superseded => "a later attempt has taken over this request body",
            Self::Overtaken => "the request body is too large to be kept, and another attempt was ahead",
            Self::SourceFailed => "the request body failed while another attempt read it",
        })
    }
}

impl std::error::Error for ReplayError {}

/// Bounds what all recorded bodies hold together.
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

/// One piece of several; a single one is not copied.
pub(crate) fn concat(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [] => Bytes::new(),
        [piece] => piece.clone(),
        pieces => {
            let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
            pieces.iter().for_each(|piece| all.extend_from_slice(piece));
            all.freeze()
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> ReplayBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Records up to `per_body` bytes, as far as the pool allows.
    pub(crate) fn new(body: B, per_body: usize, pool: &Arc<Pool>) -> Self {
        let hint = body.size_hint();
        if body.is_end_stream() {
            return Self { kind: Kind::Memory(Memory::default()) };
        }
        if hint.lower() > per_body as u64 {
            return Self { kind: Kind::Through(Mutex::new(body)) };
        }
        let mut state = State::new(hint.exact(), per_body, Arc::clone(pool));
        // A body of known size that is there already is in memory, and may stay there.
        let mut cx = Context::from_waker(Waker::noop());
        state.source = Some(body);
        while state.length.is_some() {
            match state.poll_source(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(frame))) => drop(state.keep(frame)),
                Poll::Ready(None) => return Self { kind: Kind::Memory(state.into_memory()) },
                Poll::Ready(Some(Err(error))) => {
                    state.error = Some(error);
                    break;
                }
            }
        }
        state.charge_all();
        let shared = Arc::new(Shared { state: Mutex::new(state), wakers: Arc::default() });
        Self { kind: Kind::Shared(Reader::new(shared, 0)) }
    }

    /// The first reader again: earlier ones are cut off. `None`, and no harm done, if the body is not replayable.
    pub(crate) fn restarted(&self) -> Option<Self> {
        let kind = match &self.kind {
            Kind::Memory(memory) => Kind::Memory(memory.clone()),
            Kind::Shared(reader) => {
                let mut state = lock(&reader.shared.state);
                if !state.replayable || state.progress == Progress::Failed {
                    return None;
                }
                state.generation += 1;
                let reader = Reader::new(Arc::clone(&reader.shared), state.generation);
                drop(state);
                Arc::clone(&reader.shared.wakers).wake();
                Kind::Shared(reader)
            }
            Kind::Through(_) => return None,
        };
        Some(Self { kind })
    }

    /// Another reader from the start, beside those that there are: for two attempts at once. `None` if the body is not
    /// kept at all.
    pub fn fork(&self) -> Option<Self> {
        let kind = match &self.kind {
            Kind::Memory(memory) => Kind::Memory(memory.clone()),
            Kind::Shared(reader) => {
                let generation = lock(&reader.shared.state).generation;
                Kind::Shared(Reader::new(Arc::clone(&reader.shared), generation))
            }
            Kind::Through(_) => return None,
        };
        Some(Self { kind })
    }

    /// The whole body, if it is in memory and nothing of it has been read.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Memory(memory) if memory.trailers.is_none() => Some(&memory.data),
            _ => None,
        }
    }

    /// Whether a clone would give the whole body.
    pub fn is_replayable(&self) -> bool {
        match &self.kind {
            Kind::Memory(_) => true,
            Kind::Shared(reader) => {
                let state = lock(&reader.shared.state);
                state.replayable && state.progress != Progress::Failed
            }
            Kind::Through(_) => false,
        }
    }

    /// Whether the whole body has been recorded.
    pub fn is_complete(&self) -> bool {
        match &self.kind {
            Kind::Memory(_) => true,
            Kind::Shared(reader) => {
                let state = lock(&reader.shared.state);
                state.replayable && state.progress == Progress::Ended
            }
            Kind::Through(_) => false,
        }
    }
}

impl<B> State<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Records a frame; the data, if it is data.
    fn keep(&mut self, frame: Frame<B::Data>) -> Option<Bytes> {
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.trailers.get_or_insert_default().extend(trailers);
                }
                return None;
            }
        };
        let data = data.copy_to_bytes(data.remaining());
        self.front += 1;
        if self.replayable && self.buffered + data.len() <= self.per_body {
            self.buffered += data.len();
            self.frames.push(data.clone());
        } else if self.replayable {
            self.stop_recording();
        }
        Some(data)
    }

    /// Accounts for what has been recorded. What the pool has no room for is not replayed; whoever reads it may do so to
    /// the end.
    fn charge_all(&mut self) {
        let owed = self.buffered - self.charged;
        if self.replayable && self.pool.take(owed) {
            self.charged += owed;
        } else {
            self.replayable = false;
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

    fn into_memory(mut self) -> Memory {
        let data = concat(&self.frames);
        Memory { data, trailers: self.trailers.take().map(Box::new) }
    }
}

impl<B> State<B> {
    fn new(length: Option<u64>, per_body: usize, pool: Arc<Pool>) -> Self {
        Self {
            source: None,
            frames: Vec::new(),
            front: 0,
            buffered: 0,
            trailers: None,
            progress: Progress::Reading,
            length,
            per_body,
            pool,
            charged: 0,
            replayable: true,
            error: None,
            generation: 0,
        }
    }

    /// Forgets the recording. Only whoever reads at the front can go on.
    fn stop_recording(&mut self) {
        self.replayable = false;
        self.frames = Vec::new();
        self.buffered = 0;
        self.pool.give_back(std::mem::take(&mut self.charged));
    }
}

impl<B> Drop for State<B> {
    fn drop(&mut self) {
        self.stop_recording();
    }
}

impl<B> Reader<B> {
    fn new(shared: Arc<Shared<B>>, generation: u64) -> Self {
        Self { shared, next: 0, read: 0, trailers_read: false, generation }
    }
}

impl<B> Reader<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
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
            let alone = Arc::strong_count(&self.shared) == 1;
            if alone && state.replayable {
                // Nobody is left who could read it again.
                state.stop_recording();
            }
            if let Some(data) = state.keep(frame) {
                state.charge_all();
                self.next += 1;
                self.read += data.len() as u64;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.shared.state);
        let ended = match &state.source {
            Some(source) => source.is_end_stream(),
            None => state.progress == Progress::Ended,
        };
        ended && self.next == state.front && (state.trailers.is_none() || self.trailers_read)
    }

    fn size_hint(&self) -> SizeHint {
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

impl<B> Body for ReplayBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().kind {
            Kind::Memory(memory) => {
                if !memory.data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut memory.data)))));
                }
                Poll::Ready(memory.trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            Kind::Shared(reader) => reader.poll_frame(cx),
            Kind::Through(body) => {
                let body = body.get_mut().unwrap_or_else(PoisonError::into_inner);
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| {
                    frame
                        .map_err(Into::into)
                        .map(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Memory(memory) => memory.data.is_empty() && memory.trailers.is_none(),
            Kind::Shared(reader) => reader.is_end_stream(),
            Kind::Through(body) => lock(body).is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Memory(memory) => SizeHint::with_exact(memory.data.len() as u64),
            Kind::Shared(reader) => reader.size_hint(),
            Kind::Through(body) => lock(body).size_hint(),
        }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the contents: bodies hold secrets.
        let kind = match &self.kind {
            Kind::Memory(memory) => return write!(f, "ReplayBody({} bytes in memory)", memory.data.len()),
            Kind::Shared(reader) => {
                if lock(&reader.shared.state).replayable {
                    "recording"
                } else {
                    "too large"
                }
            }
            Kind::Through(_) => "too large",
        };
        write!(f, "ReplayBody({kind})")
    }
}
