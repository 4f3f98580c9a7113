use std::fmt;

use buttress_core::ConfigError;

/// A share between 0 and 1, exact to a millionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(u32);

impl Ratio {
    const ONE: u32 = 1_000_000;

    /// A share in percent; more than 100 is refused when the layer is built.
    pub const fn percent(percent: u8) -> Self {
        Self(percent as u32 * (Self::ONE / 100))
    }

    /// A share as a fraction, rounded to a millionth.
    ///
    /// # Errors
    ///
    /// Unless it is above 0 and at most 1.
    pub fn try_new(share: f64) -> Result<Self, ConfigError> {
        match Self((share * f64::from(Self::ONE)).round() as u32) {
            ratio @ Self(1..=Self::ONE) => Ok(ratio),
            _ => Err(ConfigError::new("at_least", share, Self::RULE)),
        }
    }

    const RULE: &str = "must be above 0 and at most 1 (100 %)";

    pub(crate) fn check(self, field: &'static str) -> Result<Self, ConfigError> {
        match self.0 {
            1..=Self::ONE => Ok(self),
            other => Err(ConfigError::new(field, f64::from(other) / f64::from(Self::ONE), Self::RULE)),
        }
    }

    /// Whether `part` is at least this share of `whole`; never of nothing.
    pub(crate) fn reached(self, part: u64, whole: u64) -> bool {
        whole > 0 && u128::from(part) * u128::from(Self::ONE) >= u128::from(whole) * u128::from(self.0)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) * 100.0 / f64::from(Self::ONE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_compare_exactly_at_every_percentage() {
        for percent in 1..=100_u8 {
            let ratio = Ratio::percent(percent);
            assert!(ratio.reached(u64::from(percent), 100));
            assert!(!ratio.reached(u64::from(percent) - 1, 100));
            assert_eq!(Ratio::try_new(f64::from(percent) / 100.0).unwrap(), ratio);
        }
        assert!(!Ratio::percent(1).reached(0, 0));
        assert!(Ratio::percent(100).reached(u64::MAX, u64::MAX));
    }
}
