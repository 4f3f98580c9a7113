use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::Seconds;
use buttress_core::{Backoff, ConfigError, Jitter, Mode, Verdict};

use crate::budget::Budget;

/// Which failures are retried, how often, and after what delay.
///
/// The default is [`user_facing`](Config::user_facing). Clones share the budget.
///
/// ```
/// use std::time::Duration;
/// use buttress_core::Backoff;
/// use buttress_retry::{Budget, Config};
///
/// let config = Config::user_facing()
///     .max_retries(4)
///     .backoff(Backoff::exponential(Duration::from_millis(50), 2.0, Duration::from_secs(2))?)
///     .budget(Budget::ratio(0.2, 100)?);
/// # Ok::<(), buttress_core::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) max_retries: u32,
    pub(crate) backoff: Backoff,
    pub(crate) throttled_backoff: Option<Backoff>,
    pub(crate) max_total_wait: Option<Duration>,
    /// Nobody has said so but the preset.
    pub(crate) wait_of_preset: bool,
    pub(crate) hints: HintRule,
    pub(crate) budget: Budget,
    pub(crate) retry_refused: bool,
    pub(crate) rate_gate: bool,
    pub(crate) mode: Mode,
    pub(crate) on_retry: Option<OnRetry>,
}

/// What is done with a wait that the server asks for (`Retry-After` and the like).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HintRule {
    /// Nothing; a rate gate holds nobody back.
    Ignore,
    /// Never earlier than asked: the delay is the hint plus jitter of up to half of it (at least the backoff's base),
    /// or the backoff's own delay if that is longer. Asked for more than the cap, the call fails at once and says when
    /// to come back. The rule for HTTP.
    Floor {
        /// The longest hint that is obeyed. Asked for more, a rate gate refuses others for so long, and then lets them ask again.
        cap: Duration,
    },
    /// Between the computed delay and so much more (AWS 2.1: 5 s). A rate gate holds others back for so much at most.
    Clamp {
        /// How much longer than computed it may get.
        extra: Duration,
    },
    /// Exactly the hint, neither earlier nor with jitter; the backoff then starts again (gRPC A6). Asked for more than the
    /// cap, the call fails at once and says when to come back. What a layer of ours asks for, such as an open circuit, gets
    /// jitter all the same.
    Exact {
        /// The longest hint that is obeyed, and the longest time for which a rate gate refuses others.
        cap: Duration,
    },
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const HINT_CAP: Duration = Duration::from_secs(300);

impl Config {
    /// Somebody is waiting: 2 retries, 0.5 s doubled to at most 5 s, no attempt later than 10 s after the call began.
    /// Budget: [`Budget::standard`].
    pub fn user_facing() -> Self {
        Self {
            max_retries: 2,
            backoff: exponential(millis(500), 2.0, millis(5000)),
            throttled_backoff: None,
            max_total_wait: Some(millis(10_000)),
            wait_of_preset: true,
            hints: HintRule::Floor { cap: HINT_CAP },
            budget: Budget::standard(),
            retry_refused: false,
            rate_gate: false,
            mode: Mode::Enforce,
            on_retry: None,
        }
    }

    /// Nobody is waiting: 5 retries, 2 s tripled to at most 120 s. Budget: as [`Budget::standard`], with five retries
    /// in hand however little is going on, since batch work and agents make few calls.
    pub fn background() -> Self {
        Self {
            max_retries: 5,
            backoff: exponential(millis(2000), 3.0, millis(120_000)),
            max_total_wait: None,
            budget: Budget::adaptive(0.1, millis(500), 5).expect("a tenth is a share"),
            ..Self::user_facing()
        }
    }

    /// AWS SDKs' "standard" 2.1: 3 attempts, 50 ms (1 s when throttled) doubled to at most 20 s, full jitter, server
    /// hints clamped to 5 s more than that. Budget: [`Budget::aws_2_1`].
    pub fn aws_standard() -> Self {
        Self {
            max_retries: 2,
            backoff: exponential(millis(50), 2.0, millis(20_000)),
            throttled_backoff: Some(exponential(millis(1000), 2.0, millis(20_000))),
            max_total_wait: None,
            hints: HintRule::Clamp { extra: millis(5000) },
            budget: Budget::aws_2_1(),
            ..Self::user_facing()
        }
    }

