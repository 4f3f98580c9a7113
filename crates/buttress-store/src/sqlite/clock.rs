use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use buttress_core::clock;
use tokio::time::Instant;

use crate::time;

/// Wall time that never runs backwards, or a test's.
pub(super) struct StoreClock {
    given: Option<Arc<dyn Fn() -> SystemTime + Send + Sync>>,
    /// What the wall clock read when it was last not behind, and when that was: it goes on from there at its own pace.
    last: Mutex<(i64, Instant)>,
}

impl StoreClock {
    pub(super) fn new(given: Option<Arc<dyn Fn() -> SystemTime + Send + Sync>>) -> Self {
        Self { given, last: Mutex::new((i64::MIN, Instant::now())) }
    }

    pub(super) fn now(&self) -> i64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(given) = &self.given {
            last.0 = time::from_system(given()).max(last.0);
            return last.0;
        }
        // In this order: what comes between makes its own pace late, and never runs ahead for good.
        let (wall, instant) = (time::from_system(clock::wall()), Instant::now());
        read(&mut last, wall, instant)
    }
}

fn read(last: &mut (i64, Instant), wall: i64, instant: Instant) -> i64 {
    let elapsed = instant.saturating_duration_since(last.1).as_micros();
    let own = last.0.saturating_add(i64::try_from(elapsed).unwrap_or(i64::MAX));
    if wall < own {
        return own;
    }
    *last = (wall, instant);
    wall
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_clock_that_is_set_back_does_not_run_backwards() {
        let seconds = Arc::new(AtomicU64::new(100));
        let source = seconds.clone();
        let clock = StoreClock::new(Some(Arc::new(move || {
            UNIX_EPOCH + Duration::from_secs(source.load(Ordering::Relaxed))
        })));
        assert_eq!(clock.now(), 100_000_000);
        seconds.store(50, Ordering::Relaxed);
        assert_eq!(clock.now(), 100_000_000);
        seconds.store(101, Ordering::Relaxed);
        assert_eq!(clock.now(), 101_000_000);
    }

    #[test]
    fn however_often_it_is_read_it_keeps_the_pace_of_the_wall_clock() {
        let clock = StoreClock::new(None);
        for _ in 0..300_000 {
            clock.now();
        }
        let ahead = clock.now() - time::from_system(buttress_core::clock::wall());
        assert!(ahead < 10_000, "{ahead} microseconds ahead");
    }

    #[test]
    fn after_a_wall_clock_was_set_forward_and_back_a_minute_is_a_minute() {
        const SECOND: i64 = 1_000_000;
        let start = Instant::now();
        let mut last = (0, start);
        let mut at = |seconds: u64, wall| {
            read(&mut last, wall * SECOND, start + Duration::from_secs(seconds)) / SECOND
        };
        assert_eq!(at(1, 1), 1);
        assert_eq!(at(2, 3602), 3602, "what was to end within the hour is over");
        // A lease that is taken now is neither over at once nor an hour longer.
        assert_eq!([at(3, 3), at(63, 63)], [3603, 3663]);
        assert_eq!(at(4000, 7600), 7600, "once the wall clock has caught up it is followed again");
        assert_eq!(at(4001, 7601), 7601);
    }

    #[test]
    fn after_the_wall_clock_was_set_back_time_still_passes() {
        let clock = StoreClock::new(None);
        let ahead = clock.now() + 3_600_000_000;
        clock.last.lock().unwrap().0 = ahead;
        let first = clock.now();
        assert!((ahead..ahead + 60_000_000).contains(&first), "{first}");
        while clock.now() == first {}
    }
}
