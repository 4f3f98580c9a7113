use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress::core::Judged;
use buttress::{BoxError, Verdict};
use bytes::Bytes;
use http::Extensions;
use http_body::Body;
use pin_project_lite::pin_project;
use reqwest_middleware::Next;
use tower_service::Service;

use super::answer::InPlaceBody;
use super::asked::Asked;
use super::attempt::{Attempt, Attempts};
use super::error::{Detached, from_middleware, to_middleware};
use super::mailbox::{Job, Mailbox, Waiting};
use crate::body::{request_body, response_body};

/// The innermost service of a stack that works [in place](crate::StackMiddleware::in_place): what lies beneath the stack.
///
/// It is always ready, holds nothing, and works where its middleware polls the call only: elsewhere it fails with
/// [`Detached`].
#[derive(Clone, Copy, Debug)]
pub struct InPlaceService {
    _made_here: (),
}

impl InPlaceService {
    pub(crate) fn new() -> Self {
        Self { _made_here: () }
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

    fn call(&mut self, request: http::Request<B>) -> InPlaceFuture {
        // Lent, since a request is large.
        let mut request = Some(request.map(request_body));
        InPlaceFuture { waiting: Waiting::new(&mut request) }
    }
}

/// The response of an [`InPlaceService`]. Dropping it ends the attempt.
#[derive(Debug)]
pub struct InPlaceFuture {
    waiting: Option<Waiting>,
}

impl Future for InPlaceFuture {
    type Output = Result<http::Response<InPlaceBody>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = match &mut self.waiting {
            Some(waiting) => ready!(waiting.poll(cx)),
            None => None,
        };
        Poll::Ready(match reply {
            Some(Ok(Ok(response))) => Ok(InPlaceBody::of(response)),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(panic)) => resume_unwind(panic),
            None => Err(Judged::new(Verdict::Ignored, Detached::new()).into()),
        })
    }
}

pin_project! {
    /// A call through a stack that works in place, and the attempts that it asks for beside it.
    ///
    /// It is written by hand since what it is made of would otherwise lie beside it, and all of it in one box.
    pub(crate) struct Call<'a, S>
    where
        S: Service<http::Request<reqwest::Body>>,
    {
        #[pin]
        state: State<S, S::Future>,
        mailbox: Option<Box<Mailbox>>,
        attempts: Attempts<'a>,
        asked: Asked,
        extensions: &'a mut Extensions,
        next: Next<'a>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F> {
        Waiting { service: S, request: Option<http::Request<reqwest::Body>> },
        Called { #[pin] call: F },
    }
}

impl<'a, S> Call<'a, S>
where
    S: Service<http::Request<reqwest::Body>>,
{
    pub(crate) fn new(
        service: S,
        request: http::Request<reqwest::Body>,
        asked: Asked,
        extensions: &'a mut Extensions,
        next: Next<'a>,
    ) -> Self {
        Self {
            state: State::Waiting { service, request: Some(request) },
            mailbox: Some(Mailbox::new()),
            attempts: Attempts::default(),
            asked,
            extensions,
            next,
        }
    }
}

impl<S, B> Future for Call<'_, S>
where
    S: Service<http::Request<reqwest::Body>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    B: Body + Send + Sync + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = reqwest_middleware::Result<reqwest::Response>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let failed = |error: S::Error| to_middleware(error.into());
        if let StateProj::Waiting { service, request } = this.state.as_mut().project() {
            ready!(service.poll_ready(cx)).map_err(failed)?;
            let request = request.take().expect("a future is not polled again after it was ready");
            let lent = Mailbox::lend(this.mailbox, cx);
            let call = service.call(request);
            drop(lent);
            this.state.set(State::Called { call });
        }
        this.attempts.retain(|number, attempt| {
            !is_over(this.mailbox, number, attempt, this.asked, this.extensions, cx)
        });
        loop {
            if let StateProj::Called { call } = this.state.as_mut().project() {
                let lent = Mailbox::lend(this.mailbox, cx);
                let polled = call.poll(cx);
                drop(lent);
                if let Poll::Ready(outcome) = polled {
                    return Poll::Ready(match outcome {
                        Ok(answer) => Ok(answered(answer, this.asked)),
                        Err(error) => Err(failed(error)),
                    });
                }
            }
            let mut answered = false;
            while let Some(job) = this.mailbox.as_deref_mut().and_then(Mailbox::next) {
                let (number, request) = match job {
                    Job::Make(number, request) => (number, this.asked.to_reqwest(request)),
                    Job::Drop(number) => {
                        this.attempts.retain(|other, _| other != number);
                        continue;
                    }
                };
                let mut attempt = Attempt::new(request, this.next.clone(), this.extensions.clone());
                if is_over(this.mailbox, number, &mut attempt, this.asked, this.extensions, cx) {
                    answered = true;
                } else {
                    this.attempts.push(number, attempt);
                }
            }
            if !answered {
                return Poll::Pending;
            }
        }
    }
}

/// Polls an attempt and hands on what has become of it, if it is over.
fn is_over(
    mailbox: &mut Option<Box<Mailbox>>,
    number: usize,
    attempt: &mut Attempt<'_>,
    asked: &Asked,
    extensions: &mut Extensions,
    cx: &mut Context<'_>,
) -> bool {
    let Poll::Ready(ended) = attempt.poll(cx) else { return false };
    let reply = ended.map(|(outcome, left)| {
        *extensions = left;
        match outcome {
            Ok(response) => Ok(asked.noted(response)),
            Err(error) => Err(from_middleware(error)),
        }
    });
    if let Some(mailbox) = mailbox {
        mailbox.answer(number, reply);
    }
    true
}

/// What the stack answers, as reqwest has it.
fn answered<B>(answer: http::Response<B>, asked: &Asked) -> reqwest::Response
where
    B: Body + Send + Sync + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    match InPlaceBody::restored(answer) {
        Ok(response) => response,
        Err(answer) => asked.clone().answered(answer.map(response_body)).into(),
    }
}
