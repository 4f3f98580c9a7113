use crate::rng::Rng;

/// How a computed delay is spread, so that callers that failed together do not come back together.
///
/// No jitter exceeds the cap of its [`Backoff`](crate::Backoff). Below, `d` is the delay that the backoff computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// Exactly `d`. Only for tests, and where somebody else spreads the load.
    None,
    /// Uniform in `0..=d` (AWS, "full jitter"): the least work for the dependency.
    #[default]
    Full,
    /// Uniform in `d/2..=d` (AWS, "equal jitter"): never at once.
    Equal,
    /// Uniform in `base..=3 × the delay before`, the first time `base..=3 × base` (AWS, "decorrelated jitter"); does
    /// not use `d`.
    Decorrelated,
    /// Uniform in `d ± percent`, at most the cap (gRPC A6 has 20 %). More than 100 counts as 100.
    Spread {
        /// Half the width, in percent of `d`.
        percent: u8,
    },
    /// Uniform in `d..=d + percent`, at most the cap: never early (Pekko's `randomFactor`, which it adds after the cap).
    /// More than 100 counts as 100.
    Above {
        /// The width, in percent of `d`.
        percent: u8,
    },
}

impl Jitter {
    /// The delay in nanoseconds, given the computed one, the one before, the base and the cap.
    pub(crate) fn apply(self, computed: u64, previous: u64, base: u64, cap: u64, rng: &mut Rng) -> u64 {
        let (low, high) = self.bounds(computed, previous, base);
        rng.between(low, high).min(cap)
    }

    /// Between which bounds a delay is drawn, the cap aside.
    pub(crate) fn bounds(self, computed: u64, previous: u64, base: u64) -> (u64, u64) {
        match self {
            Self::None => (computed, computed),
            Self::Full => (0, computed),
            Self::Equal => (computed / 2, computed),
            Self::Decorrelated => (base, previous.saturating_mul(3)),
            Self::Spread { percent } => {
                let half = share(computed, percent);
                (computed - half, computed.saturating_add(half))
            }
            Self::Above { percent } => (computed, computed.saturating_add(share(computed, percent))),
        }
    }
}

/// So many percent of it, 100 at most.
pub(crate) fn share(of: u64, percent: u8) -> u64 {
    (u128::from(of) * u128::from(percent.min(100)) / 100) as u64
}
