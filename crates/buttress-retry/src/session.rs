//! The decision: what to do after each attempt of one call.

use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{Backoff, Delays, Effect, Hint, Kind, Stop, Verdict};
use tokio::time::Instant;

use crate::budget::Paid;
use crate::config::{Config, HintRule};

/// What one call has been through; made when its first attempt fails.
#[derive(Debug)]
pub(crate) struct Session {
    delays: Delays,
    throttled: Option<Delays>,
    pub(crate) started: Instant,
    /// Of the layer above, if that is known.
    pub(crate) deadline: Option<Instant>,
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
    /// It may be applied any number of times.
    pub(crate) repeatable: bool,
}

/// What follows a failed attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<C> {
    /// Another attempt with this copy of the request, after this time; obeying the hint, if there was one.
    Retry {
        copy: C,
        delay: Duration,
        hint: Option<Duration>,
    },
    Stop(Stop),
}

impl Session {
    /// A request's own delays take the place of both of the configuration's.
    pub(crate) fn new(config: &Config, own: Option<&Backoff>, started: Instant) -> Self {
        let throttled = config.throttled_backoff.as_ref().filter(|_| own.is_none());
        Self {
            delays: own.unwrap_or(&config.backoff).delays(),
            throttled: throttled.map(Backoff::delays),
            started,
            deadline: None,
            retries: 0,
            effect: Effect::NotSent,
            paid: None,
            retry_at: None,
        }
    }

    /// Whether the call as a whole may be made again by whoever hears of its failure.
    pub(crate) fn safe_to_retry(&self, facts: Facts) -> bool {
        self.effect == Effect::NotSent || facts.repeatable
    }

    /// The verdict on the whole call, given that on its last attempt.
    pub(crate) fn verdict(&self, last: Verdict) -> Verdict {
        match last {
            Verdict::Failure { kind, hint, .. } => Verdict::Failure { kind, effect: self.effect, hint },
            other => other,
        }
    }

    /// Decides after a failure. The budget is asked when all else speaks for a retry, and the copy is made last: it ends what is
    /// still being sent of this attempt, whose answer the caller gets if there is to be no other. `rehearse` asks without paying.
    pub(crate) fn next<C>(
        &mut self,
        config: &Config,
        verdict: Verdict,
        facts: Facts,
        rehearse: bool,
        copy: impl FnOnce() -> Option<C>,
    ) -> Next<C> {
        match self.decide(config, verdict, facts, rehearse) {
            Err(stop) => Next::Stop(stop),
            Ok((kind, delay, hint)) => {
                // What a layer of ours refused has cost the dependency nothing.
                let paid = if kind == Kind::Refused {
                    Some(Paid::NOTHING)
                } else {
                    config.budget.pay(kind, rehearse)
                };
                let Some(paid) = paid else { return Next::Stop(Stop::Budget) };
                let Some(copy) = copy() else {
                    if !rehearse {
                        config.budget.refund(Some(paid));
                    }
                    return Next::Stop(Stop::NotReplayable);
                };
                self.paid = Some(paid);
                self.retries += u32::from(!rehearse);
                Next::Retry { copy, delay, hint }
            }
        }
    }

    fn decide(
        &mut self,
        config: &Config,
        verdict: Verdict,
        facts: Facts,
        rehearse: bool,
    ) -> Result<(Kind, Duration, Option<Duration>), Stop> {
        let Verdict::Failure { kind, effect, hint } = verdict else { return Err(Stop::NotRetryable) };
        let now = Instant::now();
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
        // What a layer of ours refused says nothing of the dependency.
        if (hint == Hint::DoNotRetry || retryable) && kind != Kind::Refused && !rehearse {
            config.budget.failure();
        }
        if hint == Hint::DoNotRetry {
            return Err(Stop::DoNotRetry);
        }
        if kind == Kind::Refused && !rehearse {
            // It cost the dependency nothing after all.
            config.budget.refund(self.paid.take());
        }
        if !retryable {
            return Err(if kind == Kind::Refused { Stop::Refused } else { Stop::NotRetryable });
        }
        if self.retries >= facts.max_retries.unwrap_or(config.max_retries) {
            return Err(Stop::MaxRetries);
        }
        if !facts.repeatable && self.effect == Effect::Unknown {
            return Err(Stop::NotIdempotent);
        }
        let (delay, hint) = self.delay(config, kind, hint, facts, now)?;
        self.in_time(config, facts, now, delay)?;
        Ok((kind, delay, hint))
    }

