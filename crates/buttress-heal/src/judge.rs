use std::sync::Arc;

use crate::check::{Answer, CheckSettings};
use crate::incident::Happened;

/// What a row of answers of one check comes to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Judge {
    fall: u32,
    rise: u32,
    unknown_is_failure_after: u32,
    failures: u32,
    passes: u32,
    panics: u32,
    /// Since it last passed, whatever was replaced in between.
    in_a_row: u32,
    down: bool,
    /// Nothing is known of this generation yet.
    fresh: bool,
    /// It is up because nothing speaks against a new generation, and nothing speaks for it yet.
    unproven: bool,
}

/// What an answer has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Fell,
    Rose,
}

impl Change {
    /// As it is written down.
    pub(crate) fn of(self, check: Arc<str>, evidence: Option<&Arc<str>>) -> Happened {
        match self {
            Self::Fell => Happened::Fell { check, evidence: evidence.cloned().unwrap_or_default() },
            Self::Rose => Happened::Rose { check },
        }
    }
}

impl Judge {
    pub(crate) fn new(settings: &CheckSettings) -> Self {
        let CheckSettings { fall, rise, unknown_is_failure_after, .. } = *settings;
        Self { fall, rise, unknown_is_failure_after, ..Self::default() }
    }

    /// Nothing is known any more.
    pub(crate) fn forget(&mut self) {
        let Self { fall, rise, unknown_is_failure_after, .. } = *self;
        *self = Self { fall, rise, unknown_is_failure_after, ..Self::default() };
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down
    }

    /// Whether it is up, and was down before, and has not passed since.
    pub(crate) fn is_unproven(&self) -> bool {
        self.unproven
    }

    /// How often it has failed since it last passed.
    pub(crate) fn failures_in_a_row(&self) -> u32 {
        self.in_a_row
    }

    /// Whether the last answers speak against what is believed.
    pub(crate) fn is_turning(&self) -> bool {
        if self.down { self.passes > 0 } else { self.failures > 0 || self.panics > 0 }
    }

    pub(crate) fn answer(&mut self, answer: &Answer) -> Option<Change> {
        match answer {
            Answer::Pass => {
                (self.unproven, self.in_a_row) = (false, 0);
                self.passed()
            }
            Answer::Fail(_) | Answer::TimedOut => {
                self.panics = 0;
                self.failed()
            }
            Answer::Panicked => {
                self.passes = 0;
                self.panics = self.panics.saturating_add(1);
                if self.panics >= self.unknown_is_failure_after { self.failed() } else { None }
            }
            // A check that looks at the traffic has nothing against a new generation that has seen none.
            Answer::Skipped if self.fresh && self.down => {
                let change = self.passed();
                self.unproven = change.is_some();
                change
            }
            Answer::Skipped => None,
        }
    }

    /// What was seen of the old generation says nothing about the new one.
    pub(crate) fn new_generation(&mut self) {
        (self.failures, self.passes, self.panics, self.fresh) = (0, 0, 0, true);
    }

    fn passed(&mut self) -> Option<Change> {
        (self.failures, self.panics) = (0, 0);
        self.passes = self.passes.saturating_add(1);
        if !self.down || self.passes < self.rise {
            return None;
        }
        (self.down, self.fresh) = (false, false);
        Some(Change::Rose)
    }

    fn failed(&mut self) -> Option<Change> {
        (self.passes, self.fresh) = (0, false);
        self.failures = self.failures.saturating_add(1);
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.down || self.failures < self.fall {
            return None;
        }
        (self.down, self.unproven) = (true, false);
        Some(Change::Fell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(fall: u32, rise: u32) -> Judge {
        Judge::new(&CheckSettings { fall, rise, ..CheckSettings::default() })
    }

    fn answers(judge: &mut Judge, letters: &str) -> Vec<Option<Change>> {
        let answer = |letter| match letter {
            'P' => Answer::Pass,
            'F' => Answer::fail("no"),
            'T' => Answer::TimedOut,
            '!' => Answer::Panicked,
            _ => Answer::Skipped,
        };
        letters.chars().map(|letter| judge.answer(&answer(letter))).collect()
    }

    /// HD-12.
    #[test]
    fn only_failures_in_a_row_count() {
        let changes = answers(&mut judge(3, 2), "FFPFFF");
        assert_eq!(changes, [None, None, None, None, None, Some(Change::Fell)]);
    }

    #[test]
    fn a_time_out_is_a_failure_and_a_skipped_run_none_at_all() {
        let mut judge = judge(3, 2);
        assert_eq!(answers(&mut judge, "T--T-F").last(), Some(&Some(Change::Fell)));
        assert_eq!(answers(&mut judge, "P-FPP").last(), Some(&Some(Change::Rose)), "passes in a row");
        assert!(!judge.is_turning());
    }

    #[test]
    fn a_check_that_panics_tells_nothing_until_it_has_done_so_too_often() {
        let mut judge = judge(2, 1);
        assert_eq!(answers(&mut judge, "!!P"), [None; 3], "two are forgotten after a pass");
        assert_eq!(answers(&mut judge, "!!!!"), [None, None, None, Some(Change::Fell)]);
        assert!(judge.is_down());
    }

    #[test]
    fn a_new_generation_is_not_blamed_for_the_old_one() {
        let mut judge = judge(3, 2);
        answers(&mut judge, "FF");
        judge.new_generation();
        assert_eq!(answers(&mut judge, "FF"), [None; 2]);
        answers(&mut judge, "F");
        assert_eq!(answers(&mut judge, "--"), [None; 2], "no traffic, no news");
        judge.new_generation();
        assert_eq!(answers(&mut judge, "--"), [None, Some(Change::Rose)]);
        assert!(judge.is_unproven());
        answers(&mut judge, "-P");
        assert!(!judge.is_unproven());
    }

    #[test]
    fn failures_in_a_row_are_counted_over_generations_and_over_what_was_skipped() {
        let mut judge = judge(3, 1);
        answers(&mut judge, "FTF!");
        judge.new_generation();
        answers(&mut judge, "--F");
        assert_eq!(judge.failures_in_a_row(), 4);
        answers(&mut judge, "P");
        assert_eq!(judge.failures_in_a_row(), 0);
    }
}
