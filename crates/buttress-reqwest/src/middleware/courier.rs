//! The way from the innermost service of a stack to the task that drives it, and back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::{fmt, iter, mem, thread};

use buttress::BoxError;

/// Travels in the extensions of a request. Its other end is with the task that made the call.
#[derive(Clone)]
pub(crate) struct Courier(Arc<Shared>);

/// The end of the task that made the call; whatever is sent when it is dropped is not made.
pub(crate) struct Jobs(Arc<Shared>);

/// An attempt that somebody waits for. Dropping it ends the attempt.
pub(crate) struct Waiting {
    shared: Arc<Shared>,
    number: usize,
    over: bool,
}

/// What the task that made the call has to do.
#[expect(
    clippy::large_enum_variant,
    reason = "an allocation for each attempt would cost more than moving it does"
)]
pub(crate) enum Job {
    /// An attempt with this number.
    Make(usize, http::Request<reqwest::Body>),
    /// Nobody waits for this one any longer.
    Drop(usize),
}

/// What became of an attempt; a panic is passed on to the service that asked.
pub(crate) type Reply = thread::Result<Result<http::Response<reqwest::Body>, BoxError>>;

type Shared = Mutex<Attempts>;

#[derive(Default)]
struct Attempts {
    /// Mostly there is one at a time.
    first: Attempt,
    more: Vec<Attempt>,
    /// Of the task that made the call.
    waker: Option<Waker>,
    closed: bool,
}

#[derive(Default)]
struct Attempt {
    stage: Stage,
    /// Of whoever waits for it.
    waker: Option<Waker>,
}

#[derive(Default)]
enum Stage {
    /// The place is for another one.
    #[default]
    Free,
    Asked(http::Request<reqwest::Body>),
    UnderWay,
    GivenUp,
    Answered(Reply),
}

pub(crate) fn channel() -> (Courier, Jobs) {
    let shared = Arc::new(Shared::default());
    (Courier(Arc::clone(&shared)), Jobs(shared))
}

fn lock(shared: &Shared) -> MutexGuard<'_, Attempts> {
    // No code but that of wakers runs under this lock.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Attempts {
    /// The first at this stage.
    #[inline]
    fn find(&self, wanted: impl Fn(&Stage) -> bool) -> Option<usize> {
        let mut all = iter::once(&self.first).chain(&self.more);
        all.position(|attempt| wanted(&attempt.stage))
    }

    #[inline]
    fn get(&mut self, number: usize) -> &mut Attempt {
        if number == 0 { &mut self.first } else { &mut self.more[number - 1] }
    }
}

impl Courier {
    /// `None` if the call is over.
    pub(crate) fn send(self, request: http::Request<reqwest::Body>) -> Option<Waiting> {
        let mut attempts = lock(&self.0);
        if attempts.closed {
            return None;
        }
        let free = attempts.find(|stage| matches!(stage, Stage::Free));
        let number = free.unwrap_or_else(|| {
            attempts.more.push(Attempt::default());
            attempts.more.len()
        });
        attempts.get(number).stage = Stage::Asked(request);
        let waker = attempts.waker.take();
        drop(attempts);
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(Waiting { shared: self.0, number, over: false })
    }
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Courier")
    }
}

impl Waiting {
    /// `None` if the call is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        let mut attempts = lock(&self.shared);
        let closed = attempts.closed;
        let attempt = attempts.get(self.number);
        if !closed && !matches!(attempt.stage, Stage::Answered(_)) {
            if !attempt.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                attempt.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        self.over = true;
        let Attempt { stage, waker } = mem::take(attempt);
        drop(attempts);
        drop(waker);
        Poll::Ready(if let Stage::Answered(reply) = stage { Some(reply) } else { None })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut attempts = lock(&self.shared);
        let attempt = attempts.get(self.number);
        let mut left = mem::take(attempt);
        if matches!(left.stage, Stage::UnderWay) {
            attempt.stage = Stage::GivenUp;
            left.waker = attempts.waker.take();
        }
        drop(attempts);
        if let (Stage::UnderWay, Some(waker)) = (&left.stage, left.waker.take()) {
            waker.wake();
        }
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

impl Jobs {
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Job> {
        let mut attempts = lock(&self.0);
        if let Some(number) = attempts.find(|stage| matches!(stage, Stage::Asked(_) | Stage::GivenUp)) {
            let stage = &mut attempts.get(number).stage;
            if let Stage::Asked(request) = mem::replace(stage, Stage::UnderWay) {
                return Poll::Ready(Job::Make(number, request));
            }
            *stage = Stage::Free;
            return Poll::Ready(Job::Drop(number));
        }
        if !attempts.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            attempts.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// An attempt is over. The call is to be polled after that by whoever polls this: only others are woken.
    pub(crate) fn answer(&self, number: usize, reply: Reply, cx: &mut Context<'_>) {
        let mut attempts = lock(&self.0);
        let attempt = attempts.get(number);
        if !matches!(attempt.stage, Stage::UnderWay) {
            // Nobody waits for it any longer, as is yet to be said.
            drop(attempts);
            return drop(reply);
        }
        attempt.stage = Stage::Answered(reply);
        let waker = attempt.waker.take_if(|waker| !waker.will_wake(cx.waker()));
        drop(attempts);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        // What is left is dropped outside of the lock.
        let mut attempts = lock(&self.0);
        attempts.closed = true;
        let waker = attempts.waker.take();
        if attempts.more.is_empty() && matches!(attempts.first.stage, Stage::Free) {
            drop(attempts);
            return drop(waker);
        }
        let mut left = Vec::new();
        for number in 0..=attempts.more.len() {
            let attempt = attempts.get(number);
            // What was answered is there for whoever waits.
            if !matches!(attempt.stage, Stage::Answered(_)) {
                left.push(mem::take(attempt));
            }
        }
        drop(attempts);
        left.into_iter().filter_map(|attempt| attempt.waker).for_each(Waker::wake);
    }
}
