use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::{BoxError, Captured};
use buttress_http::{Recording as Streamed, StoredResponse};
use buttress_store::Record;
use bytes::Bytes;
use http::Response;
use http_body::Body;

use super::keys::HttpKeys;

/// Resolves to the record of an HTTP response once its body has ended.
#[derive(Debug)]
pub struct Recording<B> {
    streamed: Streamed<B>,
}

impl<B> Recording<B> {
    pub(super) fn new(streamed: Streamed<B>) -> Self {
        Self { streamed }
    }
}

impl<B> Recording<B> {
    /// Whether nobody else reads the body any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.streamed.is_reading()
    }
}

impl<B> Future for Recording<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Result<Captured<Record>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Captured { record, seal } = ready!(Pin::new(&mut self.get_mut().streamed).poll(cx))?;
        Poll::Ready(Ok(Captured { record: record_of(&record), seal }))
    }
}

impl HttpKeys {
    /// A response as the layer stores it: without hop-by-hop headers and `Date`, and over the
    /// [cap](HttpKeys::max_response_body) only that there was one.
    pub fn record(&self, response: &Response<Bytes>) -> Record {
        record_of(&self.shared.capture.record(response))
    }
}

fn record_of(response: &StoredResponse) -> Record {
    if response.body.is_some() { Record::Value(response.encode()) } else { Record::TooLarge }
}
