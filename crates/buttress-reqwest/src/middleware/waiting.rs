use std::panic::resume_unwind;
use std::task::{Context, Poll};

use buttress::core::Judged;
use buttress::{BoxError, Verdict};

use super::answer::InPlaceBody;
use super::error::{Detached, from_middleware};
use super::mailbox::{Open, Reply, Stack, Standing};

/// An attempt that somebody waits for. Dropping it ends the attempt.
#[derive(Debug)]
pub(crate) struct Waiting {
    call: u64,
    number: usize,
    over: bool,
}

impl Waiting {
    /// Asks the task that polls a call of this stack for an attempt; the request is a blank one then. `None` if no call is
    /// polled here.
    #[inline(always)]
    pub(crate) fn new(stack: Stack, request: &mut http::Request<reqwest::Body>) -> Option<Self> {
        let mut open = Open::take();
        let attempts = open.find(|attempts| attempts.stack == stack)?;
        Some(Self { call: attempts.call, number: attempts.ask(request), over: false })
    }

    /// Fails if the call is not polled here.
    #[inline]
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<http::Response<InPlaceBody>, BoxError>> {
        let mut open = Open::take();
        // Of one that is over, the place may be another one's by now.
        let attempts = if self.over { None } else { open.find(|attempts| attempts.call == self.call) };
        let Some(attempts) = attempts else { return Poll::Ready(Err(detached())) };
        match attempts.standing(self.number, cx) {
            Standing::Answered(reply) => {
                self.over = true;
                Poll::Ready(match reply {
                    Some(Ok(Ok(response))) => Ok(InPlaceBody::of(response)),
                    reply => Err(failed(reply)),
                })
            }
            Standing::UnderWay(before) => {
                // What a waker owns may be anything, which may look for the call.
                drop(open);
                drop(before);
                Poll::Pending
            }
        }
    }

    #[cold]
    fn give_up(&mut self) {
        let mut open = Open::take();
        let left = open.find(|attempts| attempts.call == self.call).map(|call| call.give_up(self.number));
        // What is left may be anything, which may look for the call.
        drop(open);
        drop(left);
    }
}

impl Drop for Waiting {
    #[inline]
    fn drop(&mut self) {
        if !self.over {
            self.give_up();
        }
    }
}

/// What a service says whose call is not polled where it asks.
#[cold]
pub(crate) fn detached() -> BoxError {
    Judged::new(Verdict::Ignored, Detached::new()).into()
}

/// What the service that asked says of an attempt that has not become a response.
#[cold]
fn failed(reply: Option<Reply>) -> BoxError {
    match reply {
        Some(Ok(Err(error))) => from_middleware(error),
        Some(Err(panic)) => resume_unwind(panic),
        _ => unreachable!("it was answered"),
    }
}
