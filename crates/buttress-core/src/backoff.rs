use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Seconds, nanos};
use crate::error::ConfigError;
use crate::jitter::{Jitter, share};
use crate::rng::{Rng, Seeds};

/// A schedule of delays: how long to wait before the first retry, the second, and so on.
///
/// A schedule is a description; [`delays`](Backoff::delays) starts a session on it, with a generator of its own. The
/// default is 100 ms, doubled each time, at most 20 s, with full jitter.
///
/// ```
/// use std::time::Duration;
/// use buttress_core::{Backoff, Jitter};
///
/// let backoff = Backoff::exponential(Duration::from_millis(1), 2.0, Duration::from_millis(10))?.jitter(Jitter::None);
/// let delays: Vec<_> = backoff.delays().take(6).map(|delay| delay.as_millis()).collect();
/// assert_eq!(delays, [1, 2, 4, 8, 10, 10]);
/// # Ok::<(), buttress_core::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Backoff {
    growth: Growth,
    base: u64,
    cap: u64,
    jitter: Jitter,
    seeds: Seeds,
}

#[derive(Clone, Debug, PartialEq)]
enum Growth {
    Constant,
    Linear,
    Exponential(f64),
    /// The first delays; the last one repeats.
    Listed(Arc<[u64]>),
}

/// So many delays are asked of a closure.
const LISTED: usize = 100;

impl Backoff {
    /// The same delay each time, without jitter.
    pub fn constant(delay: Duration) -> Self {
        let base = nanos(delay);
        Self { growth: Growth::Constant, base, cap: base, jitter: Jitter::None, seeds: Seeds::default() }
    }

    /// `base`, `2 × base`, `3 × base` …, at most `cap`, with full jitter.
    ///
    /// # Errors
    ///
    /// If `cap` is shorter than `base`.
    pub fn linear(base: Duration, cap: Duration) -> Result<Self, ConfigError> {
        Self::growing(Growth::Linear, base, cap)
    }

    /// `base`, `base × factor`, `base × factor²` …, at most `cap`, with full jitter.
    ///
    /// # Errors
    ///
    /// If `factor` is below 1 or not a finite number, if `base` is zero, or if `cap` is shorter than `base`.
    pub fn exponential(base: Duration, factor: f64, cap: Duration) -> Result<Self, ConfigError> {
        if !(factor.is_finite() && factor >= 1.0) {
            return Err(ConfigError::new("factor", factor, "must be a finite number of at least 1"));
        }
        if base.is_zero() {
            return Err(ConfigError::new("base", base, "must be longer than zero, or no delay ever grows"));
        }
        Self::growing(Growth::Exponential(factor), base, cap)
    }

    /// What this closure says: it is given the number of the retry, 1 for the first. At most `cap`, without jitter.
    ///
    /// It is asked here, for one retry after the other until its answer reaches the cap, for a hundred at most, and never again:
    /// what follows is as long as the last one.
    ///
    /// ```
    /// use std::time::Duration;
    /// use buttress_core::Backoff;
    ///
    /// // At once, then after a second, then after five each time.
    /// let backoff = Backoff::from_fn(Duration::from_secs(5), |retry| match retry {
    ///     1 => Duration::ZERO,
    ///     2 => Duration::from_secs(1),
    ///     _ => Duration::from_secs(5),
    /// });
    /// let delays: Vec<_> = backoff.delays().take(4).map(|delay| delay.as_secs()).collect();
    /// assert_eq!(delays, [0, 1, 5, 5]);
    /// ```
    pub fn from_fn(cap: Duration, mut delay: impl FnMut(u32) -> Duration) -> Self {
        let cap = nanos(cap);
        let base = nanos(delay(1)).min(cap);
        let mut delays = vec![base];
        while delays.len() < LISTED && delays.last() != Some(&cap) {
            delays.push(nanos(delay(delays.len() as u32 + 1)).min(cap));
        }
        let growth = Growth::Listed(delays.into());
        Self { growth, base, cap, jitter: Jitter::None, seeds: Seeds::default() }
    }

    fn growing(growth: Growth, base: Duration, cap: Duration) -> Result<Self, ConfigError> {
        if cap < base {
            return Err(ConfigError::new("cap", cap, format!("must be at least the base of {base:?}")));
        }
        Ok(Self { growth, base: nanos(base), cap: nanos(cap), jitter: Jitter::Full, seeds: Seeds::default() })
    }

    /// Spreads the delays in this way.
    #[must_use]
    pub fn jitter(self, jitter: Jitter) -> Self {
        // A constant delay that is spread upwards needs room above; its cap is its own upper bound.
        let cap = match (&self.growth, jitter) {
            (Growth::Constant, Jitter::Decorrelated) => self.base.saturating_mul(3),
            (Growth::Constant, Jitter::Spread { percent } | Jitter::Above { percent }) => {
                self.base.saturating_add(share(self.base, percent))
            }
            (Growth::Constant, _) => self.base,
            _ => self.cap,
        };
        Self { jitter, cap, ..self }
    }

