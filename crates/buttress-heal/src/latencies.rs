//! How long calls took.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use buttress_core::clock::{Clock, nanos};

/// The lowest bucket ends at 2^17 ns (131 µs), and each power of two above it has four.
const LOWEST: u32 = 17;
const STEPS: u32 = 4;
const BUCKETS: usize = 81;

/// Counts by duration.
#[derive(Debug)]
pub(crate) struct Latencies {
    pub(crate) clock: Clock,
    counts: [AtomicU64; BUCKETS],
}

impl Default for Latencies {
    fn default() -> Self {
        Self { clock: Clock::start(), counts: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

impl Latencies {
    /// A call ends that has waited since then, on this clock.
    pub(crate) fn record(&self, since: u64) {
        self.counts[bucket(self.clock.now().saturating_sub(since))].fetch_add(1, Relaxed);
    }

    /// How many took longer, and how many there were. A call counts as longer if its bucket lies above that of `limit`, and
    /// buckets are at most a quarter of their duration wide.
    pub(crate) fn slower_than(&self, limit: Duration) -> (u64, u64) {
        let limit = bucket(nanos(limit));
        let (mut slow, mut all) = (0, 0);
        for (at, count) in self.counts.iter().enumerate() {
            let count = count.load(Relaxed);
            all += count;
            slow += if at > limit { count } else { 0 };
        }
        (slow, all)
    }
}

fn bucket(took: u64) -> usize {
    let took = took.max(1);
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
    async fn calls_count_by_their_duration() {
        let latencies = Latencies::default();
        tokio::time::advance(MS(4000)).await;
        for took in [MS(0), MS(10), MS(100), MS(200), MS(3000)] {
            latencies.record(nanos(MS(4000) - took));
        }
        let slower = [0, 5, 150, 1000, 5000].map(|limit| latencies.slower_than(MS(limit)));
        assert_eq!(slower, [(4, 5), (4, 5), (2, 5), (1, 5), (0, 5)]);
    }

    #[test]
    fn buckets_grow_and_are_a_quarter_wide_at_most() {
        let mut last = 0;
        for us in (0..40_000_000_u64).step_by(31) {
            let at = bucket(us * 1000);
            assert!(at == last || at == last + 1, "{us} µs is in bucket {at}, after {last}");
            last = at;
            if us > 200 {
                assert!(bucket(us * 1260) > at || at == BUCKETS - 1, "{us} µs");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
