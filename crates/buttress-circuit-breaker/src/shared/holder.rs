//! What services and calls do with a breaker: look, ask for admission, and say how a call ended.

use std::num::NonZeroU32;
use std::sync::Arc;

use buttress_core::clock::{LazyNow, nanos};
use buttress_core::observe::{CallResult, CircuitState, Event};
use buttress_core::sync::atomic::Ordering::{Acquire, Relaxed};
use buttress_core::{BoxError, Mode, Reason, Refused, Timer};
use tokio::task::AbortHandle;

use super::{
    Breaker, CLEAN, CLOSED, GENERATION, HALF_OPEN, MODE, OFF, OPEN, REFUSED, REFUSED_SHIFT, STATE, Settings,
    WINDOWED,
};
use crate::config::Config;
use crate::permit::Permit;
use crate::state::{Admission, Change, Ended, Machine, Tallies, Vote};
use crate::window::Tally;

/// A breaker that refuses, before anybody called it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    /// Until when, on the breaker's clock.
    pub(crate) until: Option<u64>,
}

/// What a service should do about its readiness.
pub(crate) enum Look {
    Flow,
    /// A probe is due, if the service inside is ready for one; if not, this is the refusal.
    Probe(Refusal),
    Refuse(Refusal),
}

/// A share in a breaker, as a call holds it.
#[derive(Clone, Debug)]
pub(crate) enum Holder {
    Shared(Arc<Breaker>),
    /// With a count of its own, so that cloning it does not touch a cache line that other workers write.
    #[expect(clippy::redundant_allocation, reason = "the outer count is the point")]
    Worker(Arc<Arc<Breaker>>),
    /// Never freed, and not counted.
    Leaked(&'static Arc<Breaker>),
    Keyed(Arc<Keyed>),
}

/// The breaker of one key.
#[derive(Debug)]
pub(crate) struct Keyed {
    pub(crate) breaker: Breaker,
    pub(crate) key: Arc<str>,
}

impl std::ops::Deref for Holder {
    type Target = Breaker;

    fn deref(&self) -> &Breaker {
        match self {
            Self::Shared(breaker) => breaker,
            Self::Worker(breaker) => breaker,
            Self::Leaked(breaker) => breaker,
            Self::Keyed(keyed) => &keyed.breaker,
        }
    }
}

impl Holder {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self::Shared(Arc::new(Breaker::new(settings)))
    }

    pub(crate) fn per_worker(self) -> Self {
        match self {
            Self::Shared(breaker) => Self::Worker(Arc::new(breaker)),
            Self::Worker(breaker) => Self::Worker(Arc::new(Arc::clone(&breaker))),
            other @ (Self::Leaked(_) | Self::Keyed(_)) => other,
        }
    }

    pub(crate) fn leaked(self) -> Self {
        match self {
            Self::Shared(breaker) => Self::Leaked(Box::leak(Box::new(breaker))),
            Self::Worker(breaker) => Self::Leaked(Box::leak(Box::new(Arc::clone(&breaker)))),
            other @ (Self::Leaked(_) | Self::Keyed(_)) => other,
        }
    }

    fn key(&self) -> Option<&Arc<str>> {
        match self {
            Self::Keyed(keyed) => Some(&keyed.key),
            _ => None,
        }
    }

    /// What a service should do about its readiness. Admits nothing, but ends probes whose lease is over: a call that
    /// is refused from here never asks for admission.
    #[inline]
    pub(crate) fn look(&self) -> Look {
        let gate = self.gate.load(Acquire);
        if gate & STATE == CLOSED { Look::Flow } else { self.look_closer(gate) }
    }

    #[cold]
    fn look_closer(&self, mut gate: u64) -> Look {
        if gate & (STATE | MODE) == HALF_OPEN {
            self.tick(false);
            gate = self.gate.load(Acquire);
        }
        if gate & STATE == CLOSED || gate & MODE != 0 {
            return Look::Flow;
        }
        let refusal = |reason, until| Refusal { reason, until };
        let until = self.until.load(Relaxed);
        let now = self.settings.clock.now();
        if gate & STATE == OPEN && now < until {
            return Look::Refuse(refusal(Reason::CircuitOpen, Some(until)));
        }
        // Nobody has got through to a service that was never ready at once: from now on callers wait for it.
        let overdue = now >= until.saturating_add(nanos(self.settings.config().lease()));
        match gate & STATE {
            OPEN if overdue => Look::Flow,
            OPEN => Look::Probe(refusal(Reason::CircuitOpen, Some(until))),
            HALF_OPEN => {
                let refusal = refusal(Reason::ProbesInFlight, None);
                match self.lock().would_admit(&self.settings.config()) {
                    true if overdue => Look::Flow,
                    true => Look::Probe(refusal),
                    false => Look::Refuse(refusal),
                }
            }
            _ => Look::Refuse(refusal(Reason::CircuitIsolated, None)),
        }
    }

