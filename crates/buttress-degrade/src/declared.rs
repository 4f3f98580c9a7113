use std::time::Duration;

use buttress_core::Level;
use buttress_core::clock::nanos;

/// The level that is told to people: one step at a time, and upwards only after a while.
///
/// Pure: it is told what time it is, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Declared {
    level: Level,
    window: u64,
    clean_windows: u64,
    /// When the next step down may be made.
    next_down: u64,
    /// Since when the truth has been better than what is declared, without a break.
    better_since: Option<u64>,
}

impl Declared {
    pub(crate) fn new(window: Duration, clean_windows: u32) -> Self {
        let window = nanos(window);
        Self {
            level: Level::Full,
            window,
            clean_windows: clean_windows.into(),
            next_down: 0,
            better_since: None,
        }
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// Goes as far as it may by now, while the truth was and is this.
    pub(crate) fn advance(&mut self, now: u64, truth: Level) {
        while truth > self.level && now >= self.next_down {
            self.level = step(self.level, 1);
            self.next_down = now.saturating_add(self.window);
        }
        if truth >= self.level {
            self.better_since = None;
            return;
        }
        let since = *self.better_since.get_or_insert(now);
        let clean = self.window.saturating_mul(self.clean_windows);
        if now.saturating_sub(since) >= clean {
            self.level = step(self.level, -1);
            self.next_down = now.saturating_add(self.window);
            // Each step up has to be earned anew.
            self.better_since = (truth < self.level).then_some(now);
        }
    }
}

fn step(level: Level, by: i8) -> Level {
    Level::from_u8(level.as_u8().saturating_add_signed(by)).unwrap_or(Level::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Level::{Failed, Full, Minimal, Moderate, Slight};

    const SECOND: u64 = 1_000_000_000;

    fn declared() -> Declared {
        Declared::new(Duration::from_secs(10), 3)
    }

    #[test]
    fn an_outage_is_declared_step_by_step_and_so_is_its_end() {
        let mut declared = declared();
        let mut seen = Vec::new();
        for second in 0..300 {
            let truth = if second < 100 { Failed } else { Full };
            let before = declared.level();
            declared.advance(second * SECOND, truth);
            let after = declared.level();
            assert!(before.as_u8().abs_diff(after.as_u8()) <= 1, "one step at a time");
            if before != after {
                seen.push((second, after));
            }
        }
        let expected = [
            (0, Slight),
            (10, Moderate),
            (20, Minimal),
            (30, Failed),
            (130, Minimal),
            (160, Moderate),
            (190, Slight),
            (220, Full),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn one_bad_moment_starts_the_clean_windows_again() {
        let mut declared = declared();
        declared.advance(0, Slight);
        for second in [10, 29, 30] {
            declared.advance(second * SECOND, Full);
        }
        declared.advance(39 * SECOND, Slight);
        declared.advance(40 * SECOND, Full);
        declared.advance(69 * SECOND, Full);
        assert_eq!(declared.level(), Slight);
        declared.advance(70 * SECOND, Full);
        assert_eq!(declared.level(), Full);
    }
}
