use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use buttress_core::clock;
use tokio::time::Instant;

use crate::time;

/// Wall time that never runs backwards, or a test's.
pub(super) struct StoreClock {
    given: Option<Arc<dyn Fn() -> SystemTime + Send + Sync>>,
    /// What was read last, and when.
    last: Mutex<(i64, Instant)>,
}

impl StoreClock {
    pub(super) fn new(given: Option<Arc<dyn Fn() -> SystemTime + Send + Sync>>) -> Self {
        Self { given, last: Mutex::new((i64::MIN, Instant::now())) }
    }

    pub(super) fn now(&self) -> i64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match &self.given {
            Some(given) => time::from_system(given()).max(last.0),
            None => {
                let instant = Instant::now();
                let at_least = time::after(last.0, instant.saturating_duration_since(last.1));
                last.1 = instant;
                time::from_system(clock::wall()).max(at_least)
            }
        };
        last.0 = now;
        now
    }
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
    fn after_the_wall_clock_was_set_back_time_still_passes() {
        let clock = StoreClock::new(None);
        let ahead = clock.now() + 3_600_000_000;
        clock.last.lock().unwrap().0 = ahead;
        let first = clock.now();
        assert!((ahead..ahead + 60_000_000).contains(&first), "{first}");
        while clock.now() == first {}
    }
}
