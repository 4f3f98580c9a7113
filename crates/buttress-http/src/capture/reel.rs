//! What is read of a body, and kept.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::BoxError;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame};

use crate::replay_body::concat;
use crate::stored::StoredResponse;

pub(super) struct Reel<B> {
    pub(super) body: Pin<Box<B>>,
    pub(super) tape: Tape,
}

/// Data and trailers that are still to be told.
pub(super) type Frames = [Option<Frame<Bytes>>; 2];

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
    pub(super) held: Frames,
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

impl<B> Reel<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    /// The next frame that may be told before the record is durable; `None` at the end.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let frame = match ready!(self.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => into_bytes(frame),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            };
            let Some(data) = frame.data_ref() else {
                self.tape.held[1] = Some(frame);
                continue;
            };
            if data.is_empty() {
                continue;
            }
            self.tape.record(data);
            // Whoever knows the length takes the last of it for the end: that is withheld, too.
            let last = self.tape.unsent == Some(0)
                || self.body.is_end_stream()
                || self.body.size_hint().exact() == Some(0);
            let told = if last || self.tape.held[0].is_some() {
                // What was taken for the last before was not.
                self.tape.held[0].replace(frame)
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

pub(super) fn next(frames: &mut Frames) -> Option<Result<Frame<Bytes>, BoxError>> {
    frames.iter_mut().find_map(Option::take).map(Ok)
}

pub(super) fn data_left(frames: &Frames) -> u64 {
    frames[0].as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64)
}
