use buttress_core::Level;

/// How much a part matters to the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// Without it there is no answer; in the score it weighs 1.
    Required,
    /// It weighs so much beside the others; 0 does not count.
    Weight(u32),
}

/// What an answer of each level is worth, in percent.
const WORTH: [u64; 5] = [100, 90, 60, 30, 0];

impl Need {
    fn weight(self) -> u64 {
        match self {
            Self::Required => 1,
            Self::Weight(weight) => weight.into(),
        }
    }
}

/// The level of a whole by those of its parts, and its score: the weighted mean of what its parts are worth, in percent.
///
/// *Failed* if a required part has failed, or all have; *full* if nothing is degraded; else *slight* from 85 % on, *moderate* from
/// 50 % on, *minimal* below.
pub(crate) fn level(parts: impl Iterator<Item = (Need, Level)>) -> (Level, f64) {
    let (mut sum, mut weights) = (0, 0);
    let (mut any, mut degraded, mut alive, mut required_failed) = (false, false, false, false);
    for (need, level) in parts {
        any = true;
        sum += need.weight() * WORTH[usize::from(level.as_u8())];
        weights += need.weight();
        degraded |= level.is_degraded();
        alive |= level != Level::Failed;
        required_failed |= need == Need::Required && level == Level::Failed;
    }
    let score =
        if weights == 0 { if alive || !any { 100.0 } else { 0.0 } } else { sum as f64 / weights as f64 };
    let level = if required_failed || any && !alive {
        Level::Failed
    } else if !degraded {
        Level::Full
    } else if sum >= 85 * weights {
        Level::Slight
    } else if sum >= 50 * weights {
        Level::Moderate
    } else {
        Level::Minimal
    };
    (level, score)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Level::{Failed, Full, Minimal, Moderate, Slight};

    fn of(parts: &[(Need, Level)]) -> Level {
        level(parts.iter().copied()).0
    }

    /// HD-63, the levels.
    #[test]
    fn the_level_of_three_equal_parts_falls_one_by_one() {
        let equal = |levels: [Level; 3]| of(&levels.map(|level| (Need::Weight(1), level)));
        assert_eq!(equal([Full, Full, Full]), Full);
        assert_eq!(equal([Full, Full, Failed]), Moderate);
        assert_eq!(equal([Full, Failed, Failed]), Minimal);
        assert_eq!(equal([Failed, Failed, Failed]), Failed);
        assert_eq!(equal([Slight, Slight, Slight]), Slight);
    }

    #[test]
    fn a_required_part_that_failed_is_a_failure_and_one_that_is_degraded_is_not() {
        assert_eq!(of(&[(Need::Required, Failed), (Need::Weight(99), Full)]), Failed);
        assert_eq!(of(&[(Need::Required, Minimal), (Need::Weight(99), Full)]), Slight);
        assert_eq!(of(&[(Need::Required, Full), (Need::Weight(9), Failed)]), Minimal);
    }

    #[test]
    fn the_limits_are_exact_and_no_weight_overflows() {
        // 85 % and 50 %, to the digit.
        assert_eq!(of(&[(Need::Weight(85), Full), (Need::Weight(15), Failed)]), Slight);
        assert_eq!(of(&[(Need::Weight(849), Full), (Need::Weight(151), Failed)]), Moderate);
        assert_eq!(of(&[(Need::Weight(1), Full), (Need::Weight(1), Failed)]), Moderate);
        assert_eq!(of(&[(Need::Weight(499), Full), (Need::Weight(501), Failed)]), Minimal);
        assert_eq!(of(&[(Need::Weight(u32::MAX), Full), (Need::Weight(u32::MAX), Slight)]), Slight);
        assert_eq!((of(&[]), of(&[(Need::Weight(0), Full)])), (Full, Full));
    }
}
