//! How long the calls of the last moments took.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use buttress_core::clock::{Clock, nanos};
use tokio::time::Instant;

/// Half of the longest time that is looked back.
const HALF: Duration = Duration::from_secs(15);

/// The lowest bucket ends at 2^17 ns (131 µs), and each power of two above it has four.
const LOWEST: u32 = 17;
const STEPS: u32 = 4;
const BUCKETS: usize = 81;

/// Counts by duration, for this half minute's two halves; calls that end in the same moment as a half begins may be lost.
#[derive(Debug)]
pub(crate) struct Latencies {
    clock: Clock,
    halves: [Half; 2],
}

#[derive(Debug)]
struct Half {
    /// Which one since the start.
    number: AtomicU64,
    counts: [AtomicU32; BUCKETS],
}

impl Default for Latencies {
    fn default() -> Self {
        let half = || Half { number: AtomicU64::new(0), counts: [const { AtomicU32::new(0) }; BUCKETS] };
        Self { clock: Clock::start(), halves: [half(), half()] }
    }
}

impl Latencies {
    fn half(&self, now: Instant) -> u64 {
        self.clock.at(now) / nanos(HALF)
    }

    pub(crate) fn record(&self, now: Instant, took: Duration) {
        let number = self.half(now);
        let half = &self.halves[(number % 2) as usize];
        if half.number.swap(number, Relaxed) != number {
            half.counts.iter().for_each(|count| count.store(0, Relaxed));
        }
        half.counts[bucket(took)].fetch_add(1, Relaxed);
    }

    /// How many took longer, and how many there were, in the last 15 to 30 seconds. A call counts as longer if its bucket lies
    /// above that of `limit`, and buckets are at most a quarter of their duration wide.
    pub(crate) fn slower_than(&self, now: Instant, limit: Duration) -> (u64, u64) {
        let number = self.half(now);
        let recent = |half: &&Half| number.saturating_sub(half.number.load(Relaxed)) <= 1;
        let (mut slow, mut all) = (0, 0);
        for half in self.halves.iter().filter(recent) {
            for (at, count) in half.counts.iter().enumerate() {
                let count = u64::from(count.load(Relaxed));
                all += count;
                slow += if at > bucket(limit) { count } else { 0 };
            }
        }
        (slow, all)
    }
}

fn bucket(took: Duration) -> usize {
    let took = nanos(took).max(1);
    let power = took.ilog2();
    if power < LOWEST {
        return 0;
    }
    let step = (took >> (power - 2)) & u64::from(STEPS - 1);
    let above = (power - LOWEST) * STEPS + step as u32 + 1;
    (above as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[tokio::test(start_paused = true)]
    async fn calls_count_by_their_duration_and_are_forgotten_after_half_a_minute_at_the_latest() {
        let (latencies, start) = (Latencies::default(), Instant::now());
        for took in [MS(0), MS(10), MS(100), MS(200), MS(3000)] {
            latencies.record(start, took);
        }
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(latencies.slower_than(at(0), MS(150)), (2, 5));
        assert_eq!(latencies.slower_than(at(15), MS(5)), (4, 5));
        assert_eq!(latencies.slower_than(at(30), MS(5)), (0, 0));
        latencies.record(at(31), MS(1));
        latencies.record(at(46), MS(1000));
        assert_eq!(latencies.slower_than(at(50), MS(500)), (1, 2));
    }

    #[test]
    fn buckets_grow_and_are_a_quarter_wide_at_most() {
        let mut last = 0;
        for us in (0..40_000_000_u64).step_by(31) {
            let at = bucket(Duration::from_micros(us));
            assert!(at == last || at == last + 1, "{us} µs is in bucket {at}, after {last}");
            last = at;
            if us > 200 {
                assert!(bucket(Duration::from_micros(us * 126 / 100)) > at || at == BUCKETS - 1, "{us} µs");
            }
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }
}
