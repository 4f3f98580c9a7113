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
        self.within(during).map(u64::from).sum()
    }

    /// The most in any tenth of a second.
    pub fn peak(&self, during: &Range<Duration>) -> u32 {
        self.within(during).max().unwrap_or(0)
    }

    /// The most in any whole second.
    pub fn peak_second(&self, during: &Range<Duration>) -> u32 {
        self.seconds(during).into_iter().max().unwrap_or(0)
    }

    /// Each second of this time.
    pub fn seconds(&self, during: &Range<Duration>) -> Vec<u32> {
        let tenths: Vec<u32> = self.within(during).collect();
        tenths.chunks(10).map(|second| second.iter().sum()).collect()
    }

    /// Each tenth of a second of this time, also of what is after the last one counted.
    pub fn within(&self, during: &Range<Duration>) -> impl Iterator<Item = u32> {
        let bucket = |at: Duration| (at.as_millis() / 100) as usize;
        (bucket(during.start)..bucket(during.end)).map(|bucket| self.0.get(bucket).copied().unwrap_or(0))
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
        assert!(series.within(&(Duration::ZERO..Duration::from_millis(300))).eq([2, 1, 0]));
        assert_eq!(
            series.seconds(&(secs(1)..secs(5))),
            [1, 2, 0, 0],
            "nothing is cut off that did not happen"
        );
        assert_eq!((series.sum(&(secs(0)..secs(1))), series.sum(&(secs(1)..secs(99)))), (4, 3));
        assert_eq!((series.peak(&(secs(0)..secs(99))), series.peak_second(&(secs(0)..secs(99)))), (2, 4));
        assert_eq!(series.sum(&(secs(50)..secs(99))), 0);
    }
}
