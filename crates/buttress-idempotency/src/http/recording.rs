use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::{BoxError, Captured};
use buttress_http::Recording as Streamed;
use buttress_store::Record;
use http_body::Body;

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
        let record = if record.body.is_some() { Record::Value(record.encode()) } else { Record::TooLarge };
        Poll::Ready(Ok(Captured { record, seal }))
    }
}
