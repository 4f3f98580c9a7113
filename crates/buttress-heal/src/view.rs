use std::sync::{Arc, PoisonError};

use tokio::sync::watch;

use crate::gate::{Gate, Hub, Live};
use crate::signals::Signals;

/// What can be seen of the generations by whoever does not own them.
pub(crate) struct View<S> {
    pub(crate) hub: Arc<Hub>,
    pub(crate) gate: Arc<watch::Sender<Gate<S>>>,
}

impl<S> Clone for View<S> {
    fn clone(&self) -> Self {
        Self { hub: Arc::clone(&self.hub), gate: Arc::clone(&self.gate) }
    }
}

impl<S: Clone> View<S> {
    fn live(&self) -> Option<Arc<Live<S>>> {
        match &*self.gate.borrow() {
            Gate::Open(live) => Some(Arc::clone(live)),
            Gate::Shut(..) => None,
        }
    }

    /// The generation that takes calls, its target, and a clone of its service.
    pub(crate) fn current(&self) -> Option<(u64, usize, S)> {
        let live = self.live()?;
        Some((live.signals.generation(), live.target, live.service()?))
    }

    /// What its calls meet.
    pub(crate) fn signals(&self) -> Option<Arc<Signals>> {
        self.live().map(|live| Arc::clone(&live.signals))
    }

    /// Resolves when so many calls in a row of the current generation have not succeeded, and again after as many more.
    pub(crate) async fn suspected(&self) {
        loop {
            self.hub.suspicion.notified().await;
            let streak = self.signals().map_or(0, |signals| signals.failures_in_a_row());
            if streak >= self.hub.settings.suspect_after {
                return;
            }
        }
    }

    /// Resolves when nobody has the service any more.
    pub(crate) async fn unused(&self) {
        self.gate.closed().await;
    }

    /// How many callers wait for a generation.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.hub.waiting.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// From now on refusals name this incident, of which a human has been told; or none.
    pub(crate) fn escalate(&self, incident: Option<Arc<str>>) {
        *self.hub.incident.lock().unwrap_or_else(PoisonError::into_inner) = incident;
    }
}
