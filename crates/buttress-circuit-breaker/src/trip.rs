use std::fmt;
use std::time::Duration;

use buttress_core::ConfigError;
use buttress_core::clock::Seconds;

use crate::config::at_least_one;
use crate::ratio::Ratio;

/// A rule that opens the circuit. Several rules are OR-ed; of each kind there is at most one.
///
/// Rates are judged after every recorded call, a success included, and compared in integers: `calls that count against
/// it ≥ at_least × calls`, once `minimum_calls` are in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trip {
    /// This many failures in a row, at least 1.
    ConsecutiveFailures(u32),
    /// A share of calls failed.
    FailureRate {
        /// Which calls are looked at.
        window: Window,
        /// The share that opens the circuit.
        at_least: Ratio,
        /// No judgement on fewer calls, at least 1.
        minimum_calls: u32,
    },
    /// A share of calls was slow, failed or not. A call that is still under way counts as soon as it is too slow.
    SlowCalls {
        /// Calls that take at least this long are slow.
        slower_than: Duration,
        /// Which calls are looked at.
        window: Window,
        /// The share that opens the circuit.
        at_least: Ratio,
        /// No judgement on fewer calls, at least 1.
        minimum_calls: u32,
    },
}

/// Which calls a rate looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last so many calls, 1 to 100,000.
    Calls(u32),
    /// The calls of the last so much time, in ten buckets; at least 10 ms.
    Time(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RateRule {
    pub(crate) window: Window,
    pub(crate) at_least: Ratio,
    pub(crate) minimum_calls: u32,
}

impl RateRule {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.at_least.check("at_least")?;
        match self.window {
            Window::Calls(n) if !(1..=100_000).contains(&n) => {
                return Err(ConfigError::new("window", self.window, "must be between 1 and 100,000 calls"));
            }
            Window::Calls(n) if self.minimum_calls > n => {
                let rule = format!("must be at most the window's {n} calls, or the rule never applies");
                return Err(ConfigError::new("minimum_calls", self.minimum_calls, rule));
            }
            Window::Time(time) if time < Duration::from_millis(10) => {
                return Err(ConfigError::new("window", self.window, "must be at least 10 ms"));
            }
            _ => {}
        }
        at_least_one("minimum_calls", self.minimum_calls)
    }
}

impl fmt::Display for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsecutiveFailures(n) => write!(f, "{n} failures in a row"),
            Self::FailureRate { window, at_least, minimum_calls } => {
                write!(f, "{at_least} failures {window} ({minimum_calls} or more)")
            }
            Self::SlowCalls { slower_than, window, at_least, minimum_calls } => {
                write!(
                    f,
                    "{at_least} slower than {} {window} ({minimum_calls} or more)",
                    Seconds(*slower_than)
                )
            }
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calls(n) => write!(f, "in the last {n} calls"),
            Self::Time(time) => write!(f, "in the last {}", Seconds(*time)),
        }
    }
}
