//! What all clones of a supervised service see: the generation that takes calls, or why there is none.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{Event, Observer, Reason, Refused, within};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use crate::lane::{Lane, Lanes};
use crate::ramp::{Place, Ramp};
use crate::settings::{SwapSettings, Waiting};
use crate::signals::Signals;
use crate::unavailable::{Cause, Unavailable, Why};

/// Whether calls can be made.
pub(crate) enum Gate<S> {
    Open(Arc<Live<S>>),
    Shut(Why, Option<Cause>),
}

/// A generation that takes calls, or has taken some.
pub(crate) struct Live<S> {
    pub(crate) signals: Arc<Signals>,
    pub(crate) target: usize,
    /// The one that is cloned; gone when the generation is.
    pub(crate) service: Mutex<Option<S>>,
    pub(crate) ramp: Option<Ramp>,
    /// Given up when it drains.
    pub(crate) lanes: Lanes,
}

impl<S> Live<S> {
    /// A share in the generation, for one call, unless it is gone.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Arc<Lane>> {
        self.lanes.enter(&self.signals)
    }

    pub(crate) fn supersede(&self) {
        self.signals.supersede();
        if let Some(ramp) = &self.ramp {
            ramp.end(&self.signals);
        }
    }
}

impl<S: Clone> Live<S> {
    pub(crate) fn service(&self) -> Option<S> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What does not depend on the kind of service.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    pub(crate) name: Arc<str>,
    pub(crate) settings: Arc<SwapSettings>,
    pub(crate) observer: Observer,
    pub(crate) bell: Bell,
    /// Somebody wants to know how long calls take.
    pub(crate) timed: AtomicBool,
    /// Callers that wait for a generation.
    pub(crate) waiting: AtomicU32,
    /// The key of the incident that a human has been told of.
    pub(crate) incident: Mutex<Option<Arc<str>>>,
}

impl Hub {
    pub(crate) fn unavailable(&self, why: Why, cause: Option<Cause>) -> Unavailable {
        let retry_after = match why {
            Why::Starting => Some(self.settings.at_start.within),
            Why::Replacing => Some(self.settings.for_swap.within),
            Why::NotReady => Some(self.settings.patience),
            Why::NoService => Some(Duration::from_secs(1)),
            Why::Gone | Why::NotAsked => Some(Duration::ZERO),
            Why::ShutDown => None,
        };
        let refused = Refused::new("heal", Arc::clone(&self.name), Reason::Unavailable);
        let refused = match retry_after {
            Some(time) => refused.until(after(Instant::now(), time)),
            None => refused,
        };
        let incident = self.incident.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.observer.emit(&self.name, || Event::Refused(Reason::Unavailable));
        Unavailable { refused, why, incident, cause }
    }
}

