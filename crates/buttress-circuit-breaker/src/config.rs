use std::fmt;
use std::time::Duration;

use buttress_core::clock::Seconds;
use buttress_core::{Backoff, ConfigError, Jitter, Mode};

use crate::ratio::Ratio;
use crate::trip::{RateRule, Trip};

/// When a circuit opens, for how long, and what closes it.
///
/// The default is [`standard`](Config::standard). Setters take any value; [`CircuitBreakerLayer::new`] checks the
/// whole.
///
/// [`CircuitBreakerLayer::new`]: crate::CircuitBreakerLayer::new
///
/// ```
/// use std::time::Duration;
/// use buttress_circuit_breaker::{Config, Ratio, Trip, Window};
///
/// let config = Config::standard()
///     .trip(Trip::FailureRate { window: Window::Calls(100), at_least: Ratio::percent(50), minimum_calls: 20 })
///     .open_for(Duration::from_secs(30));
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) consecutive_failures: Option<u32>,
    pub(crate) failure_rate: Option<RateRule>,
    pub(crate) slow_calls: Option<(Duration, RateRule)>,
    pub(crate) open: Backoff,
    pub(crate) hint_cap: Option<Duration>,
    pub(crate) probes: u32,
    pub(crate) recovery: Recovery,
    pub(crate) probe_lease: Option<Duration>,
    pub(crate) on_probe_expiry: ProbeExpiry,
    pub(crate) abandoned: Abandoned,
    pub(crate) count_throttling: bool,
    pub(crate) eager: bool,
    pub(crate) mode: Mode,
}

/// What a half-open circuit makes of its probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovery {
    /// This many successes close it; one failure, or one slow call where slow calls trip, opens it again.
    Successes(u32),
    /// After this many results it opens again if at least this share failed (or as many were slow as the
    /// [`SlowCalls`](Trip::SlowCalls) rule takes), and closes if not.
    Ratio {
        /// How many results are judged, at least 1.
        calls: u32,
        /// The share of failures that opens it again.
        at_least: Ratio,
    },
}

/// What happens when a probe has not ended within its lease, so that no probe can block the circuit for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProbeExpiry {
    /// Another call may probe in its place; what the expired one still brings does not vote.
    #[default]
    Replace,
    /// The circuit opens again.
    Reopen,
    /// The circuit closes.
    Close,
}

/// What becomes of a call whose caller went away before it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Abandoned {
    /// It does not count.
    Ignore,
    /// It counts as a failure.
    CountAsFailure,
    /// It counts as a failure if the caller waited at least this long: who gives up after so long saw a failure, who
    /// leaves at once says nothing. Time counts from when the call first had to wait.
    CountAfter(Duration),
    /// It counts as a failure unless any call in the window (for consecutive failures: since the circuit closed)
    /// succeeded.
    CountUnlessAnySuccess,
}

impl Config {
    /// Opens after 5 consecutive failures for 60 s; 2 successful probes close it.
    pub fn standard() -> Self {
        Self::preset(5, 60)
    }

    /// Opens after 10 consecutive failures for 30 s; 2 successful probes close it.
    pub fn high_traffic() -> Self {
        Self::preset(10, 30)
    }

    /// Opens after 3 consecutive failures for 120 s; 2 successful probes close it.
    pub fn critical() -> Self {
        Self::preset(3, 120)
    }

    /// Opens by this rule alone, for 60 s; 2 successful probes close it.
    pub fn only(trip: Trip) -> Self {
        Self { consecutive_failures: None, ..Self::standard() }.trip(trip)
    }

    fn preset(consecutive_failures: u32, open_secs: u64) -> Self {
        Self {
            consecutive_failures: Some(consecutive_failures),
            failure_rate: None,
            slow_calls: None,
            open: Backoff::constant(Duration::from_secs(open_secs)),
            hint_cap: Some(Duration::from_secs(300)),
            probes: 1,
            recovery: Recovery::Successes(2),
            probe_lease: None,
            on_probe_expiry: ProbeExpiry::Replace,
            abandoned: Abandoned::CountAfter(Duration::from_secs(10)),
            count_throttling: true,
            eager: false,
            mode: Mode::Enforce,
        }
    }

    /// Adds a rule, or replaces the one of its kind.
    #[must_use]
    pub fn trip(mut self, trip: Trip) -> Self {
        match trip {
            Trip::ConsecutiveFailures(n) => self.consecutive_failures = Some(n),
            Trip::FailureRate { window, at_least, minimum_calls } => {
                self.failure_rate = Some(RateRule { window, at_least, minimum_calls });
            }
            Trip::SlowCalls { slower_than, window, at_least, minimum_calls } => {
                self.slow_calls = Some((slower_than, RateRule { window, at_least, minimum_calls }));
            }
        }
        self
    }

    /// However many failures come in a row, they open nothing; the other rules stay.
    #[must_use]
    pub fn without_consecutive_failures(self) -> Self {
        Self { consecutive_failures: None, ..self }
    }

    /// Refuses for this long after opening, as the preset says by default.
    #[must_use]
    pub fn open_for(self, time: Duration) -> Self {
        self.open_backoff(Backoff::constant(time))
    }

    /// Refuses longer each time that probes fail in a row.
    ///
    /// Jitter takes away at most half of an open time, since a circuit that opens for no time protects nobody: full jitter,
    /// which draws from zero, is taken as [`Jitter::Equal`], and a [`Jitter::Spread`] of more than 50 % is an error.
    #[must_use]
    pub fn open_backoff(self, open: Backoff) -> Self {
        let open = if open.spread() == Jitter::Full { open.jitter(Jitter::Equal) } else { open };
        Self { open, ..self }
    }