    /// The token of a call that flows, as all do while the circuit is closed.
    #[inline]
    pub(crate) fn flow(&self) -> Option<u64> {
        let gate = self.gate.load(Acquire);
        (gate & (STATE | OFF) == CLOSED).then_some(gate)
    }

    /// Whether nothing has happened since this token was given, in a circuit where a good call then changes nothing.
    #[inline]
    pub(crate) fn is_as_it_was(&self, token: u64) -> bool {
        // Only a closed circuit is clean.
        token & (CLEAN | WINDOWED | OFF) == CLEAN && self.gate.load(Acquire) == token
    }

    /// Lets a call in with a permit, or not.
    #[cold]
    pub(crate) fn admit(&self) -> Result<Permit, Refusal> {
        let gate = self.gate.load(Acquire);
        if gate & (STATE | OFF) == CLOSED {
            return Ok(Permit::new(self.clone(), gate, None));
        }
        if gate & OFF != 0 {
            return Ok(Permit::default());
        }
        let mut now = LazyNow::new(&self.settings.clock);
        let until = self.until.load(Relaxed);
        let refusal = if gate & STATE == OPEN && now.get() < until {
            Refusal { reason: Reason::CircuitOpen, until: Some(until) }
        } else {
            let (admission, gate) = self.apply(&mut now, |machine, config, tallies, now| {
                let now = now.get();
                machine.admit(config, tallies, self.due(now), now)
            });
            match admission {
                Admission::Flow => return Ok(Permit::new(self.clone(), gate, None)),
                Admission::Probe(number) => return Ok(Permit::new(self.clone(), gate, Some(number))),
                Admission::Refuse(reason) => {
                    let until = (gate & STATE == OPEN).then(|| self.until.load(Relaxed));
                    Refusal { reason, until }
                }
            }
        };
        if gate & MODE == 0 {
            return Err(refusal);
        }
        self.settings.observer.emit(&self.settings.name, || Event::WouldRefuse);
        Ok(Permit::default())
    }

    /// Counts and words a refusal.
    #[cold]
    pub(crate) fn refuse(&self, refusal: Refusal) -> BoxError {
        Box::new(self.refused_call(refusal))
    }

    /// As [`refuse`](Holder::refuse), unboxed.
    pub(crate) fn refused_call(&self, refusal: Refusal) -> Refused {
        // Stops well short of the generation's bits, however many threads count at once.
        if self.refused() < (REFUSED >> REFUSED_SHIFT) - 0xFFFF {
            self.gate.fetch_add(1 << REFUSED_SHIFT, Relaxed);
        }
        self.settings.report(CallResult::Refused);
        let name = match self.key() {
            Some(key) if !key.is_empty() => format!("{}/{key}", self.settings.name).into(),
            _ => Arc::clone(&self.settings.name),
        };
        let refused = Refused::new("circuit breaker", name, refusal.reason);
        match refusal.until {
            Some(until) => refused.until(self.settings.clock.instant(until)),
            None => refused,
        }
    }

    /// Takes the result of a good call that was neither slow nor a probe, as far as that takes no lock: whether the
    /// windows over failures and over slow calls have it.
    ///
    /// What ends while an operator closes a closed circuit may be in the new windows, as if it had begun a moment later.
    #[inline]
    pub(crate) fn record_good(&self, token: u64, now: &mut LazyNow<'_>) -> (bool, bool) {
        let gate = self.gate.load(Acquire);
        // Same generation, closed, not off; and clean.
        if (gate ^ token) & (GENERATION | STATE) != 0 || gate & OFF != 0 || gate & CLEAN == 0 {
            return (false, false);
        }
        let Some(aside) = self.aside.get() else { return (true, true) };
        let mut counted = |tally: &Tally| tally.good(|| now.get());
        (counted(&aside.failures), counted(&aside.slow))
    }

    /// Takes the result of a call.
    #[cold]
    pub(crate) fn record(&self, token: u64, ended: Ended, now: &mut LazyNow<'_>) -> Vote {
        let (vote, _) = self.apply(now, |machine, config, tallies, now| {
            match (self.mode(), self.is_stale(token)) {
                (Mode::Off, true) => (Vote::Off, None),
                // Nothing is recorded, but a probe gives its slot back.
                (Mode::Off, false) => (Vote::Off, machine.release(config, tallies, ended.probe, now)),
                (_, true) => (machine.record_stale(), None),
                (_, false) => machine.record(config, tallies, ended, now),
            }
        });
        vote
    }

