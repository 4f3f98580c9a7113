use std::num::NonZeroU32;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;
use std::time::Duration;

use buttress_core::clock::{LazyNow, after, before_poll, first_wait};
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
///
/// Services hold one for each call; [`try_acquire`](crate::CircuitBreakerHandle::try_acquire) gives one by hand.
#[derive(Debug, Default)]
pub struct Permit(Option<Open>);

/// A call that has not ended, in a breaker that takes part.
#[derive(Debug)]
struct Open {
    holder: Holder,
    /// The gate at admission: which generation the call belongs to.
    token: u64,
    /// When the call first had to wait, since its answer last went on.
    waiting_since: Option<Instant>,
    /// Fires when a call that still runs becomes slow.
    slow_timer: Timer,
    probe: Option<NonZeroU32>,
    /// [`SLOW`], [`COUNTED`], [`INSIDE`]: a whole word, because a permit is copied word by word.
    flags: u32,
}

/// The call has become slow.
const SLOW: u32 = 1;
/// The window over slow calls has it already.
const COUNTED: u32 = 2;
/// The service has control: only a panic ends the call now.
const INSIDE: u32 = 4;

impl Permit {
    #[inline]
    pub(crate) fn new(holder: Holder, token: u64, probe: Option<NonZeroU32>) -> Self {
        let (waiting_since, slow_timer, flags) = (None, Timer::default(), 0);
        Self(Some(Open { holder, token, waiting_since, slow_timer, probe, flags }))
    }

    /// One whose call has begun.
    pub(crate) fn begun(mut self) -> Self {
        if let Some(open) = &mut self.0 {
            open.waiting_since = open.needs_time().then(Instant::now);
        }
        self
    }

    /// Ends the call with this verdict. Of a call that has ended, nothing changes.
    #[inline]
    pub fn settle(&mut self, verdict: Verdict) {
        let Some(open) = &self.0 else { return };
        if matches!(verdict, Verdict::Success | Verdict::Rejected) && open.holder.is_as_it_was(open.token) {
            open.holder.settings.report(CallResult::Success);
        } else {
            open.settle(verdict);
        }
        // Field by field, so that it is compiled into the place where it is needed.
        if let Some(Open { holder, slow_timer, .. }) = self.0.take() {
            drop(holder);
            drop(slow_timer);
        }
    }

    /// The call succeeded.
    pub fn success(mut self) {
        self.settle(Verdict::Success);
    }

    /// The call failed, in a way that may pass; [`settle`](Permit::settle) takes what is known of it, such as the time that the
    /// server wants to be left alone.
    pub fn failure(mut self) {
        self.settle(Verdict::failure(Kind::Transient));
    }

    /// Gives control to the service: from here to [`leave`](Permit::leave), only a panic drops the permit.
    #[inline]
    pub(crate) fn enter(&mut self) {
        if let Some(open) = &mut self.0 {
            open.flags |= INSIDE;
            if open.waiting_since.is_none() {
                before_poll();
            }
        }
    }

    #[inline]
    pub(crate) fn leave(&mut self) {
        if let Some(open) = &mut self.0 {
            open.flags &= !INSIDE;
        }
    }

    /// The call has to wait: reads the start time, and arms the timer that finds it slow, where these are needed.
    #[inline]
    pub(crate) fn wait(&mut self, cx: &mut Context<'_>) -> Result<(), NoTimer> {
        match &mut self.0 {
            Some(open) => open.wait(cx, first_wait),
            None => Ok(()),
        }
    }
}

impl Settle for Permit {
    #[inline]
    fn settle(&mut self, verdict: Verdict) {
        Permit::settle(self, verdict);
    }

    #[inline]
    fn resume(&mut self) {
        if let Some(open @ Open { waiting_since: Some(_), .. }) = &mut self.0 {
            open.resume();
        }
    }

    fn pause(&mut self, cx: &mut Context<'_>) -> Result<(), NoTimer> {
        match &mut self.0 {
            Some(open) => open.wait(cx, Instant::now),
            None => Ok(()),
        }
    }

    fn leave(&mut self, verdict: Verdict) {
        let Some(open) = &self.0 else { return };
        match open.holder.settings.config().abandoned {
            Abandoned::CountAfter(limit) if !open.has_waited(limit) => self.settle(verdict),
            _ => *self = Self(None),
        }
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        if let Some(open) = &self.0 {
            open.abandon();
        }
    }
}

impl Open {
    /// Whether anything depends on how long the call takes.
    fn needs_time(&self) -> bool {
        self.holder.settings.waits.load(Relaxed) != 0
    }

