//! The way from the innermost service of a stack to the task that drives it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::{mem, thread};

use buttress::BoxError;
use futures_channel::oneshot;

/// Travels in the extensions of a request. Its other end is with the task that made the call.
#[derive(Clone)]
pub(crate) struct Courier(Arc<Shared>);

/// The end of the task that made the call; whatever is sent when it is dropped is not made.
pub(crate) struct Jobs(Arc<Shared>);

type Shared = Mutex<Queue>;

#[derive(Default)]
struct Queue {
    /// Mostly there is one at a time.
    next: Option<Job>,
    more: VecDeque<Job>,
    waker: Option<Waker>,
    closed: bool,
}

/// An attempt that the stack wants to be made.
pub(crate) struct Job {
    pub(crate) request: http::Request<reqwest::Body>,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// What became of it; a panic is passed on to the service that asked.
pub(crate) type Reply = thread::Result<Result<http::Response<reqwest::Body>, BoxError>>;

pub(crate) fn channel() -> (Courier, Jobs) {
    let shared = Arc::new(Shared::default());
    (Courier(Arc::clone(&shared)), Jobs(shared))
}

fn lock(shared: &Shared) -> MutexGuard<'_, Queue> {
    // No other code runs under this lock.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Courier {
    /// `None` if the call is over.
    pub(crate) fn send(&self, request: http::Request<reqwest::Body>) -> Option<oneshot::Receiver<Reply>> {
        let (reply, receiver) = oneshot::channel();
        let mut queue = lock(&self.0);
        if queue.closed {
            return None;
        }
        let job = Job { request, reply };
        if queue.next.is_none() {
            queue.next = Some(job);
        } else {
            queue.more.push_back(job);
        }
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(receiver)
    }
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Courier")
    }
}

impl Jobs {
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Job> {
        let mut queue = lock(&self.0);
        // Jobs are large: they are moved only where there are any.
        if let Some(job) = queue.next.take_if(|_| true) {
            if !queue.more.is_empty() {
                queue.next = queue.more.pop_front();
            }
            return Poll::Ready(job);
        }
        if !queue.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            queue.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        // What is left is dropped outside of the lock.
        let mut queue = lock(&self.0);
        queue.closed = true;
        let waker = queue.waker.take();
        let left = queue.next.is_some().then(|| (queue.next.take(), mem::take(&mut queue.more)));
        drop(queue);
        drop((waker, left));
    }
}
