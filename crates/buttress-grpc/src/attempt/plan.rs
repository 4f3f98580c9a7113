//! What is to be done with a response.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::{after, first_wait};
use buttress_core::{BoxError, Timer};
use buttress_http::ReplayBody;
use http::{Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use crate::by_method::Unlisted;
use crate::code::{Code, Codes};
use crate::grpc::{End, Noted};
use crate::peeked_body::{Look, PeekedBody};

/// What is known of a call, and what is to be done with its response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) codes: Option<Codes>,
    pub(super) stream: bool,
    pub(super) depth: Depth,
    /// The deadline that the server knows.
    pub(super) told: Option<Instant>,
    /// The deadline of the layers above, for the response's head.
    pub(super) until: Until,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    Unknown,
    At(Instant),
    /// So long after the first wait.
    After(Duration),
}

/// How far a response is looked into.
#[derive(Clone, Copy, Debug)]
pub(super) enum Depth {
    Head,
    /// To its first frame, if that comes in this time.
    First(Duration),
    /// To the end of its only message.
    Whole,
}

impl Plan {
    /// The head has to be waited for, from now on if it had not to be before.
    pub(super) fn wait(&mut self) {
        if let Until::After(limit) = self.until {
            self.until = Until::At(after(first_wait(), limit));
        }
    }

    /// Whether a response whose status is open is looked into. A look is for nothing if the request could not be sent again;
    /// and while it is still being sent, the response may be waiting for it.
    pub(super) fn looks<B>(&self, sent: Option<&ReplayBody<B>>) -> bool
    where
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        match self.depth {
            Depth::Head => false,
            Depth::First(_) => sent.is_none_or(|sent| sent.is_complete() && sent.is_replayable()),
            Depth::Whole => true,
        }
    }

    /// Looks into a response, and notes on it what there is to say.
    pub(super) fn poll_look<R>(
        &self,
        response: &mut Response<PeekedBody<R>>,
        timer: &mut Option<Timer>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BoxError>>
    where
        R: Body + Unpin,
        R::Error: Into<BoxError>,
    {
        let whole = matches!(self.depth, Depth::Whole);
        let end = match response.body_mut().poll_look(whole, cx) {
            Poll::Ready(Look::End(end)) => Some(end),
            Poll::Ready(Look::Data) => None,
            Poll::Ready(Look::Failed(error)) => return Poll::Ready(Err(Unlisted::mark(error, self.codes))),
            Poll::Pending => {
                ready!(self.poll_wait(timer, cx));
                None
            }
        };
        self.note(response, end);
        Poll::Ready(Ok(()))
    }

    /// Ready when the head is to be given out although nothing has followed it: early enough for the layers above.
    fn poll_wait(&self, timer: &mut Option<Timer>, cx: &mut Context<'_>) -> Poll<()> {
        let Depth::First(wait) = self.depth else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| {
            let now = Instant::now();
            let until = match self.until {
                Until::Unknown => after(now, wait),
                Until::At(deadline) => after(now, wait).min(deadline),
                Until::After(limit) => after(now, wait.min(limit)),
            };
            // Without a timer there is no waiting.
            Timer::at(until).unwrap_or_default()
        });
        timer.poll(cx)
    }

    /// Notes on a response how it ended, as far as that is known; nothing on one that is good.
    pub(super) fn note<B>(&self, response: &mut Response<B>, end: Option<End>) {
        let end = end.map(|end| in_time(end, self.told));
        let good = match end {
            None => response.status() == StatusCode::OK,
            Some(end) => matches!(end, End::Status { code: Code::Ok, .. }),
        };
        if self.stream || !good {
            let Self { codes, stream, .. } = *self;
            response.extensions_mut().insert(Noted { codes, stream, end });
        }
    }
}

/// A server that is told of a deadline may be the first to end the call, and some (tonic's) call that cancelled: it has
/// failed all the same.
fn in_time(end: End, told: Option<Instant>) -> End {
    match (end, told) {
        (End::Status { code: Code::Cancelled, hint }, Some(deadline))
            if Instant::now() + Duration::from_millis(10) >= deadline =>
        {
            End::Status { code: Code::DeadlineExceeded, hint }
        }
        (end, _) => end,
    }
}
