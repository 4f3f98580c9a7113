//! What is kept of an answer, and how it comes to be.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use buttress_core::BoxError;
use buttress_http::{Recording, StoredResponse};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Body;
use tokio::time::Instant;

use super::fields::{Varying, detach};
use crate::error::TooLarge;

/// What is kept of an answer.
#[derive(Clone)]
pub struct HttpKept {
    pub(super) response: StoredResponse,
    /// The fields of the request that its `Vary` names.
    pub(super) vary: Varying,
}

impl HttpKept {
    /// As copies, since the bound counts nothing else: a body of a few bytes may be a part of a buffer of many, and hold on to all of
    /// it. `None` if the body is not whole.
    pub(super) fn of(mut response: StoredResponse, vary: Varying) -> Option<Self> {
        response.body = Some(Bytes::copy_from_slice(response.body.as_deref()?));
        detach(&mut response.headers);
        response.trailers.as_mut().map(detach);
        Some(Self { response, vary })
    }

    /// About how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        // A field takes a place in the map, one and a half in its index, and up to two allocations for its name and three for
        // its value, once it has been shared.
        let fields = |headers: &HeaderMap| -> usize {
            headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 208).sum()
        };
        let StoredResponse { headers, body, trailers, .. } = &self.response;
        let vary: usize =
            self.vary.iter().map(|(_, value)| 64 + value.as_ref().map_or(0, HeaderValue::len)).sum();
        fields(headers) + trailers.as_ref().map_or(0, fields) + body.as_ref().map_or(0, Bytes::len) + vary
    }
}

/// What is remembered of a request until its response is judged.
pub struct HttpAsked {
    pub(super) headers: HeaderMap,
    pub(super) sent: Instant,
}

/// Headers and bodies hold secrets.
impl fmt::Debug for HttpKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpKept").field("response", &self.response).finish_non_exhaustive()
    }
}

impl fmt::Debug for HttpAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpAsked").field("sent", &self.sent).finish_non_exhaustive()
    }
}

/// Resolves to what is kept of a response when its body is at its end.
pub struct HttpRecording<B> {
    pub(super) recording: Recording<B>,
    pub(super) vary: Varying,
}

impl<B> fmt::Debug for HttpRecording<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpRecording")
    }
}

impl<B> Future for HttpRecording<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Result<HttpKept, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let captured = std::task::ready!(Pin::new(&mut self.recording).poll(cx))?;
        // The caller need not wait for a store in memory.
        captured.seal.release();
        let (response, vary) = (captured.record, std::mem::take(&mut self.vary));
        Poll::Ready(HttpKept::of(response, vary).ok_or_else(|| TooLarge.into()))
    }
}
