use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};
use tower_service::Service;

/// What a [`Scripted`] service does with one call.
///
/// ```
/// use std::time::Duration;
/// use buttress_testkit::{Step, err, hang, ok};
///
/// let steps: Vec<Step<u32>> = vec![
///     ok(1),
///     err("HTTP 503").after(Duration::from_millis(20)),
///     hang(),
///     ok(2).ready_after(Duration::from_secs(1)),
/// ];
/// ```
#[derive(Clone, Debug)]
pub struct Step<Res> {
    ready_after: Duration,
    after: Duration,
    end: End<Res>,
}

#[derive(Clone, Debug)]
enum End<Res> {
    Ok(Res),
    Err(&'static str),
    Hang,
    Panic,
}

/// Answers with this.
pub fn ok<Res>(response: Res) -> Step<Res> {
    Step::of(End::Ok(response))
}

/// Fails with this message.
pub fn err<Res>(message: &'static str) -> Step<Res> {
    Step::of(End::Err(message))
}

/// Never answers.
pub fn hang<Res>() -> Step<Res> {
    Step::of(End::Hang)
}

/// Panics while it is polled.
pub fn panics<Res>() -> Step<Res> {
    Step::of(End::Panic)
}

impl<Res> Step<Res> {
    fn of(end: End<Res>) -> Self {
        Self { ready_after: Duration::ZERO, after: Duration::ZERO, end }
    }

    /// Takes this long.
    #[must_use]
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// Before the call, the service takes this long to become ready.
    #[must_use]
    pub fn ready_after(self, ready_after: Duration) -> Self {
        Self { ready_after, ..self }
    }
}

/// The error of a [`Scripted`] service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError(pub &'static str);

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for ScriptError {}

/// A service that follows a script, one step a call; the last step repeats. Clones follow one script.
///
/// It never answers a call that was made without readiness: it panics, as a correct service may.
#[derive(Debug)]
pub struct Scripted<Res> {
    stage: Arc<Stage<Res>>,
    readiness: Readiness,
}

#[derive(Debug)]
enum Readiness {
    Unasked,
    Waiting(Pin<Box<Sleep>>),
    Ready,
}

#[derive(Debug)]
struct Stage<Res> {
    steps: Mutex<VecDeque<Step<Res>>>,
    counts: Mutex<Counts>,
}

/// What a [`Scripted`] service has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls made.
    pub calls: usize,
    /// Calls that have been made and have neither ended nor been dropped.
    pub in_flight: usize,
    /// Calls that were dropped before they ended.
    pub dropped: usize,
}

impl<Res: Clone> Scripted<Res> {
    /// A service that follows these steps.
    ///
    /// # Panics
    ///
    /// Without a step.
    pub fn new(steps: impl IntoIterator<Item = Step<Res>>) -> Self {
        let steps: VecDeque<_> = steps.into_iter().collect();
        assert!(!steps.is_empty(), "a script needs a step");
        let stage = Stage { steps: Mutex::new(steps), counts: Mutex::default() };
        Self { stage: Arc::new(stage), readiness: Readiness::Unasked }
    }

    /// What it has seen so far.
    pub fn counts(&self) -> Counts {
        *lock(&self.stage.counts)
    }

    /// How many calls it has had so far.
    pub fn calls(&self) -> usize {
        self.counts().calls
    }

    /// Goes on with these steps.
    pub fn go_on_with(&self, steps: impl IntoIterator<Item = Step<Res>>) {
        let mut current = lock(&self.stage.steps);
        let steps: VecDeque<_> = steps.into_iter().collect();
        assert!(!steps.is_empty(), "a script needs a step");
        *current = steps;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<Res> Clone for Scripted<Res> {
    fn clone(&self) -> Self {
        Self { stage: Arc::clone(&self.stage), readiness: Readiness::Unasked }
    }
}

impl<Req, Res: Clone + Send + 'static> Service<Req> for Scripted<Res> {
    type Response = Res;
    type Error = ScriptError;
    type Future = ScriptedFuture<Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ScriptError>> {
        if let Readiness::Unasked = self.readiness {
            let wait = lock(&self.stage.steps).front().map_or(Duration::ZERO, |step| step.ready_after);
            self.readiness =
                if wait.is_zero() { Readiness::Ready } else { Readiness::Waiting(Box::pin(sleep(wait))) };
        }
        if let Readiness::Waiting(sleep) = &mut self.readiness {
            std::task::ready!(sleep.as_mut().poll(cx));
            self.readiness = Readiness::Ready;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Req) -> ScriptedFuture<Res> {
        assert!(matches!(self.readiness, Readiness::Ready), "called an instance that was not made ready");
        self.readiness = Readiness::Unasked;
        let mut counts = lock(&self.stage.counts);
        counts.calls += 1;
        counts.in_flight += 1;
        drop(counts);
        let mut steps = lock(&self.stage.steps);
        let step = if steps.len() > 1 { steps.pop_front() } else { steps.front().cloned() };
        let step = step.expect("there is always a step");
        ScriptedFuture { stage: Arc::clone(&self.stage), after: step.after, sleep: None, end: Some(step.end) }
    }
}

/// The response of a [`Scripted`] service.
#[derive(Debug)]
pub struct ScriptedFuture<Res> {
    stage: Arc<Stage<Res>>,
    after: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    end: Option<End<Res>>,
}

impl<Res> Unpin for ScriptedFuture<Res> {}

impl<Res> Future for ScriptedFuture<Res> {
    type Output = Result<Res, ScriptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !this.after.is_zero() {
            let after = this.after;
            std::task::ready!(this.sleep.get_or_insert_with(|| Box::pin(sleep(after))).as_mut().poll(cx));
        }
        if let Some(End::Hang) = this.end {
            return Poll::Pending;
        }
        let end = this.end.take().expect("polled after it was ready");
        lock(&this.stage.counts).in_flight -= 1;
        match end {
            End::Ok(response) => Poll::Ready(Ok(response)),
            End::Err(message) => Poll::Ready(Err(ScriptError(message))),
            End::Panic => panic!("a scripted panic"),
            End::Hang => Poll::Pending,
        }
    }
}

impl<Res> Drop for ScriptedFuture<Res> {
    fn drop(&mut self) {
        if self.end.is_some() {
            let mut counts = lock(&self.stage.counts);
            counts.in_flight -= 1;
            counts.dropped += 1;
        }
    }
}
