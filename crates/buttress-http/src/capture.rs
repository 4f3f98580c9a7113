use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::{BoxError, Capture, Captured, Seal};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::oneshot;

use crate::replay_body::concat;

/// Stores HTTP responses: status, headers (but hop-by-hop ones and `Date`), the body up to a cap, and trailers.
///
/// The caller gets the body as it streams; its end is withheld until the record is durable. A body over the cap is
/// delivered all the same, and its record is marked as incomplete.
#[derive(Clone, Copy, Debug)]
pub struct HttpCapture {
    cap: usize,
}

impl HttpCapture {
    /// Records bodies of at most so many bytes.
    pub fn up_to(cap: usize) -> Self {
        Self { cap }
    }
}

impl Default for HttpCapture {
    /// 1 MiB.
    fn default() -> Self {
        Self::up_to(1024 * 1024)
    }
}

/// A response as it is stored.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers that are replayed.
    pub headers: HeaderMap,
    /// The body; `None` if it was larger than the cap.
    pub body: Option<Bytes>,
    /// What came after the body.
    pub trailers: Option<HeaderMap>,
}

impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and bodies hold secrets.
        let length = self.body.as_ref().map(Bytes::len);
        f.debug_struct("StoredResponse")
            .field("status", &self.status)
            .field("length", &length)
            .finish_non_exhaustive()
    }
}

/// A record that does not hold the whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Incomplete;

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stored response is incomplete: its body was larger than the capture's cap")
    }
}

impl std::error::Error for Incomplete {}

/// The call was answered, but the answer did not arrive as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CutShort;

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response was dropped or failed before its end, so that there is nothing to store")
    }
}

impl std::error::Error for CutShort {}

/// RFC 9110 § 7.6.1, and what names a moment in time.
const NOT_STORED: [HeaderName; 8] = [
    header::CONNECTION,
    header::DATE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

impl<B> Capture<Response<B>> for HttpCapture
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answer<B>>;
    type Record = StoredResponse;
    type Recording = Recording;

    fn capture(&self, response: Response<B>) -> (Response<Answer<B>>, Recording) {
        let (parts, body) = response.into_parts();
        let mut headers = parts.headers.clone();
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named.iter().chain(&NOT_STORED) {
            headers.remove(name);
        }
        let record = StoredResponse { status: parts.status, headers, body: None, trailers: None };
        let (done, recording) = oneshot::channel();
        let mut tape = Tape {
            done: Some(done),
            record: Some(record),
            data: Vec::new(),
            left: Some(self.cap),
            held: [None, None],
            sealed: None,
        };
        // Nobody reads a body that has nothing to read.
        if body.is_end_stream() {
            tape.finish();
        }
        (Response::from_parts(parts, Answer { from: From::Service { body, tape } }), Recording { recording })
    }

    fn restore(&self, record: &StoredResponse) -> Result<Response<Answer<B>>, BoxError> {
        let body = record.body.clone().ok_or(Incomplete)?;
        let data = Some(body).filter(|data| !data.is_empty()).map(Frame::data);
        let frames = [data, record.trailers.clone().map(Frame::trailers)];
        let mut response = Response::new(Answer { from: From::Store { frames } });
        *response.status_mut() = record.status;
        *response.headers_mut() = record.headers.clone();
        Ok(response)
    }
}

/// Resolves to the record when the body has been read to its end.
#[derive(Debug)]
pub struct Recording {
    recording: oneshot::Receiver<Captured<StoredResponse>>,
}

impl Future for Recording {
    type Output = Result<Captured<StoredResponse>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.recording).poll(cx).map_err(|_| CutShort.into())
    }
}

pin_project! {
    /// A body that comes from the service or from a store.
    #[derive(Debug)]
    pub struct Answer<B> {
        #[pin]
        from: From<B>,
    }
}

pin_project! {
    #[project = FromProj]
    #[derive(Debug)]
    enum From<B> {
        Service { #[pin] body: B, tape: Tape },
        Store { frames: Frames },
    }
}

impl<B> Answer<B> {
    /// Whether it was stored, and does not come from the service.
    pub fn is_stored(&self) -> bool {
        matches!(self.from, From::Store { .. })
    }
}

/// Data and trailers that are still to be told.
type Frames = [Option<Frame<Bytes>>; 2];

/// A recording in progress.
#[derive(Debug)]
struct Tape {
    done: Option<oneshot::Sender<Captured<StoredResponse>>>,
    record: Option<StoredResponse>,
    data: Vec<Bytes>,
    /// What is left of the cap; `None` once the body has exceeded it.
    left: Option<usize>,
    /// The end, as far as it has been seen: it is told when the record is durable.
    held: Frames,
    /// Resolves when that is so.
    sealed: Option<oneshot::Receiver<Infallible>>,
}

impl Tape {
    fn record(&mut self, data: &Bytes) {
        self.left = self.left.and_then(|left| left.checked_sub(data.len()));
        match self.left {
            Some(_) => self.data.push(data.clone()),
            None => self.data = Vec::new(),
        }
    }

    /// Hands over the record.
    fn finish(&mut self) {
        let (Some(done), Some(mut record)) = (self.done.take(), self.record.take()) else { return };
        record.body = self.left.map(|_| concat(&std::mem::take(&mut self.data)));
        record.trailers = self.held[1].as_ref().and_then(Frame::trailers_ref).cloned();
        let (seal, sealed) = Seal::new();
        // Nobody may be waiting for the record; the seal is then released at once.
        let _ = done.send(Captured { record, seal });
        self.sealed = Some(sealed);
    }
}

fn next(frames: &mut Frames) -> Option<Result<Frame<Bytes>, BoxError>> {
    frames.iter_mut().find_map(Option::take).map(Ok)
}

fn data_left(frames: &Frames) -> u64 {
    frames[0].as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64)
}

impl<B> Body for Answer<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let (mut body, tape) = match self.project().from.project() {
            FromProj::Store { frames } => return Poll::Ready(next(frames)),
            FromProj::Service { body, tape } => (body, tape),
        };
        loop {
            if let Some(sealed) = &mut tape.sealed {
                if !sealed.is_terminated() {
                    let _ = ready!(Pin::new(sealed).poll(cx));
                }
                return Poll::Ready(next(&mut tape.held));
            }
            let frame = match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => frame.map_data(|mut data| data.copy_to_bytes(data.remaining())),
                Some(Err(error)) => {
                    tape.done = None;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    tape.finish();
                    continue;
                }
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
            let last = body.is_end_stream() || body.size_hint().exact() == Some(0);
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

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Store { frames } => frames.iter().all(Option::is_none),
            From::Service { tape, .. } => {
                let told = tape.held.iter().all(Option::is_none);
                told && tape.sealed.as_ref().is_some_and(oneshot::Receiver::is_terminated)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Store { frames } => SizeHint::with_exact(data_left(frames)),
            From::Service { body, tape } => {
                // What is withheld has left the body, but not yet arrived.
                let held = data_left(&tape.held);
                let rest = if tape.sealed.is_some() { SizeHint::with_exact(0) } else { body.size_hint() };
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower() + held);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + held);
                }
                hint
            }
        }
    }
}

#[cfg(test)]
mod tests;
