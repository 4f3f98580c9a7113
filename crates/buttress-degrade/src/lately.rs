use buttress_core::Level;

/// How good a component has been lately: the worst of its answers, until that is a while ago, and then the last.
///
/// Pure: it is told what time it is, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lately {
    worst: Level,
    /// Until when that counts.
    until: u64,
    last: Level,
    /// What it was when the last answer was reported.
    told: Level,
}

impl Lately {
    /// An answer of this level, which counts until then; whether that makes a difference to what was known at the last one.
    pub(crate) fn report(&mut self, now: u64, level: Level, until: u64) -> bool {
        if level >= self.level(now) {
            (self.worst, self.until) = (level, until);
        }
        self.last = level;
        let level = self.level(now);
        std::mem::replace(&mut self.told, level) != level
    }

    pub(crate) fn level(&self, now: u64) -> Level {
        if now < self.until { self.worst } else { self.last }
    }

    /// Whether another good answer says nothing new.
    pub(crate) fn is_well(&self, now: u64) -> bool {
        self.last == Level::Full && self.level(now) == Level::Full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Level::{Failed, Full, Moderate};

    #[test]
    fn the_worst_counts_for_a_while_and_then_the_last() {
        let mut lately = Lately::default();
        let mut report = |now, level| {
            lately.report(now, level, now + 10);
            [0, 5, 9, 10].map(|later| lately.level(now + later))
        };
        assert_eq!(report(0, Full), [Full; 4]);
        assert_eq!(report(20, Failed), [Failed; 4]);
        assert_eq!(report(25, Full), [Failed, Full, Full, Full], "until it is ten ago");
        assert_eq!(report(40, Moderate), [Moderate; 4]);
        assert_eq!(report(45, Failed), [Failed; 4]);
        assert_eq!(report(50, Moderate), [Failed, Moderate, Moderate, Moderate]);
        assert_eq!(report(52, Failed), [Failed; 4]);
    }

    #[test]
    fn a_change_is_told_once_also_where_time_has_made_it() {
        let mut lately = Lately::default();
        let mut told = |now, level| lately.report(now, level, now + 10);
        assert_eq!(
            [told(0, Full), told(1, Failed), told(2, Failed), told(3, Full)],
            [false, true, false, false]
        );
        assert_eq!([told(12, Full), told(13, Full)], [true, false]);
    }
}
