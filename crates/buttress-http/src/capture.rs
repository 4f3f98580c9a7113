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

/// Stores HTTP responses: status, headers (but hop-by-hop ones and `Date`) and the body up to a cap.
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
pub struct StoredResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers that are replayed.
    pub headers: HeaderMap,
    /// The body; `None` if it was larger than the cap.
    pub body: Option<Bytes>,
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
        let record = StoredResponse { status: parts.status, headers, body: None };
        let (done, recording) = oneshot::channel();
        let tape = Tape {
            done: Some(done),
            record: Some(record),
            data: Vec::new(),
            left: Some(self.cap),
            sealed: None,
        };
        (Response::from_parts(parts, Answer { from: From::Service { body, tape } }), Recording { recording })
    }

    fn restore(&self, record: &StoredResponse) -> Result<Response<Answer<B>>, BoxError> {
        let body = record.body.clone().ok_or(Incomplete)?;
        let mut response = Response::new(Answer { from: From::Store { data: body } });
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
        Store { data: Bytes },
    }
}

impl<B> Answer<B> {
    /// Whether it was stored, and does not come from the service.
    pub fn is_stored(&self) -> bool {
        matches!(self.from, From::Store { .. })
    }
}

/// A recording in progress.
#[derive(Debug)]
struct Tape {
    done: Option<oneshot::Sender<Captured<StoredResponse>>>,
    record: Option<StoredResponse>,
    data: Vec<Bytes>,
    /// What is left of the cap; `None` once the body has exceeded it.
    left: Option<usize>,
    /// Resolves when the end may be told, and what is to be told with it.
    sealed: Option<(oneshot::Receiver<std::convert::Infallible>, Option<Bytes>)>,
}

impl Tape {
    fn record(&mut self, data: &Bytes) {
        self.left = self.left.and_then(|left| left.checked_sub(data.len()));
        match self.left {
            Some(_) => self.data.push(data.clone()),
            None => self.data = Vec::new(),
        }
    }

    /// Hands over the record, and withholds the end, with the last data if there is some.
    fn finish(&mut self, last: Option<Bytes>) {
        let (Some(done), Some(mut record)) = (self.done.take(), self.record.take()) else { return };
        record.body = self.left.map(|_| concat(&std::mem::take(&mut self.data)));
        let (seal, sealed) = Seal::new();
        // Nobody may be waiting for the record; the seal is then released at once.
        let _ = done.send(Captured { record, seal });
        self.sealed = Some((sealed, last));
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
        let (mut body, tape) = match self.project().from.project() {
            FromProj::Store { data } => {
                let data = std::mem::take(data);
                return Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))));
            }
            FromProj::Service { body, tape } => (body, tape),
        };
        loop {
            if let Some((sealed, last)) = &mut tape.sealed {
                if !sealed.is_terminated() {
                    let _ = ready!(Pin::new(sealed).poll(cx));
                }
                return Poll::Ready(last.take().map(|data| Ok(Frame::data(data))));
            }
            let frame = match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    tape.done = None;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    tape.finish(None);
                    continue;
                }
            };
            let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
            if let Some(data) = frame.data_ref() {
                tape.record(data);
            }
            // Whoever knows the length takes the last frame for the end: that is withheld, too.
            if !body.is_end_stream() {
                return Poll::Ready(Some(Ok(frame)));
            }
            match frame.into_data() {
                Ok(data) => tape.finish(Some(data)),
                Err(frame) => {
                    tape.finish(None);
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Store { data } => data.is_empty(),
            From::Service { tape, .. } => {
                tape.sealed.as_ref().is_some_and(|(sealed, last)| sealed.is_terminated() && last.is_none())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Store { data } => SizeHint::with_exact(data.len() as u64),
            From::Service { body, tape } => match &tape.sealed {
                None => body.size_hint(),
                Some((_, last)) => SizeHint::with_exact(last.as_ref().map_or(0, |data| data.len() as u64)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buttress_testkit::clock::poll_once;
    use http_body_util::{BodyExt, Channel, Full};

    type Live = Answer<Channel<Bytes, BoxError>>;

    #[tokio::test]
    async fn the_end_is_withheld_until_the_record_is_durable() {
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(4);
        let response = Response::builder()
            .status(201)
            .header("x", "1")
            .header("date", "now")
            .header("connection", "x-hop");
        let response = response.header("x-hop", "1").header("set-cookie", "a").header("set-cookie", "b");
        let (live, recording) = HttpCapture::default().capture(response.body(body).unwrap());
        let mut body: Live = live.into_body();
        sender.send_data(Bytes::from_static(b"first ")).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first ", "it streams");
        sender.send_data(Bytes::from_static(b"second")).await.unwrap();
        drop(sender);
        body.frame().await.unwrap().unwrap();
        let mut end = Box::pin(body.frame());
        assert!(poll_once(&mut end).is_pending(), "no end yet");
        let Captured { record, seal } = recording.await.unwrap();
        assert!(poll_once(&mut end).is_pending(), "nor while it is being stored");
        seal.release();
        assert!(end.await.is_none());

        assert_eq!(record.headers.get_all("set-cookie").iter().count(), 2);
        assert_eq!(
            (record.headers.len(), record.headers.contains_key("x-hop")),
            (3, false),
            "{:?}",
            record.headers
        );
        let restored: Response<Live> = HttpCapture::default().restore(&record).unwrap();
        assert_eq!((restored.status(), restored.headers()["x"].as_bytes()), (StatusCode::CREATED, &b"1"[..]));
        assert_eq!(restored.into_body().collect().await.unwrap().to_bytes(), "first second");
    }

    #[tokio::test]
    async fn who_knows_the_length_does_not_get_the_last_byte_early() {
        let (live, recording) = HttpCapture::default().capture(Response::new(Full::<Bytes>::from("whole")));
        let mut body = live.into_body();
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (false, Some(5)));
        let mut frame = Box::pin(body.frame());
        assert!(poll_once(&mut frame).is_pending());
        drop(recording.await.unwrap().seal);
        assert_eq!(frame.await.unwrap().unwrap().into_data().unwrap(), "whole");
        assert!(body.is_end_stream());
    }

    #[tokio::test]
    async fn a_body_over_the_cap_is_delivered_and_marked() {
        let (live, recording) = HttpCapture::up_to(3).capture(Response::new(Full::<Bytes>::from("four")));
        let read = tokio::spawn(live.into_body().collect());
        let record = recording.await.unwrap().record;
        assert_eq!((read.await.unwrap().unwrap().to_bytes(), record.body.as_ref()), ("four".into(), None));
        let error = Capture::<Response<Full<Bytes>>>::restore(&HttpCapture::up_to(3), &record).unwrap_err();
        assert!(error.is::<Incomplete>());
    }

    #[tokio::test]
    async fn a_body_that_fails_or_is_dropped_leaves_no_record() {
        let (sender, body) = Channel::<Bytes, BoxError>::new(1);
        let (live, recording) = HttpCapture::default().capture(Response::new(body));
        sender.abort("reset".into());
        live.into_body().collect().await.unwrap_err();
        assert!(recording.await.is_err());
        let (live, recording) = HttpCapture::default().capture(Response::new(Full::<Bytes>::from("x")));
        drop(live);
        assert!(recording.await.is_err());
    }

    #[tokio::test]
    async fn without_anybody_waiting_for_the_record_the_body_just_ends() {
        let (live, recording) = HttpCapture::default().capture(Response::new(Full::<Bytes>::from("x")));
        drop(recording);
        assert_eq!(live.into_body().collect().await.unwrap().to_bytes(), "x");
    }
}
