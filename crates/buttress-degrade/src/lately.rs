use buttress_core::Level;

/// How good a component has been lately: the worst of its answers, until that is a while ago, and then the last.
///
/// Pure: it is told what time it is, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lately {
    /// Until when answers of each level count.
    until: [u64; 5],
    last: Level,
    /// What it was when the last answer was reported.
    told: Level,
}

impl Lately {
    /// An answer of this level, which counts until then; whether that makes a difference to what was known at the last one.
    pub(crate) fn report(&mut self, now: u64, level: Level, until: u64) -> bool {
        self.until[usize::from(level.as_u8())] = until;
        self.last = level;
        let level = self.level(now);
        std::mem::replace(&mut self.told, level) != level
    }

    pub(crate) fn level(&self, now: u64) -> Level {
        let worst = self.until.iter().rposition(|until| now < *until);
        worst.and_then(|worst| Level::from_u8(worst.try_into().ok()?)).unwrap_or(self.last)
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
    use proptest::prelude::*;

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
    fn what_was_not_the_worst_counts_for_as_long() {
        let mut lately = Lately::default();
        for (at, level) in [(0, Failed), (8, Moderate), (9, Full)] {
            lately.report(at, level, at + 10);
        }
        assert_eq!([9, 10, 17, 18].map(|at| lately.level(at)), [Failed, Moderate, Moderate, Full]);
        for (at, level) in [(100, Failed), (120, Moderate), (121, Full)] {
            lately.report(at, level, at + 10);
        }
        assert_eq!([121, 129, 130].map(|at| lately.level(at)), [Moderate, Moderate, Full]);
    }

    proptest! {
        /// Beside the plainest thing that does the same.
        #[test]
        fn it_is_the_worst_of_a_while_or_the_last(reports in proptest::collection::vec((0_u64..8, 0_u8..5), 1..40)) {
            let (mut lately, mut list, mut now) = (Lately::default(), Vec::new(), 0);
            for (passed, level) in reports {
                now += passed;
                let level = Level::from_u8(level).unwrap();
                lately.report(now, level, now + 10);
                list.push((now, level));
                for later in now..now + 12 {
                    let recent = list.iter().filter(|(at, _)| later < at + 10).map(|(_, level)| *level);
                    prop_assert_eq!(lately.level(later), recent.max().unwrap_or(level));
                }
            }
        }
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