    /// Whether an attempt that starts after this delay starts early enough.
    fn in_time(&self, config: &Config, facts: Facts, now: Instant, delay: Duration) -> Result<(), Stop> {
        let deadline = self.deadline(facts);
        if deadline.is_some_and(|deadline| deadline.saturating_duration_since(now) <= delay) {
            return Err(Stop::Deadline);
        }
        if self.total_left(config, now).is_some_and(|left| left < delay) {
            return Err(Stop::TotalWait);
        }
        Ok(())
    }

    /// What travels with the request, or else what is known of the layer above.
    pub(crate) fn deadline(&self, facts: Facts) -> Option<Instant> {
        facts.deadline.or(self.deadline)
    }

    /// What is left of the limit on the whole call.
    fn total_left(&self, config: &Config, now: Instant) -> Option<Duration> {
        config.max_total_wait.map(|limit| limit.saturating_sub(now.saturating_duration_since(self.started)))
    }

    /// How long a request waits that the server wants to hear from no earlier than in `asked`: a little longer, so that
    /// not everybody who was asked comes back at the same moment. An error if it may not wait so long.
    pub(crate) fn wait(&mut self, config: &Config, facts: Facts, asked: Duration) -> Result<Duration, Stop> {
        let now = Instant::now();
        if matches!(config.hints, HintRule::Floor { cap } | HintRule::Exact { cap } if asked > cap) {
            return Err(Stop::HintTooLong);
        }
        self.in_time(config, facts, now, asked)?;
        Ok(self.above(config, facts, now, asked))
    }

    /// The delay before the next attempt, and the hint if it was obeyed.
    fn delay(
        &mut self,
        config: &Config,
        kind: Kind,
        hint: Hint,
        facts: Facts,
        now: Instant,
    ) -> Result<(Duration, Option<Duration>), Stop> {
        // Both schedules go on with every retry: it is the number of the retry that counts.
        let usual = self.delays.next().unwrap_or_default();
        let throttled = self.throttled.as_mut().and_then(Iterator::next);
        let computed = throttled.filter(|_| kind == Kind::Throttled).unwrap_or(usual);
        let Hint::RetryAfter(asked) = hint else { return Ok((computed, None)) };
        match config.hints {
            HintRule::Ignore => Ok((computed, None)),
            HintRule::Floor { cap } | HintRule::Exact { cap } if asked > cap => Err(Stop::HintTooLong),
            HintRule::Floor { .. } => Ok((self.above(config, facts, now, asked).max(computed), Some(asked))),
            HintRule::Clamp { extra } => {
                Ok((asked.min(computed.saturating_add(extra)).max(computed), Some(asked)))
            }
            // No server asked for this, and all who wait for one circuit would come back at the same moment.
            HintRule::Exact { .. } if kind == Kind::Refused => {
                Ok((self.above(config, facts, now, asked).max(computed), Some(asked)))
            }
            HintRule::Exact { .. } => {
                self.delays.restart();
                self.throttled.iter_mut().for_each(Delays::restart);
                Ok((asked, Some(asked)))
            }
        }
    }

