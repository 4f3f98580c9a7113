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

/// So often the code is polled in one go, before other tasks have their turn.
const TURNS: u32 = 128;

impl Polled {
    pub(crate) fn new(core: &Arc<Core>, body: BoxFuture<'static, Outcome>, suspend_after: Duration) -> Self {
        let flag = Arc::<Flag>::default();
        let waker = Waker::from(Arc::clone(&flag));
        core.driven_by(&waker);
        Self { core: Arc::clone(core), body, flag, waker, suspend_after }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, in_flight: bool, stuck: bool) -> Poll<Woken> {
        *self.flag.parent.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
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
        cx.waker().wake_by_ref();
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
