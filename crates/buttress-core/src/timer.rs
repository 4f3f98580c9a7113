use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::runtime::{Handle, Id};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

use crate::clock::{NoTimer, after, nanos};
use crate::mode::{Mode, ModeCell};

/// A sleep that is small, can be moved, and is used again: the timer of a call. The default one is never set, and has
/// fired.
///
/// tokio's timer is a lock, which every registration takes. Most timers of calls never fire: the call is answered long
/// before. So a thread keeps the ones it has used (64 at most), registered as they are. For a later moment one of them is
/// used without being touched: should it fire at its own, earlier one, it is registered anew then. Only for an earlier moment, if
/// there is no other, it is registered anew at once. Dropping a `Timer` gives it back.
///
/// A kept timer holds on to the waker it was last polled with until it fires: that of a task that has mostly ended, whose memory
/// is free only then, and which may be polled once too often. While a runtime's clock is paused nothing is kept: a timer that nobody
/// waits for would move that clock. A test that pauses it only after its first call has kept one already: let it start paused.
#[derive(Debug, Default)]
pub struct Timer(Option<BoxedKept>);

pin_project! {
    #[derive(Debug)]
    struct Kept {
        #[pin]
        sleep: Sleep,
        // By how many nanoseconds it is to fire later than `sleep`, which may be registered for a moment of a call before.
        later: u64,
        // The runtime whose timer it is, if it is to be kept for that.
        keep_for: Option<Id>,
        // The one that `sleep` wakes.
        waker: Option<Waker>,
    }
}

/// It stays where it is while it is registered.
type BoxedKept = Pin<Box<Kept>>;

/// Timers that a thread keeps.
const KEPT: usize = 64;

/// As many of them are looked at for one that suits best.
const LOOKED_AT: usize = 4;

/// The timers of one thread, all of one runtime.
#[derive(Default)]
struct Pool {
    runtime: Option<Id>,
    free: Vec<BoxedKept>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Timer {
    /// A timer that fires at `deadline`.
    ///
    /// # Errors
    ///
    /// [`NoTimer`] if there is no tokio runtime here, or if it was built without its timer. Of the latter there is no way to know
    /// but a panic of tokio's, which is caught: the process's panic hook hears of it, once for each such runtime, and a program that
    /// is built with `panic = "abort"` ends there. Build its runtimes with `enable_time`.
    pub fn at(deadline: Instant) -> Result<Self, NoTimer> {
        let runtime = Handle::try_current().map_err(|_| NoTimer::new())?.id();
        match POOL.try_with(|pool| pool.borrow_mut().take(runtime, deadline)) {
            Ok(Some(mut kept)) => {
                kept.as_mut().set_for(deadline);
                Ok(Self(Some(kept)))
            }
            _ => Self::anew(runtime, deadline),
        }
    }

    #[cold]
    fn anew(runtime: Id, deadline: Instant) -> Result<Self, NoTimer> {
        // What is dropped here may own what a waker owns, timers included: never while the pool is borrowed.
        let _others = POOL.try_with(|pool| pool.borrow_mut().serve(runtime));
        let keep_for = (!is_paused()).then_some(runtime);
        let sleep = sleep_until(runtime, deadline)?;
        Ok(Self(Some(Box::pin(Kept { sleep, later: 0, keep_for, waker: None }))))
    }

    /// Whether it was made for a moment; the default one was not.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// The moment that it was made for, if it was made for one.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.as_ref().map(|kept| kept.deadline())
    }

    /// Ready once the deadline has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some(kept) => kept.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().poll(cx)
    }
}

impl Drop for Timer {
    #[inline]
    fn drop(&mut self) {
        if let Some(kept) = self.0.take() {
            give_back(kept);
        }
    }
}

fn give_back(kept: BoxedKept) {
    if let Some(runtime) = kept.keep_for {
        // The thread's pool may be gone already, while the thread ends.
        let _too_many = POOL.try_with(|pool| pool.borrow_mut().give_back(kept, runtime));
    }
}

impl Kept {
    fn deadline(&self) -> Instant {
        after(self.sleep.deadline(), Duration::from_nanos(self.later))
    }

