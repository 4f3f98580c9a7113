//! The decision: what to do after each attempt of one call.

use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{Delays, Effect, Hint, Kind, Repeat, Stop, Verdict};
use tokio::time::Instant;

use crate::budget::Paid;
use crate::config::{Config, HintRule};

/// What one call has been through; made when its first attempt fails.
#[derive(Debug)]
pub(crate) struct Session {
    delays: Delays,
    throttled: Option<Delays>,
    pub(crate) started: Instant,
    pub(crate) retries: u32,
    /// Whether any attempt may have been applied.
    effect: Effect,
    pub(crate) paid: Option<Paid>,
    pub(crate) retry_at: Option<Instant>,
}

/// What is known of the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) deadline: Option<Instant>,
    /// The caller's own limit.
    pub(crate) max_retries: Option<u32>,
    pub(crate) repeat: Repeat,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Retry { delay: Duration, hint: Option<Duration> },
    Stop(Stop),
}

impl Session {
    pub(crate) fn new(config: &Config, started: Instant) -> Self {
        Self {
            delays: config.backoff.delays(),
            throttled: config.throttled_backoff.as_ref().map(buttress_core::Backoff::delays),
            started,
            retries: 0,
            effect: Effect::NotSent,
            paid: None,
            retry_at: None,
        }
    }

    /// Whether the call as a whole may be made again by whoever hears of its failure.
    pub(crate) fn safe_to_retry(&self, facts: Facts) -> bool {
        self.effect == Effect::NotSent || facts.repeat == Repeat::Always
    }

    /// The verdict on the whole call, given that on its last attempt.
    pub(crate) fn verdict(&self, last: Verdict) -> Verdict {
        match last {
            Verdict::Failure { kind, hint, .. } => Verdict::Failure { kind, effect: self.effect, hint },
            other => other,
        }
    }

    /// Decides after a failure. Everything but the budget is asked first, so that nothing is paid for a retry that will
    /// not be made.
    pub(crate) fn next(&mut self, config: &Config, verdict: Verdict, facts: Facts, now: Instant) -> Next {
        let Verdict::Failure { kind, effect, hint } = verdict else { return Next::Stop(Stop::NotRetryable) };
        if effect == Effect::Unknown {
            self.effect = effect;
        }
        self.retry_at = match hint {
            Hint::RetryAfter(time) => Some(after(now, time)),
            Hint::None | Hint::DoNotRetry => None,
        };
        let retryable = match kind {
            Kind::Transient | Kind::Throttled | Kind::Timeout => true,
            Kind::Refused => config.retry_refused,
            Kind::Permanent => false,
        };
        if hint == Hint::DoNotRetry || retryable {
            config.budget.failure();
        }
        if hint == Hint::DoNotRetry {
            return Next::Stop(Stop::DoNotRetry);
        }
        if !retryable {
            return Next::Stop(Stop::NotRetryable);
        }
        if self.retries >= facts.max_retries.unwrap_or(config.max_retries) {
            return Next::Stop(Stop::MaxRetries);
        }
        match facts.repeat {
            Repeat::Never => return Next::Stop(Stop::NotReplayable),
            Repeat::IfNotSent if self.effect == Effect::Unknown => return Next::Stop(Stop::NotIdempotent),
            Repeat::IfNotSent | Repeat::Always => {}
        }
        let (delay, hint) = match self.delay(config, kind, hint) {
            Ok(delay) => delay,
            Err(stop) => return Next::Stop(stop),
        };
        if let Err(stop) = self.in_time(config, facts, now, delay) {
            return Next::Stop(stop);
        }
        let Some(paid) = config.budget.pay(kind) else { return Next::Stop(Stop::Budget) };
        self.paid = Some(paid);
        self.retries += 1;
        Next::Retry { delay, hint }
    }

