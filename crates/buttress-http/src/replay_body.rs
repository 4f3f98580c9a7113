//! A request body that can be read again.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use buttress_core::BoxError;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::recording::{Pool, Reader, Taken};

/// A request body that is recorded while it is read, so that clones of it can be read again from the start.
///
/// * A body that is in memory, as one piece or within the cap, is taken as it is: nothing is copied and nothing shared
///   ([`as_bytes`](ReplayBody::as_bytes)).
/// * Another one is recorded up to a cap as it streams. Several clones may read at once, each at its own pace; one that
///   falls behind a body that has meanwhile exceeded the cap fails with [`ReplayError::Overtaken`].
/// * Over the cap the recording is dropped. Whoever reads at the front goes on unharmed; there are no further clones
///   worth sending ([`is_replayable`](ReplayBody::is_replayable)).
/// * Trailers are replayed. `size_hint` is exact for every clone if it was exact at first, so that a `content-length`
///   stays one, and a body that ends before what it promised is one that ends early every time.
pub struct ReplayBody<B> {
    kind: Kind<B>,
}

enum Kind<B> {
    Memory(Memory),
    Recording(Reader<B>),
}

/// A whole body.
#[derive(Clone, Debug, Default)]
struct Memory {
    data: Bytes,
    data_read: bool,
    trailers: Option<Box<HeaderMap>>,
    trailers_read: bool,
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

impl<B> ReplayBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Records up to `per_body` bytes, as far as the pool allows.
    pub(crate) fn new(body: B, per_body: usize, pool: &Arc<Pool>) -> Self {
        Self::taken(Reader::take(body, per_body, Some(Arc::clone(pool))))
    }

    /// Is read once and not recorded.
    pub(crate) fn unrecorded(body: B) -> Self {
        Self::taken(Reader::take(body, 0, None))
    }

    fn taken(taken: Taken<B>) -> Self {
        let kind = match taken {
            Taken::Whole(data, trailers) => Kind::Memory(Memory::new(data, trailers)),
            Taken::Reader(reader) => Kind::Recording(reader),
        };
        Self { kind }
    }

    /// The first reader again: earlier ones are cut off. `None`, and no harm done, if the body is not replayable.
    pub(crate) fn restarted(&self) -> Option<Self> {
        let kind = match &self.kind {
            Kind::Memory(memory) => Kind::Memory(memory.unread()),
            Kind::Recording(reader) => Kind::Recording(reader.restarted()?),
        };
        Some(Self { kind })
    }

    /// Another reader from the start, beside those that there are: for two attempts at once. What it reads is the whole
    /// body only if the body is [replayable](ReplayBody::is_replayable).
    #[must_use]
    pub fn fork(&self) -> Self {
        let kind = match &self.kind {
            Kind::Memory(memory) => Kind::Memory(memory.unread()),
            Kind::Recording(reader) => Kind::Recording(reader.fork()),
        };
        Self { kind }
    }

    /// The whole body, if it is in memory and nothing of it has been read.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Memory(Memory { data, data_read: false, trailers: None, .. }) => Some(data),
            _ => None,
        }
    }

    /// Whether a fork would give the whole body.
    pub fn is_replayable(&self) -> bool {
        match &self.kind {
            Kind::Memory(_) => true,
            Kind::Recording(reader) => reader.is_replayable(),
        }
    }

    /// Whether the whole body has been recorded.
    pub fn is_complete(&self) -> bool {
        match &self.kind {
            Kind::Memory(_) => true,
            Kind::Recording(reader) => reader.is_complete(),
        }
    }
}

impl Memory {
    fn new(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { data, data_read: false, trailers: trailers.map(Box::new), trailers_read: false }
    }

    fn unread(&self) -> Self {
        Self { data_read: false, trailers_read: false, ..self.clone() }
    }

    fn left(&self) -> usize {
        if self.data_read { 0 } else { self.data.len() }
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
        let memory = match &mut self.get_mut().kind {
            Kind::Recording(reader) => return reader.poll_frame(cx),
            Kind::Memory(memory) => memory,
        };
        if memory.left() > 0 {
            memory.data_read = true;
            return Poll::Ready(Some(Ok(Frame::data(memory.data.clone()))));
        }
        let trailers =
            memory.trailers.as_ref().filter(|_| !std::mem::replace(&mut memory.trailers_read, true));
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(HeaderMap::clone(trailers)))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Memory(memory) => memory.left() == 0 && (memory.trailers.is_none() || memory.trailers_read),
            Kind::Recording(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Memory(memory) => SizeHint::with_exact(memory.left() as u64),
            Kind::Recording(reader) => reader.size_hint(),
        }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the contents: bodies hold secrets.
        match &self.kind {
            Kind::Memory(memory) => write!(f, "ReplayBody({} bytes in memory)", memory.data.len()),
            Kind::Recording(reader) => write!(f, "ReplayBody({reader:?})"),
        }
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
