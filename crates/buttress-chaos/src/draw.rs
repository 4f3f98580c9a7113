//! What is drawn by chance: a function of the seed and of what it is drawn for, never of what was drawn before.

use std::time::Duration;

use buttress_core::clock::nanos;

/// Numbers for one decision. The arithmetic is SplitMix64, and stays: a seed gives the same faults in every version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw(u64);

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Draw {
    /// The numbers that belong to this seed and these coordinates.
    pub(crate) fn new(seed: u64, coordinates: &[u64]) -> Self {
        Self(coordinates.iter().fold(mix(seed), |state, &coordinate| mix(state ^ mix(coordinate))))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// `true` with this probability: never for 0, always for 1.
    pub(crate) fn happens(&mut self, probability: f64) -> bool {
        // 53 bits are what an f64 holds exactly.
        ((self.next() >> 11) as f64) * (1.0 / (1_u64 << 53) as f64) < probability
    }

    /// Uniform in `low..=high`; `low` if the range is empty.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        match high.checked_sub(low) {
            Some(span) => low + ((u128::from(self.next()) * (u128::from(span) + 1)) >> 64) as u64,
            None => low,
        }
    }

    /// Uniform in `time ± jitter`, zero at least.
    pub(crate) fn around(&mut self, time: Duration, jitter: Duration) -> Duration {
        if jitter.is_zero() {
            return time;
        }
        let (low, high) = (time.saturating_sub(jitter), time.saturating_add(jitter));
        Duration::from_nanos(self.between(nanos(low), nanos(high)))
    }
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(GOLDEN);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// A text as a coordinate: FNV-1a, mixed.
pub(crate) fn text(text: &str) -> u64 {
    mix(text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_numbers_of_a_seed_never_change() {
        let mut draw = Draw::new(7, &[1, 2]);
        let numbers = [draw.next(), draw.next(), text("tenant-1")];
        assert_eq!(numbers, EXPECTED);
    }

    const EXPECTED: [u64; 3] =
        [12_185_373_017_774_929_339, 14_764_835_869_908_266_798, 17_899_003_112_517_061_629];

    #[test]
    fn a_rate_is_kept_to_within_what_chance_allows() {
        for percent in [0, 1, 10, 50, 99, 100] {
            let rate = f64::from(percent) / 100.0;
            let hits = (0..100_000).filter(|&n| Draw::new(7, &[n]).happens(rate)).count() as f64;
            // Five standard deviations.
            let slack = 5.0 * (100_000.0 * rate * (1.0 - rate)).sqrt();
            assert!((hits - 100_000.0 * rate).abs() <= slack, "{percent} %: {hits}");
        }
    }

    proptest! {
        #[test]
        fn what_is_drawn_stays_within_its_bounds(seed: u64, low: u64, high: u64, time in 0..1u64 << 40, jitter in 0..1u64 << 40) {
            let mut draw = Draw::new(seed, &[]);
            let drawn = draw.between(low, high);
            prop_assert!(drawn >= low && drawn <= high.max(low));
            let (time, jitter) = (Duration::from_nanos(time), Duration::from_nanos(jitter));
            let drawn = draw.around(time, jitter);
            prop_assert!(drawn >= time.saturating_sub(jitter) && drawn <= time + jitter);
        }
    }
}
