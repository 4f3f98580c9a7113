//! Times on a store's clock: microseconds since 1970, as every backend keeps them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A century: what is longer is as good as for ever, and fits into every backend's arithmetic.
const FOR_EVER: Duration = Duration::from_secs(86_400 * 365 * 100);

/// A duration in microseconds, a century at most. What is below a microsecond counts as one: only zero is over at once.
pub(crate) fn micros(duration: Duration) -> i64 {
    let duration = duration.min(FOR_EVER);
    i64::try_from(duration.as_nanos().div_ceil(1000)).expect("a century has 3.2e15 microseconds")
}

pub(crate) fn after(now: i64, duration: Duration) -> i64 {
    now.saturating_add(micros(duration))
}

pub(crate) fn remaining(until: i64, now: i64) -> Duration {
    Duration::from_micros(u64::try_from(until.saturating_sub(now)).unwrap_or(0))
}

pub(crate) fn from_system(time: SystemTime) -> i64 {
    let micros = |distance: Duration| i64::try_from(distance.as_micros()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => micros(since),
        Err(before) => -micros(before.duration()),
    }
}

pub(crate) fn to_system(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_overflows_and_none_but_zero_is_over_at_once() {
        assert_eq!(micros(Duration::MAX), 3_153_600_000_000_000);
        assert_eq!(after(i64::MAX, Duration::MAX), i64::MAX);
        assert_eq!(micros(Duration::from_nanos(1)), 1);
        assert_eq!(micros(Duration::ZERO), 0);
        assert_eq!(remaining(3, 5), Duration::ZERO);
    }

    #[test]
    fn times_survive_the_way_there_and_back() {
        for micros in [-1, 0, 1, 1_700_000_000_000_001] {
            assert_eq!(from_system(to_system(micros)), micros);
        }
    }
}
