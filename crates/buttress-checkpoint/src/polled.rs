//! The code of one run, polled until there is something for its driver to do.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use buttress_core::clock::after;
use tokio::time::Instant;

use crate::drive::{Outcome, Refused, Stored, cut};
use crate::entry::MAX_TEXT;
use crate::error::{Mismatch, StepId};
use crate::run::{BoxFuture, Core, Quiet};

/// How the code ended, or why it did not.
pub(crate) enum Ended {
    Finished(Outcome),
    /// With this text.
    Panicked(String),
    Mismatch(Mismatch),
    Stopped,
    Suspended(Instant),
}

/// What the driver wakes for.
pub(crate) enum Woken {
    Stored(Result<Stored, Refused>),
    Outgoing,
    Ended(Ended),
    /// It does, or no longer, not get to what is recorded next.
    Stuck(bool),
    Impatient,
    Shutdown,
    Drained,
}

/// The code of a run, and what wakes it.
pub(crate) struct Polled {
    core: Arc<Core>,
    body: BoxFuture<'static, Outcome>,
    flag: Arc<Flag>,
    waker: Waker,
    /// For a shorter sleep the run is not put down.
    suspend_after: Duration,
}

/// Whether the code was woken while it was polled.
#[derive(Default)]
struct Flag {
    woken: AtomicBool,
    /// `None` while the code is polled, and polled again if it is woken meanwhile: the task itself need not be.
    parent: Mutex<Option<Waker>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        let parent = self.parent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(parent) = parent {
            parent.wake();
        }
    }
}

impl Flag {
    /// Whom to wake from now on, in place of whoever was before.
    fn wakes(&self, parent: Option<Waker>) {
        let mut kept = self.parent.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *kept, parent);
        drop(kept);
        drop(before);
    }
}

/// So often the code is polled in one go, before other tasks have their turn.
const TURNS: u32 = 128;

impl Polled {
    pub(crate) fn new(core: &Arc<Core>, body: BoxFuture<'static, Outcome>, suspend_after: Duration) -> Self {
        let flag = Arc::<Flag>::default();
        let waker = Waker::from(Arc::clone(&flag));
        core.driven_by(&waker);
        Self { core: Arc::clone(core), body, flag, waker, suspend_after }
    }

    /// When it gives something, the code is to be polled again, or never.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, in_flight: bool, stuck: bool) -> Poll<Woken> {
        self.flag.wakes(None);
        let polled = self.poll_turns(in_flight, stuck);
        if polled.is_pending() {
            self.flag.wakes(Some(cx.waker().clone()));
            // Nobody was told of that before.
            if self.flag.woken.load(Ordering::SeqCst) {
                cx.waker().wake_by_ref();
            }
        }
        polled
    }

    fn poll_turns(&mut self, in_flight: bool, stuck: bool) -> Poll<Woken> {
        let mut probed = false;
        for _ in 0..TURNS {
            self.flag.woken.store(false, Ordering::SeqCst);
            if let Some(ended) = self.poll_body(&self.waker.clone()) {
                return Poll::Ready(Woken::Ended(ended));
            }
            if !self.core.lock().outbox.is_empty() && !in_flight {
                return Poll::Ready(Woken::Outgoing);
            }
            // Something is about to poll it again, and may be all that it waits for.
            if self.flag.woken.load(Ordering::SeqCst) {
                return Poll::Pending;
            }
            let now = Instant::now();
            match self.core.quiet(in_flight, now) {
                Quiet::Again => {}
                Quiet::Stopped => return Poll::Ready(Woken::Ended(Ended::Stopped)),
                Quiet::Sleeping(until) if !probed && until >= after(now, self.suspend_after) => {
                    match self.probe() {
                        Ok(true) => return Poll::Ready(Woken::Ended(Ended::Suspended(until))),
                        // It is polled again, so that what it waits for wakes it.
                        Ok(false) => probed = true,
                        Err(ended) => return Poll::Ready(Woken::Ended(ended)),
                    }
                }
                Quiet::Stuck if !stuck => return Poll::Ready(Woken::Stuck(true)),
                Quiet::Busy if stuck => return Poll::Ready(Woken::Stuck(false)),
                Quiet::Stuck | Quiet::Busy | Quiet::Sleeping(_) => return Poll::Pending,
            }
        }
        self.flag.woken.store(true, Ordering::SeqCst);
        Poll::Pending
    }

    fn poll_body(&mut self, waker: &Waker) -> Option<Ended> {
        let (core, body) = (&self.core, &mut self.body);
        let mut cx = Context::from_waker(waker);
        let polled = catch_unwind(AssertUnwindSafe(|| core.scope(|| body.as_mut().poll(&mut cx))));
        if let Some(fault) = core.lock().fault.take() {
            return Some(Ended::Mismatch(fault));
        }
        match polled {
            Err(payload) => Some(Ended::Panicked(panicked(&*payload, core.panicking()))),
            Ok(Poll::Ready(outcome)) => Some(Ended::Finished(outcome)),
            Ok(Poll::Pending) => None,
        }
    }

    /// Whether the code waits for nothing but its operations: polled while they keep still, it asks nobody else to wake it.
    fn probe(&mut self) -> Result<bool, Ended> {
        let flag = Arc::<Flag>::default();
        let before = self.core.probe(true);
        let ended = self.poll_body(&Waker::from(Arc::clone(&flag)));
        let still = self.core.probe(false) == before;
        match ended {
            Some(ended) => Err(ended),
            None => Ok(still && Arc::strong_count(&flag) == 1 && !flag.woken.load(Ordering::SeqCst)),
        }
    }
}