    /// Whether an attempt that starts after this delay starts early enough.
    pub(crate) fn in_time(
        &self,
        config: &Config,
        facts: Facts,
        now: Instant,
        delay: Duration,
    ) -> Result<(), Stop> {
        if facts.deadline.is_some_and(|deadline| deadline.saturating_duration_since(now) <= delay) {
            return Err(Stop::Deadline);
        }
        let spent = now.saturating_duration_since(self.started);
        if config.max_total_wait.is_some_and(|limit| limit.saturating_sub(spent) < delay) {
            return Err(Stop::TotalWait);
        }
        Ok(())
    }

    /// The delay before the next attempt, and the hint if it was obeyed.
    fn delay(
        &mut self,
        config: &Config,
        kind: Kind,
        hint: Hint,
    ) -> Result<(Duration, Option<Duration>), Stop> {
        // Both schedules go on with every retry: it is the number of the retry that counts.
        let usual = self.delays.next().unwrap_or_default();
        let throttled = self.throttled.as_mut().and_then(Iterator::next);
        let computed = throttled.filter(|_| kind == Kind::Throttled).unwrap_or(usual);
        let Hint::RetryAfter(asked) = hint else { return Ok((computed, None)) };
        match config.hints {
            HintRule::Ignore => Ok((computed, None)),
            HintRule::Floor { cap } if asked > cap => Err(Stop::HintTooLong),
            HintRule::Floor { .. } => Ok((self.above(config, asked).max(computed), Some(asked))),
            HintRule::Clamp { extra } => {
                Ok((asked.min(computed.saturating_add(extra)).max(computed), Some(asked)))
            }
            HintRule::Exact { cap } => {
                self.delays.restart();
                Ok((asked.min(cap), Some(asked)))
            }
        }
    }

