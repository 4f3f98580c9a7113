//! The intervals in which the figures must lie.
//!
//! Those of the contention model were measured with AWS's own program and with a port of it; the others follow from what
//! the policies promise: no outage may be made noticeably longer, and no recovery lost, by retrying.

use std::fmt;

use buttress_core::Jitter;

use crate::contention::Wait;

/// An interval, its ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    low: f64,
    high: f64,
}

impl Goal {
    /// No more than this.
    pub const fn at_most(high: f64) -> Self {
        Self { low: f64::NEG_INFINITY, high }
    }

    /// No less than this.
    pub const fn at_least(low: f64) -> Self {
        Self { low, high: f64::INFINITY }
    }

    /// This, give or take so much.
    pub const fn about(mean: f64, tolerance: f64) -> Self {
        Self { low: mean - tolerance, high: mean + tolerance }
    }

    /// For a mean over fewer runs than the goal was set for, at the same confidence.
    #[must_use]
    pub fn with_runs(self, runs: u32, of: u32) -> Self {
        let (mean, tolerance) = (f64::midpoint(self.low, self.high), (self.high - self.low) / 2.0);
        Self::about(mean, tolerance * (f64::from(of) / f64::from(runs)).sqrt())
    }

    /// So many times the same.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { low: self.low * factor, high: self.high * factor }
    }

    /// Whether it is reached.
    pub fn holds(self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.low.is_finite(), self.high.is_finite()) {
            (true, true) => write!(f, "{} to {}", Short(self.low), Short(self.high)),
            (true, false) => write!(f, "at least {}", Short(self.low)),
            (false, _) => write!(f, "at most {}", Short(self.high)),
        }
    }
}

/// A figure with as many decimals as it is worth.
#[derive(Clone, Copy, Debug)]
pub struct Short(pub f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.abs() {
            x if !x.is_finite() => f.write_str("never"),
            x if x >= 100.0 => write!(f, "{:.0}", self.0),
            x if x >= 10.0 => write!(f, "{:.1}", self.0),
            _ => write!(f, "{:.3}", self.0),
        }
    }
}

/// Over so many seeds the means of the contention model are measured; its intervals are about four standard errors wide
/// on each side.
pub const SEEDS: u32 = 300;

/// Writes and milliseconds for 100 clients.
pub const fn contention(wait: Wait) -> (Goal, Goal) {
    let (writes, millis) = match wait {
        Wait::None => ((2422.0, 8.0), (2029.0, 10.0)),
        Wait::Exponential => ((1852.0, 14.0), (63_400.0, 900.0)),
        Wait::Jittered(Jitter::Equal) => ((812.0, 2.0), (6630.0, 150.0)),
        Wait::Jittered(Jitter::Decorrelated) => ((1001.0, 6.0), (4615.0, 170.0)),
        Wait::Jittered(_) => ((796.0, 2.0), (4910.0, 130.0)),
    };
    (Goal::about(writes.0, writes.1), Goal::about(millis.0, millis.1))
}

/// A jittered herd after the outage: the busiest tenth of a second and the busiest second, beside ordinary traffic.
/// Random arrivals alone come to 1.33 and 1.08.
pub const HERD_AFTER: (Goal, Goal) = (Goal::at_most(1.45), Goal::at_most(1.12));
/// The busiest tenth of a second of the outage, with full jitter and with decorrelated.
pub const HERD_DURING: (Goal, Goal) = (Goal::at_most(1.75), Goal::at_most(1.0));
/// The last client of a jittered herd is served no later, in seconds: the longest delay and two more.
pub const HERD_SERVED: Goal = Goal::at_most(34.0);
/// Without jitter the whole herd comes at once, also afterwards.
pub const HERD_UNJITTERED: Goal = Goal::at_least(8.0);

/// Attempts per call with the default policy, whatever the number of processes.
pub const AMPLIFICATION: Goal = Goal::at_most(1.03);
/// The default policy's busiest second: ordinary traffic, its noise, and the half second that the budget holds.
pub const PEAK: Goal = Goal::at_most(1.65);
/// Recovery from an outage that is answered with errors at once, in seconds.
pub const NO_DELAY: Goal = Goal::at_most(0.0);
/// Recovery from a stall at 70 % load, in seconds.
pub const RECOVERY: Goal = Goal::at_most(25.0);
/// ... beside that without retries.
pub const RECOVERY_RATIO: Goal = Goal::at_most(1.2);
/// ... at 85 and 90 % load.
pub const RECOVERY_RATIO_LOADED: Goal = Goal::at_most(1.25);
/// The slowest recovery of 10, 100 and 1,000 processes beside the quickest.
pub const RECOVERY_SPREAD: Goal = Goal::at_most(1.15);
/// The share of the server's work that nobody waits for, after a stall.
pub const WASTED: Goal = Goal::at_most(0.2);
/// With a circuit breaker: recovery in seconds, calls lost in seconds of traffic, work wasted.
pub const WITH_BREAKER: (Goal, Goal, Goal) = (Goal::at_most(14.0), Goal::at_most(20.0), Goal::at_most(0.06));