    /// gRPC A6, with the figures of its example: 4 attempts, 0.1 s doubled to at most 1 s, ± 20 %, pushback obeyed
    /// exactly. Unlike A6's, the jitter stays within the maximum. No budget: add [`Budget::grpc_throttle`] where the
    /// service configuration has one.
    pub fn grpc() -> Self {
        Self {
            max_retries: 3,
            backoff: exponential(millis(100), 2.0, millis(1000)).jitter(Jitter::Spread { percent: 20 }),
            max_total_wait: None,
            hints: HintRule::Exact { cap: HINT_CAP },
            budget: Budget::unlimited(),
            ..Self::user_facing()
        }
    }

    /// How often a call may be retried; 0 makes every call once.
    #[must_use]
    pub fn max_retries(self, max_retries: u32) -> Self {
        Self { max_retries, ..self }
    }

    /// The delays; [`Backoff::from_fn`] takes a closure.
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Other delays after throttling (HTTP 429). Default: the same.
    #[must_use]
    pub fn throttled_backoff(self, backoff: Backoff) -> Self {
        Self { throttled_backoff: Some(backoff), ..self }
    }

    /// Plans no attempt for later than this after the call began, whatever the reason for the wait; `None` for no limit of
    /// its own (a deadline that travels with the request limits it in any case). Readiness and the disposal of the last
    /// response may still delay an attempt that was planned in time.
    #[must_use]
    pub fn max_total_wait(self, limit: impl Into<Option<Duration>>) -> Self {
        Self { max_total_wait: limit.into(), wait_of_preset: false, ..self }
    }

    /// The [`max_total_wait`](Self::max_total_wait) where none has been set, in place of the preset's own, for whoever knows a better
    /// default. The stacks of the `buttress` crate have none where they were told how long all of a call may take.
    #[must_use]
    pub fn default_max_total_wait(self, limit: impl Into<Option<Duration>>) -> Self {
        if self.wait_of_preset { Self { max_total_wait: limit.into(), ..self } } else { self }
    }

    /// Draws the jitter of all delays from this seed, for reproducible runs. Calls still differ from each other.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        // The complement, so that calls after throttling do not repeat the draws of the others.
        let throttled_backoff = self.throttled_backoff.map(|backoff| backoff.seed(!seed));
        Self { backoff: self.backoff.seed(seed), throttled_backoff, ..self }
    }

    /// What is done with a wait that the server asks for. Default [`HintRule::Floor`], at most 300 s.
    #[must_use]
    pub fn hints(self, hints: HintRule) -> Self {
        Self { hints, ..self }
    }

    /// How many retries may be made at all.
    #[must_use]
    pub fn budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// Whether to retry what a layer below refused, such as an open circuit. Default `false`: it would be refused again.
    #[must_use]
    pub fn retry_refused(self, retry: bool) -> Self {
        Self { retry_refused: retry, ..self }
    }

    /// Whether one throttled answer with a hint holds back all attempts of the same key (the policy's
    /// [`KeyOf`](buttress_core::KeyOf): the host, for HTTP), those of other clones included, until the hint has passed, or for
    /// as long as the [`HintRule`] obeys one. A call that may not wait so long is refused. Default `false`: it is for APIs that limit all of a key's requests
    /// together.
    #[must_use]
    pub fn rate_gate(self, gate: bool) -> Self {
        Self { rate_gate: gate, ..self }
    }

    /// The mode to start in. Default [`Mode::Enforce`].
    #[must_use]
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Tells this before each wait for a further attempt: the number of the attempt that failed (1 for the first), what it
    /// meant, and how long the wait is. Default: nobody. The last one set counts.
    ///
    /// For a line in a log, or to have a token renewed. It runs on the call's task, so it must not block; a panic in it is caught
    /// and forgotten. It is not told of what a retry in [`Mode::Observe`] would have done. All else that happens is told to an
    /// observer ([`RetryLayer::observe`](crate::RetryLayer::observe)).
    ///
    /// ```
    /// let config = buttress_retry::Config::user_facing().on_retry(|attempt, verdict, delay| {
    ///     eprintln!("attempt {attempt} failed ({verdict:?}), the next one starts in {delay:?}");
    /// });
    /// ```
    #[must_use]
    pub fn on_retry(self, hook: impl Fn(u32, Verdict, Duration) + Send + Sync + 'static) -> Self {
        Self { on_retry: Some(OnRetry(Arc::new(hook))), ..self }
    }

    /// How often a call is made at most.
    pub fn attempts(&self) -> u32 {
        self.max_retries.saturating_add(1)
    }

    /// Whether it waits for a layer below that refuses, such as an open circuit.
    pub fn waits_for_refusals(&self) -> bool {
        self.retry_refused
    }

    /// How long the wait before the first retry can be, where no server asks for more.
    pub fn first_wait(&self) -> Duration {
        let throttled = self.throttled_backoff.as_ref().map_or(Duration::ZERO, |backoff| backoff.longest(1));
        self.backoff.longest(1).max(throttled)
    }

    /// As the layer is checked when it is built.
    ///
    /// # Errors
    ///
    /// If it breaks a rule: the field, its value and the rule.
    pub fn check(&self) -> Result<(), ConfigError> {
        match self.max_total_wait {
            Some(limit) if limit.is_zero() => Err(ConfigError::new(
                "max_total_wait",
                limit,
                "must be longer than zero, or no call is ever retried",
            )),
            _ => Ok(()),
        }
    }
}

