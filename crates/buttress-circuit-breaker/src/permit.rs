use std::num::NonZeroU64;
use std::task::Context;

use buttress_core::clock::{LazyNow, after, nanos};
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
    #[inline]
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

    fn end(&mut self, result: CallResult, outcome: Outcome, hint: Hint) {
        let Some(holder) = self.holder.take() else { return };
        let mut now = LazyNow::new(&holder.settings.clock);
        let slow = self.slow || self.was_slow(&holder, &mut now);
        let mut counted = (false, false);
        if outcome == Outcome::Good && !slow && self.probe.is_none() {
            counted = holder.record_good(self.token, &mut now);
            if counted == (true, true) {
                return holder.settings.report(result);
            }
        }
        let hint = if let Hint::RetryAfter(after) = hint { Some(after) } else { None };
        let (in_failures, in_slow) = (counted.0, counted.1 || self.slow_counted);
        let ended = Ended { outcome, slow, in_failures, in_slow, probe: self.probe, hint };
        end_under_lock(&holder, self.token, ended, result, &mut now);
    }

    /// Whether the call took too long, although no timer has said so.
    fn was_slow(&self, holder: &Holder, now: &mut LazyNow<'_>) -> bool {
        let (Some(since), Some((limit, _))) = (self.waiting_since, holder.settings.config.slow_calls) else {
            return false;
        };
        now.get().saturating_sub(since.get() - 1) >= nanos(limit)
    }

    /// The call panicked.
    pub(crate) fn panicked(mut self) {
        self.end(CallResult::Failure, Outcome::Failed, Hint::None);
    }

    #[cold]
    fn abandon(&mut self) {
        let Some(holder) = &self.holder else { return };
        let outcome = match holder.settings.config.abandoned {
            Abandoned::Ignore => Outcome::Ignored,
            Abandoned::CountAsFailure => Outcome::Failed,
            Abandoned::CountUnlessAnySuccess => Outcome::AbandonedUnlessSuccess,
            Abandoned::CountAfter(limit) => {
                let now = || holder.settings.clock.now();
                match self.waiting_since {
                    Some(since) if now().saturating_sub(since.get() - 1) >= nanos(limit) => Outcome::Failed,
                    _ => Outcome::Ignored,
                }
            }
        };
        self.end(CallResult::Abandoned, outcome, Hint::None);
    }
}

/// Ends a call that is not simply a good one.
#[cold]
fn end_under_lock(holder: &Holder, token: u64, ended: Ended, result: CallResult, now: &mut LazyNow<'_>) {
    let result = match holder.record(token, ended, now) {
        Vote::Off => return,
        Vote::Stale => CallResult::Stale,
        Vote::Counted if ended.slow && result == CallResult::Success => CallResult::Slow,
        Vote::Counted => result,
    };
    holder.settings.report(result);
}

impl Settle for Permit {
    #[inline]
    fn settle(mut self, verdict: Verdict) {
        if let (Verdict::Success | Verdict::Rejected, Some(holder)) = (verdict, &self.holder) {
            if holder.is_as_it_was(self.token) {
                holder.settings.report(CallResult::Success);
                self.holder = None;
                return;
            }
        }
        self.judge(verdict);
    }
}

impl Permit {
    fn judge(&mut self, verdict: Verdict) {
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
    #[inline]
    fn drop(&mut self) {
        if self.holder.is_some() {
            self.abandon();
        }
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
