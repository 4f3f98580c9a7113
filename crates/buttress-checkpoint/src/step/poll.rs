//! How a step runs: from its first poll to the result that is recorded of it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use buttress_core::StepKey;
use buttress_core::clock::nanos;
use buttress_core::observe::StepResult;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::{Instant, Sleep};

use super::{Semantics, Step};
use crate::entry::{Body, Fault, Kind};
use crate::error::{Mismatch, StepError, StepId};
use crate::replay::Delivery;
use crate::run::{BoxFuture, Compensation, Core, Gate};

pub(super) enum Phase<'a, T, E> {
    Waiting,
    /// The mark that it begins is on its way.
    Marking,
    Running(Attempt<'a, T, E>),
    /// The mark that an attempt failed is on its way.
    Failing {
        delay: Duration,
    },
    Backoff(Pin<Box<Sleep>>),
    /// Its result is on its way; or it was dropped, and nothing more happens.
    Over,
}

pub(super) struct Attempt<'a, T, E> {
    /// `None` if it did not happen, which only a reconciliation says.
    future: BoxFuture<'a, Result<Option<T>, E>>,
    /// It finds out whether an earlier attempt was done, and is none itself.
    reconciles: bool,
    limit: Option<(Duration, Pin<Box<Sleep>>)>,
    began: Instant,
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

/// How an attempt ended.
enum Ended<T, E> {
    With(Result<T, E>),
    NotDone,
    TimedOut(Duration),
}

impl<'a, T: 'a, E: 'a> Step<'a, T, E> {
    fn is_tracked(&self) -> bool {
        self.options.semantics == Semantics::AtMostOnce || self.options.reconcile.is_some()
    }

    fn body(&self, id: &StepId) -> Body {
        let input = self.options.input.clone();
        Body { n: id.ordinal, input, attempt: self.marks.attempts + 1, ..Body::default() }
    }

    fn go_on(&mut self, id: &StepId) {
        self.core.sleeping(id.ordinal, None);
        if self.marks.started { self.interrupted(id) } else { self.begin(id) }
    }

    fn begin(&mut self, id: &StepId) {
        if self.is_tracked() {
            self.core.send(Kind::Started, id, self.body(id));
            self.phase = Phase::Marking;
        } else {
            self.enter(id);
        }
    }

    fn enter(&mut self, id: &StepId) {
        let Self { core, body, .. } = self;
        let key = core.key_of(&id.name, id.occurrence);
        let future = core.in_step(id, body);
        let done: BoxFuture<'a, _> = Box::pin(StepKey::scope(key, async move { future.await.map(Some) }));
        self.run(id, done, false);
    }

    fn run(&mut self, id: &StepId, future: BoxFuture<'a, Result<Option<T>, E>>, reconciles: bool) {
        self.core.running(1);
        let limit = self.options.timeout.map(|limit| (limit, Box::pin(tokio::time::sleep(limit))));
        self.phase = Phase::Running(Attempt {
            future,
            reconciles,
            limit,
            began: Instant::now(),
            #[cfg(feature = "tracing")]
            span: tracing::info_span!(
                target: "buttress", "step", run = %self.core.id, name = &*id.name, occurrence = id.occurrence,
                attempt = self.marks.attempts + 1
            ),
        });
        #[cfg(not(feature = "tracing"))]
        let _ = id;
    }

    /// It is not known how an attempt ended: a worker ended in the middle of it, or its time was over.
    fn interrupted(&mut self, id: &StepId) {
        match self.options.reconcile.as_mut() {
            Some(reconcile) => {
                let key = self.core.key_of(&id.name, id.occurrence);
                let future = self.core.in_step(id, reconcile);
                self.run(id, Box::pin(StepKey::scope(key, future)), true);
            }
            None => {
                let body = Body { fault: Some(Fault::Interrupted), ..self.body(id) };
                self.record(id, body, Duration::ZERO);
            }
        }
    }