    /// A little later than asked, but never so late that this alone would make it too late: the jitter takes at most half
    /// of the room that is left.
    fn above(&mut self, config: &Config, facts: Facts, now: Instant, asked: Duration) -> Duration {
        let deadline = self.deadline(facts).map(|deadline| deadline.saturating_duration_since(now));
        let left = deadline.into_iter().chain(self.total_left(config, now)).min();
        let room = left.map_or(Duration::MAX, |left| left.saturating_sub(asked) / 2);
        let width = (asked / 2).max(config.backoff.base()).min(room);
        asked.saturating_add(self.delays.rng().up_to(width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use buttress_core::Jitter;

    const FACTS: Facts = Facts { deadline: None, max_retries: None, repeatable: true };

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

    fn next(session: &mut Session, config: &Config, verdict: Verdict, facts: Facts) -> Next<()> {
        session.next(config, verdict, facts, false, || Some(()))
    }

    #[expect(clippy::needless_pass_by_value, reason = "reads better where it is called")]
    fn delay(next: Next<()>) -> Duration {
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
            let delay = delay(next(&mut Session::new(&config, None, now), &config, hinted(10), FACTS));
            assert!(delay >= secs(10) && delay <= secs(15), "{delay:?}");
            late += u32::from(delay > secs(12));
        }
        assert!((20..=80).contains(&late), "spread over the whole width: {late}");
        let mut session = Session::new(&config, None, now);
        let delays: Vec<_> = (0..5).map(|_| delay(next(&mut session, &config, hinted(0), FACTS))).collect();
        assert_eq!(delays[1..], [secs(2), secs(4), secs(8), secs(8)], "no earlier than computed either");
    }

    #[tokio::test(start_paused = true)]
    async fn no_copy_is_asked_for_that_is_not_paid_for_and_none_is_paid_for_that_cannot_be_had() {
        let (budget, failed) = (Budget::ratio(0.0, 1).unwrap(), Verdict::failure(Kind::Transient));
        let (config, now) = (config().budget(budget.clone()), Instant::now());
        let mut session = Session::new(&config, None, now);
        let next = session.next(&config, failed, FACTS, false, || None::<()>);
        assert_eq!((next, budget.tokens()), (Next::Stop(Stop::NotReplayable), 1.0));
        let next = session.next(&config, failed, FACTS, false, || Some(()));
        assert_eq!((delay(next), budget.tokens()), (secs(2), 0.0));
        let next =
            session.next(&config, failed, FACTS, false, || -> Option<()> { panic!("nobody pays for it") });
        assert_eq!(next, Next::Stop(Stop::Budget));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_beyond_the_cap_fails_now_and_says_when() {
        let (config, now) = (config(), Instant::now());
        let mut session = Session::new(&config, None, now);
        assert_eq!(next(&mut session, &config, hinted(301), FACTS), Next::Stop(Stop::HintTooLong));
        assert_eq!(session.retry_at, Some(now + secs(301)));
    }

    #[tokio::test(start_paused = true)]
    async fn aws_clamps_a_hint_to_five_seconds_more_than_computed() {
        let (mut config, now) = (config().hints(HintRule::Clamp { extra: secs(5) }), Instant::now());
        config.backoff = Backoff::constant(secs(2));
        for (asked, waits) in [(0, 2), (1, 2), (4, 4), (7, 7), (100, 7)] {
            assert_eq!(
                delay(next(&mut Session::new(&config, None, now), &config, hinted(asked), FACTS)),
                secs(waits)
            );
        }
    }

    /// R-12, after parsing
    #[tokio::test(start_paused = true)]
    async fn a_pushback_is_exact_and_starts_the_backoff_again() {
        let (config, now) = (config().hints(HintRule::Exact { cap: secs(300) }), Instant::now());
        let transient = Verdict::failure(Kind::Transient);
        let mut session = Session::new(&config, None, now);
        let delays =
            [transient, transient, hinted(5), transient, transient, hinted(0), transient, hinted(300)];
        let delays = delays.map(|verdict| delay(next(&mut session, &config, verdict, FACTS)).as_secs());
        assert_eq!(delays, [1, 2, 5, 1, 2, 0, 1, 300]);
        let stop = transient.with_hint(Hint::DoNotRetry);
        assert_eq!(next(&mut session, &config, stop, FACTS), Next::Stop(Stop::DoNotRetry));
    }

    /// exactly means not earlier, too.
    #[tokio::test(start_paused = true)]
    async fn a_pushback_beyond_the_cap_fails_now_and_says_when() {
        let config = config().retry_refused(true).hints(HintRule::Exact { cap: secs(300) });
        let refused = Verdict::failure(Kind::Refused).with_hint(Hint::RetryAfter(secs(301)));
        for verdict in [hinted(301), refused] {
            let mut session = Session::new(&config, None, Instant::now());
            assert_eq!(next(&mut session, &config, verdict, FACTS), Next::Stop(Stop::HintTooLong));
            assert_eq!(session.retry_at, Some(Instant::now() + secs(301)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pushback_starts_the_schedule_of_throttling_again_too() {
        let slow = Backoff::exponential(secs(10), 2.0, secs(1000)).unwrap().jitter(Jitter::None);
        let config = config().hints(HintRule::Exact { cap: secs(300) }).throttled_backoff(slow);
        let throttled = Verdict::failure(Kind::Throttled);
        let mut session = Session::new(&config, None, Instant::now());
        let delays = [throttled, throttled, hinted(5), throttled];
        let delays = delays.map(|verdict| delay(next(&mut session, &config, verdict, FACTS)).as_secs());
        assert_eq!(delays, [10, 20, 5, 10]);
    }

    /// Ten thousand that wait for one circuit would come back in one moment, and all but a few be refused again.
    #[tokio::test(start_paused = true)]
    async fn what_a_layer_of_ours_asks_for_is_no_pushback() {
        let config = config().retry_refused(true).hints(HintRule::Exact { cap: secs(300) });
        let refused = Verdict::failure(Kind::Refused).with_hint(Hint::RetryAfter(secs(30)));
        let delay = || delay(next(&mut Session::new(&config, None, Instant::now()), &config, refused, FACTS));
        let delays: Vec<_> = (0..100).map(|_| delay()).collect();
        assert!(delays.iter().all(|delay| (secs(30)..=secs(45)).contains(delay)), "{delays:?}");
        assert!(delays.iter().any(|delay| *delay > secs(36)), "{delays:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_has_a_schedule_of_its_own_that_counts_every_retry() {
        let now = Instant::now();
        let slow = Backoff::exponential(secs(10), 2.0, secs(1000)).unwrap().jitter(Jitter::None);
        let config = config().throttled_backoff(slow);
        let mut session = Session::new(&config, None, now);
        let kinds = [Kind::Transient, Kind::Throttled, Kind::Transient, Kind::Throttled];
        let delays =
            kinds.map(|kind| delay(next(&mut session, &config, Verdict::failure(kind), FACTS)).as_secs());
        assert_eq!(delays, [1, 20, 4, 80]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_sent_again_depends_on_the_effect_and_on_the_request() {
        let (config, now) = (config(), Instant::now());
        let unknown = Verdict::failure(Kind::Transient);
        for (repeatable, verdict, stop) in [
            (false, unknown, Some(Stop::NotIdempotent)),
            (false, unknown.not_sent(), None),
            (true, unknown, None),
        ] {
            let facts = Facts { repeatable, ..FACTS };
            let next = next(&mut Session::new(&config, None, now), &config, verdict, facts);
            assert_eq!(
                matches!(next, Next::Stop(_)).then_some(next),
                stop.map(Next::Stop),
                "{repeatable} {verdict:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_that_fits_is_not_made_too_late_by_its_jitter() {
        let (config, now) = (config(), Instant::now());
        let facts = Facts { deadline: Some(now + secs(10)), ..FACTS };
        for _ in 0..1000 {
            let delay = delay(next(&mut Session::new(&config, None, now), &config, hinted(9), facts));
            assert!(delay >= secs(9) && delay <= Duration::from_millis(9500), "{delay:?}");
        }
        let next = next(&mut Session::new(&config, None, now), &config, hinted(10), facts);
        assert_eq!(next, Next::Stop(Stop::Deadline));
    }

    #[tokio::test(start_paused = true)]
    async fn one_attempt_with_an_unknown_effect_makes_the_whole_call_unsafe() {
        let (config, now) = (config(), Instant::now());
        let facts = Facts { repeatable: false, ..FACTS };
        let not_sent = Verdict::failure(Kind::Transient).not_sent();
        let mut session = Session::new(&config, None, now);
        next(&mut session, &config, not_sent, facts);
        assert!(session.safe_to_retry(facts));
        next(&mut session, &config, Verdict::failure(Kind::Transient), facts);
        next(&mut session, &config, not_sent, facts);
        assert!(!session.safe_to_retry(facts));
        assert_eq!(session.verdict(not_sent), Verdict::failure(Kind::Transient));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_paid_for_a_retry_that_is_not_made() {
        let (config, now) = (config().budget(Budget::ratio(0.0, 1).unwrap()), Instant::now());
        let transient = Verdict::failure(Kind::Transient);
        let late = Facts { deadline: Some(now + secs(1)), ..FACTS };
        let stopped = next(&mut Session::new(&config, None, now), &config, transient, late);
        assert_eq!(stopped, Next::Stop(Stop::Deadline), "the attempt would start at the deadline");
        let spent = config.clone().max_total_wait(Duration::from_millis(999));
        let stopped = next(&mut Session::new(&spent, None, now), &spent, transient, FACTS);
        assert_eq!(stopped, Next::Stop(Stop::TotalWait));
        let no_copy = Session::new(&config, None, now).next(&config, transient, FACTS, false, || None::<()>);
        assert_eq!(no_copy, Next::Stop(Stop::NotReplayable));
        let rehearsed = Session::new(&config, None, now).next(&config, transient, FACTS, true, || Some(()));
        assert!(matches!(rehearsed, Next::Retry { .. }));
        assert_eq!(config.budget.tokens(), 1.0);

        let mut session = Session::new(&config, None, now);
        assert!(matches!(next(&mut session, &config, transient, FACTS), Next::Retry { .. }));
        assert_eq!(next(&mut session, &config, transient, FACTS), Next::Stop(Stop::Budget));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_layer_of_ours_refused_costs_nothing() {
        let config = config().retry_refused(true).budget(Budget::ratio(0.0, 1).unwrap());
        let mut session = Session::new(&config, None, Instant::now());
        for _ in 0..5 {
            assert!(matches!(
                next(&mut session, &config, Verdict::failure(Kind::Refused), FACTS),
                Next::Retry { .. }
            ));
        }
        assert_eq!(config.budget.tokens(), 1.0);
        // Nor does it count among the failures that gRPC's throttle hears of.
        let config = config.max_retries(5).budget(Budget::grpc_throttle(4, 0.1).unwrap());
        for _ in 0..5 {
            next(
                &mut Session::new(&config, None, Instant::now()),
                &config,
                Verdict::failure(Kind::Refused),
                FACTS,
            );
        }
        assert_eq!(config.budget.tokens(), 4.0);
    }
}
