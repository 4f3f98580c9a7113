use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{BoxError, Carry, Classify, Discard, KeyOf, Repeat, Replay, Stop, Timer, Verdict};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use crate::pause::Pause;
use crate::session::Facts;
use crate::shared::{Core, Judgement, Log};

pin_project! {
    /// The response of a [`Retry`](crate::Retry).
    ///
    /// Dropping it at any moment ends the attempt that is under way and all that would have followed.
    pub struct ResponseFuture<S, P, R, Req>
    where
        S: Service<R::Request>,
        R: Replay<Req>,
        P: Discard<S::Response>,
    {
        #[pin]
        state: State<S::Future, Pause<S, R::Request, P::Future>>,
        call: Call<S, P, R, R::Saved>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, B> {
        Attempt { #[pin] attempt: F },
        Pause { pause: Pin<Box<B>> },
        Failed { error: Option<BoxError> },
    }
}

/// What a call needs from its first attempt to its last.
struct Call<S, P, R, Saved> {
    core: Arc<Core<S, P, R>>,
    saved: Option<Saved>,
    log: Log,
    deadline: Option<Instant>,
    max_retries: Option<u32>,
    /// The rate gate's.
    key: u64,
}

impl<S, P, R, Req> fmt::Debug for ResponseFuture<S, P, R, Req>
where
    S: Service<R::Request>,
    R: Replay<Req>,
    P: Discard<S::Response>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("log", &self.call.log).finish_non_exhaustive()
    }
}

impl<S, P, R, Req> ResponseFuture<S, P, R, Req>
where
    S: Service<R::Request> + Clone,
    R: Replay<Req>,
    P: Discard<S::Response> + Carry<Req> + KeyOf<Req>,
{
    /// Calls `inner`, which is ready, unless the rate gate holds the request back.
    pub(crate) fn call(core: &Arc<Core<S, P, R>>, inner: &mut S, request: Req) -> Self {
        let settings = &core.settings;
        let (deadline, max_retries) = core
            .policy
            .carried(&request)
            .map_or((None, None), |carried| (carried.deadline, carried.max_retries));
        let key = settings.gate.as_ref().map_or(0, |gate| gate.hash(core.policy.key(&request).as_deref()));
        let held = settings.gate.as_ref().and_then(|gate| gate.held(|| key));
        let (request, saved) = core.replay.save(request);
        let may_retry = max_retries.unwrap_or(settings.config.max_retries) > 0;
        let saved = saved.filter(|_| may_retry);
        let mut log = Log::default();
        let state = match held.map(|time| settings.held_back(time, deadline)) {
            None => {
                settings.attempt_begins(&mut log);
                State::Attempt { attempt: inner.call(request) }
            }
            Some(Ok(delay)) => {
                // Somebody else may have use for what this instance has reserved.
                let service = inner.clone();
                *inner = service.clone();
                match Timer::at(after(Instant::now(), delay)) {
                    Ok(timer) => State::Pause { pause: Box::pin(Pause::new(timer, None, service, request)) },
                    Err(no_timer) => State::Failed { error: Some(no_timer.into()) },
                }
            }
            Some(Err(refused)) => State::Failed { error: Some(refused) },
        };
        let core = Arc::clone(core);
        Self { state, call: Call { core, saved, log, deadline, max_retries, key } }
    }
}

/// The state that follows an attempt, or the end.
type After<S, P, R, Req> = Result<
    State<<S as Service<<R as Replay<Req>>::Request>>::Future, PauseOf<S, P, R, Req>>,
    Result<<S as Service<<R as Replay<Req>>::Request>>::Response, BoxError>,
>;
type PauseOf<S, P, R, Req> = Pause<
    S,
    <R as Replay<Req>>::Request,
    <P as Discard<<S as Service<<R as Replay<Req>>::Request>>::Response>>::Future,
>;

impl<S, P, R, Saved> Call<S, P, R, Saved> {
    fn facts<Req>(&self) -> Facts
    where
        R: Replay<Req, Saved = Saved>,
    {
        let repeat = self.saved.as_ref().map_or(Repeat::Never, |saved| self.core.replay.repeat(saved));
        Facts { deadline: self.deadline, max_retries: self.max_retries, repeat }
    }