/// Hears of each retry.
#[derive(Clone)]
pub(crate) struct OnRetry(Arc<dyn Fn(u32, Verdict, Duration) + Send + Sync>);

impl OnRetry {
    pub(crate) fn tell(&self, attempt: u32, verdict: Verdict, delay: Duration) {
        // Its own state may be torn by its panic; that is its affair, and nothing of ours is in its hands.
        let _ = catch_unwind(AssertUnwindSafe(|| (self.0)(attempt, verdict, delay)));
    }
}

impl fmt::Debug for OnRetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRetry")
    }
}

fn exponential(base: Duration, factor: f64, cap: Duration) -> Backoff {
    Backoff::exponential(base, factor, cap).expect("the presets' schedules are valid")
}

/// One sentence, without a full stop.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let retries = match self.max_retries {
            0 => return f.write_str("no retries"),
            1 => "1 retry".to_owned(),
            n => format!("{n} retries"),
        };
        write!(f, "{retries} after {}", self.backoff)?;
        if let Some(throttled) = &self.throttled_backoff {
            write!(f, "; when throttled after {throttled}")?;
        }
        if let Some(limit) = self.max_total_wait {
            write!(f, "; none starts later than {}", Seconds(limit))?;
        }
        match self.hints {
            HintRule::Ignore => f.write_str("; the server's hints are ignored")?,
            HintRule::Floor { cap } => {
                write!(f, "; never earlier than the server asks, up to {}", Seconds(cap))?
            }
            HintRule::Clamp { extra } => write!(f, "; at most {} longer if the server asks", Seconds(extra))?,
            HintRule::Exact { cap } => write!(f, "; exactly when the server asks, up to {}", Seconds(cap))?,
        }
        if self.retry_refused {
            f.write_str("; an open circuit is waited for")?;
        }
        if self.rate_gate {
            f.write_str("; a throttled answer holds back all calls to its host")?;
        }
        write!(f, "; budget: {}", self.budget)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::user_facing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_in_words_what_it_does() {
        assert_eq!(
            Config::user_facing().to_string(),
            "2 retries after 500 ms × 2 up to 5 s, full jitter; none starts later than 10 s; never earlier than the server \
             asks, up to 300 s; budget: 10 % of successes, at least 1 in hand"
        );
        assert_eq!(Config::user_facing().max_retries(0).to_string(), "no retries");
        let waits =
            [Config::background(), Config::aws_standard()].map(|config| config.first_wait().as_secs());
        assert_eq!((Config::background().attempts(), waits), (6, [2, 1]));
    }

    #[test]
    fn a_seeded_configuration_draws_the_same_delays_again() {
        let drawn = || {
            let config = Config::aws_standard().seed(7);
            let throttled = config.throttled_backoff.as_ref().unwrap();
            let first =
                |backoff: &Backoff| (0..3).map(|_| backoff.delays().next().unwrap()).collect::<Vec<_>>();
            (first(&config.backoff), first(throttled))
        };
        let (delays, throttled) = drawn();
        assert_eq!(drawn(), (delays.clone(), throttled));
        assert!(delays[0] != delays[1] && delays[1] != delays[2], "{delays:?}");
    }

    #[test]
    fn a_limit_of_zero_is_an_error() {
        let error = Config::user_facing().max_total_wait(Duration::ZERO).check().unwrap_err();
        assert_eq!(error.field(), "max_total_wait");
    }
}