    /// From here on the step can be undone: its record is on its way, whether or not anybody awaits the result.
    fn record(&mut self, id: &StepId, body: Body, took: Duration) {
        let result = if body.ok.is_some() { StepResult::Succeeded } else { StepResult::Failed };
        self.core.emit_step(id, result, took);
        if let Some(value) = &body.ok
            && let Some(undo) = self.options.compensate.take()
        {
            self.core.compensate(None, Compensation { id: id.clone(), value: value.clone(), undo });
        }
        self.core.send(Kind::Step, id, body);
        self.phase = Phase::Over;
    }

    /// For how long to wait before the next attempt, if there is one.
    fn next_attempt(&self, ended: &Ended<T, E>) -> Option<Duration> {
        let (backoff, max) = self.options.retry.as_ref()?;
        let wanted = match ended {
            Ended::With(Err(error)) => self.options.retry_if.as_ref().is_none_or(|retry| retry(error)),
            Ended::TimedOut(_) => true,
            Ended::With(Ok(_)) | Ended::NotDone => false,
        };
        let delay = || backoff.delays().nth(self.marks.attempts as usize);
        if wanted && self.marks.attempts < *max { delay() } else { None }
    }
}

impl<'a, T: 'a, E: 'a> Step<'a, T, E>
where
    T: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    fn ended(&mut self, id: &StepId, ended: &Ended<T, E>, took: Duration, reconciled: bool) {
        self.core.running(-1);
        let mut body = Body { took: Some(nanos(took) / 1000), ..self.body(id) };
        match ended {
            Ended::NotDone => {
                self.marks.started = false;
                return self.begin(id);
            }
            Ended::With(Ok(value)) => match encode(value, self.core.max_value()) {
                Ok((raw, value)) => (body.ok, self.live) = (Some(raw), Some(Ok(value))),
                Err(reason) => body.fault = Some(Fault::NotStored { reason }),
            },
            Ended::With(Err(error)) => match encode(error, self.core.max_value()) {
                Ok((raw, error)) => (body.err, self.live) = (Some(raw), Some(Err(StepError::Failed(error)))),
                Err(reason) => body.fault = Some(Fault::NotStored { reason }),
            },
            Ended::TimedOut(limit) => body.fault = Some(Fault::TimedOut { micros: nanos(*limit) / 1000 }),
        }
        // What may have been done is looked into, and not done again.
        let unknown = reconciled || self.is_tracked() && matches!(ended, Ended::TimedOut(_));
        let next = if unknown && self.options.reconcile.is_none() { None } else { self.next_attempt(ended) };
        match next {
            Some(delay) => {
                self.core.emit_step(id, StepResult::WillRetry, took);
                (body.wait, body.unknown) = (Some(nanos(delay) / 1000), unknown);
                self.core.send(Kind::Attempt, id, body);
                self.marks.attempts += 1;
                self.marks.started = unknown;
                self.phase = Phase::Failing { delay };
            }
            None => self.record(id, body, took),
        }
    }

    /// What is recorded; `None` if it does not fit the types, and the run stops.
    fn delivered(&mut self, id: &StepId, delivery: Delivery) -> Option<Result<T, StepError<E>>> {
        self.phase = Phase::Over;
        let Delivery { body, old, at, .. } = delivery;
        match self.live.take() {
            Some(result) if !old => return Some(result),
            _ if old => self.core.emit_step(id, StepResult::Skipped, Duration::ZERO),
            _ => {}
        }
        let decoded = match (body.ok, body.err, body.fault) {
            (Some(ok), ..) => serde_json::from_str(ok.get()).map(|value| {
                if let Some(undo) = self.options.compensate.take() {
                    self.core.compensate(Some(at), Compensation { id: id.clone(), value: ok, undo });
                }
                Ok(value)
            }),
            (None, Some(err), _) => {
                serde_json::from_str(err.get()).map(|error| Err(StepError::Failed(error)))
            }
            (None, None, Some(Fault::TimedOut { micros })) => {
                Ok(Err(StepError::TimedOut { limit: Duration::from_micros(micros) }))
            }
            (None, None, Some(Fault::NotStored { reason })) => Ok(Err(StepError::NotStored { reason })),
            // The others are no step's.
            (None, None, _) => Ok(Err(StepError::Interrupted)),
        };
        match decoded {
            Ok(result) => Some(result),
            Err(error) => {
                self.core.mismatch(Mismatch::Undecodable { what: id.to_string(), reason: error.to_string() });
                None
            }
        }
    }
}