    fn after_attempt<Req>(&mut self, outcome: Result<S::Response, BoxError>) -> After<S, P, R, Req>
    where
        S: Service<R::Request> + Clone,
        R: Replay<Req, Saved = Saved>,
        P: Classify<S::Response> + Carry<R::Request> + Carry<S::Response> + Discard<S::Response>,
    {
        let verdict = self.core.policy.classify(outcome.as_ref().map_err(|error| &**error));
        let settings = &self.core.settings;
        settings.hold(self.key, verdict);
        let mut log = mem::take(&mut self.log);
        let judgement = settings.judge(&mut log, verdict, || self.facts());
        self.log = log;
        match judgement {
            Judgement::Final => Err(outcome.map(|response| self.annotated(response))),
            Judgement::GaveUp(stop) => Err(self.give_up(outcome, verdict, stop)),
            Judgement::Retry(delay) => self.pause(outcome, verdict, delay),
        }
    }

    /// Throws the outcome away and prepares the next attempt.
    #[cold]
    fn pause<Req>(
        &mut self,
        outcome: Result<S::Response, BoxError>,
        verdict: Verdict,
        delay: Duration,
    ) -> After<S, P, R, Req>
    where
        S: Service<R::Request> + Clone,
        R: Replay<Req, Saved = Saved>,
        P: Carry<R::Request> + Carry<S::Response> + Discard<S::Response>,
    {
        let timer = match Timer::at(after(Instant::now(), delay)) {
            Ok(timer) => timer,
            Err(no_timer) => return Err(Err(no_timer.into())),
        };
        let Some(mut request) = self.saved.as_mut().and_then(|saved| self.core.replay.replay(saved)) else {
            return Err(self.give_up(outcome, verdict, Stop::NotReplayable));
        };
        let attempt = self.log.attempts();
        self.core.policy.carry(&mut request, |carried| carried.attempt = attempt);
        let discard = outcome.ok().map(|response| self.core.policy.discard(response));
        let service = self.core.template.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(State::Pause { pause: Box::pin(Pause::new(timer, discard, service, request)) })
    }

    /// The last outcome: a response as it is, an error with the whole story.
    #[cold]
    fn give_up<Req>(
        &mut self,
        outcome: Result<S::Response, BoxError>,
        verdict: Verdict,
        stop: Stop,
    ) -> Result<S::Response, BoxError>
    where
        S: Service<R::Request>,
        R: Replay<Req, Saved = Saved>,
        P: Carry<S::Response>,
    {
        match outcome {
            Ok(response) => Ok(self.annotated(response)),
            Err(error) => {
                let facts = self.facts();
                Err(self.core.settings.exhausted(mem::take(&mut self.log), verdict, facts, stop, error))
            }
        }
    }

    /// Notes on a response how many attempts it took, if it was more than one.
    fn annotated<Res>(&self, mut response: Res) -> Res
    where
        P: Carry<Res>,
    {
        let attempt = self.log.attempts();
        if attempt > 1 {
            self.core.policy.carry(&mut response, |carried| carried.attempt = attempt);
        }
        response
    }
}

impl<S, P, R, Req> Future for ResponseFuture<S, P, R, Req>
where
    S: Service<R::Request> + Clone,
    S::Error: Into<BoxError>,
    R: Replay<Req>,
    P: Classify<S::Response> + Carry<R::Request> + Carry<S::Response> + Discard<S::Response>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let outcome = match this.state.as_mut().project() {
                StateProj::Attempt { attempt } => match attempt.poll(cx) {
                    Poll::Ready(outcome) => outcome.map_err(Into::into),
                    Poll::Pending => {
                        let log = &mut this.call.log;
                        if log.started.is_none() && log.session.is_none() {
                            log.started = Some(Instant::now());
                        }
                        return Poll::Pending;
                    }
                },
                StateProj::Pause { pause } => match ready!(pause.as_mut().poll(cx)) {
                    Ok(attempt) => {
                        this.call.core.settings.attempt_begins(&mut this.call.log);
                        this.state.set(State::Attempt { attempt });
                        continue;
                    }
                    // A clone that cannot become ready has failed as an attempt does.
                    Err(error) => Err(error),
                },
                StateProj::Failed { error } => {
                    return Poll::Ready(Err(error
                        .take()
                        .expect("a future is not polled again after it was ready")));
                }
            };
            match this.call.after_attempt::<Req>(outcome) {
                Ok(state) => this.state.set(state),
                Err(end) => return Poll::Ready(end),
            }
        }
    }
}
