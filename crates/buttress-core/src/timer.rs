use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep};

use crate::clock::NoTimer;

/// A sleep that is small, can be moved, and is used again: the timer of a call.
///
/// tokio's timer is a lock, which every registration takes. Most timers of calls never fire: the call is answered long
/// before. So a thread keeps the ones it has used (64 at most), registered as they are, and arms them again for a
/// later moment, which is a single store. Dropping a `Timer` gives it back.
///
/// A kept timer holds on to the waker it was last polled with until it fires: that of a task that has mostly ended, which
/// costs the memory of the task's header, and at most a poll too many.
#[derive(Debug)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    runtime: Id,
}

/// Timers that a thread keeps.
const KEPT: usize = 64;

/// The timers of one thread, all of one runtime.
#[derive(Default)]
struct Pool {
    runtime: Option<Id>,
    free: Vec<Pin<Box<Sleep>>>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Timer {
    /// A timer that fires at `deadline`.
    ///
    /// # Errors
    ///
    /// [`NoTimer`] if there is no tokio runtime here, or if it was built without its timer.
    pub fn at(deadline: Instant) -> Result<Self, NoTimer> {
        let runtime = Handle::try_current().map_err(|_| NoTimer::new())?.id();
        let kept = POOL.try_with(|pool| pool.borrow_mut().take(runtime)).ok().flatten();
        let sleep = match kept {
            Some(mut sleep) => {
                sleep.as_mut().reset(deadline);
                sleep
            }
            None => Box::pin(sleep_until(deadline)?),
        };
        Ok(Self { sleep: Some(sleep), runtime })
    }

    /// Ready once the deadline has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
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
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take() {
            // The thread's pool may be gone already, while the thread ends.
            let _ = POOL.try_with(|pool| pool.borrow_mut().give_back(sleep, self.runtime));
        }
    }
}

impl Pool {
    fn take(&mut self, runtime: Id) -> Option<Pin<Box<Sleep>>> {
        if self.runtime != Some(runtime) {
            // Timers of a runtime that this thread no longer serves.
            *self = Self { runtime: Some(runtime), free: Vec::new() };
        }
        self.free.pop()
    }

    fn give_back(&mut self, sleep: Pin<Box<Sleep>>, runtime: Id) {
        if self.runtime == Some(runtime) && self.free.len() < KEPT {
            self.free.push(sleep);
        }
    }
}

/// A sleep, or an error where tokio's own would panic: the runtime may have been built without its timer, and there is no
/// way to ask but to try. Unwinding costs nothing where it does not happen.
fn sleep_until(deadline: Instant) -> Result<Sleep, NoTimer> {
    std::panic::catch_unwind(|| tokio::time::sleep_until(deadline)).map_err(|_| NoTimer::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn kept() -> usize {
        POOL.with(|pool| pool.borrow().free.len())
    }

    async fn fires(deadline: Instant) -> Instant {
        Timer::at(deadline).unwrap().await;
        Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_was_used_before_fires_at_its_new_deadline_and_not_at_its_old_one() {
        let start = Instant::now();
        let secs = Duration::from_secs;
        for (first, second) in [(10, 20), (20, 10), (10, 10)] {
            let start = Instant::now();
            let mut timer = Timer::at(start + secs(first)).unwrap();
            assert!(std::future::poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
            drop(timer);
            assert_eq!(kept(), 1);
            assert_eq!(fires(start + secs(second)).await, start + secs(second), "{first} then {second}");
        }
        assert_eq!(fires(start).await, Instant::now(), "a deadline in the past fires at once");
        assert_eq!(kept(), 1, "one timer served them all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_keeps_a_bounded_number() {
        let timers: Vec<_> =
            (0..1000).map(|_| Timer::at(Instant::now() + Duration::from_secs(1)).unwrap()).collect();
        drop(timers);
        assert_eq!(kept(), KEPT);
    }

    #[test]
    fn the_timers_of_one_runtime_are_not_used_in_another() {
        for _ in 0..3 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                assert_eq!(fires(Instant::now() + Duration::from_secs(5)).await, Instant::now());
                assert_eq!(kept(), 1);
            });
        }
    }

    #[test]
    fn without_a_runtime_or_its_timer_it_is_a_typed_error() {
        assert!(Timer::at(Instant::now()).is_err());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let message = runtime.block_on(async { Timer::at(Instant::now()).unwrap_err().to_string() });
        assert!(message.contains("enable_time"), "{message}");
    }
}
