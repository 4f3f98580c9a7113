use std::sync::{Arc, PoisonError};
use std::task::Context;

use crate::gate::{Entrance, Gate, Hub, Live};
use crate::signals::Signals;
use crate::unwind::Foreign;

/// What can be seen of the generations by whoever does not own them.
pub(crate) struct View<S> {
    pub(crate) hub: Arc<Hub>,
    pub(crate) entrance: Arc<Entrance<S>>,
}

impl<S> Clone for View<S> {
    fn clone(&self) -> Self {
        Self { hub: Arc::clone(&self.hub), entrance: Arc::clone(&self.entrance) }
    }
}

impl<S: Clone> View<S> {
    fn live(&self) -> Option<Arc<Live<S>>> {
        match &*self.entrance.gate() {
            Gate::Open(live) => Some(Arc::clone(live)),
            Gate::Shut(..) => None,
        }
    }

    /// The generation that takes calls, its target, and a clone of its service: whoever asks counts on a panic in that.
    pub(crate) fn current(&self) -> Option<(u64, usize, Foreign<S>)> {
        let live = self.live()?;
        Some((live.signals.generation(), live.target, Foreign::new(live.service()?)))
    }

    /// The target of the generation that takes calls.
    pub(crate) fn target(&self) -> Option<usize> {
        self.live().map(|live| live.target)
    }

    /// What its calls meet.
    pub(crate) fn signals(&self) -> Option<Arc<Signals>> {
        self.live().map(|live| Arc::clone(&live.signals))
    }

    /// Whether so many calls in a row of the current generation have not succeeded, and again after as many more. If not, this task
    /// is woken when that may be.
    pub(crate) fn is_suspected(&self, cx: &Context<'_>) -> bool {
        let streak = || self.signals().map_or(0, |signals| signals.failures_in_a_row());
        self.hub.bell.was_suspected(cx) && streak() >= self.hub.settings.suspect_after
    }

    /// Whether nobody has the service any more. If somebody has, this task is woken when nobody has.
    pub(crate) fn is_unused(&self, cx: &Context<'_>) -> bool {
        self.hub.bell.is_unused(cx)
    }

    /// How many callers wait for a generation.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.hub.waiting.load(std::sync::atomic::Ordering::Relaxed) as usize
    }

    /// From now on refusals name this incident, of which a human has been told; or none.
    pub(crate) fn escalate(&self, incident: Option<Arc<str>>) {
        *self.hub.incident.lock().unwrap_or_else(PoisonError::into_inner) = incident;
    }
}
