use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::nanos;
use buttress_core::observe::StepResult;
use buttress_core::{Backoff, StepKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::{Instant, Sleep};

use crate::entry::{Body, Fault, Kind};
use crate::error::{Mismatch, StepError, StepId, StepKind};
use crate::key;
use crate::replay::{Delivery, Marks};
use crate::run::{BoxFuture, Compensation, Core, Undo};

/// How often the body of a step may be entered when a worker ends in the middle of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Semantics {
    /// Until its result is recorded: again, under the same [key](crate::Cx::key), if it is not known to have ended.
    #[default]
    AtLeastOnce,
    /// Never again: that it begins is recorded first, which is one write more. Where it is not known how it ended, the step
    /// fails with [`StepError::Interrupted`], or is [reconciled](Step::reconcile).
    AtMostOnce,
}

/// A step of a workflow, which runs when it is awaited; made by [`Cx::step`](crate::Cx::step).
///
/// By default it is run at least once, without a time limit or retries. An error of the body is recorded like a result, and
/// is the same in every replay. What is never recorded: that the run was cancelled, that the worker shut down or lost the
/// run, that the store failed, a panic. Dropping a step drops its body; what was not recorded is run again in a replay.
#[must_use = "a step does nothing unless it is awaited"]
pub struct Step<'a, T, E> {
    core: Arc<Core>,
    /// `None` inside of another step.
    id: Option<StepId>,
    marks: Marks,
    body: Entered<'a, T, E>,
    options: Options<'a, T, E>,
    phase: Phase<'a, T, E>,
}

/// What is called for each attempt.
type Entered<'a, T, E> = Box<dyn FnMut() -> BoxFuture<'a, Result<T, E>> + Send + 'a>;

type Judge<'a, E> = Box<dyn Fn(&E) -> bool + Send + 'a>;

struct Options<'a, T, E> {
    input: Option<String>,
    semantics: Semantics,
    timeout: Option<Duration>,
    retry: Option<(Backoff, u32)>,
    retry_if: Option<Judge<'a, E>>,
    reconcile: Option<Entered<'a, Option<T>, E>>,
    compensate: Option<Undo>,
    preemptible: bool,
}

enum Phase<'a, T, E> {
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

struct Attempt<'a, T, E> {
    /// `None` if it did not happen, which only a reconciliation says.
    future: BoxFuture<'a, Result<Option<T>, E>>,
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

impl<T, E> Unpin for Step<'_, T, E> {}

impl<'a, T: 'a, E: 'a> Step<'a, T, E> {
    pub(crate) fn new(core: Arc<Core>, name: &Arc<str>, body: Entered<'a, T, E>) -> Self {
        let built = core.build(StepKind::Step, name);
        let (id, marks) = built.map_or((None, Marks::default()), |built| (Some(built.id), built.marks));
        let options = Options {
            input: None,
            semantics: Semantics::default(),
            timeout: None,
            retry: None,
            retry_if: None,
            reconcile: None,
            compensate: None,
            preemptible: false,
        };
        Self { core, id, marks, body, options, phase: Phase::Waiting }
    }

    /// Remembers what the step was given, as a hash: a replay in which it is given something else is a
    /// [mismatch](Mismatch::InputChanged).
    pub fn input(mut self, input: &impl Serialize) -> Self {
        // What cannot be encoded has the hash of the reason, which is as good as any.
        let bytes = serde_json::to_vec(input).unwrap_or_else(|error| error.to_string().into_bytes());
        let short = key::short(&bytes);
        if let Some(id) = &self.id {
            self.core.check_input(id, &short);
        }
        self.options.input = Some(short);
        self
    }

    /// Runs the body again when it fails, at most so many times, after these delays. How many attempts have failed and when
    /// the next one is due is recorded, one write for each, so that a crash starts neither anew.
    pub fn retry(mut self, backoff: Backoff, max_retries: u32) -> Self {
        self.options.retry = Some((backoff, max_retries));
        self
    }

    /// Retries after these errors only; by default after all, and after time-outs always.
    pub fn retry_if(mut self, retry: impl Fn(&E) -> bool + Send + 'a) -> Self {
        self.options.retry_if = Some(Box::new(retry));
        self
    }