    /// Stays open as long as the server asked for (`Retry-After`) with the failure that opened it, at most this long;
    /// `None` ignores the server. Default 300 s.
    #[must_use]
    pub fn hint_cap(self, cap: impl Into<Option<Duration>>) -> Self {
        Self { hint_cap: cap.into(), ..self }
    }

    /// How many probes may be under way at once. Default 1.
    #[must_use]
    pub fn probes(self, probes: u32) -> Self {
        Self { probes, ..self }
    }

    /// Closes after this many successful probes. Default 2.
    #[must_use]
    pub fn success_threshold(self, successes: u32) -> Self {
        self.recovery(Recovery::Successes(successes))
    }

    /// What a half-open circuit makes of its probes.
    #[must_use]
    pub fn recovery(self, recovery: Recovery) -> Self {
        Self { recovery, ..self }
    }

    /// How long a probe may take before [`on_probe_expiry`](Config::on_probe_expiry) applies. Default: the base of the
    /// open time.
    #[must_use]
    pub fn probe_lease(self, lease: Duration) -> Self {
        Self { probe_lease: Some(lease), ..self }
    }

    /// What happens when a probe outlives its lease. Default [`ProbeExpiry::Replace`].
    #[must_use]
    pub fn on_probe_expiry(self, expiry: ProbeExpiry) -> Self {
        Self { on_probe_expiry: expiry, ..self }
    }

    /// What becomes of calls whose caller went away. Default [`Abandoned::CountAfter`] 10 s.
    #[must_use]
    pub fn abandoned(self, abandoned: Abandoned) -> Self {
        Self { abandoned, ..self }
    }

    /// Whether being throttled (HTTP 429) counts as a failure, which is the default, or as a success: the dependency
    /// is alive.
    #[must_use]
    pub fn count_throttling(self, count: bool) -> Self {
        Self { count_throttling: count, ..self }
    }

    /// Becomes half-open when the open time is over, on a timer, and not only with the next call, so that gauges are
    /// right without traffic. Needs a tokio runtime; without one the circuit stays lazy. Default `false`.
    #[must_use]
    pub fn eager(self, eager: bool) -> Self {
        Self { eager, ..self }
    }

    /// The mode to start in. Default [`Mode::Enforce`].
    #[must_use]
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// How long a probe may take.
    pub fn lease(&self) -> Duration {
        self.probe_lease.unwrap_or(self.open.base())
    }

    /// The rules that open the circuit.
    pub fn trips(&self) -> Vec<Trip> {
        let consecutive = self.consecutive_failures.map(Trip::ConsecutiveFailures);
        let rate = self.failure_rate.map(|RateRule { window, at_least, minimum_calls }| Trip::FailureRate {
            window,
            at_least,
            minimum_calls,
        });
        let slow = self.slow_calls.map(|(slower_than, RateRule { window, at_least, minimum_calls })| {
            Trip::SlowCalls { slower_than, window, at_least, minimum_calls }
        });
        consecutive.into_iter().chain(rate).chain(slow).collect()
    }

    /// The rules over failures and over slow calls that look at a window.
    pub(crate) fn rates(&self) -> (Option<&RateRule>, Option<&RateRule>) {
        (self.failure_rate.as_ref(), self.slow_calls.as_ref().map(|(_, rule)| rule))
    }

    /// As the layer is checked when it is built.
    ///
    /// # Errors
    ///
    /// If it breaks a rule: the field, its value and the rule.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { consecutive_failures, failure_rate, slow_calls, open, probes, recovery, .. } = self;
        if let Some(n) = *consecutive_failures {
            at_least_one("consecutive_failures", n)?;
        }
        if let Some(rule) = failure_rate {
            rule.check()?;
        }
        if let Some((slower_than, rule)) = slow_calls {
            rule.check()?;
            positive("slower_than", *slower_than)?;
        }
        if open.base().is_zero() {
            return Err(ConfigError::new(
                "open_for",
                open.base(),
                "must be longer than zero, or the circuit never refuses",
            ));
        }
        if let Jitter::Spread { percent: percent @ 51.. } = open.spread() {
            let rule = "must be at most 50 %, or the circuit may open for next to no time";
            return Err(ConfigError::new("open_backoff", format_args!("± {percent} %"), rule));
        }
        positive("probe_lease", self.lease())?;
        at_least_one("probes", *probes)?;
        match *recovery {
            Recovery::Successes(n) => at_least_one("success_threshold", n),
            Recovery::Ratio { calls, at_least } => {
                at_least.check("recovery")?;
                at_least_one("calls", calls)
            }
        }
    }
}

/// One sentence, without a full stop.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trips: Vec<String> = self.trips().iter().map(Trip::to_string).collect();
        if trips.is_empty() {
            return f.write_str("opens only by hand");
        }
        let (base, cap) = (self.open.base(), self.open.cap());
        write!(f, "opens after {}, for {}", trips.join(" or "), Seconds(base))?;
        if cap > base {
            write!(f, ", growing to {}", Seconds(cap))?;
        }
        match self.recovery {
            Recovery::Successes(n) => write!(
                f,
                "; {}",
                if n == 1 {
                    "1 good probe closes it".to_owned()
                } else {
                    format!("{n} good probes close it")
                }
            )?,
            Recovery::Ratio { calls, at_least } => {
                write!(f, "; closes if fewer than {at_least} of {calls} probes fail")?
            }
        }
        write!(f, ", {} at a time", self.probes)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::standard()
    }
}

pub(crate) fn at_least_one(field: &'static str, value: u32) -> Result<(), ConfigError> {
    if value == 0 { Err(ConfigError::new(field, value, "must be at least 1")) } else { Ok(()) }
}

fn positive(field: &'static str, value: Duration) -> Result<(), ConfigError> {
    if value.is_zero() { Err(ConfigError::new(field, value, "must be longer than zero")) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
