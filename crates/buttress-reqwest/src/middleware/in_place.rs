use std::any::Any;
use std::future::{Future, poll_fn};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use buttress::BoxError;
use bytes::Bytes;
use http::Extensions;
use http_body::Body;
use reqwest_middleware::Next;
use tower_service::Service;

use super::answer::InPlaceBody;
use super::attempt::{Attempt, Attempts};
use super::error::to_middleware;
use super::mailbox::{Job, Mailbox, Reply, Stack};
use super::waiting::{Waiting, detached};
use crate::body::{request_body, response_body};

/// The innermost service of a stack that works [in place](crate::StackMiddleware::in_place): what lies beneath the stack.
///
/// It is always ready, holds nothing, and works where its middleware polls the call only: elsewhere it fails with
/// [`Detached`](crate::Detached).
#[derive(Clone, Copy, Debug)]
pub struct InPlaceService {
    stack: Stack,
}

impl InPlaceService {
    pub(crate) fn new(stack: Stack) -> Self {
        Self { stack }
    }
}

impl<B> Service<http::Request<B>> for InPlaceService
where
    B: Body + Send + Sync + Unpin + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<InPlaceBody>;
    type Error = BoxError;
    type Future = InPlaceFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, mut request: http::Request<B>) -> InPlaceFuture {
        // Looked at where it is: a request is large.
        let as_it_is = (&mut request as &mut dyn Any).downcast_mut::<http::Request<reqwest::Body>>();
        let waiting = match as_it_is {
            Some(request) => Waiting::new(self.stack, request),
            None => Waiting::new(self.stack, &mut request.map(request_body)),
        };
        InPlaceFuture { waiting }
    }
}

/// The response of an [`InPlaceService`]. Dropping it ends the attempt.
#[derive(Debug)]
pub struct InPlaceFuture {
    waiting: Option<Waiting>,
}

impl Future for InPlaceFuture {
    type Output = Result<http::Response<InPlaceBody>, BoxError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.waiting {
            Some(waiting) => waiting.poll(cx),
            None => Poll::Ready(Err(detached())),
        }
    }
}

type Outcome = reqwest_middleware::Result<reqwest::Response>;

type BoxFuture<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// A call through a stack that works in place, and the attempts that it asks for beside it.
#[inline(always)]
pub(crate) fn call<'a, S, B>(
    mut service: S,
    request: http::Request<reqwest::Body>,
    mut mailbox: Mailbox,
    extensions: &'a mut Extensions,
    next: Next<'a>,
) -> BoxFuture<'a>
where
    S: Service<http::Request<reqwest::Body>, Response = http::Response<B>> + Send + 'a,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Send + Sync + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    // A block, since the arguments of an `async fn` would lie beside what it makes of them.
    Box::pin(async move {
        poll_fn(|cx| service.poll_ready(cx)).await.map_err(|error| to_middleware(error.into()))?;
        let call = pin!({
            // It ends with this block: what its layers have reserved and not used is free again.
            let mut service = service;
            let _lent = mailbox.lend();
            service.call(request)
        });
        let (others, left) = (Attempts::default(), None);
        let mut driver = Driver { call, mailbox, next, others, under_way: None, left, asks: true };
        let mut begin = None;
        loop {
            // It works on the caller's own extensions, and so needs no box around them and itself.
            let mut attempt = begin.and_then(|number| driver.begin(number, extensions));
            let step = poll_fn(|cx| driver.poll(attempt.as_mut(), cx)).await;
            drop(attempt);
            driver.restore(extensions);
            begin = match step {
                Step::Answered(answer) => return answer,
                Step::Begin(number) => Some(number),
                Step::Over => None,
            };
        }
    })
}

/// What a call and its attempts go on with.
struct Driver<'p, 'a, F> {
    call: Pin<&'p mut F>,
    mailbox: Mailbox,
    next: Next<'a>,
    /// The attempt that works on the caller's extensions.
    under_way: Option<usize>,
    /// Those beside it.
    others: Attempts<'a>,
    /// What becomes of the caller's extensions unless the first comes to its end: what was before it, or what another has
    /// left since.
    left: Option<Extensions>,
    /// The call is to be polled.
    asks: bool,
}

enum Step {
    /// The call is over.
    Answered(Outcome),
    /// An attempt with this number is to be made, where none is under way.
    Begin(usize),
    /// None is under way any longer.
    Over,
}

