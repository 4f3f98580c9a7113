//! Counting over time.

use std::ops::Range;
use std::time::Duration;

/// How often something happened in each tenth of a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series(Vec<u32>);

impl Series {
    /// Tenths of a second, in nanoseconds.
    const BUCKET: u64 = 100_000_000;

    /// Counts one at this many nanoseconds after the start.
    pub fn count(&mut self, at: u64) {
        let bucket = (at / Self::BUCKET) as usize;
        if self.0.len() <= bucket {
            self.0.resize(bucket + 1, 0);
        }
        self.0[bucket] += 1;
    }

    /// How many in all of this time.
    pub fn sum(&self, during: &Range<Duration>) -> u64 {
        self.within(during).iter().copied().map(u64::from).sum()
    }

    /// The most in any tenth of a second.
    pub fn peak(&self, during: &Range<Duration>) -> u32 {
        self.within(during).iter().copied().max().unwrap_or(0)
    }

    /// The most in any whole second.
    pub fn peak_second(&self, during: &Range<Duration>) -> u32 {
        self.within(during).chunks(10).map(|second| second.iter().sum()).max().unwrap_or(0)
    }

    /// Each tenth of a second of this time.
    pub fn within(&self, during: &Range<Duration>) -> &[u32] {
        let bucket = |at: Duration| ((at.as_millis() / 100) as usize).min(self.0.len());
        &self.0[bucket(during.start)..bucket(during.end)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_counts_by_tenths_of_a_second_and_knows_nothing_of_what_was_never_counted() {
        let (mut series, secs) = (Series::default(), Duration::from_secs);
        for millis in [0, 99, 100, 950, 1000, 2500, 2599] {
            series.count(millis * 1_000_000);
        }
        assert_eq!(series.within(&(Duration::ZERO..Duration::from_millis(300))), [2, 1, 0]);
        assert_eq!((series.sum(&(secs(0)..secs(1))), series.sum(&(secs(1)..secs(99)))), (4, 3));
        assert_eq!((series.peak(&(secs(0)..secs(99))), series.peak_second(&(secs(0)..secs(99)))), (2, 4));
        assert_eq!(series.sum(&(secs(50)..secs(99))), 0);
    }
}
