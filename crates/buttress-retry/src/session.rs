//! The decision: what to do after each attempt of one call.

use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{Backoff, Delays, Effect, Hint, Kind, Stop, Verdict};
use tokio::time::Instant;

use crate::budget::Paid;
use crate::config::{Config, HintRule};

/// What one call has been through; made when its first attempt fails.
#[derive(Debug)]
pub(crate) struct Session {
    /// The one that it keeps to its end.
    pub(crate) config: Arc<Config>,
    delays: Delays,
    throttled: Option<Delays>,
    pub(crate) started: Instant,
    /// Of the layer above, if that is known.
    pub(crate) deadline: Option<Instant>,
    pub(crate) retries: u32,
    /// What a protocol gave back was sent again at once, which is done once.
    resent: bool,
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
    /// It brings a limit on the whole call, which is in the deadline, in place of the layers' own.
    pub(crate) own_time: bool,
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
    pub(crate) fn new(config: Arc<Config>, own: Option<&Backoff>, started: Instant) -> Self {
        let throttled = config.throttled_backoff.as_ref().filter(|_| own.is_none());
        Self {
            delays: own.unwrap_or(&config.backoff).delays(),
            throttled: throttled.map(Backoff::delays),
            config,
            started,
            deadline: None,
            retries: 0,
            resent: false,
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
                let resend = self.is_resend(kind);
                // What a layer of ours refused, or a protocol gave back, has cost the dependency nothing.
                let paid = if kind == Kind::Refused || resend {
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
                if resend {
                    self.resent = !rehearse;
                } else {
                    self.paid = Some(paid);
                    self.retries += u32::from(!rehearse);
                }
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
        let resend = self.is_resend(kind);
        let retryable = match kind {
            Kind::Transient | Kind::Throttled | Kind::Conflict | Kind::Unprocessed | Kind::Timeout => true,
            Kind::Refused => config.retry_refused,
            Kind::Permanent => false,
        };
        // What a layer of ours refused, or a protocol gave back, says nothing of the dependency.
        if (hint == Hint::DoNotRetry || retryable) && kind != Kind::Refused && !resend && !rehearse {
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
        let max_retries = facts.max_retries.unwrap_or(config.max_retries);
        // Where there are none, no copy of the request is kept either.
        if self.retries >= max_retries && (!resend || max_retries == 0) {
            return Err(Stop::MaxRetries);
        }
        if !facts.repeatable && self.effect == Effect::Unknown {
            return Err(Stop::NotIdempotent);
        }
        let (delay, hint) =
            if resend { (Duration::ZERO, None) } else { self.delay(config, kind, hint, facts, now)? };
        self.in_time(config, facts, now, delay)?;
        Ok((kind, delay, hint))
    }

    /// Whether the attempt is made anew, at once, as if it had not been: what a protocol gives back for the first time in a
    /// call. A server that gives everything back would have it sent for ever.
    fn is_resend(&self, kind: Kind) -> bool {
        kind == Kind::Unprocessed && !self.resent
    }

    /// Whether an attempt that starts after this delay starts early enough.
    fn in_time(&self, config: &Config, facts: Facts, now: Instant, delay: Duration) -> Result<(), Stop> {
        let deadline = self.deadline(facts);
        if deadline.is_some_and(|deadline| deadline.saturating_duration_since(now) <= delay) {
            return Err(Stop::Deadline);
        }
        if self.total_left(config, facts, now).is_some_and(|left| left < delay) {
            return Err(Stop::TotalWait);
        }
        Ok(())
    }

    /// What travels with the request, or else what is known of the layer above.
    pub(crate) fn deadline(&self, facts: Facts) -> Option<Instant> {
        facts.deadline.or(self.deadline)
    }

    /// What is left of the limit on the whole call.
    fn total_left(&self, config: &Config, facts: Facts, now: Instant) -> Option<Duration> {
        let limit = config.max_total_wait.filter(|_| !facts.own_time || facts.deadline.is_none());
        limit.map(|limit| limit.saturating_sub(now.saturating_duration_since(self.started)))
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
        let is_busy = matches!(kind, Kind::Throttled | Kind::Conflict);
        let computed = throttled.filter(|_| is_busy).unwrap_or(usual);
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
        let left = deadline.into_iter().chain(self.total_left(config, facts, now)).min();
        let room = left.map_or(Duration::MAX, |left| left.saturating_sub(asked) / 2);
        let width = (asked / 2).max(config.backoff.base()).min(room);
        asked.saturating_add(self.delays.rng().up_to(width))
    }
}

#[cfg(test)]
mod tests;
