use std::fmt;

/// How good an answer is, or the answers of a component, or a system's.
///
/// The order is that of the numbers: a greater level is a worse answer, so `max` is the level of what depends on both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// 0: all that was asked for, from whom it was asked of.
    #[default]
    Full,
    /// 1: as good for nearly every purpose: another source of equal quality, a recent answer, a minor part missing.
    Slight,
    /// 2: an answer that is old, a function that is reduced, a weighty part missing.
    Moderate,
    /// 3: something instead of nothing: a fixed answer.
    Minimal,
    /// 4: no answer.
    Failed,
}

impl Level {
    /// Every level, best first.
    pub const ALL: [Self; 5] = [Self::Full, Self::Slight, Self::Moderate, Self::Minimal, Self::Failed];

    /// The level of this number; `None` beyond 4.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Full),
            1 => Some(Self::Slight),
            2 => Some(Self::Moderate),
            3 => Some(Self::Minimal),
            4 => Some(Self::Failed),
            _ => None,
        }
    }

    /// The level's number, as metrics and header fields show it.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// The level in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Slight => "slight",
            Self::Moderate => "moderate",
            Self::Minimal => "minimal",
            Self::Failed => "failed",
        }
    }

    /// Whether anything is missing at all.
    pub const fn is_degraded(self) -> bool {
        !matches!(self, Self::Full)
    }
}

/// The number and the word: `2 (moderate)`.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.as_u8(), self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_its_number() {
        for (number, level) in (0..).zip(Level::ALL) {
            assert_eq!((Level::from_u8(number), level.as_u8()), (Some(level), number));
        }
        assert_eq!(Level::from_u8(5), None);
        assert_eq!(Level::Full.max(Level::Moderate).to_string(), "2 (moderate)");
    }
}
