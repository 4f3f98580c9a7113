use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::{after, before_poll, first_wait, wakes_by};
use buttress_core::{
    Backoff, BoxError, Carry, Classify, Discard, KeyOf, Mode, NoTimer, Replay, Timer, Verdict,
};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use crate::budget::Prepaid;
use crate::pause::Pause;
use crate::session::Facts;
use crate::shared::{Core, Judgement, Log, Settings};

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
    facts: Facts,
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
    // Compiled into its callers, it moves what it makes once more.
    #[inline(never)]
    pub(crate) fn call(core: &Arc<Core<S, P, R>>, inner: &mut S, request: Req) -> Self {
        // Before the request is moved, whose stores a locked operation would have to wait for.
        let core = Arc::clone(core);
        let settings = &core.settings;
        let (deadline, max_retries, backoff, own_time) =
            core.policy.carried(&request).map_or((None, None, None, false), |carried| {
                (carried.deadline, carried.max_retries, carried.backoff.clone(), carried.time_limit.is_some())
            });
        // What is kept of the request depends on it: so the call keeps it, whatever becomes of the configuration.
        let retries = max_retries.unwrap_or_else(|| settings.max_retries());
        let (max_retries, repeatable) = (Some(retries), core.replay.is_repeatable(&request));
        let facts = Facts { deadline, max_retries, repeatable, own_time };
        let key = settings.gate().map_or(0, |gate| gate.hash(core.policy.key(&request).as_deref()));
        let may_retry = retries > 0 && settings.mode.get() == Mode::Enforce;
        let request = if may_retry { core.replay.record(request) } else { core.replay.once(request) };
        let saved = if may_retry { Some(core.replay.keep(&request)) } else { None };
        let log = Log { started: settings.attempt_start(), backoff, session: None };
        if core.settings.gate().is_some() {
            return Self::unless_held(Call { core, saved, log, facts, key }, inner, request);
        }
        // The call is put together where it stays, when nothing can fail any more: it is large.
        let attempt = inner.call(request);
        Self { call: Call { core, saved, log, facts, key }, state: State::Attempt { attempt } }
    }

    /// Calls `inner` if the rate gate lets it.
    #[cold]
    fn unless_held(mut call: Call<S, P, R, R::Saved>, inner: &mut S, request: R::Request) -> Self {
        let (settings, backoff) = (&call.core.settings, call.log.backoff.clone());
        let held = match held_first(settings, call.key, call.facts, backoff) {
            Ok(None) => return Self { state: State::Attempt { attempt: inner.call(request) }, call },
            Ok(Some(held)) => Ok(held),
            Err(error) => Err(error),
        };
        // Others may have use for what this instance has reserved.
        let service = inner.clone();
        *inner = service.clone();
        let state = match held {
            Ok((timer, log)) => {
                call.log = log;
                State::Pause {
                    pause: Box::pin(Pause::new(timer, None, service, request, Prepaid::default())),
                }
            }
            Err(error) => {
                call.log = Log::default();
                State::Failed { error: Some(error) }
            }
        };
        Self { state, call }
    }
}

/// How long the rate gate holds a first attempt back.
#[cold]
fn held_first(
    settings: &Settings,
    key: u64,
    facts: Facts,
    backoff: Option<Arc<Backoff>>,
) -> Result<Option<(Timer, Log)>, BoxError> {
    let mut log = Log { backoff, ..Log::default() };
    match settings.held(&mut log, key, facts)? {
        None => Ok(None),
        Some(delay) => Ok(Some((Timer::at(after(Instant::now(), delay))?, log))),
    }
}

/// No time needs no timer.
fn timer(delay: Duration) -> Result<Timer, NoTimer> {
    if delay.is_zero() { Ok(Timer::default()) } else { Timer::at(after(Instant::now(), delay)) }
}

