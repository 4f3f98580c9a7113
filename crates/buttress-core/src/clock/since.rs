use tokio::time::Instant;

use super::nanos;

/// A moment, and how long ago it was: of that, most of the time, the kernel's coarse clock says enough.
///
/// The exact clock reads a counter of the processor and scales it; the coarse one (Linux: `CLOCK_MONOTONIC_COARSE`) reads what the kernel
/// has noted at its last tick, 1 to 10 ms ago, for a quarter of the time. On other systems, and wherever tokio's clock may be paused (its feature
/// `test-util` is on in the build), the exact one is always read.
///
/// ```
/// use buttress_core::clock::Since;
///
/// let stored = Since::now();
/// assert!(stored.within(60_000_000_000).is_some(), "less than a minute ago");
/// assert_eq!(stored.within(0), None);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Since {
    instant: Instant,
    /// What the coarse clock reads then, were it exact.
    ticks: u64,
}

/// By so much the coarse clock may be behind, in nanoseconds: ten ticks of a slow kernel, for processors that are not always there.
const BEHIND: u64 = 100_000_000;

impl Since {
    /// The present moment.
    pub fn now() -> Self {
        // In this order: the coarse clock then never says more than the exact one.
        let instant = Instant::now();
        Self { instant, ticks: ticks::exact() }
    }

    /// The same, on the exact clock.
    #[inline]
    pub fn instant(&self) -> Instant {
        self.instant
    }

    /// How many nanoseconds ago it was, if that is less than `limit`.
    ///
    /// Whether it is less is exact. The number is, within 100 ms of the limit; before, it may be too small by a tick. From one moment to a
    /// later one it does not fall.
    #[inline]
    pub fn within(&self, limit: u64) -> Option<u64> {
        if !PAUSABLE {
            let since = ticks::coarse().saturating_sub(self.ticks);
            if since.saturating_add(BEHIND) < limit {
                return Some(since);
            }
        }
        self.exactly_within(limit)
    }

    #[inline(never)]
    fn exactly_within(&self, limit: u64) -> Option<u64> {
        let since = nanos(self.instant.elapsed());
        (since < limit).then_some(since)
    }
}

/// Whether tokio's clock can be paused in this build: whether there is a `tokio::time::pause`, which its feature `test-util` brings.
///
/// Where there is none, the name is that of the function out here.
const PAUSABLE: bool = {
    #[allow(unused_imports, clippy::wildcard_imports, reason = "it finds what may not be there")]
    use tokio::time::*;
    returns(pause)
};

#[allow(dead_code, reason = "only where tokio has none")]
fn pause() -> Absent {
    Absent
}

struct Absent;

trait Found {
    const FOUND: bool;
}

impl Found for () {
    const FOUND: bool = true;
}

impl Found for Absent {
    const FOUND: bool = false;
}

const fn returns<T: Found>(_: fn() -> T) -> bool {
    T::FOUND
}

#[cfg(any(target_os = "android", target_os = "linux"))]
mod ticks {
    use rustix::time::{ClockId, clock_gettime};

    #[inline]
    pub(super) fn coarse() -> u64 {
        read(ClockId::MonotonicCoarse)
    }

    pub(super) fn exact() -> u64 {
        read(ClockId::Monotonic)
    }

    #[inline]
    fn read(clock: ClockId) -> u64 {
        let time = clock_gettime(clock);
        // It has counted for less than 584 years.
        (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
    }
}

/// There is no coarse clock, as far as is known here: one that always says that the limit is near.
#[cfg(not(any(target_os = "android", target_os = "linux")))]
mod ticks {
    pub(super) fn coarse() -> u64 {
        u64::MAX
    }

    pub(super) fn exact() -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_counts_exactly() {
        // These tests are built with tokio's `test-util`.
        const { assert!(PAUSABLE) };
        let moment = Since::now();
        assert_eq!(moment.within(1), Some(0));
        tokio::time::advance(Duration::from_secs(3600)).await;
        let hour = 3_600_000_000_000;
        assert_eq!((moment.within(hour), moment.within(hour + 1)), (None, Some(hour)));
        assert_eq!(moment.instant() + Duration::from_secs(3600), Instant::now());
    }

    #[test]
    fn the_coarse_clock_counts_like_the_exact_one_and_is_never_ahead() {
        let mut last = 0;
        for _ in 0..100_000 {
            let (coarse, exact) = (ticks::coarse(), ticks::exact());
            assert!(last <= coarse && (coarse <= exact || coarse == u64::MAX), "{last} {coarse} {exact}");
            last = coarse;
        }
    }
}