/// A value as it is stored, and as it is read again: one that does not come back must not be recorded.
pub(crate) fn encode<V: Serialize + DeserializeOwned>(
    value: &V,
    max: usize,
) -> Result<(Box<RawValue>, V), String> {
    let raw = to_raw_value(value).map_err(|error| error.to_string())?;
    let bytes = raw.get().len();
    if bytes > max {
        return Err(format!("it has {bytes} bytes, and the bound is {max}"));
    }
    let read = serde_json::from_str(raw.get());
    let read = read.map_err(|error| format!("what is written of it cannot be read again: {error}"))?;
    Ok((raw, read))
}

impl<T, E> Attempt<'_, T, E> {
    fn poll(&mut self, core: &Core, id: &StepId, cx: &mut Context<'_>) -> Poll<Ended<T, E>> {
        #[cfg(feature = "tracing")]
        let _entered = self.span.enter();
        if let Poll::Ready(done) = core.in_step(id, || self.future.as_mut().poll(cx)) {
            return Poll::Ready(match done.transpose() {
                Some(result) => Ended::With(result),
                None => Ended::NotDone,
            });
        }
        let Some((limit, sleep)) = &mut self.limit else { return Poll::Pending };
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Ended::TimedOut(*limit))
    }
}

impl<'a, T: 'a, E: 'a> Future for Step<'a, T, E>
where
    T: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    type Output = Result<T, StepError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let id = match &this.id {
            Ok(id) => id.clone(),
            Err(place) => return Poll::Ready(Err((*place).into())),
        };
        if let Some(place) = this.core.misplaced() {
            return Poll::Ready(Err(place.into()));
        }
        if this.core.is_probed() {
            return Poll::Pending;
        }
        loop {
            if let Some(delivery) = this.core.take(id.ordinal, cx.waker()) {
                return this.delivered(&id, delivery).map_or(Poll::Pending, Poll::Ready);
            }
            match &mut this.phase {
                Phase::Waiting if !this.core.may_start() => return Poll::Pending,
                Phase::Waiting => match this.marks.until {
                    Some(until) => this.phase = this.backoff(&id, until),
                    None => this.go_on(&id),
                },
                Phase::Marking => match (this.core.acked(id.ordinal), this.core.gate()) {
                    (None, _) => return Poll::Pending,
                    (Some(_), Gate::Open) => this.enter(&id),
                    (Some(_), gate) => this.not_entered(&id, gate),
                },
                Phase::Running(_) if this.options.preemptible && this.core.gate() == Gate::Cancel => {
                    this.core.running(-1);
                    this.phase = Phase::Over;
                }
                Phase::Running(attempt) => {
                    let ended = ready!(attempt.poll(&this.core, &id, cx));
                    let (took, reconciled) = (attempt.began.elapsed(), attempt.reconciles);
                    this.ended(&id, &ended, took, reconciled);
                }
                Phase::Failing { delay } => match this.core.acked(id.ordinal) {
                    Some(at) => {
                        let until = at.checked_add(*delay).unwrap_or(at);
                        this.phase = this.backoff(&id, until);
                    }
                    None => return Poll::Pending,
                },
                Phase::Backoff(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    if !this.core.may_start() {
                        return Poll::Pending;
                    }
                    this.go_on(&id);
                }
                Phase::Over => return Poll::Pending,
            }
        }
    }
}

impl<'a, T: 'a, E: 'a> Step<'a, T, E> {
    /// Its mark is stored, and it is not to begin any more. A cancelled run does not look at it again; to whoever goes on with
    /// another one it must not seem to have been interrupted.
    fn not_entered(&mut self, id: &StepId, gate: Gate) {
        if gate == Gate::Shutdown {
            let body = Body { attempt: self.marks.attempts, ..self.body(id) };
            self.core.send(Kind::Attempt, id, body);
        }
        self.phase = Phase::Over;
    }

    fn backoff(&self, id: &StepId, until: SystemTime) -> Phase<'a, T, E> {
        let until = self.core.instant(until);
        self.core.sleeping(id.ordinal, Some(until));
        Phase::Backoff(Box::pin(tokio::time::sleep_until(until)))
    }
}