    /// A little later than asked, so that not everybody who was asked comes back at the same moment.
    pub(crate) fn above(&mut self, config: &Config, asked: Duration) -> Duration {
        let width = (asked / 2).max(config.backoff.base());
        asked.saturating_add(self.delays.rng().up_to(width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use buttress_core::{Backoff, Jitter};

    const FACTS: Facts = Facts { deadline: None, max_retries: None, repeat: Repeat::Always };

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn config() -> Config {
        let backoff = Backoff::exponential(secs(1), 2.0, secs(8)).unwrap().jitter(Jitter::None);
        Config::background().max_retries(100).backoff(backoff).budget(Budget::unlimited())
    }

    fn hinted(seconds: u64) -> Verdict {
        Verdict::failure(Kind::Throttled).with_hint(Hint::RetryAfter(secs(seconds)))
    }

    fn delay(next: Next) -> Duration {
        match next {
            Next::Retry { delay, .. } => delay,
            Next::Stop(stop) => panic!("stopped: {stop:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_is_a_floor_with_jitter_above_it() {
        let (config, now) = (config(), Instant::now());
        let mut late = 0;
        for _ in 0..100 {
            let delay = delay(Session::new(&config, now).next(&config, hinted(10), FACTS, now));
            assert!(delay >= secs(10) && delay <= secs(15), "{delay:?}");
            late += u32::from(delay > secs(12));
        }
        assert!((20..=80).contains(&late), "spread over the whole width: {late}");
        let mut session = Session::new(&config, now);
        let delays: Vec<_> = (0..5).map(|_| delay(session.next(&config, hinted(0), FACTS, now))).collect();
        assert_eq!(delays[1..], [secs(2), secs(4), secs(8), secs(8)], "no earlier than computed either");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_beyond_the_cap_fails_now_and_says_when() {
        let (config, now) = (config(), Instant::now());
        let mut session = Session::new(&config, now);
        assert_eq!(session.next(&config, hinted(301), FACTS, now), Next::Stop(Stop::HintTooLong));
        assert_eq!(session.retry_at, Some(now + secs(301)));
    }

    #[tokio::test(start_paused = true)]
    async fn aws_clamps_a_hint_to_five_seconds_more_than_computed() {
        let (mut config, now) = (config().hints(HintRule::Clamp { extra: secs(5) }), Instant::now());
        config.backoff = Backoff::constant(secs(2));
        for (asked, waits) in [(0, 2), (1, 2), (4, 4), (7, 7), (100, 7)] {
            assert_eq!(
                delay(Session::new(&config, now).next(&config, hinted(asked), FACTS, now)),
                secs(waits)
            );
        }
    }

    /// R-12, after parsing
    #[tokio::test(start_paused = true)]
    async fn a_pushback_is_exact_and_starts_the_backoff_again() {
        let (config, now) = (config().hints(HintRule::Exact { cap: secs(300) }), Instant::now());
        let transient = Verdict::failure(Kind::Transient);
        let mut session = Session::new(&config, now);
        let delays =
            [transient, transient, hinted(5), transient, transient, hinted(0), transient, hinted(999)];
        let delays = delays.map(|verdict| delay(session.next(&config, verdict, FACTS, now)).as_secs());
        assert_eq!(delays, [1, 2, 5, 1, 2, 0, 1, 300]);
        let stop = transient.with_hint(Hint::DoNotRetry);
        assert_eq!(session.next(&config, stop, FACTS, now), Next::Stop(Stop::DoNotRetry));
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_has_a_schedule_of_its_own_that_counts_every_retry() {
        let now = Instant::now();
        let slow = Backoff::exponential(secs(10), 2.0, secs(1000)).unwrap().jitter(Jitter::None);
        let config = config().throttled_backoff(slow);
        let mut session = Session::new(&config, now);
        let kinds = [Kind::Transient, Kind::Throttled, Kind::Transient, Kind::Throttled];
        let delays =
            kinds.map(|kind| delay(session.next(&config, Verdict::failure(kind), FACTS, now)).as_secs());
        assert_eq!(delays, [1, 20, 4, 80]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_sent_again_depends_on_the_effect_and_on_the_request() {
        let (config, now) = (config(), Instant::now());
        let unknown = Verdict::failure(Kind::Transient);
        for (repeat, verdict, stop) in [
            (Repeat::IfNotSent, unknown, Some(Stop::NotIdempotent)),
            (Repeat::IfNotSent, unknown.not_sent(), None),
            (Repeat::Always, unknown, None),
            (Repeat::Never, unknown.not_sent(), Some(Stop::NotReplayable)),
        ] {
            let facts = Facts { repeat, ..FACTS };
            let next = Session::new(&config, now).next(&config, verdict, facts, now);
            assert_eq!(
                matches!(next, Next::Stop(_)).then_some(next),
                stop.map(Next::Stop),
                "{repeat:?} {verdict:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_attempt_with_an_unknown_effect_makes_the_whole_call_unsafe() {
        let (config, now) = (config(), Instant::now());
        let facts = Facts { repeat: Repeat::IfNotSent, ..FACTS };
        let not_sent = Verdict::failure(Kind::Transient).not_sent();
        let mut session = Session::new(&config, now);
        session.next(&config, not_sent, facts, now);
        assert!(session.safe_to_retry(facts));
        session.next(&config, Verdict::failure(Kind::Transient), facts, now);
        session.next(&config, not_sent, facts, now);
        assert!(!session.safe_to_retry(facts));
        assert_eq!(session.verdict(not_sent), Verdict::failure(Kind::Transient));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_paid_for_a_retry_that_is_not_made() {
        let (config, now) = (config().budget(Budget::ratio(0.0, 1).unwrap()), Instant::now());
        let transient = Verdict::failure(Kind::Transient);
        let late = Facts { deadline: Some(now + secs(1)), ..FACTS };
        let next = Session::new(&config, now).next(&config, transient, late, now);
        assert_eq!(next, Next::Stop(Stop::Deadline), "the attempt would start at the deadline");
        assert_eq!(config.budget.tokens(), 1.0);
        let spent = config.clone().max_total_wait(Duration::from_millis(999));
        let next = Session::new(&spent, now).next(&spent, transient, FACTS, now);
        assert_eq!(next, Next::Stop(Stop::TotalWait));
        assert_eq!(config.budget.tokens(), 1.0);
        let mut session = Session::new(&config, now);
        assert!(matches!(session.next(&config, transient, FACTS, now), Next::Retry { .. }));
        assert_eq!(session.next(&config, transient, FACTS, now), Next::Stop(Stop::Budget));
    }
}