/// Wakes the supervisor's task, and says what for.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// The calls of the current generation give reason to look.
    suspicion: AtomicBool,
    /// Nobody has the service any more.
    unused: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Bell {
    pub(crate) fn suspect(&self) {
        self.suspicion.store(true, Relaxed);
        self.ring();
    }

    /// Whether there was a reason to look since this was last asked. If not, this task is woken by the next one.
    pub(crate) fn was_suspected(&self, cx: &Context<'_>) -> bool {
        self.listen(cx);
        self.suspicion.swap(false, Relaxed)
    }

    /// Whether nobody has the service any more. If somebody has, this task is woken when nobody has.
    pub(crate) fn is_unused(&self, cx: &Context<'_>) -> bool {
        self.listen(cx);
        self.unused.load(Relaxed)
    }

    /// What was said before is seen by whoever listens before it looks: both take the lock.
    pub(crate) fn ring(&self) {
        let waker = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// This task is woken by the next ring.
    pub(crate) fn listen(&self, cx: &Context<'_>) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }
}

/// What there is to go through, and who waits for something else.
///
/// Asked by calls that are not under way yet, and seldom by those: a lock is as good as a channel, which is large.
pub(crate) struct Entrance<S> {
    gate: Mutex<Gate<S>>,
    changed: Notify,
}

impl<S> Entrance<S> {
    pub(crate) fn new(gate: Gate<S>) -> Self {
        Self { gate: Mutex::new(gate), changed: Notify::new() }
    }

    /// No user code runs under this lock.
    pub(crate) fn gate(&self) -> MutexGuard<'_, Gate<S>> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, gate: Gate<S>) {
        // Dropped when the lock is free: a service is user code.
        let _old = std::mem::replace(&mut *self.gate(), gate);
        self.changed.notify_waiters();
    }

    /// `None` once nobody will open the gate any more.
    async fn wait(&self) -> Option<Admitted<S>> {
        loop {
            let changed = self.changed.notified();
            let full = match &*self.gate() {
                Gate::Open(live) => match live.ramp.as_ref().map(Ramp::place) {
                    None | Some(Place::NotNeeded) => {
                        return Some(Admitted { live: Arc::clone(live), place: None });
                    }
                    Some(Place::Taken(place)) => {
                        return Some(Admitted { live: Arc::clone(live), place: Some(place) });
                    }
                    Some(Place::Full(places)) => Some((places, Arc::clone(live))),
                },
                Gate::Shut(Why::ShutDown, _) => return None,
                Gate::Shut(..) => None,
            };
            match full {
                // It is closed when no place is needed any more, and when another generation takes over.
                Some((places, live)) => {
                    if let Ok(place) = places.acquire_owned().await {
                        return Some(Admitted { live, place: Some(place) });
                    }
                }
                None => changed.await,
            }
        }
    }

    /// Resolves when there is another generation than this, or none.
    async fn moved(&self, from: u64) {
        loop {
            let changed = self.changed.notified();
            let is_there = matches!(&*self.gate(), Gate::Open(live) if live.signals.generation() == from);
            if !is_there {
                return;
            }
            changed.await;
        }
    }
}

/// What the clones of a service share.
pub(crate) struct Shared<S> {
    pub(crate) hub: Arc<Hub>,
    pub(crate) entrance: Arc<Entrance<S>>,
}

impl<S> Drop for Shared<S> {
    fn drop(&mut self) {
        self.hub.bell.unused.store(true, Relaxed);
        self.hub.bell.ring();
    }
}

/// A generation to make a call with, and a place in it where it starts slowly.
pub(crate) struct Admitted<S> {
    pub(crate) live: Arc<Live<S>>,
    pub(crate) place: Option<OwnedSemaphorePermit>,
}

pub(crate) enum Admission<S> {
    Now(Admitted<S>),
    Refused(Unavailable),
    Wait(Ticket),
}

impl<S> Shared<S> {
    /// Lets a caller in, refuses it, or lets it wait.
    pub(crate) fn admit(&self) -> Admission<S> {
        let (why, cause) = match &*self.entrance.gate() {
            Gate::Open(live) => match live.ramp.as_ref().map(Ramp::place) {
                None | Some(Place::NotNeeded) => {
                    return Admission::Now(Admitted { live: Arc::clone(live), place: None });
                }
                Some(Place::Taken(place)) => {
                    return Admission::Now(Admitted { live: Arc::clone(live), place: Some(place) });
                }
                Some(Place::Full(_)) => (Why::Replacing, None),
            },
            Gate::Shut(why, cause) => (*why, cause.clone()),
        };
        let waiting = match why {
            Why::Starting => self.hub.settings.at_start,
            Why::Replacing => self.hub.settings.for_swap,
            _ => Waiting { callers: 0, within: Duration::ZERO },
        };
        match Ticket::take(&self.hub, why, waiting) {
            Some(ticket) => Admission::Wait(ticket),
            None => Admission::Refused(self.hub.unavailable(why, cause)),
        }
    }

    /// A service is there, or not in time.
    pub(crate) async fn wait(self: Arc<Self>, ticket: Ticket) -> Result<Admitted<S>, Unavailable> {
        let admitted = within(ticket.within, self.entrance.wait()).await.flatten();
        admitted.ok_or_else(|| ticket.hub.unavailable(ticket.why, None))
    }

    /// Whether the gate shows another generation than this within the time.
    pub(crate) async fn change(self: Arc<Self>, from: u64) -> bool {
        within(self.hub.settings.patience, self.entrance.moved(from)).await.is_some()
    }
}

/// One of the callers that wait.
pub(crate) struct Ticket {
    hub: Arc<Hub>,
    why: Why,
    within: Duration,
}

impl Ticket {
    fn take(hub: &Arc<Hub>, why: Why, waiting: Waiting) -> Option<Self> {
        let room = |callers: u32| callers.checked_add(1).filter(|_| (callers as usize) < waiting.callers);
        hub.waiting.fetch_update(Relaxed, Relaxed, room).ok()?;
        Some(Self { hub: Arc::clone(hub), why, within: waiting.within })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.hub.waiting.fetch_sub(1, Relaxed);
    }
}

impl<S> fmt::Debug for Live<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("generation", &self.signals.generation()).finish_non_exhaustive()
    }
}
