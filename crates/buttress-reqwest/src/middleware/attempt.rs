use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_channel::oneshot;
use http::Extensions;
use reqwest_middleware::Next;

use super::asked::Asked;
use super::courier::{Job, Reply};
use super::error::from_middleware;

/// One run of what lies beneath the stack, driven by the task that made the call.
pub(crate) struct Attempt<'a> {
    run: Pin<Box<dyn Future<Output = Ended> + Send + 'a>>,
    /// Until it is answered.
    reply: Option<oneshot::Sender<Reply>>,
    asked: &'a Asked,
}

type Ended = (reqwest_middleware::Result<reqwest::Response>, Extensions);

impl<'a> Attempt<'a> {
    pub(crate) fn new(job: Job, next: Next<'a>, mut extensions: Extensions, asked: &'a Asked) -> Self {
        let Job { request, reply } = job;
        let request = asked.to_reqwest(request);
        let run = Box::pin(async move {
            let outcome = match request {
                Ok(request) => next.run(request, &mut extensions).await,
                Err(error) => Err(reqwest_middleware::Error::Reqwest(error)),
            };
            (outcome, extensions)
        });
        Self { run, reply: Some(reply), asked }
    }

    /// Ready when it is over, with the extensions that it has left, or as soon as nobody waits for it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Extensions>> {
        if self.reply.as_mut().is_none_or(|reply| reply.poll_canceled(cx).is_ready()) {
            return Poll::Ready(None);
        }
        let (reply, extensions): (Reply, _) =
            match catch_unwind(AssertUnwindSafe(|| self.run.as_mut().poll(cx))) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready((outcome, extensions))) => {
                    let outcome = outcome.map(|response| self.asked.to_http(response));
                    (Ok(outcome.map_err(from_middleware)), Some(extensions))
                }
                Err(panic) => (Err(panic), None),
            };
        if let Some(waiting) = self.reply.take() {
            // Whoever has stopped waiting meanwhile needs no answer.
            let _ = waiting.send(reply);
        }
        Poll::Ready(extensions)
    }
}
