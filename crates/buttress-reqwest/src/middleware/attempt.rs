use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use http::Extensions;
use reqwest_middleware::Next;

/// One run of what lies beneath the stack, driven by the task that made the call.
pub(crate) struct Attempt<'a>(Pin<Box<dyn Future<Output = Ended> + Send + 'a>>);

/// The outcome, and the extensions that the attempt has left.
pub(crate) type Ended = (reqwest_middleware::Result<reqwest::Response>, Extensions);

impl<'a> Attempt<'a> {
    pub(crate) fn new(
        request: Result<reqwest::Request, reqwest::Error>,
        next: Next<'a>,
        mut extensions: Extensions,
    ) -> Self {
        Self(Box::pin(async move {
            let outcome = match request {
                Ok(request) => next.run(request, &mut extensions).await,
                Err(error) => Err(reqwest_middleware::Error::Reqwest(error)),
            };
            (outcome, extensions)
        }))
    }

    /// Ready when it is over, or has panicked.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<thread::Result<Ended>> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(ended)) => Poll::Ready(Ok(ended)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// The attempts that are under way, by their numbers: mostly one.
#[derive(Default)]
pub(crate) struct Attempts<'a> {
    first: Option<(usize, Attempt<'a>)>,
    more: Vec<(usize, Attempt<'a>)>,
}

impl<'a> Attempts<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_empty()
    }

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