/// What a panic says, and in which step if it was in one.
pub(crate) fn panicked(payload: &(dyn Any + Send), step: Option<StepId>) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let mut text = text.unwrap_or("a value that is no text").to_owned();
    cut(&mut text, MAX_TEXT);
    match step {
        Some(step) => format!("{step}: {text}"),
        None => text,
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        // What the code's values do when they are dropped, they do inside of the run.
        let body = std::mem::replace(&mut self.body, Box::pin(std::future::pending()));
        let _ = catch_unwind(AssertUnwindSafe(|| self.core.scope(move || drop(body))));
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::atomic::AtomicUsize;
    use std::time::SystemTime;

    use buttress_store::RunId;
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::cx::Cx;
    use crate::error::Failure;
    use crate::replay::Replay;

    /// How often a task was told to poll.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn polled<F>(code: impl FnOnce(Cx) -> F) -> (Arc<Core>, Polled)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let (id, replay) = (RunId::try_new("run").unwrap(), Replay::new(&[]).unwrap());
        let clock = (SystemTime::UNIX_EPOCH, Instant::now());
        let core = Core::new(id, "flow".into(), String::new(), 1000, Arc::default(), replay, clock);
        let core = Arc::new(core);
        let body = Box::pin(code(Cx::new(Arc::clone(&core))));
        let polled = Polled::new(&core, body, Duration::MAX);
        (core, polled)
    }

    fn done() -> Outcome {
        Ok(Ok(to_raw_value(&()).unwrap()))
    }

    /// A task that wakes itself is queued once more, and where the runtime has another thread, that one is woken for it.
    #[tokio::test]
    async fn steps_that_follow_each_other_do_not_wake_their_own_task() {
        let (core, mut code) = polled(async |cx| {
            for number in 0..3 {
                cx.step("step", async || Ok::<_, Failure>(number)).await.unwrap();
            }
            done()
        });
        let task = Arc::<Task>::default();
        let waker = Waker::from(Arc::clone(&task));
        let mut cx = Context::from_waker(&waker);
        for _ in 0..3 {
            assert!(matches!(code.poll(&mut cx, false, false), Poll::Ready(Woken::Outgoing)));
            assert_eq!(core.dispatch().len(), 1);
            assert!(code.poll(&mut cx, true, false).is_pending());
            core.applied(SystemTime::UNIX_EPOCH);
        }
        assert!(matches!(code.poll(&mut cx, false, false), Poll::Ready(Woken::Ended(Ended::Finished(_)))));
        assert_eq!(task.0.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn code_that_yields_has_its_task_polled_again_once_and_one_that_is_woken_later_too() {
        let (send, receive) = tokio::sync::oneshot::channel();
        let (_core, mut code) = polled(async |_| {
            let mut yielded = false;
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            receive.await.unwrap();
            done()
        });
        let task = Arc::<Task>::default();
        let waker = Waker::from(Arc::clone(&task));
        let mut cx = Context::from_waker(&waker);
        assert!(code.poll(&mut cx, false, false).is_pending());
        assert_eq!(task.0.load(Ordering::SeqCst), 1, "it yields");
        assert!(code.poll(&mut cx, false, false).is_pending());
        let before = task.0.load(Ordering::SeqCst);
        send.send(()).unwrap();
        assert_eq!(task.0.load(Ordering::SeqCst), before + 1, "it is woken from elsewhere");
        assert!(matches!(code.poll(&mut cx, false, false), Poll::Ready(Woken::Ended(Ended::Finished(_)))));
    }
}
