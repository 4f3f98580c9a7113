use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::time;

/// Wall time that never runs backwards, or a test's.
pub(super) struct StoreClock {
    given: Option<Arc<dyn Fn() -> SystemTime + Send + Sync>>,
    wall: fn() -> SystemTime,
    last: Mutex<Last>,
}

/// What the wall clock read when it was last not behind, and when that was: it goes on from there at its own pace.
struct Last {
    wall: i64,
    instant: Instant,
    /// When the wall clock was last found to have been set forward, or the machine to have slept.
    stepped: Option<Instant>,
}

/// In microseconds, what the wall clock may be further by than the monotonic one and has not stepped: a small part of any lease; and a
/// thousandth of the time between two readings, twice what clocks are slewed by.
const STEP: i64 = 1_000_000;

impl StoreClock {
    pub(super) fn new(
        given: Option<Arc<dyn Fn() -> SystemTime + Send + Sync>>,
        wall: fn() -> SystemTime,
    ) -> Self {
        Self {
            given,
            wall,
            last: Mutex::new(Last { wall: i64::MIN, instant: Instant::now(), stepped: None }),
        }
    }

    pub(super) fn now(&self) -> i64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(given) = &self.given {
            last.wall = time::from_system(given()).max(last.wall);
            return last.wall;
        }
        // In this order: what comes between makes its own pace late, and never runs ahead for good.
        let (wall, instant) = (time::from_system((self.wall)()), Instant::now());
        last.read(wall, instant)
    }

    /// Whether a reading found, so long ago at most, that the wall clock had been set forward since the one before.
    pub(super) fn stepped_within(&self, duration: Duration) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.stepped.is_some_and(|stepped| stepped.elapsed() < duration)
    }
}

impl Last {
    fn read(&mut self, wall: i64, instant: Instant) -> i64 {
        let elapsed = instant.saturating_duration_since(self.instant).as_micros();
        let elapsed = i64::try_from(elapsed).unwrap_or(i64::MAX);
        let own = self.wall.saturating_add(elapsed);
        if wall < own {
            return own;
        }
        if self.wall != i64::MIN && wall.saturating_sub(own) > STEP.saturating_add(elapsed / 1000) {
            self.stepped = Some(instant);
        }
        (self.wall, self.instant) = (wall, instant);
        wall
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::UNIX_EPOCH;

    use buttress_core::clock::wall;

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn last(start: Instant) -> Last {
        Last { wall: i64::MIN, instant: start, stepped: None }
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_run_backwards() {
        let seconds = Arc::new(AtomicU64::new(100));
        let source = seconds.clone();
        let given = move || UNIX_EPOCH + Duration::from_secs(source.load(Ordering::Relaxed));
        let clock = StoreClock::new(Some(Arc::new(given)), wall);
        assert_eq!(clock.now(), 100_000_000);
        seconds.store(50, Ordering::Relaxed);
        assert_eq!(clock.now(), 100_000_000);
        seconds.store(101, Ordering::Relaxed);
        assert_eq!(clock.now(), 101_000_000);
    }

    #[test]
    fn however_often_it_is_read_it_keeps_the_pace_of_the_wall_clock() {
        let clock = StoreClock::new(None, wall);
        for _ in 0..300_000 {
            clock.now();
        }
        let ahead = clock.now() - time::from_system(wall());
        assert!(ahead < 10_000, "{ahead} microseconds ahead");
    }

    #[test]
    fn after_a_wall_clock_was_set_forward_and_back_a_minute_is_a_minute() {
        let start = Instant::now();
        let mut last = last(start);
        let mut at =
            |seconds: u64, wall| last.read(wall * SECOND, start + Duration::from_secs(seconds)) / SECOND;
        assert_eq!(at(1, 1), 1);
        assert_eq!(at(2, 3602), 3602, "what was to end within the hour is over");
        // A lease that is taken now is neither over at once nor an hour longer.
        assert_eq!([at(3, 3), at(63, 63)], [3603, 3663]);
        assert_eq!(at(4000, 7600), 7600, "once the wall clock has caught up it is followed again");
        assert_eq!(at(4001, 7601), 7601);
    }

    #[test]
    fn after_the_wall_clock_was_set_back_time_still_passes() {
        let clock = StoreClock::new(None, wall);
        let ahead = clock.now() + 3_600_000_000;
        clock.last.lock().unwrap().wall = ahead;
        let first = clock.now();
        assert!((ahead..ahead + 60_000_000).contains(&first), "{first}");
        while clock.now() == first {}
    }
    #[test]
    fn a_step_is_what_neither_the_first_reading_nor_slewing_explains() {
        let start = Instant::now();
        let mut last = last(start);
        let mut steps_at = |seconds: u64, wall: i64| {
            let before = last.stepped;
            last.read(wall, start + Duration::from_secs(seconds));
            last.stepped != before
        };
        assert!(!steps_at(1, 1000 * SECOND), "there was nothing before it");
        assert!(!steps_at(11, 1010 * SECOND));
        assert!(!steps_at(86_411, 87_410 * SECOND + 43_200_000), "500 ppm of a day");
        assert!(!steps_at(86_412, 87_411 * SECOND + 44_200_000), "less than a second");
        assert!(steps_at(86_413, 87_412 * SECOND + 45_300_000), "a second and more");
        assert!(!steps_at(86_414, SECOND), "set back");
        assert!(!steps_at(86_415, 87_414 * SECOND + 45_300_000), "and put right");
    }
}