    /// A call that is still running has become slow. Whether that counts already.
    #[cold]
    pub(crate) fn record_slow(&self, token: u64, probe: Option<NonZeroU32>) -> bool {
        let mut now = LazyNow::new(&self.settings.clock);
        let (counted, _) = self.apply(&mut now, |machine, config, tallies, now| {
            if self.is_stale(token) || self.mode() == Mode::Off {
                return (false, None);
            }
            machine.record_slow(config, tallies, probe, now)
        });
        counted
    }

    fn is_stale(&self, token: u64) -> bool {
        (self.gate.load(Relaxed) ^ token) & GENERATION != 0
    }

    /// Does what time alone has brought about; `eager` also ends the open time.
    pub(crate) fn tick(&self, eager: bool) {
        self.apply(&mut LazyNow::new(&self.settings.clock), |machine, config, tallies, now| {
            let now = now.get();
            ((), machine.tick(config, tallies, eager && self.due(now), now))
        });
    }

    /// Changes the machine under its lock and lets observers know outside of it, in order. Also returns the gate as it
    /// was published.
    pub(crate) fn apply<R>(
        &self,
        now: &mut LazyNow<'_>,
        f: impl FnOnce(&mut Machine, &Config, Tallies<'_>, &mut LazyNow<'_>) -> (R, Option<Change>),
    ) -> (R, u64) {
        let settings = &self.settings;
        let (result, change, gate) = self.change(now, |machine, config, tallies, now| {
            let (result, change) = f(machine, config, tallies, now);
            if let Some(Change { from, to, cause, open_for }) = change {
                if from != to && settings.observer.is_set() {
                    let key = self.key().cloned();
                    settings.outbox.push(Event::Circuit { key, from, to, cause, open_for });
                }
            }
            (result, change)
        });
        if let Some(change) = change {
            // Before observers hear of it: they may change the state themselves.
            if let Some(aside) = self.aside.get().filter(|_| settings.config().eager) {
                aside.wake_with(gate, change.open_for.and_then(|_| self.wake()));
            }
            settings.changed.notify_waiters();
            settings.outbox.deliver(&settings.observer, &settings.name);
        }
        (result, gate)
    }

    /// Obeys the configuration that is in force now: what is kept of the state, and what begins anew, is said at
    /// [`CircuitBreakerHandle::set_config`](crate::CircuitBreakerHandle::set_config).
    pub(crate) fn configure(&self) {
        let mut now = LazyNow::new(&self.settings.clock);
        let (_, gate) = self
            .apply(&mut now, |machine, config, tallies, now| ((), machine.configure(config, tallies, now)));
        if let Some(aside) = self.aside.get() {
            let eager = self.settings.config().eager && self.state().0 == CircuitState::Open;
            aside.wake_with(gate, if eager { self.wake() } else { None });
        }
    }

    /// Ends the open time on a timer, where there is one. The task keeps nothing alive.
    fn wake(&self) -> Option<AbortHandle> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let (weak, clock) = (self.downgrade(), self.settings.clock);
        let mut timer = Timer::at(clock.instant(self.until.load(Relaxed))).ok()?;
        let task = runtime.spawn(async move {
            loop {
                timer.await;
                let Some(holder) = weak.upgrade() else { return };
                holder.tick(true);
                // It has been opened anew meanwhile, by whoever was faster than the abort of this task.
                let Some(until) = holder.state().2 else { return };
                let Ok(again) = Timer::at(clock.instant(until)) else { return };
                timer = again;
            }
        });
        Some(task.abort_handle())
    }

    pub(crate) fn downgrade(&self) -> WeakHolder {
        match self {
            Self::Shared(breaker) => WeakHolder::Shared(Arc::downgrade(breaker)),
            Self::Worker(breaker) => WeakHolder::Shared(Arc::downgrade(breaker)),
            Self::Leaked(breaker) => WeakHolder::Shared(Arc::downgrade(breaker)),
            Self::Keyed(keyed) => WeakHolder::Keyed(Arc::downgrade(keyed)),
        }
    }
}

/// Does not keep a breaker alive.
#[derive(Clone, Debug)]
pub(crate) enum WeakHolder {
    Shared(std::sync::Weak<Breaker>),
    Keyed(std::sync::Weak<Keyed>),
}

impl WeakHolder {
    pub(crate) fn upgrade(&self) -> Option<Holder> {
        match self {
            Self::Shared(weak) => weak.upgrade().map(Holder::Shared),
            Self::Keyed(weak) => weak.upgrade().map(Holder::Keyed),
        }
    }
}
