use std::collections::VecDeque;
use std::time::Duration;

use buttress_core::clock::nanos;

/// How many restarts are bearable in a sliding time, as an OTP supervisor has it (`intensity` and `period`): with one more, a
/// human is called instead.
///
/// A restart that is exactly as old as the time still counts, as in OTP. What becomes of a restart does not matter: a window is
/// not emptied by success. Default: 3 within 5 minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    /// So many restarts; zero for none at all.
    pub max: u32,
    /// Within this time.
    pub within: Duration,
}

impl Intensity {
    /// At most `max` restarts within any such time.
    pub const fn new(max: u32, within: Duration) -> Self {
        Self { max, within }
    }
}

impl Default for Intensity {
    fn default() -> Self {
        Self::new(3, Duration::from_secs(300))
    }
}

/// The restarts of the last while.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    limit: Intensity,
    starts: VecDeque<u64>,
}

impl Window {
    pub(crate) fn new(limit: Intensity) -> Self {
        Self { limit, starts: VecDeque::new() }
    }

    /// From when on another restart is bearable; `None` for never.
    pub(crate) fn free_at(&self) -> Option<u64> {
        let Intensity { max, within } = self.limit;
        if max == 0 {
            return None;
        }
        let oldest = self.starts.len().checked_sub(max as usize).map(|spent| self.starts[spent]);
        Some(oldest.map_or(0, |start| start.saturating_add(nanos(within)).saturating_add(1)))
    }

    /// A restart begins.
    pub(crate) fn record(&mut self, now: u64) {
        while self.starts.len() >= self.limit.max.max(1) as usize {
            self.starts.pop_front();
        }
        self.starts.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn allows(window: &Window, now: u64) -> bool {
        window.free_at().is_some_and(|free| free <= now)
    }

    /// HD-1. Erlang's defaults: the second restart within 5 s is one too many.
    #[test]
    fn one_restart_in_five_seconds_is_bearable_and_two_are_not() {
        let mut window = Window::new(Intensity::new(1, Duration::from_secs(5)));
        assert!(allows(&window, 0));
        window.record(0);
        assert!(!allows(&window, 3 * SECOND));
        assert!(!allows(&window, 5 * SECOND), "OTP counts a restart that is exactly as old");
        assert!(allows(&window, 5 * SECOND + 1));
    }

    /// HD-4, its first half: one failure each 6.1 s never exceeds 5 within 30 s.
    #[test]
    fn a_slow_leak_is_never_too_much_for_the_window_alone() {
        let mut window = Window::new(Intensity::new(5, Duration::from_secs(30)));
        for failure in 0..590 {
            let now = failure * 6_100_000_000;
            assert!(allows(&window, now), "{failure}");
            window.record(now);
        }
    }

    #[test]
    fn an_intensity_of_zero_restarts_nothing() {
        assert_eq!(Window::new(Intensity::new(0, Duration::MAX)).free_at(), None);
        let mut window = Window::new(Intensity::new(1, Duration::MAX));
        window.record(1);
        assert!(!allows(&window, u64::MAX - 1));
    }

    proptest! {
        /// Beside a list of all restarts. Pekko's tumbling window would let twice as many through around its edge.
        #[test]
        fn no_window_ever_holds_more_than_the_maximum(
            max in 0_u32..5, within in 1_u64..50, steps in prop::collection::vec(0_u64..20, 0..100),
        ) {
            let mut window = Window::new(Intensity::new(max, Duration::from_nanos(within)));
            let (mut now, mut all) = (0, Vec::<u64>::new());
            for step in steps {
                now += step;
                let recent = all.iter().filter(|&&start| start + within >= now).count();
                prop_assert_eq!(allows(&window, now), recent < max as usize);
                if allows(&window, now) {
                    window.record(now);
                    all.push(now);
                }
            }
        }
    }
}
