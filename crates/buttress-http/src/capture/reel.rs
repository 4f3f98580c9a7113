//! What is read of a body, and kept.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::BoxError;
use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;

use crate::replay_body::concat;
use crate::stored::StoredResponse;

pin_project! {
    /// A body that is recorded. Boxed, once: it is large, and an answer is moved from layer to layer.
    pub(super) struct Reel<B> {
        #[pin]
        pub(super) body: B,
        pub(super) tape: Tape,
    }
}

/// What of a stored body is still to be told. Few have trailers.
pub(super) struct Left {
    data: Bytes,
    trailers: Option<Box<HeaderMap>>,
}

impl Left {
    pub(super) fn new(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { data, trailers: trailers.map(Box::new) }
    }

    pub(super) fn next(&mut self) -> Option<Frame<Bytes>> {
        if self.data.is_empty() {
            return self.trailers.take().map(|trailers| Frame::trailers(*trailers));
        }
        Some(Frame::data(std::mem::take(&mut self.data)))
    }

    pub(super) fn is_over(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    pub(super) fn data_left(&self) -> u64 {
        self.data.len() as u64
    }
}

/// Data and trailers that are withheld.
type Held = [Option<Frame<Bytes>>; 2];

/// A recording in progress.
pub(super) struct Tape {
    pub(super) record: StoredResponse,
    pub(super) data: Vec<Bytes>,
    /// What is left of the cap; `None` once the body has exceeded it.
    pub(super) left: Option<usize>,
    /// Whether the recording is over then.
    pub(super) stops: bool,
    /// What of the declared length has not come yet.
    pub(super) unsent: Option<u64>,
    /// The end, as far as it has been seen: it is told when the record is durable.
    pub(super) held: Held,
}

impl Tape {
    pub(super) fn record(&mut self, data: &Bytes) {
        self.unsent = self.unsent.map(|unsent| unsent.saturating_sub(data.len() as u64));
        match self.left.and_then(|left| left.checked_sub(data.len())) {
            Some(left) => {
                self.left = Some(left);
                self.data.push(data.clone());
            }
            None => self.stop(),
        }
    }

    /// What was withheld, piece by piece.
    pub(super) fn release(&mut self) -> Option<Frame<Bytes>> {
        self.held.iter_mut().find_map(Option::take)
    }

    /// Whether nothing is withheld.
    pub(super) fn is_released(&self) -> bool {
        self.held.iter().all(Option::is_none)
    }

    /// Of what is withheld, so many bytes.
    pub(super) fn data_held(&self) -> u64 {
        self.held[0].as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64)
    }

    /// Records no more.
    pub(super) fn stop(&mut self) {
        self.left = None;
        self.data = Vec::new();
    }

    /// What is to be stored.
    pub(super) fn finish(&mut self) -> StoredResponse {
        let mut record = self.record.clone();
        record.body = self.left.map(|_| concat(std::mem::take(&mut self.data).iter()));
        record.trailers = self.held[1].as_ref().and_then(Frame::trailers_ref).cloned();
        record
    }
}

impl<B> Reel<B> {
    pub(super) fn tape(self: Pin<&mut Self>) -> &mut Tape {
        self.project().tape
    }
}

impl<B> Reel<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    /// The next frame that may be told before the record is durable; `None` at the end.
    pub(super) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let tape = this.tape;
        loop {
            let frame = match ready!(this.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => into_bytes(frame),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            };
            let Some(data) = frame.data_ref() else {
                tape.held[1] = Some(frame);
                continue;
            };
            if data.is_empty() {
                continue;
            }
            tape.record(data);
            // Whoever knows the length takes the last of it for the end: that is withheld, too.
            let last = tape.unsent == Some(0)
                || this.body.is_end_stream()
                || this.body.size_hint().exact() == Some(0);
            let told = if last || tape.held[0].is_some() {
                // What was taken for the last before was not.
                tape.held[0].replace(frame)
            } else {
                Some(frame)
            };
            if let Some(told) = told {
                return Poll::Ready(Some(Ok(told)));
            }
        }
    }
}

pub(super) fn into_bytes<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}
