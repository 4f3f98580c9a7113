use std::future::{Future, Ready, ready};

use tokio::sync::oneshot;

use crate::error::BoxError;

/// Stores a response and gives it back.
pub trait Capture<Res> {
    /// What the caller gets: live, or restored from a record.
    type Response;
    /// What is stored.
    type Record;
    /// Resolves to the record once the response is complete, or to the error that cut the response short.
    type Recording: Future<Output = Result<Captured<Self::Record>, BoxError>>;

    /// Splits a response into the one for the caller and its recording. A streamed response flows while it is
    /// recorded; its end is withheld until the [`Seal`] is released.
    fn capture(&self, response: Res) -> (Self::Response, Self::Recording);

    /// The response that a record holds.
    ///
    /// # Errors
    ///
    /// If the record is marked as incomplete.
    fn restore(&self, record: &Self::Record) -> Result<Self::Response, BoxError>;
}

/// A complete recording.
#[derive(Debug)]
pub struct Captured<R> {
    /// What is to be stored.
    pub record: R,
    /// Withholds the end of the live response until the record is durable.
    pub seal: Seal,
}

/// Withholds the end of a live response; released when dropped.
#[derive(Debug, Default)]
pub struct Seal(Option<oneshot::Sender<BoxError>>);

impl Seal {
    /// A seal, and what resolves once it is broken: to the error of [`fail`](Seal::fail), or closed once it is released.
    pub fn new() -> (Self, oneshot::Receiver<BoxError>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    /// Lets the live response end.
    pub fn release(self) {
        drop(self.0);
    }

    /// Lets the live response fail in place of its end: what was recorded is not the answer of this call.
    pub fn fail(self, error: impl Into<BoxError>) {
        if let Some(sender) = self.0 {
            // Nobody may be reading any more.
            let _ = sender.send(error.into());
        }
    }
}

/// Captures by `Clone`, for responses that are values.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneCapture;

impl<Res: Clone> Capture<Res> for CloneCapture {
    type Response = Res;
    type Record = Res;
    type Recording = Ready<Result<Captured<Res>, BoxError>>;

    fn capture(&self, response: Res) -> (Res, Self::Recording) {
        let record = response.clone();
        (response, ready(Ok(Captured { record, seal: Seal::default() })))
    }

    fn restore(&self, record: &Res) -> Result<Res, BoxError> {
        Ok(record.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_is_captured_and_restored_and_nothing_holds_back_its_end() {
        let (live, recording) = CloneCapture.capture(String::from("ok"));
        let Captured { record, seal } = recording.await.unwrap();
        seal.release();
        assert_eq!(live, Capture::<String>::restore(&CloneCapture, &record).unwrap());
    }

    #[tokio::test]
    async fn a_seal_is_released_when_dropped() {
        let (seal, released) = Seal::new();
        drop(seal);
        assert!(released.await.is_err());
    }

    #[tokio::test]
    async fn a_seal_can_end_a_response_with_an_error() {
        let (seal, released) = Seal::new();
        seal.fail("lost");
        assert_eq!(released.await.unwrap().to_string(), "lost");
    }
}