/// Why an attempt was not made, with a verdict if another one may be.
type NotMade = (BoxError, Option<Verdict>);

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
    #[cold]
    fn after_failure<Req>(
        &mut self,
        outcome: Result<S::Response, BoxError>,
        verdict: Verdict,
    ) -> After<S, P, R, Req>
    where
        S: Service<R::Request> + Clone,
        R: Replay<Req, Saved = Saved>,
        P: Classify<S::Response> + Carry<R::Request> + Carry<S::Response> + Discard<S::Response>,
    {
        let Self { core, saved, log, facts, key } = self;
        core.settings.hold(*key, verdict);
        let observing = core.settings.mode.get() == Mode::Observe;
        let copy = || match saved {
            Some(saved) => core.replay.replay(saved).map(Some),
            // Nothing is kept where nothing will be sent again, and yet it is to be said what would have been done.
            None => observing.then_some(None),
        };
        match core.settings.judge(log, verdict, *facts, copy) {
            Judgement::Retry(Some(request), delay) => self.pause(outcome, request, delay),
            Judgement::GaveUp(stop) => Err(match outcome {
                Ok(mut response) => {
                    core.policy.carry(&mut response, |carried| carried.stop = Some(stop));
                    Ok(response)
                }
                Err(error) => Err(core.settings.exhausted(mem::take(log), verdict, *facts, stop, error)),
            }),
            Judgement::Final | Judgement::Retry(None, _) => Err(outcome),
        }
    }

    /// Throws the outcome away and waits with the next attempt.
    #[cold]
    fn pause<Req>(
        &mut self,
        outcome: Result<S::Response, BoxError>,
        mut request: R::Request,
        delay: Duration,
    ) -> After<S, P, R, Req>
    where
        S: Service<R::Request> + Clone,
        R: Replay<Req, Saved = Saved>,
        P: Carry<R::Request> + Discard<S::Response>,
    {
        let prepaid = self.core.settings.prepaid(&self.log);
        let timer = match timer(delay) {
            Ok(timer) => timer,
            Err(no_timer) => return Err(Err(no_timer.into())),
        };
        let attempt = self.log.attempts();
        let deadline = self.log.session.as_ref().and_then(|session| session.deadline(self.facts));
        self.core.policy.carry(&mut request, |carried| {
            carried.attempt = attempt;
            carried.deadline = deadline;
        });
        let discard = outcome.ok().map(|response| self.core.policy.discard(response));
        let service = self.core.template.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(State::Pause { pause: Box::pin(Pause::new(timer, discard, service, request, prepaid)) })
    }

    /// Waits, and calls the service.
    #[cold]
    fn poll_pause<Req>(
        &mut self,
        mut pause: Pin<&mut PauseOf<S, P, R, Req>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Future, NotMade>>
    where
        S: Service<R::Request>,
        S::Error: Into<BoxError>,
        R: Replay<Req, Saved = Saved>,
        P: Classify<S::Response> + Discard<S::Response>,
    {
        let Self { core, log, facts, key, .. } = self;
        loop {
            ready!(pause.as_mut().poll_wait(cx));
            // Somebody else may have been throttled meanwhile.
            match core.settings.held(log, *key, *facts) {
                Ok(None) => break,
                Ok(Some(delay)) => match Timer::at(after(Instant::now(), delay)) {
                    Ok(timer) => pause.as_mut().wait_for(timer),
                    Err(no_timer) => return Poll::Ready(Err((no_timer.into(), None))),
                },
                Err(refused) => {
                    let error = core.settings.refused(mem::take(log), *facts, refused);
                    return Poll::Ready(Err((error, None)));
                }
            }
        }
        let called = ready!(pause.as_mut().poll_call(cx));
        log.started = core.settings.attempt_start();
        // A clone that cannot become ready has failed as an attempt does, but it has sent nothing.
        Poll::Ready(called.map_err(|error| {
            let verdict = core.policy.classify(Err(&*error)).not_sent();
            (error, Some(verdict))
        }))
    }

    /// Notes on a response how many attempts it took, if it was more than one.
    fn annotate<Res>(&self, response: &mut Res)
    where
        P: Carry<Res>,
    {
        let attempt = self.log.attempts();
        if attempt > 1 {
            self.core.policy.carry(response, |carried| carried.attempt = attempt);
        }
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

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // The first attempt may have to wait now, for the first time.
        if this.call.log.started.is_none() {
            before_poll();
        }
        loop {
            let core = &this.call.core;
            let (outcome, verdict) = match this.state.as_mut().project() {
                // A good response goes straight to the caller: it is large, and moved as seldom as possible.
                StateProj::Attempt { attempt } => match attempt.poll(cx) {
                    Poll::Ready(Ok(mut response)) => {
                        let verdict = core.policy.classify(Ok(&response));
                        if !verdict.is_failure() {
                            core.settings.good(&this.call.log, verdict);
                            this.call.annotate(&mut response);
                            return Poll::Ready(Ok(response));
                        }
                        (Ok(response), verdict)
                    }
                    Poll::Ready(Err(error)) => {
                        let error = error.into();
                        let verdict = core.policy.classify(Err(&*error));
                        if !verdict.is_failure() {
                            core.settings.good(&this.call.log, verdict);
                            return Poll::Ready(Err(error));
                        }
                        (Err(error), verdict)
                    }
                    Poll::Pending => {
                        let log = &mut this.call.log;
                        if log.started.is_none() && log.session.is_none() {
                            log.started = Some(first_wait());
                        }
                        return Poll::Pending;
                    }
                },
                StateProj::Pause { pause } => match this.call.poll_pause::<Req>(pause.as_mut(), cx) {
                    Poll::Pending => {
                        // The last response, or the service, may have polled a deadline of its own, in a task of its own.
                        wakes_by(None);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(attempt)) => {
                        this.state.set(State::Attempt { attempt });
                        continue;
                    }
                    Poll::Ready(Err((error, Some(verdict)))) => (Err(error), verdict),
                    Poll::Ready(Err((error, None))) => {
                        // What was paid goes back now, and not only with this future.
                        this.state.set(State::Failed { error: None });
                        return Poll::Ready(Err(error));
                    }
                },
                StateProj::Failed { error } => {
                    return Poll::Ready(Err(error
                        .take()
                        .expect("a future is not polled again after it was ready")));
                }
            };
            match this.call.after_failure::<Req>(outcome, verdict) {
                Ok(state) => this.state.set(state),
                Err(mut end) => {
                    if let Ok(response) = &mut end {
                        this.call.annotate(response);
                    }
                    return Poll::Ready(end);
                }
            }
        }
    }
}
