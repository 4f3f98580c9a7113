//! The one clock: `tokio::time`, so that a paused runtime drives every layer.

mod since;

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

pub use since::Since;

/// Counts nanoseconds from the moment it was made.
///
/// Pure state machines keep time as `u64` nanoseconds; this turns the runtime's clock into such a number and back.
/// Each owner of state makes its own, because the paused clocks of two runtimes have nothing in common.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Instant,
}

impl Clock {
    /// A clock that starts at zero now.
    pub fn start() -> Self {
        Self { base: Instant::now() }
    }

    /// Nanoseconds since the start, at most `u64::MAX` (584 years).
    #[inline]
    pub fn now(&self) -> u64 {
        nanos(self.base.elapsed())
    }

    /// What this clock reads at `instant`; zero for anything before the start.
    #[inline]
    pub fn at(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.base))
    }

    /// The moment at which this clock reads `nanos`, no later than thirty years after the start.
    pub fn instant(&self, nanos: u64) -> Instant {
        self.base + Duration::from_nanos(nanos).min(FAR)
    }
}

/// The time on a [`Clock`], read when it is first asked for and not again.
#[derive(Debug)]
pub struct LazyNow<'a> {
    clock: &'a Clock,
    read: Option<u64>,
}

impl<'a> LazyNow<'a> {
    /// Not read yet.
    #[inline]
    pub fn new(clock: &'a Clock) -> Self {
        Self { clock, read: None }
    }

    /// What the clock read when this was first called.
    #[inline]
    pub fn get(&mut self) -> u64 {
        *self.read.get_or_insert_with(|| self.clock.now())
    }
}

thread_local! {
    /// When a layer of this thread last found that it has to wait.
    static WAITING: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// To be called by a layer before it polls what is inside of it, if it may then ask [`first_wait`]: what other layers have
/// read before is none of its concern.
#[inline]
pub fn before_poll() {
    WAITING.set(None);
}

/// The time, for a layer that has to wait for the first time: of all layers of a stack, which find so one after the
/// other, the innermost reads the clock.
///
/// It is no earlier than the caller's last [`before_poll`], and so lies in the poll in which the wait began.
#[inline]
pub fn first_wait() -> Instant {
    WAITING.get().unwrap_or_else(|| {
        let now = Instant::now();
        WAITING.set(Some(now));
        now
    })
}

thread_local! {
    /// By when a deadline wakes the task that this thread polls.
    static WOKEN_BY: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// To be called by a deadline that has to wait: by when its timer wakes the task, if it has one. And, with `None`, by whoever has
/// polled something else since.
#[inline]
pub fn wakes_by(moment: Option<Instant>) {
    WOKEN_BY.set(moment);
}

/// By when the deadline below that was polled last wakes the task, for one above it that then needs no timer of its own. It says so
/// in each poll: ask only after a poll before which [`wakes_by`] was called with `None`.
#[inline]
pub fn woken_by() -> Option<Instant> {
    WOKEN_BY.get()
}

/// Wall-clock time, for stored state and for dates in headers only: never to measure.
#[allow(clippy::disallowed_methods, reason = "this is the one function that may read the wall clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// A duration as nanoseconds, at most `u64::MAX`.
#[inline]
pub fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(duration.subsec_nanos().into())
}

/// `Instant + Duration` panics on overflow; tokio itself treats thirty years as "never".
const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

/// `from + duration`, thirty years at most.
#[inline]
pub fn after(from: Instant, duration: Duration) -> Instant {
    from + duration.min(FAR)
}

/// A duration as people write it: milliseconds below a second (tenths of one below a millisecond), else seconds with at
/// most two decimals.
#[derive(Clone, Copy, Debug)]
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_zero() && self.0 < Duration::from_millis(1) {
            return write!(f, "{:.1} ms", self.0.as_secs_f64() * 1000.0);
        }
        if self.0 < Duration::from_secs(1) {
            return write!(f, "{} ms", self.0.as_millis());
        }
        let hundredths = (self.0.as_secs_f64() * 100.0).round() / 100.0;
        write!(f, "{hundredths} s")
    }
}

/// A layer had to wait, and there is no tokio timer to wait with.
#[derive(Debug)]
#[non_exhaustive]
pub struct NoTimer(());

impl NoTimer {
    pub(crate) const fn new() -> Self {
        Self(())
    }
}

impl fmt::Display for NoTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "no tokio timer here: call the service inside a tokio runtime that was built with `enable_time` or `enable_all`",
        )
    }
}

impl std::error::Error for NoTimer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_follows_the_paused_runtime() {
        let clock = Clock::start();
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!(clock.now(), 1_500_000_000);
        assert_eq!(clock.at(clock.instant(7)), 7);
        assert_eq!(clock.at(Instant::now() - Duration::from_secs(60)), 0, "before the start");
    }

    #[tokio::test(start_paused = true)]
    async fn no_duration_overflows() {
        let clock = Clock::start();
        assert!(clock.instant(u64::MAX) > Instant::now());
        assert!(after(Instant::now(), Duration::MAX) > Instant::now());
        assert_eq!(nanos(Duration::MAX), u64::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn the_layers_of_a_stack_have_waited_since_one_moment() {
        let start = Instant::now();
        before_poll();
        assert_eq!(first_wait(), start, "the inner one");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(first_wait(), start, "the outer one, in the same poll");
        before_poll();
        assert_eq!(first_wait(), start + Duration::from_secs(1), "another poll");
    }

    #[test]
    fn durations_read_as_people_write_them() {
        let text = |ms| Seconds(Duration::from_millis(ms)).to_string();
        assert_eq!([text(0), text(999), text(1000), text(2046)], ["0 ms", "999 ms", "1 s", "2.05 s"]);
        assert_eq!(Seconds(Duration::from_micros(420)).to_string(), "0.4 ms");
    }
}