    /// How the delays are spread.
    pub fn spread(&self) -> Jitter {
        self.jitter
    }

    /// Draws the jitter of all sessions from this seed, for reproducible runs. Sessions still differ from each other.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seeds: Seeds::from_seed(seed), ..self }
    }

    /// The delay before the first retry, without jitter.
    pub fn base(&self) -> Duration {
        Duration::from_nanos(self.base)
    }

    /// No delay is longer than this.
    pub fn cap(&self) -> Duration {
        Duration::from_nanos(self.cap)
    }

    /// The longest that the first `retries` delays can be together; after the first thousand each counts as the cap.
    pub fn longest(&self, retries: u32) -> Duration {
        let (each, rest) = (retries.min(1000), retries.saturating_sub(1000));
        let mut longest = self.base;
        let sum = (0..each).fold(Duration::ZERO, |sum, retry| {
            longest = self.ceiling(retry.into(), longest);
            sum.saturating_add(Duration::from_nanos(longest))
        });
        sum.saturating_add(self.cap().saturating_mul(rest))
    }

    /// Starts a session: the delays of one call's retries, endless.
    pub fn delays(&self) -> Delays {
        self.delays_with(self.seeds.next())
    }

    /// A session that draws from this generator.
    pub fn delays_with(&self, rng: Rng) -> Delays {
        Delays { backoff: self.clone(), rng, retry: 0, previous: self.base }
    }

    /// The longest that the delay before this retry can be, after one of `previous`.
    fn ceiling(&self, retry: u64, previous: u64) -> u64 {
        self.jitter.bounds(self.computed(retry), previous, self.base).1.min(self.cap)
    }

    /// The delay before retry `retry` (0 is the first), without jitter.
    fn computed(&self, retry: u64) -> u64 {
        let uncapped = match &self.growth {
            Growth::Constant => self.base,
            Growth::Linear => self.base.saturating_mul(retry.saturating_add(1)),
            Growth::Listed(delays) => {
                delays[usize::try_from(retry).unwrap_or(usize::MAX).min(delays.len() - 1)]
            }
            // `as` saturates: an infinite product is the cap like any other too large one.
            Growth::Exponential(factor) => (self.base as f64 * factor.powf(retry as f64)) as u64,
        };
        uncapped.min(self.cap)
    }
}

/// The schedule in words: "500 ms × 2 up to 5 s, full jitter".
impl fmt::Display for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (base, cap) = (Seconds(self.base()), Seconds(self.cap()));
        match &self.growth {
            Growth::Constant => write!(f, "{base}")?,
            Growth::Listed(delays) => {
                delays
                    .iter()
                    .take(3)
                    .try_for_each(|&delay| write!(f, "{}, ", Seconds(Duration::from_nanos(delay))))?;
                write!(f, "and so on up to {cap}")?;
            }
            Growth::Linear => write!(f, "{base}, {base} more each time up to {cap}")?,
            Growth::Exponential(factor) => write!(f, "{base} × {factor} up to {cap}")?,
        }
        match self.jitter {
            Jitter::None => Ok(()),
            Jitter::Full => f.write_str(", full jitter"),
            Jitter::Equal => f.write_str(", equal jitter"),
            Jitter::Decorrelated => f.write_str(", decorrelated jitter"),
            Jitter::Spread { percent } => write!(f, ", ± {percent} %"),
            Jitter::Above { percent } => write!(f, ", up to {percent} % more"),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            growth: Growth::Exponential(2.0),
            base: 100_000_000,
            cap: 20_000_000_000,
            jitter: Jitter::Full,
            seeds: Seeds::default(),
        }
    }
}

/// The delays of one session; never ends, never panics, however often it is asked.
#[derive(Clone, Debug)]
pub struct Delays {
    backoff: Backoff,
    rng: Rng,
    retry: u64,
    previous: u64,
}

impl Delays {
    /// Starts again from the first delay (gRPC A6, after a pushback), with the same generator.
    pub fn restart(&mut self) {
        self.retry = 0;
        self.previous = self.backoff.base;
    }

    /// The longest delay that the next one can be.
    pub fn ceiling(&self) -> Duration {
        Duration::from_nanos(self.backoff.ceiling(self.retry, self.previous))
    }

    /// The session's generator.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let Backoff { base, cap, jitter, .. } = self.backoff;
        let computed = self.backoff.computed(self.retry);
        self.retry = self.retry.saturating_add(1);
        self.previous = jitter.apply(computed, self.previous, base, cap, &mut self.rng);
        Some(Duration::from_nanos(self.previous))
    }

    /// Skips in one step, except for [`Jitter::Decorrelated`], whose delays build on each other.
    fn nth(&mut self, n: usize) -> Option<Duration> {
        if self.backoff.jitter == Jitter::Decorrelated {
            // The walk forgets where it began within a few steps.
            for _ in 0..n.min(64) {
                let _ = self.next();
            }
        } else {
            self.retry = self.retry.saturating_add(n as u64);
        }
        self.next()
    }
}

#[cfg(test)]
mod tests;