impl<'a, F, B, E> Driver<'_, 'a, F>
where
    F: Future<Output = Result<http::Response<B>, E>>,
    E: Into<BoxError>,
    B: Body + Send + Sync + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    /// Polls the attempt under way, if there is one, and the call.
    #[inline]
    fn poll<'e>(&mut self, attempt: Option<&mut BoxFuture<'e>>, cx: &mut Context<'_>) -> Poll<Step> {
        let had_one = self.under_way.is_some();
        if let (Some(number), Some(attempt)) = (self.under_way, attempt) {
            self.poll_attempt(number, attempt.as_mut(), cx);
        }
        if !self.others.is_empty() {
            self.poll_others(cx);
        }
        loop {
            if mem::take(&mut self.asks) {
                self.mailbox.polled_by(cx);
                let lent = self.mailbox.lend();
                let mut polled = self.call.as_mut().poll(cx);
                drop(lent);
                if let Poll::Ready(Ok(answer)) = &mut polled {
                    if let Some(response) = InPlaceBody::restored(answer) {
                        // Nothing is left in it, and whoever drops it has to find that out.
                        mem::forget(polled);
                        return Poll::Ready(Step::Answered(Ok(response)));
                    }
                }
                if let Poll::Ready(outcome) = polled {
                    return Poll::Ready(Step::Answered(self.made(outcome)));
                }
            }
            while let Some(job) = self.mailbox.next() {
                match (job, self.under_way) {
                    (Job::Make(number), None) => return Poll::Ready(Step::Begin(number)),
                    (Job::Make(number), Some(_)) => self.begin_beside(number, cx),
                    (Job::Drop(number), Some(other)) if number == other => {
                        self.under_way = None;
                        return Poll::Ready(Step::Over);
                    }
                    (Job::Drop(number), _) => self.others.retain(|other, _| other != number),
                }
            }
            if !self.asks {
                if had_one && self.under_way.is_none() {
                    // It is dropped before anything is waited for.
                    return Poll::Ready(Step::Over);
                }
                // Whenever this is polled again.
                self.asks = true;
                return Poll::Pending;
            }
        }
    }

    /// What has been asked for goes on with these extensions.
    #[inline]
    fn begin<'e>(&mut self, number: usize, extensions: &'e mut Extensions) -> Option<BoxFuture<'e>>
    where
        'a: 'e,
    {
        self.left = Some(extensions.clone());
        let next = self.next.clone();
        let begun =
            AssertUnwindSafe(|| self.mailbox.send(number).map(|request| next.run(request, extensions)));
        match catch_unwind(begun) {
            Ok(attempt) => {
                self.under_way = attempt.as_ref().map(|_| number);
                attempt
            }
            Err(panic) => {
                self.answer(number, Err(panic));
                None
            }
        }
    }

    /// Polls the attempt under way and hands on what has become of it, if it is over. What one that has panicked leaves counts
    /// no more than what one leaves that nobody waits for.
    #[inline]
    fn poll_attempt(
        &mut self,
        number: usize,
        attempt: Pin<&mut (dyn Future<Output = Outcome> + Send + '_)>,
        cx: &mut Context<'_>,
    ) {
        let Some(reply) = self.mailbox.reply(number) else { return };
        let polled = catch_unwind(AssertUnwindSafe(|| match attempt.poll(cx) {
            Poll::Ready(outcome) => {
                *reply = Some(Ok(outcome));
                true
            }
            Poll::Pending => false,
        }));
        match polled {
            Ok(false) => return,
            Ok(true) => self.left = None,
            Err(panic) => *reply = Some(Err(panic)),
        }
        self.under_way = None;
        self.mailbox.answered(number);
        self.asks = true;
    }

    /// Hands on what has become of an attempt, for which the call is to be polled.
    #[cold]
    fn answer(&mut self, number: usize, reply: Reply) {
        if let Some(place) = self.mailbox.reply(number) {
            *place = Some(reply);
        }
        self.mailbox.answered(number);
        self.asks = true;
    }

    /// Gives the caller's extensions what is left.
    #[inline]
    fn restore(&mut self, extensions: &mut Extensions) {
        if let Some(left) = self.left.take() {
            *extensions = left;
        }
    }

    #[cold]
    fn begin_beside(&mut self, number: usize, cx: &mut Context<'_>) {
        if let Some(request) = self.mailbox.send(number) {
            let extensions = self.left.clone().unwrap_or_default();
            self.others.push(number, Attempt::new(Ok(request), self.next.clone(), extensions));
        }
        self.poll_others(cx);
    }

    #[cold]
    fn poll_others(&mut self, cx: &mut Context<'_>) {
        let mut others = mem::take(&mut self.others);
        others.retain(|number, attempt| {
            let Poll::Ready(ended) = attempt.poll(cx) else { return true };
            let reply = ended.map(|(outcome, left)| {
                self.left = Some(left);
                outcome
            });
            self.answer(number, reply);
            false
        });
        self.others = others;
    }

    /// What the stack answers by itself, as reqwest has it.
    #[cold]
    fn made(&self, outcome: Result<http::Response<B>, E>) -> Outcome {
        let answer = outcome.map_err(|error| to_middleware(error.into()))?.map(response_body);
        Ok(match self.mailbox.asked() {
            Some(asked) => asked.clone().answered(answer).into(),
            None => answer.into(),
        })
    }
}