    /// Gives each attempt so much time, after which its future is dropped.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = Some(limit);
        self
    }

    /// How often the body may be entered.
    pub fn semantics(mut self, semantics: Semantics) -> Self {
        self.options.semantics = semantics;
        self
    }

    /// Finds out whether the step was done, where a worker ended in the middle of it: `Ok(Some(result))` if it was, `Ok(None)`
    /// if it certainly was not, in which case it is run. An error fails the step. That the step begins is recorded first.
    pub fn reconcile<F, Fut>(mut self, mut reconcile: F) -> Self
    where
        F: FnMut() -> Fut + Send + 'a,
        Fut: Future<Output = Result<Option<T>, E>> + Send + 'a,
    {
        self.options.reconcile = Some(Box::new(move || Box::pin(reconcile())));
        self
    }

    /// Undoes the step, from its result, when the workflow fails or is cancelled later on. The steps that can be undone are
    /// undone in the reverse order in which they were recorded, each until that is recorded; the workflow then fails with
    /// its original error. One that fails is tried again some times; then the run pauses.
    pub fn compensate<F, Fut, X>(mut self, mut undo: F) -> Self
    where
        T: DeserializeOwned,
        F: FnMut(T) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), X>> + Send + 'static,
        X: fmt::Display,
    {
        self.options.compensate = Some(Box::new(move |value: &RawValue| {
            let value = serde_json::from_str(value.get()).map_err(|error| error.to_string())?;
            let undone = undo(value);
            Ok(Box::pin(async move { undone.await.map_err(|error| error.to_string()) }))
        }));
        self
    }

    /// Drops the body when the run is cancelled, and does not wait for its end. Whether it was done is then not known.
    pub fn preemptible(mut self) -> Self {
        self.options.preemptible = true;
        self
    }

    fn is_tracked(&self) -> bool {
        self.options.semantics == Semantics::AtMostOnce || self.options.reconcile.is_some()
    }

    fn body(&self, id: &StepId) -> Body {
        let input = self.options.input.clone();
        Body { n: id.ordinal, input, attempt: self.marks.attempts + 1, ..Body::default() }
    }

    fn begin(&mut self, id: &StepId) {
        self.core.sleeping(id.ordinal, None);
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
        let future = core.in_step(id.ordinal, body);
        let done: BoxFuture<'a, _> = Box::pin(StepKey::scope(key, async move { future.await.map(Some) }));
        self.run(id, done);
    }

    fn run(&mut self, id: &StepId, future: BoxFuture<'a, Result<Option<T>, E>>) {
        self.core.running(1);
        let limit = self.options.timeout.map(|limit| (limit, Box::pin(tokio::time::sleep(limit))));
        self.phase = Phase::Running(Attempt {
            future,
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

    /// A worker ended between the step's start and its end.
    fn interrupted(&mut self, id: &StepId) {
        match self.options.reconcile.as_mut() {
            Some(reconcile) => {
                let key = self.core.key_of(&id.name, id.occurrence);
                let future = self.core.in_step(id.ordinal, reconcile);
                self.run(id, Box::pin(StepKey::scope(key, future)));
            }
            None => {
                let body = Body { fault: Some(Fault::Interrupted), ..self.body(id) };
                self.record(id, body, Duration::ZERO);
            }
        }
    }

    fn record(&mut self, id: &StepId, body: Body, took: Duration) {
        let result = if body.ok.is_some() { StepResult::Succeeded } else { StepResult::Failed };
        self.core.emit_step(id, result, took);
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
    fn ended(&mut self, id: &StepId, ended: &Ended<T, E>, took: Duration) {
        self.core.running(-1);
        let mut body = Body { took: Some(nanos(took) / 1000), ..self.body(id) };
        match ended {
            Ended::NotDone => {
                self.marks.started = false;
                return self.begin(id);
            }
            Ended::With(Ok(value)) => self.encode(value, &mut body, true),
            Ended::With(Err(error)) => self.encode(error, &mut body, false),
            Ended::TimedOut(limit) => body.fault = Some(Fault::TimedOut { micros: nanos(*limit) / 1000 }),
        }
        match self.next_attempt(ended) {
            Some(delay) => {
                self.core.emit_step(id, StepResult::WillRetry, took);
                body.wait = Some(nanos(delay) / 1000);
                self.core.send(Kind::Attempt, id, body);
                self.marks.attempts += 1;
                self.phase = Phase::Failing { delay };
            }
            None => self.record(id, body, took),
        }
    }

    fn encode(&self, value: &impl Serialize, body: &mut Body, ok: bool) {
        let max = self.core.max_value();
        let encoded = match to_raw_value(value) {
            Ok(raw) if raw.get().len() > max => {
                Err(format!("it has {} bytes, and the bound is {max}", raw.get().len()))
            }
            Ok(raw) => Ok(raw),
            Err(error) => Err(error.to_string()),
        };
        match encoded {
            Ok(raw) if ok => body.ok = Some(raw),
            Ok(raw) => body.err = Some(raw),
            Err(reason) => body.fault = Some(Fault::NotStored { reason }),
        }
    }

    /// What is recorded; `None` if it does not fit the types, and the run stops.
    fn delivered(&mut self, id: &StepId, delivery: Delivery) -> Option<Result<T, StepError<E>>> {
        self.phase = Phase::Over;
        let Delivery { body, old, .. } = delivery;
        if old {
            self.core.emit_step(id, StepResult::Skipped, Duration::ZERO);
        }
        let decoded = match (body.ok, body.err, body.fault) {
            (Some(ok), ..) => serde_json::from_str(ok.get()).map(|value| {
                if let Some(undo) = self.options.compensate.take() {
                    self.core.compensate(Compensation { id: id.clone(), value: ok, undo });
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
            (None, None, Some(Fault::Interrupted) | None) => Ok(Err(StepError::Interrupted)),
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

impl<T, E> Attempt<'_, T, E> {
    fn poll(&mut self, core: &Core, ordinal: u32, cx: &mut Context<'_>) -> Poll<Ended<T, E>> {
        #[cfg(feature = "tracing")]
        let _entered = self.span.enter();
        if let Poll::Ready(done) = core.in_step(ordinal, || self.future.as_mut().poll(cx)) {
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
        let Some(id) = this.id.clone() else { return Poll::Ready(Err(StepError::InsideStep)) };
        if !this.core.is_here() {
            return Poll::Ready(Err(StepError::Elsewhere));
        }
        if this.core.is_in_step() {
            return Poll::Ready(Err(StepError::InsideStep));
        }
        loop {
            if let Some(delivery) = this.core.take(id.ordinal, cx.waker()) {
                return this.delivered(&id, delivery).map_or(Poll::Pending, Poll::Ready);
            }
            match &mut this.phase {
                Phase::Waiting if !this.core.may_start() => return Poll::Pending,
                Phase::Waiting if this.marks.started => this.interrupted(&id),
                Phase::Waiting => match this.marks.until {
                    Some(until) => this.phase = this.backoff(&id, until),
                    None => this.begin(&id),
                },
                Phase::Marking => match this.core.acked(id.ordinal) {
                    Some(_) => this.enter(&id),
                    None => return Poll::Pending,
                },
                Phase::Running(_) if this.options.preemptible && this.core.is_cancelled() => {
                    this.core.running(-1);
                    this.phase = Phase::Over;
                }
                Phase::Running(attempt) => {
                    let ended = ready!(attempt.poll(&this.core, id.ordinal, cx));
                    let took = attempt.began.elapsed();
                    this.ended(&id, &ended, took);
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
                    this.begin(&id);
                }
                Phase::Over => return Poll::Pending,
            }
        }
    }
}

impl<'a, T: 'a, E: 'a> Step<'a, T, E> {
    fn backoff(&self, id: &StepId, until: std::time::SystemTime) -> Phase<'a, T, E> {
        let until = self.core.instant(until);
        self.core.sleeping(id.ordinal, Some(until));
        Phase::Backoff(Box::pin(tokio::time::sleep_until(until)))
    }
}

impl<T, E> Drop for Step<'_, T, E> {
    fn drop(&mut self) {
        if matches!(self.phase, Phase::Running(_)) {
            self.core.running(-1);
        }
        if let Some(id) = &self.id {
            self.core.forget(id.ordinal);
        }
    }
}

impl<T, E> fmt::Debug for Step<'_, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("id", &self.id).finish_non_exhaustive()
    }
}
