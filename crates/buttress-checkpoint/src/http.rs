//! How HTTP responses are recorded.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use buttress_core::{BoxError, Capture, ErrorRef, Verdict};
use buttress_http::{Answer, HttpCapture, StoredResponse, transport_verdict};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::layer::Record;
use crate::run::BoxFuture;

/// Records HTTP responses whole: status, headers, body up to a cap, trailers. The caller gets the recorded one, also the
/// first time, once it is durable. Headers and bodies are stored as they are, secrets included.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpRecord {
    capture: HttpCapture,
}

impl HttpRecord {
    /// Records bodies of at most so many bytes; a larger one fails the step. The default is 1 MiB, which as JSON is more than
    /// [`Config::max_value`](crate::Config::max_value) takes by default.
    pub fn up_to(cap: usize) -> Self {
        Self { capture: HttpCapture::up_to(cap) }
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    status: u16,
    headers: Vec<(String, Text)>,
    body: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trailers: Option<Vec<(String, Text)>>,
}

/// Bytes: as text where they are, so that people can read it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Utf8(String),
    Bytes(Vec<u8>),
}

impl Text {
    fn of(bytes: &[u8]) -> Self {
        std::str::from_utf8(bytes)
            .map_or_else(|_| Self::Bytes(bytes.to_vec()), |text| Self::Utf8(text.to_owned()))
    }

    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Utf8(text) => text.into_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl<B> Record<Response<B>> for HttpRecord
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answer<B>>;

    fn pass(&self, response: Response<B>) -> Response<Answer<B>> {
        HttpCapture::pass(response)
    }

    fn record(&self, response: Response<B>) -> BoxFuture<'static, Result<Box<RawValue>, BoxError>> {
        let (live, recording) = self.capture.capture(response);
        Box::pin(async move {
            let (mut body, mut recording) = (pin!(live.into_body()), pin!(recording));
            // The body is read to its end, which is withheld until the record is durable: only the record is wanted.
            let captured = poll_fn(|cx| {
                loop {
                    if let Poll::Ready(captured) = recording.as_mut().poll(cx) {
                        return Poll::Ready(captured);
                    }
                    match body.as_mut().poll_frame(cx) {
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                        Poll::Ready(None) | Poll::Pending => return recording.as_mut().poll(cx),
                    }
                }
            });
            let StoredResponse { status, headers, body, trailers, .. } = captured.await?.record;
            let body = body
                .ok_or("the body of the response is larger than the cap; raise it, or store a reference")?;
            let stored = Stored {
                status: status.as_u16(),
                headers: list(&headers),
                body: Text::of(&body),
                trailers: trailers.as_ref().map(list),
            };
            Ok(to_raw_value(&stored)?)
        })
    }

    fn judge(&self, error: ErrorRef<'_>) -> Verdict {
        transport_verdict(error)
    }

    fn restore(&self, record: &RawValue) -> Result<Response<Answer<B>>, BoxError> {
        let Stored { status, headers, body, trailers } = serde_json::from_str(record.get())?;
        let trailers = trailers.map(map).transpose()?;
        let record = StoredResponse::new(
            StatusCode::from_u16(status)?,
            map(headers)?,
            Bytes::from(body.into_bytes()),
            trailers,
        );
        self.capture.restore(&record)
    }
}

fn list(headers: &HeaderMap) -> Vec<(String, Text)> {
    headers.iter().map(|(name, value)| (name.to_string(), Text::of(value.as_bytes()))).collect()
}

fn map(headers: Vec<(String, Text)>) -> Result<HeaderMap, BoxError> {
    let pair = |(name, value): (String, Text)| -> Result<_, BoxError> {
        Ok((HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_bytes(&value.into_bytes())?))
    };
    headers.into_iter().map(pair).collect()
}
