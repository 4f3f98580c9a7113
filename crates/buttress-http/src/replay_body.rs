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

/// As small as [`Bytes`]: a client moves a request, and its body with it, some twenty times.
enum Kind<B> {
    /// A whole body without trailers, of which nothing has been read.
    Unread(Bytes),
    Other(Box<Other<B>>),
}

enum Other<B> {
    Memory(Memory),
    Recording(Reader<B>),
}

/// A whole body that has trailers, or of which something has been read.
#[derive(Clone, Debug)]
struct Memory {
    data: Bytes,
    data_read: bool,
    trailers: Option<HeaderMap>,
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
            Taken::Whole(data, trailers) => Kind::whole(data, trailers),
            Taken::Reader(reader) => Kind::recording(reader),
        };
        Self { kind }
    }

    /// The first reader again: earlier ones are cut off. `None`, and no harm done, if the body is not replayable.
    pub(crate) fn restarted(&self) -> Option<Self> {
        let kind = match self.kind.reader() {
            Some(reader) => Kind::recording(reader.restarted()?),
            None => self.kind.unread(),
        };
        Some(Self { kind })
    }

    /// Another reader from the start, beside those that there are: for two attempts at once. What it reads is the whole
    /// body only if the body is [replayable](ReplayBody::is_replayable).
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { kind: self.kind.unread() }
    }

    /// The whole body, if it is in memory and nothing of it has been read.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Unread(data) => Some(data),
            _ => None,
        }
    }

    /// Whether a fork would give the whole body.
    pub fn is_replayable(&self) -> bool {
        self.kind.reader().is_none_or(Reader::is_replayable)
    }

    /// Whether the whole body has been recorded.
    pub fn is_complete(&self) -> bool {
        self.kind.reader().is_none_or(Reader::is_complete)
    }
}

impl<B> Kind<B> {
    fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        match trailers {
            None => Self::Unread(data),
            trailers => Self::memory(Memory { data, data_read: false, trailers, trailers_read: false }),
        }
    }

    fn memory(memory: Memory) -> Self {
        Self::Other(Box::new(Other::Memory(memory)))
    }

    fn recording(reader: Reader<B>) -> Self {
        Self::Other(Box::new(Other::Recording(reader)))
    }

    fn reader(&self) -> Option<&Reader<B>> {
        match self {
            Self::Other(other) => match &**other {
                Other::Recording(reader) => Some(reader),
                Other::Memory(_) => None,
            },
            Self::Unread(_) => None,
        }
    }

    /// The same from the start.
    fn unread(&self) -> Self {
        match self {
            Self::Unread(data) => Self::Unread(data.clone()),
            Self::Other(other) => match &**other {
                Other::Memory(memory) => Self::whole(memory.data.clone(), memory.trailers.clone()),
                Other::Recording(reader) => Self::recording(reader.fork()),
            },
        }
    }
}

impl Memory {
    fn left(&self) -> usize {
        if self.data_read { 0 } else { self.data.len() }
    }

    fn next(&mut self) -> Option<Frame<Bytes>> {
        if self.left() > 0 {
            self.data_read = true;
            return Some(Frame::data(self.data.clone()));
        }
        let trailers = self.trailers.as_ref().filter(|_| !std::mem::replace(&mut self.trailers_read, true));
        trailers.map(|trailers| Frame::trailers(trailers.clone()))
    }

    fn is_over(&self) -> bool {
        self.left() == 0 && (self.trailers.is_none() || self.trailers_read)
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
        let kind = &mut self.get_mut().kind;
        match kind {
            Kind::Unread(data) if data.is_empty() => Poll::Ready(None),
            Kind::Unread(data) => {
                let data = std::mem::take(data);
                let frame = Frame::data(data.clone());
                *kind = Kind::memory(Memory { data, data_read: true, trailers: None, trailers_read: false });
                Poll::Ready(Some(Ok(frame)))
            }
            Kind::Other(other) => match &mut **other {
                Other::Memory(memory) => Poll::Ready(memory.next().map(Ok)),
                Other::Recording(reader) => reader.poll_frame(cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Unread(data) => data.is_empty(),
            Kind::Other(other) => match &**other {
                Other::Memory(memory) => memory.is_over(),
                Other::Recording(reader) => reader.is_end_stream(),
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Unread(data) => SizeHint::with_exact(data.len() as u64),
            Kind::Other(other) => match &**other {
                Other::Memory(memory) => SizeHint::with_exact(memory.left() as u64),
                Other::Recording(reader) => reader.size_hint(),
            },
        }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the contents: bodies hold secrets.
        match &self.kind {
            Kind::Unread(data) => write!(f, "ReplayBody({} bytes in memory)", data.len()),
            Kind::Other(other) => match &**other {
                Other::Memory(memory) => write!(f, "ReplayBody({} bytes in memory)", memory.data.len()),
                Other::Recording(reader) => write!(f, "ReplayBody({reader:?})"),
            },
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

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[test]
    fn a_body_is_as_small_as_its_bytes() {
        assert_eq!(size_of::<ReplayBody<Full<Bytes>>>(), size_of::<Bytes>());
    }
}
