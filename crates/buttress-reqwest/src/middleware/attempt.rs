use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Extensions;
use reqwest_middleware::Next;

use super::asked::Asked;
use super::courier::Reply;
use super::error::from_middleware;

/// One run of what lies beneath the stack, driven by the task that made the call.
pub(crate) struct Attempt<'a> {
    run: Pin<Box<dyn Future<Output = Ended> + Send + 'a>>,
    asked: &'a Asked,
}

type Ended = (reqwest_middleware::Result<reqwest::Response>, Extensions);

impl<'a> Attempt<'a> {
    pub(crate) fn new(
        request: http::Request<reqwest::Body>,
        next: Next<'a>,
        mut extensions: Extensions,
        asked: &'a Asked,
    ) -> Self {
        let request = asked.to_reqwest(request);
        let run = Box::pin(async move {
            let outcome = match request {
                Ok(request) => next.run(request, &mut extensions).await,
                Err(error) => Err(reqwest_middleware::Error::Reqwest(error)),
            };
            (outcome, extensions)
        });
        Self { run, asked }
    }

    /// Ready when it is over, with the extensions that it has left unless it panicked.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Reply, Option<Extensions>)> {
        Poll::Ready(match catch_unwind(AssertUnwindSafe(|| self.run.as_mut().poll(cx))) {
            Ok(polled) => {
                let (outcome, extensions) = ready!(polled);
                let outcome = outcome.map(|response| self.asked.to_http(response));
                (Ok(outcome.map_err(from_middleware)), Some(extensions))
            }
            Err(panic) => (Err(panic), None),
        })
    }
}

/// The attempts that are under way, by their numbers: mostly one.
#[derive(Default)]
pub(crate) struct Attempts<'a> {
    first: Option<(usize, Attempt<'a>)>,
    more: Vec<(usize, Attempt<'a>)>,
}

impl<'a> Attempts<'a> {
    pub(crate) fn push(&mut self, number: usize, attempt: Attempt<'a>) {
        match self.first {
            None => self.first = Some((number, attempt)),
            Some(_) => self.more.push((number, attempt)),
        }
    }

    /// Keeps those of which this is true, and drops the others.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(usize, &mut Attempt<'a>) -> bool) {
        self.first.take_if(|(number, attempt)| !keep(*number, attempt));
        self.more.retain_mut(|(number, attempt)| keep(*number, attempt));
    }
}
