use std::num::NonZeroU64;
use std::task::Context;
use std::time::Duration;

use buttress_core::clock::{LazyNow, after};
use buttress_core::observe::CallResult;
use buttress_core::{Hint, Kind, NoTimer, Settle, Timer, Verdict};
use tokio::time::Instant;

use crate::config::Abandoned;
use crate::shared::Holder;
use crate::state::{Ended, Outcome, Vote};

/// A call that a breaker let in, and that has to say how it ended.
///
/// Settling it records the verdict. Dropping it unsettled, before or after its first poll, means that the call was
/// abandoned: that frees the slot of a probe and is never a success; whether it counts as a failure is the
/// configuration's choice ([`Abandoned`]). What a call of an earlier generation brings is counted but does not vote.
#[derive(Debug)]
pub struct Permit {
    holder: Option<Holder>,
    /// The gate at admission: which generation the call belongs to.
    token: u64,
    probe: Option<u32>,
    /// When the call first had to wait: the clock's reading, plus one.
    waiting_since: Option<NonZeroU64>,
    /// Fires when a call that still runs becomes slow.
    slow_timer: Option<Timer>,
    slow: bool,
    slow_counted: bool,
}

impl Permit {
    pub(crate) fn new(holder: Holder, token: u64, probe: Option<u32>) -> Self {
        let holder = Some(holder);
        Self { holder, token, probe, waiting_since: None, slow_timer: None, slow: false, slow_counted: false }
    }

    /// A permit of a breaker that does not take part.
    pub(crate) fn inert() -> Self {
        Self {
            holder: None,
            token: 0,
            probe: None,
            waiting_since: None,
            slow_timer: None,
            slow: false,
            slow_counted: false,
        }
    }

    /// The call has to wait: reads the start time, and arms the timer that finds it slow, where these are needed.
    pub(crate) fn wait(&mut self, cx: &mut Context<'_>) -> Result<(), NoTimer> {
        let Some(holder) = &self.holder else { return Ok(()) };
        let config = &holder.settings.config;
        if self.waiting_since.is_none() {
            let after_wait = matches!(config.abandoned, Abandoned::CountAfter(_));
            if !after_wait && config.slow_calls.is_none() {
                return Ok(());
            }
            let now = Instant::now();
            self.waiting_since = NonZeroU64::new(holder.settings.clock.at(now).saturating_add(1));
            if let Some((slower_than, _)) = config.slow_calls {
                self.slow_timer = Some(Timer::at(after(now, slower_than))?);
            }
        }
        if let Some(timer) = &mut self.slow_timer {
            if timer.poll(cx).is_ready() {
                self.slow_timer = None;
                self.slow = true;
                self.slow_counted = holder.record_slow(self.token, self.probe);
            }
        }
        Ok(())
    }

    /// How long the call has waited, at this time.
    fn waited(&self, now: &mut LazyNow<'_>) -> Duration {
        self.waiting_since
            .map_or(Duration::ZERO, |since| Duration::from_nanos(now.get().saturating_sub(since.get() - 1)))
    }

    fn end(&mut self, result: CallResult, outcome: Outcome, hint: Hint) {
        let Some(holder) = self.holder.take() else { return };
        let mut now = LazyNow::new(&holder.settings.clock);
        let slow_calls = holder.settings.config.slow_calls;
        let slow = self.slow || slow_calls.is_some_and(|(limit, _)| self.waited(&mut now) >= limit);
        let mut ended = Ended { slow, in_slow: self.slow_counted, probe: self.probe, ..Ended::new(outcome) };
        if outcome == Outcome::Good && !slow && self.probe.is_none() {
            (ended.in_failures, ended.in_slow) = holder.record_good(self.token, &mut now);
            if ended.in_failures && ended.in_slow {
                return holder.settings.report(result);
            }
        }
        if let Hint::RetryAfter(after) = hint {
            ended.hint = Some(after);
        }
        let result = match holder.record(self.token, ended, &mut now) {
            Vote::Off => return,
            Vote::Stale => CallResult::Stale,
            Vote::Counted if slow && result == CallResult::Success => CallResult::Slow,
            Vote::Counted => result,
        };
        holder.settings.report(result);
    }

    /// The call panicked.
    pub(crate) fn panicked(mut self) {
        self.end(CallResult::Failure, Outcome::Failed, Hint::None);
    }

    fn abandon(&mut self) {
        let Some(holder) = &self.holder else { return };
        let outcome = match holder.settings.config.abandoned {
            Abandoned::Ignore => Outcome::Ignored,
            Abandoned::CountAsFailure => Outcome::Failed,
            Abandoned::CountUnlessAnySuccess => Outcome::AbandonedUnlessSuccess,
            Abandoned::CountAfter(limit) => {
                let waited = self.waited(&mut LazyNow::new(&holder.settings.clock));
                if self.waiting_since.is_some() && waited >= limit {
                    Outcome::Failed
                } else {
                    Outcome::Ignored
                }
            }
        };
        self.end(CallResult::Abandoned, outcome, Hint::None);
    }
}

impl Settle for Permit {
    fn settle(mut self, verdict: Verdict) {
        let Some(holder) = &self.holder else { return };
        let count_throttling = holder.settings.config.count_throttling;
        let (result, outcome) = match verdict {
            Verdict::Success | Verdict::Rejected => (CallResult::Success, Outcome::Good),
            // A layer below refused: the dependency was not asked, so nothing is known about its health.
            Verdict::Ignored | Verdict::Failure { kind: Kind::Refused, .. } => {
                (CallResult::Ignored, Outcome::Ignored)
            }
            Verdict::Failure { kind: Kind::Throttled, .. } if !count_throttling => {
                (CallResult::Success, Outcome::Good)
            }
            Verdict::Failure { .. } => (CallResult::Failure, Outcome::Failed),
        };
        self.end(result, outcome, verdict.hint());
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Settles a permit as a failure when a panic passes through; to be forgotten otherwise.
pub(crate) struct OnPanic<'a>(pub(crate) &'a mut Option<Permit>);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.0.take() {
            permit.panicked();
        }
    }
}
