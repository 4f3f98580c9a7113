//! The way from the innermost service of a stack to the task that drives it.

use std::thread;

use buttress::BoxError;
use futures_channel::{mpsc, oneshot};

/// Travels in the extensions of a request. Its other end is with the task that made the call.
#[derive(Clone, Debug)]
pub(crate) struct Courier(mpsc::UnboundedSender<Job>);

/// An attempt that the stack wants to be made.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: http::Request<reqwest::Body>,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// What became of it; a panic is passed on to the service that asked.
pub(crate) type Reply = thread::Result<Result<http::Response<reqwest::Body>, BoxError>>;

pub(crate) fn channel() -> (Courier, mpsc::UnboundedReceiver<Job>) {
    let (sender, receiver) = mpsc::unbounded();
    (Courier(sender), receiver)
}

impl Courier {
    /// `None` if the call is over.
    pub(crate) fn send(&self, request: http::Request<reqwest::Body>) -> Option<oneshot::Receiver<Reply>> {
        let (reply, receiver) = oneshot::channel();
        self.0.unbounded_send(Job { request, reply }).ok()?;
        Some(receiver)
    }
}
