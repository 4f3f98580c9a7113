//! What the readers of one body share.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use buttress_core::{BoxError, Judged, Verdict};
use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};

use super::frames::{Frames, Pool};
use super::waiting::Waiting;

pub(super) struct State<B> {
    pub(super) source: Option<B>,
    /// All that the source has given, while the body is replayable; none of them is empty.
    pub(super) frames: Frames,
    /// How many bytes the source has given: whoever has read as many is at the front.
    pub(super) passed: u64,
    pub(super) buffered: usize,
    pub(super) trailers: Option<Box<HeaderMap>>,
    pub(super) progress: Progress,
    /// The exact length, if the source promised one.
    pub(super) length: Option<u64>,
    per_body: usize,
    /// `None` for a body that is not to be recorded.
    pool: Option<Arc<Pool>>,
    /// What the pool has been asked for.
    charged: usize,
    pub(super) replayable: bool,
    /// Why the source failed, for whoever reads at the front.
    pub(super) error: Option<BoxError>,
    /// Readers before this one are cut off.
    pub(super) first: u32,
    /// The last reader there has been.
    pub(super) last: u32,
    pub(super) waiting: Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Reading,
    Ended,
    Failed,
}

/// What a frame costs beside its data.
const FRAME_OVERHEAD: usize = 64;

/// A smaller frame is copied when it is recorded: it may be a slice of a buffer many times its size.
const COPIED_BELOW: usize = 4096;

/// What is kept of a frame.
pub(super) fn compact(data: &Bytes) -> Bytes {
    if data.len() < COPIED_BELOW { Bytes::copy_from_slice(data) } else { data.clone() }
}

impl<B> State<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Before anybody reads: what has come is kept in any case, and one that exceeds the cap is the last.
    pub(super) fn keep_unread(&mut self, frame: Frame<B::Data>) {
        let Some(data) = self.take_data(frame) else { return };
        self.buffered += data.len();
        // All there is, in one piece, costs nothing to keep.
        let whole = self.passed == 0 && self.length == Some(data.len() as u64);
        self.replayable &= whole || self.buffered <= self.per_body;
        self.passed += data.len() as u64;
        self.frames.push(if self.length.is_some() { data } else { compact(&data) });
    }

    /// While it is being read. The data, if it is any.
    pub(super) fn keep(&mut self, frame: Frame<B::Data>, alone: bool) -> Option<Bytes> {
        let data = self.take_data(frame)?;
        self.passed += data.len() as u64;
        if self.replayable {
            self.buffered += data.len();
            self.frames.push(compact(&data));
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

    /// For the reader of this number, which is at the front. If the source is ready, it wakes nobody: the `others` are to be.
    pub(super) fn poll_front(
        &mut self,
        number: u32,
        cx: &mut Context<'_>,
        others: &mut Vec<Waker>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        match self.waiting.shared(number, cx) {
            Some(waker) => {
                let polled = self.poll_source(&mut Context::from_waker(&waker));
                if polled.is_ready() {
                    others.extend(self.waiting.others(cx));
                }
                polled
            }
            None => {
                let polled = self.poll_source(cx);
                if polled.is_pending() {
                    self.waiting.waits_alone(cx);
                }
                polled
            }
        }
    }

    pub(super) fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(source).poll_frame(cx));
        Poll::Ready(self.came(frame))
    }

    /// What the source has given, or its end.
    pub(super) fn came(
        &mut self,
        frame: Option<Result<Frame<B::Data>, B::Error>>,
    ) -> Option<Result<Frame<B::Data>, BoxError>> {
        // Whoever sends it fails with this error in its own, and nobody is to take it for the server's.
        let callers = |error: B::Error| BoxError::from(Judged::transparent(Verdict::Ignored, error));
        let frame = frame.map(|frame| frame.map_err(callers));
        self.progress = match &frame {
            Some(Ok(_)) => Progress::Reading,
            Some(Err(_)) => Progress::Failed,
            None => Progress::Ended,
        };
        if self.progress != Progress::Reading {
            self.source = None;
        }
        frame
    }
}

impl<B> State<B> {
    pub(super) fn new(
        source: Option<B>,
        length: Option<u64>,
        per_body: usize,
        pool: Option<Arc<Pool>>,
    ) -> Self {
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

    pub(super) fn is_replayable(&self) -> bool {
        self.replayable && self.progress != Progress::Failed
    }

    /// Whether it was all there before anybody read it.
    pub(super) fn is_in_memory(&self) -> bool {
        self.replayable && self.pool.is_none()
    }

    /// Accounts for what has been recorded; `false` if there is no room for it.
    pub(super) fn charge(&mut self) -> bool {
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