    /// Apart, so that a call that is polled is small enough to be compiled into the place where it is awaited.
    #[inline(never)]
    fn wait(&mut self, cx: &mut Context<'_>, now: fn() -> Instant) -> Result<(), NoTimer> {
        let settings = &self.holder.settings;
        if self.waiting_since.is_none() {
            let waits = settings.waits.load(Relaxed);
            if waits == 0 {
                return Ok(());
            }
            let now = now();
            self.waiting_since = Some(now);
            if waits > 1 && self.flags & SLOW == 0 {
                self.slow_timer = Timer::at(after(now, Duration::from_nanos(waits >> 1)))?;
            }
        }
        if self.slow_timer.is_set() && self.slow_timer.poll(cx).is_ready() {
            self.slow_timer = Timer::default();
            let counted = self.holder.record_slow(self.token, self.probe);
            self.flags |= if counted { SLOW | COUNTED } else { SLOW };
        }
        Ok(())
    }

    /// The answer went on after a wait, of which no more is kept than whether it was slow.
    fn resume(&mut self) {
        if self.flags & SLOW == 0 && self.was_slow(&mut LazyNow::new(&self.holder.settings.clock)) {
            self.flags |= SLOW;
        }
        (self.waiting_since, self.slow_timer) = (None, Timer::default());
    }

    fn has_waited(&self, limit: Duration) -> bool {
        self.waiting_since.is_some_and(|since| since.elapsed() >= limit)
    }

    #[inline(never)]
    fn settle(&self, verdict: Verdict) {
        let (result, outcome) = match verdict {
            Verdict::Success | Verdict::Rejected => (CallResult::Success, Outcome::Good),
            // A layer below refused, or the protocol gave the request back: the dependency was not asked, so nothing is known
            // about its health.
            Verdict::Ignored | Verdict::Failure { kind: Kind::Refused | Kind::Unprocessed, .. } => {
                (CallResult::Ignored, Outcome::Ignored)
            }
            Verdict::Failure { kind: Kind::Conflict, .. } => (CallResult::Success, Outcome::Good),
            Verdict::Failure { kind: Kind::Throttled, .. } if !self.counts_throttling() => {
                (CallResult::Success, Outcome::Good)
            }
            Verdict::Failure { .. } => (CallResult::Failure, Outcome::Failed),
        };
        self.end(result, outcome, verdict.hint());
    }

    #[cold]
    fn counts_throttling(&self) -> bool {
        self.holder.settings.config().count_throttling
    }

    #[inline]
    fn end(&self, result: CallResult, outcome: Outcome, hint: Hint) {
        let mut now = LazyNow::new(&self.holder.settings.clock);
        let slow = self.flags & SLOW != 0 || self.was_slow(&mut now);
        let mut counted = (false, false);
        if outcome == Outcome::Good && !slow && self.probe.is_none() {
            counted = self.holder.record_good(self.token, &mut now);
            if counted == (true, true) {
                return self.holder.settings.report(result);
            }
        }
        let hint = if let Hint::RetryAfter(after) = hint { Some(after) } else { None };
        let (in_failures, in_slow) = (counted.0, counted.1 || self.flags & COUNTED != 0);
        let ended = Ended { outcome, slow, in_failures, in_slow, probe: self.probe, hint };
        self.end_under_lock(ended, result, &mut now);
    }

    /// Whether the call took too long, although no timer has said so.
    #[inline]
    fn was_slow(&self, now: &mut LazyNow<'_>) -> bool {
        self.waiting_since.is_some() && self.is_slow_by_now(now)
    }

    /// Apart, since most calls that are asked have not waited.
    #[inline(never)]
    fn is_slow_by_now(&self, now: &mut LazyNow<'_>) -> bool {
        let settings = &self.holder.settings;
        if let Some(slow_from) = self.slow_timer.deadline() {
            return now.get() >= settings.clock.at(slow_from);
        }
        // A permit by hand has no timer, nor needs a runtime that has one.
        let slower_than = settings.waits.load(Relaxed) >> 1;
        let since = self.waiting_since.filter(|_| slower_than > 0);
        since.is_some_and(|since| now.get().saturating_sub(settings.clock.at(since)) >= slower_than)
    }

    /// Ends a call that is not simply a good one.
    #[cold]
    fn end_under_lock(&self, ended: Ended, result: CallResult, now: &mut LazyNow<'_>) {
        let result = match self.holder.record(self.token, ended, now) {
            Vote::Off => return,
            Vote::Stale => CallResult::Stale,
            Vote::Counted if ended.slow && result == CallResult::Success => CallResult::Slow,
            Vote::Counted => result,
        };
        self.holder.settings.report(result);
    }

    #[cold]
    fn abandon(&self) {
        if self.flags & INSIDE != 0 {
            return self.end(CallResult::Failure, Outcome::Failed, Hint::None);
        }
        let outcome = match self.holder.settings.config().abandoned {
            Abandoned::Ignore => Outcome::Ignored,
            Abandoned::CountAsFailure => Outcome::Failed,
            Abandoned::CountUnlessAnySuccess => Outcome::AbandonedUnlessSuccess,
            Abandoned::CountAfter(limit) if self.has_waited(limit) => Outcome::Failed,
            Abandoned::CountAfter(_) => Outcome::Ignored,
        };
        self.end(CallResult::Abandoned, outcome, Hint::None);
    }
}
