use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::{BoxError, Capture, Captured, Seal};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::oneshot;

use crate::stored::StoredResponse;

mod reel;

use reel::{Left, Reel, Tape, into_bytes};

/// Stores HTTP responses: status, headers (but hop-by-hop ones and `Date`), the body up to a cap, and trailers.
///
/// The caller gets the body as it streams; its end is withheld until the record is durable. A body over the cap is
/// delivered all the same, and its record is marked as incomplete. A caller that drops the response before its end does not
/// stop the recording: the rest is read for it.
#[derive(Clone, Copy, Debug)]
pub struct HttpCapture {
    cap: usize,
    stops: bool,
}

impl HttpCapture {
    /// Records bodies of at most so many bytes.
    pub fn up_to(cap: usize) -> Self {
        Self { cap, stops: false }
    }

    /// Ends the recording of a body as soon as it exceeds the cap, and not at the body's end: for whoever has nothing to do with it
    /// then. The end of such a body is not withheld.
    #[must_use]
    pub fn stop_at_cap(self) -> Self {
        Self { stops: true, ..self }
    }

    /// The record of a response that is in memory as a whole.
    pub fn record(&self, response: &Response<Bytes>) -> StoredResponse {
        let body = Some(response.body().clone()).filter(|body| body.len() <= self.cap);
        StoredResponse { status: response.status(), headers: kept(response.headers()), body, trailers: None }
    }

    /// The response as it is, of the type of those that are recorded.
    pub fn pass<B>(response: Response<B>) -> Response<Answer<B>> {
        response.map(Answer::passing)
    }
}

impl Default for HttpCapture {
    /// 1 MiB.
    fn default() -> Self {
        Self::up_to(1024 * 1024)
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

/// RFC 9110 § 7.6.1, RFC 9111 § 3.1, and what names a moment in time.
const NOT_STORED: [HeaderName; 10] = [
    header::CONNECTION,
    header::DATE,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    let named = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse::<HeaderName>().ok());
    for name in named.chain(NOT_STORED) {
        kept.remove(name);
    }
    kept
}

impl<B> Capture<Response<B>> for HttpCapture
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answer<B>>;
    type Record = StoredResponse;
    type Recording = Recording<B>;

    fn capture(&self, response: Response<B>) -> (Response<Answer<B>>, Recording<B>) {
        let (parts, body) = response.into_parts();
        let unsent = parts.headers.get(header::CONTENT_LENGTH);
        let unsent = unsent.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        let headers = kept(&parts.headers);
        let record = StoredResponse { status: parts.status, headers, body: None, trailers: None };
        let (done, recording) = oneshot::channel();
        let tape = Tape {
            record,
            data: Vec::new(),
            left: Some(self.cap),
            stops: self.stops,
            unsent,
            held: [None, None],
        };
        let ended = body.is_end_stream();
        let mut live = Live { reel: Some(Box::pin(Reel { body, tape })), done: Some(done), sealed: None };
        // Nobody reads a body that has nothing to read.
        if ended {
            live.finish();
        }
        let answer = Answer { from: From::Service { live } };
        (Response::from_parts(parts, answer), Recording { state: Recorder::Listening(recording) })
    }

    fn restore(&self, record: &StoredResponse) -> Result<Response<Answer<B>>, BoxError> {
        let body = record.body.clone().ok_or(Incomplete)?;
        let left = Left::new(body, record.trailers.clone());
        let mut response = Response::new(Answer { from: From::Store { left } });
        *response.status_mut() = record.status;
        *response.headers_mut() = record.headers.clone();
        Ok(response)
    }
}

/// Resolves to the record when the body has been read to its end. Where the response is dropped before that, this reads the
/// rest of it, as far as the cap.
pub struct Recording<B> {
    state: Recorder<B>,
}

enum Recorder<B> {
    Listening(oneshot::Receiver<Told<B>>),
    Reading(Pin<Box<Reel<B>>>),
}

/// What the live response says in the end.
#[allow(clippy::large_enum_variant, reason = "a whole record is the common case")]
enum Told<B> {
    Whole(Captured<StoredResponse>),
    /// It was dropped, and this is left.
    Rest(Pin<Box<Reel<B>>>),
}

impl<B> Recording<B> {
    /// Whether the response was dropped, and this reads the rest of it.
    pub fn is_reading(&self) -> bool {
        matches!(self.state, Recorder::Reading(_))
    }
}

impl<B> fmt::Debug for Recording<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recording")
    }
}

