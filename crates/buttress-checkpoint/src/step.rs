use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::Backoff;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::{Misplaced, StepError, StepId, StepKind};
use crate::key;
use crate::replay::Marks;
use crate::run::{BoxFuture, Core, Place, Undo};

mod poll;

use poll::Phase;
pub(crate) use poll::encode;

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
    id: Result<StepId, Place>,
    marks: Marks,
    body: Entered<'a, T, E>,
    options: Options<'a, T, E>,
    phase: Phase<'a, T, E>,
    /// What it came to in this process, as it is recorded.
    live: Option<Result<T, StepError<E>>>,
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

impl<T, E> Unpin for Step<'_, T, E> {}

impl<'a, T: 'a, E: 'a> Step<'a, T, E> {
    pub(crate) fn new(core: Arc<Core>, name: &Arc<str>, body: Entered<'a, T, E>) -> Self {
        let built = core.build(StepKind::Step, name);
        let (id, marks) = match built {
            Ok(built) => (Ok(built.id), built.marks),
            Err(place) => (Err(place), Marks::default()),
        };
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
        Self { core, id, marks, body, options, phase: Phase::Waiting, live: None }
    }

    /// Remembers what the step was given, as a hash: a replay in which it is given something else is a
    /// [mismatch](crate::Mismatch::InputChanged).
    pub fn input(mut self, input: &impl Serialize) -> Self {
        // What cannot be encoded has the hash of the reason, which is as good as any.
        let bytes = serde_json::to_vec(input).unwrap_or_else(|error| error.to_string().into_bytes());
        let short = key::short(&bytes);
        if let Ok(id) = &self.id {
            self.core.check_input(id, &short);
        }
        self.options.input = Some(short);
        self
    }

    /// Its idempotency key; see [`Cx::key`](crate::Cx::key).
    ///
    /// # Errors
    ///
    /// [`Misplaced`] if it was built inside of another step, or outside of its workflow: it has none.
    pub fn key(&self) -> Result<Arc<str>, Misplaced> {
        let id = self.id.as_ref().map_err(|_| Misplaced)?;
        Ok(self.core.key_of(&id.name, id.occurrence))
    }

    /// Runs the body again when it fails, at most so many times, after these delays. How many attempts have failed and when
    /// the next one is due is recorded, one write for each, so that a crash starts neither anew. Default: it is not run again.
    ///
    /// Where an attempt may have been done (its time was over, or a worker ended in the middle of it), a step that runs at
    /// most once is not run again, and one that can be [reconciled](Step::reconcile) is reconciled first.
    pub fn retry(mut self, backoff: Backoff, max_retries: u32) -> Self {
        self.options.retry = Some((backoff, max_retries));
        self
    }

    /// Retries after these errors of the body only; by default after all. Time-outs are retried as [`retry`](Step::retry)
    /// says.
    pub fn retry_if(mut self, retry: impl Fn(&E) -> bool + Send + 'a) -> Self {
        self.options.retry_if = Some(Box::new(retry));
        self
    }

    /// Gives each attempt, and each reconciliation, so much time, after which its future is dropped. Whether it was done is
    /// then not known. No limit by default.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = Some(limit);
        self
    }

    /// How often the body may be entered.
    pub fn semantics(mut self, semantics: Semantics) -> Self {
        self.options.semantics = semantics;
        self
    }

    /// Finds out whether the step was done, where a worker ended in the middle of it or its time was over:
    /// `Ok(Some(result))` if it was, `Ok(None)` if it certainly was not, in which case it is run. An error says neither: with
    /// [retries](Step::retry) left it is asked again later, and else fails the step. That the step begins is recorded first.
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
    /// its original error. One that fails, panics or takes [too long](crate::Config::undo_timeout) is
    /// [tried again](crate::Config::undo_retry); then the run pauses.
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
}

impl<T, E> Drop for Step<'_, T, E> {
    fn drop(&mut self) {
        if matches!(self.phase, Phase::Running(_)) {
            self.core.running(-1);
        }
        if let Ok(id) = &self.id {
            if let Some(undo) = self.options.compensate.take() {
                self.core.compensate_recorded(id, undo);
            }
            self.core.forget(id.ordinal);
        }
    }
}

impl<T, E> fmt::Debug for Step<'_, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("id", &self.id).finish_non_exhaustive()
    }
}
