//! A request body that can be read again.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use buttress_core::BoxError;
use bytes::{Bytes, BytesMut};
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
    Reader(Reader<B>),
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
        Self::taken(Reader::take(body, per_body, Some(pool)))
    }

    /// As [`new`](ReplayBody::new), and reads what is there of a body whose length is not known.
    pub(crate) fn ahead(body: B, per_body: usize, pool: &Arc<Pool>) -> Self {
        Self::taken(Reader::take_ahead(body, per_body, pool))
    }

    /// Is read once and not recorded.
    pub(crate) fn unrecorded(body: B) -> Self {
        Self::taken(Reader::take(body, 0, None))
    }

    fn taken(taken: Taken<B>) -> Self {
        let kind = match taken {
            Taken::Whole(data, None) => Kind::Unread(data),
            Taken::Whole(data, trailers) => Kind::Reader(Reader::of_whole(data, trailers)),
            Taken::Reader(reader) => Kind::Reader(reader),
        };
        Self { kind }
    }

    /// The first reader again: earlier ones are cut off. `None`, and no harm done, if the body is not replayable.
    pub fn restarted(&self) -> Option<Self> {
        let kind = match &self.kind {
            Kind::Unread(data) => Kind::Unread(data.clone()),
            Kind::Reader(reader) => Kind::Reader(reader.restarted()?),
        };
        Some(Self { kind })
    }

    /// Another reader from the start, beside those that there are: for two attempts at once. What it reads is the whole
    /// body only if the body is [replayable](ReplayBody::is_replayable).
    #[must_use]
    pub fn fork(&self) -> Self {
        self.clone()
    }

    /// The whole body, if it is in memory and nothing of it has been read.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Unread(data) => Some(data),
            Kind::Reader(_) => None,
        }
    }

    /// The whole body, if it is in memory and nothing of it has been read; else the body as it is.
    ///
    /// # Errors
    ///
    /// That is no failure: the body has to be read.
    pub fn try_into_bytes(self) -> Result<Bytes, Self> {
        match self.kind {
            Kind::Unread(data) => Ok(data),
            kind @ Kind::Reader(_) => Err(Self { kind }),
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

/// No body: for a request that is made beneath a stack, such as that of a health check.
impl<B> Default for ReplayBody<B> {
    fn default() -> Self {
        Self::from(Bytes::new())
    }
}

/// The whole of a body, for a request that is made beneath a stack.
///
/// ```
/// # use buttress_http::ReplayBody;
/// # use http_body_util::Full;
/// let body = ReplayBody::<Full<bytes::Bytes>>::from(bytes::Bytes::from("ping"));
/// assert_eq!(body.as_bytes().unwrap(), "ping");
/// ```
impl<B> From<Bytes> for ReplayBody<B> {
    fn from(whole: Bytes) -> Self {
        Self { kind: Kind::Unread(whole) }
    }
}

/// As [`fork`](ReplayBody::fork).
impl<B> Clone for ReplayBody<B> {
    fn clone(&self) -> Self {
        let kind = match &self.kind {
            Kind::Unread(data) => Kind::Unread(data.clone()),
            Kind::Reader(reader) => Kind::Reader(reader.fork()),
        };
        Self { kind }
    }
}

impl<B> Kind<B> {
    fn reader(&self) -> Option<&Reader<B>> {
        match self {
            Self::Reader(reader) => Some(reader),
            Self::Unread(_) => None,
        }
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
                let mut reader = Reader::of_whole(std::mem::take(data), None);
                let frame = reader.poll_frame(cx);
                *kind = Kind::Reader(reader);
                frame
            }
            Kind::Reader(reader) => reader.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Unread(data) => data.is_empty(),
            Kind::Reader(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Unread(data) => SizeHint::with_exact(data.len() as u64),
            Kind::Reader(reader) => reader.size_hint(),
        }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the contents: bodies hold secrets.
        match &self.kind {
            Kind::Unread(data) => write!(f, "ReplayBody({} bytes in memory)", data.len()),
            Kind::Reader(reader) => write!(f, "ReplayBody({reader:?})"),
        }
    }
}

/// One piece of several; a single one is not copied.
pub(crate) fn concat<'a>(pieces: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let mut rest = pieces.clone();
    match (rest.next(), rest.next()) {
        (None, _) => Bytes::new(),
        (Some(piece), None) => piece.clone(),
        (Some(_), Some(_)) => {
            let mut all = BytesMut::with_capacity(pieces.clone().map(Bytes::len).sum());
            pieces.for_each(|piece| all.extend_from_slice(piece));
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