impl<B> Future for Recording<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Result<Captured<StoredResponse>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                Recorder::Listening(told) => match ready!(Pin::new(told).poll(cx)) {
                    Ok(Told::Whole(captured)) => return Poll::Ready(Ok(captured)),
                    Ok(Told::Rest(reel)) => this.state = Recorder::Reading(reel),
                    Err(_) => return Poll::Ready(Err(CutShort.into())),
                },
                Recorder::Reading(reel) => {
                    if reel.tape.left.is_some() {
                        if let Some(frame) = ready!(reel.as_mut().poll_frame(cx)) {
                            frame?;
                            continue;
                        }
                    }
                    let record = reel.as_mut().tape().finish();
                    return Poll::Ready(Ok(Captured { record, seal: Seal::default() }));
                }
            }
        }
    }
}

pin_project! {
    /// A body that comes from the service or from a store.
    pub struct Answer<B> {
        #[pin]
        from: From<B>,
    }
}

pin_project! {
    #[project = FromProj]
    enum From<B> {
        Service { live: Live<B> },
        Store { left: Left },
        /// Comes from the service, too, and is not recorded.
        Passing { #[pin] body: B },
    }
}

impl<B> Answer<B> {
    /// A body of the service that passes as it is, unrecorded.
    pub fn passing(body: B) -> Self {
        Self { from: From::Passing { body } }
    }

    /// Whether it was stored, and does not come from the service.
    pub fn is_stored(&self) -> bool {
        matches!(self.from, From::Store { .. })
    }
}

/// A body that is not the service's: stored, or fixed.
impl<B> std::convert::From<Bytes> for Answer<B> {
    fn from(data: Bytes) -> Self {
        Self { from: From::Store { left: Left::new(data, None) } }
    }
}

impl<B> fmt::Debug for Answer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_stored() { "Answer(stored)" } else { "Answer(live)" })
    }
}

/// A body that is told while it is recorded.
struct Live<B> {
    /// Until the response is dropped.
    reel: Option<Pin<Box<Reel<B>>>>,
    done: Option<oneshot::Sender<Told<B>>>,
    /// Resolves when the record is durable, to an error if it is not the answer.
    sealed: Option<oneshot::Receiver<BoxError>>,
}

impl<B> Live<B> {
    /// Hands over the record.
    fn finish(&mut self) {
        let Some(reel) = &mut self.reel else { return };
        let (seal, sealed) = Seal::new();
        // Nobody may be waiting for the record, or no longer; the seal is then released at once.
        if let Some(done) = self.done.take() {
            let _ = done.send(Told::Whole(Captured { record: reel.as_mut().tape().finish(), seal }));
        }
        self.sealed = Some(sealed);
    }

    /// Hands over that there is none, if that is known before the end.
    fn stop_at_cap(&mut self) {
        let Some(reel) = self.reel.as_mut().filter(|reel| reel.tape.stops && reel.tape.left.is_none()) else {
            return;
        };
        if let Some(done) = self.done.take() {
            let _ = done
                .send(Told::Whole(Captured { record: reel.as_mut().tape().finish(), seal: Seal::default() }));
        }
    }
}

impl<B> Drop for Live<B> {
    fn drop(&mut self) {
        if let (Some(done), Some(reel)) = (self.done.take(), self.reel.take()) {
            let _ = done.send(Told::Rest(reel));
        }
    }
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
        let live = match self.project().from.project() {
            FromProj::Store { left } => return Poll::Ready(left.next().map(Ok)),
            FromProj::Passing { body } => {
                let frame = ready!(body.poll_frame(cx));
                return Poll::Ready(frame.map(|frame| frame.map(into_bytes).map_err(Into::into)));
            }
            FromProj::Service { live } => live,
        };
        loop {
            let Some(reel) = &mut live.reel else { return Poll::Ready(None) };
            if let Some(sealed) = &mut live.sealed {
                if !sealed.is_terminated() {
                    if let Ok(error) = ready!(Pin::new(sealed).poll(cx)) {
                        reel.as_mut().tape().held = [None, None];
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                return Poll::Ready(reel.as_mut().tape().release().map(Ok));
            }
            if live.done.as_ref().is_some_and(oneshot::Sender::is_closed) {
                reel.as_mut().tape().stop();
            }
            match ready!(reel.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    live.stop_at_cap();
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Err(error)) => {
                    live.done = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => live.finish(),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Store { left } => left.is_over(),
            From::Passing { body } => body.is_end_stream(),
            From::Service { live } => {
                let told = live.reel.as_ref().is_none_or(|reel| reel.tape.is_released());
                told && live.sealed.as_ref().is_some_and(oneshot::Receiver::is_terminated)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Store { left } => SizeHint::with_exact(left.data_left()),
            From::Passing { body } => body.size_hint(),
            From::Service { live: Live { reel: None, .. } } => SizeHint::with_exact(0),
            From::Service { live: Live { reel: Some(reel), sealed, .. } } => {
                // What is withheld has left the body, but not yet arrived.
                let held = reel.tape.data_held();
                let rest = if sealed.is_some() { SizeHint::with_exact(0) } else { reel.body.size_hint() };
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
