//! The code of one run, polled until there is something for its driver to do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::time::Instant;

use crate::drive::{Outcome, Refused, Stored};
use crate::error::Mismatch;
use crate::run::{BoxFuture, Core, Quiet};

/// How the code ended, or why it did not.
pub(crate) enum Ended {
    Finished(Outcome),
    Panicked,
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
    /// A sleep that ends so soon that the run is not put down for it.
    pub(crate) awake: Option<Instant>,
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

impl Polled {
    pub(crate) fn new(core: &Arc<Core>, body: BoxFuture<'static, Outcome>) -> Self {
        let flag = Arc::<Flag>::default();
        let waker = Waker::from(Arc::clone(&flag));
        core.driven_by(&waker);
        Self { core: Arc::clone(core), body, flag, waker, awake: None }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, in_flight: bool, stuck: bool) -> Poll<Woken> {
        *self.flag.parent.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        loop {
            self.flag.woken.store(false, Ordering::SeqCst);
            let (core, body) = (&self.core, &mut self.body);
            let mut inner = Context::from_waker(&self.waker);
            let polled = catch_unwind(AssertUnwindSafe(|| core.scope(|| body.as_mut().poll(&mut inner))));
            let mut state = core.lock();
            if let Some(fault) = state.fault.take() {
                return Poll::Ready(Woken::Ended(Ended::Mismatch(fault)));
            }
            match polled {
                Err(_) => return Poll::Ready(Woken::Ended(Ended::Panicked)),
                Ok(Poll::Ready(outcome)) => return Poll::Ready(Woken::Ended(Ended::Finished(outcome))),
                Ok(Poll::Pending) => {}
            }
            if !state.outbox.is_empty() && !in_flight {
                return Poll::Ready(Woken::Outgoing);
            }
            drop(state);
            // Something is about to poll it again, and may be all that it waits for.
            if self.flag.woken.load(Ordering::SeqCst) {
                return Poll::Pending;
            }
            let quiet = core.quiet(in_flight, Instant::now());
            match quiet {
                Quiet::Again => {}
                Quiet::Stopped => return Poll::Ready(Woken::Ended(Ended::Stopped)),
                Quiet::Sleeping(until) if self.awake != Some(until) => {
                    return Poll::Ready(Woken::Ended(Ended::Suspended(until)));
                }
                Quiet::Stuck if !stuck => return Poll::Ready(Woken::Stuck(true)),
                Quiet::Busy if stuck => return Poll::Ready(Woken::Stuck(false)),
                Quiet::Stuck | Quiet::Busy | Quiet::Sleeping(_) => return Poll::Pending,
            }
        }
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        // What the code's values do when they are dropped, they do inside of the run.
        let body = std::mem::replace(&mut self.body, Box::pin(std::future::pending()));
        let _ = catch_unwind(AssertUnwindSafe(|| self.core.scope(move || drop(body))));
    }
}