    fn set_for(self: Pin<&mut Self>, deadline: Instant) {
        let this = self.project();
        if this.sleep.deadline() > deadline {
            this.sleep.reset(deadline);
            (*this.later, *this.waker) = (0, None);
        } else {
            *this.later = nanos(deadline - this.sleep.deadline());
        }
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let is_known = this.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        // A call is polled several times before it is answered; as long as it has not fired, the timer knows whom to wake.
        if is_known && !this.sleep.is_elapsed() {
            return Poll::Pending;
        }
        // Where the task's budget is spent, a timer that takes from it would not even be registered.
        while Pin::new(&mut unconstrained(this.sleep.as_mut())).poll(cx).is_ready() {
            if *this.later == 0 {
                *this.waker = None;
                return Poll::Ready(());
            }
            // What it was registered for is over, but not what it is for.
            let deadline = after(this.sleep.deadline(), Duration::from_nanos(*this.later));
            *this.later = 0;
            this.sleep.as_mut().reset(deadline);
        }
        if !is_known {
            *this.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Pool {
    /// Those of a runtime that this thread no longer serves.
    fn serve(&mut self, runtime: Id) -> Vec<BoxedKept> {
        if self.runtime.replace(runtime) == Some(runtime) {
            Vec::new()
        } else {
            std::mem::take(&mut self.free)
        }
    }

    /// One for this moment.
    fn take(&mut self, runtime: Id, deadline: Instant) -> Option<BoxedKept> {
        if self.runtime != Some(runtime) {
            return None;
        }
        // One that is registered for a later moment would have to be registered anew. Calls with several deadlines give their
        // timers back in turn.
        let mut last = self.free.iter().enumerate().rev().take(LOOKED_AT);
        if let Some((index, _)) = last.find(|(_, kept)| kept.sleep.deadline() <= deadline) {
            return Some(self.free.swap_remove(index));
        }
        self.free.pop()
    }

    /// What is not kept.
    fn give_back(&mut self, kept: BoxedKept, runtime: Id) -> Option<BoxedKept> {
        if self.runtime != Some(runtime) || self.free.len() >= KEPT {
            return Some(kept);
        }
        self.free.push(kept);
        None
    }
}

/// The time that a call or a body has, in a layer with modes: its timer is set when it first has to wait, and fires once.
#[derive(Debug, Default)]
pub struct Countdown {
    timer: Timer,
    /// Nothing is bounded, or no longer.
    over: bool,
}

impl Countdown {
    /// Whether it has begun.
    #[inline]
    pub fn has_begun(&self) -> bool {
        self.over || self.timer.is_set()
    }

    /// Whether it has begun, and is not over.
    #[inline]
    pub fn is_running(&self) -> bool {
        self.timer.is_set()
    }

    /// Begins now, whatever the mode.
    ///
    /// # Errors
    ///
    /// As those of [`Timer::at`].
    pub fn begin(&mut self, deadline: Instant) -> Result<(), NoTimer> {
        self.timer = Timer::at(deadline)?;
        Ok(())
    }

    /// Ready, once, when the time is over: whether that is to be enforced. In [`Mode::Off`] it never is.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mode: &ModeCell,
        deadline: impl FnOnce() -> Instant,
    ) -> Poll<Result<bool, NoTimer>> {
        if !self.has_begun() {
            match mode.get() {
                Mode::Off => self.over = true,
                Mode::Enforce | Mode::Observe => self.begin(deadline())?,
            }
        }
        if self.over {
            return Poll::Pending;
        }
        ready!(self.timer.poll(cx));
        *self = Self { timer: Timer::default(), over: true };
        match mode.get() {
            Mode::Enforce => Poll::Ready(Ok(true)),
            Mode::Observe => Poll::Ready(Ok(false)),
            Mode::Off => Poll::Pending,
        }
    }
}

/// What a future gives within a time, or `None`. One that is ready at once sets no timer; without tokio's timer the time is over
/// at once.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut timer = Timer::default();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if !timer.is_set() {
            match Timer::at(after(Instant::now(), limit)) {
                Ok(set) => timer = set,
                Err(_) => return Poll::Ready(None),
            }
        }
        timer.poll(cx).map(|()| None)
    })
    .await
}

/// Whether the runtime's clock is paused, or has been: it then reads something else than the system's.
#[expect(clippy::disallowed_methods, reason = "the system's clock is what the runtime's is compared with")]
fn is_paused() -> bool {
    let before = std::time::Instant::now();
    let runtime = Instant::now().into_std();
    let after = std::time::Instant::now();
    !(before..=after).contains(&runtime)
}

/// Runtimes that were found to have no timer, the latest last. Made when the first one is.
static WITHOUT: OnceLock<Mutex<Vec<Id>>> = OnceLock::new();

/// So many of them are remembered.
const REMEMBERED: usize = 64;

/// A sleep, or an error where tokio's own would panic: the runtime may have been built without its timer, and there is no
/// way to ask but to try, once. Unwinding costs nothing where it does not happen.
fn sleep_until(runtime: Id, deadline: Instant) -> Result<Sleep, NoTimer> {
    let lock = |known: &'static Mutex<Vec<Id>>| known.lock().unwrap_or_else(PoisonError::into_inner);
    if WITHOUT.get().is_some_and(|known| lock(known).contains(&runtime)) {
        return Err(NoTimer::new());
    }
    std::panic::catch_unwind(|| tokio::time::sleep_until(deadline)).map_err(|_| {
        let mut known = lock(WITHOUT.get_or_init(Mutex::default));
        if known.len() >= REMEMBERED {
            known.remove(0);
        }
        known.push(runtime);
        NoTimer::new()
    })
}

#[cfg(test)]
mod tests;
