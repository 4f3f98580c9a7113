//! What Buttress did, counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use buttress::core::observe::CallResult;
use buttress::core::{Event, Kind, Observe};
use serde::Serialize;
use tokio::time::Instant;

use crate::timeline::millis;

/// Counts the events of all stacks of a run.
#[derive(Debug)]
pub(crate) struct Tally {
    start: Instant,
    counts: Mutex<Counts>,
    /// By service: what the retry that is waited for is about.
    waiting: Mutex<BTreeMap<String, Kind>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// By service: calls that reached the client.
    pub(crate) sent: BTreeMap<String, u64>,
    /// Calls that a circuit breaker spared.
    pub(crate) refused: u64,
    /// By cause: calls that were sent again.
    pub(crate) retries: BTreeMap<&'static str, u64>,
    pub(crate) transitions: Vec<Transition>,
}

/// A change of a circuit breaker's state.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Transition {
    pub(crate) at_ms: u64,
    pub(crate) vendor: String,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) cause: &'static str,
    pub(crate) open_for_ms: Option<u64>,
}

impl Tally {
    /// Begins now.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), counts: Mutex::default(), waiting: Mutex::default() }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observe for Tally {
    fn event(&self, service: &str, event: &Event) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Backoff { kind, .. } => {
                waiting.insert(service.to_owned(), *kind);
            }
            // A retry that the breaker refuses is none: nothing was sent.
            Event::Call(CallResult::Refused) => {
                waiting.remove(service);
                counts.refused += 1;
            }
            // Reported in addition to how the call ends.
            Event::Call(CallResult::Slow) => {}
            Event::Call(_) => {
                *counts.sent.entry(service.to_owned()).or_default() += 1;
                if let Some(kind) = waiting.remove(service) {
                    *counts.retries.entry(kind.as_str()).or_default() += 1;
                }
            }
            Event::Circuit { from, to, cause, open_for, .. } => counts.transitions.push(Transition {
                at_ms: millis(self.start.elapsed()),
                vendor: service.to_owned(),
                from: from.as_str(),
                to: to.as_str(),
                cause: cause.as_str(),
                open_for_ms: open_for.map(millis),
            }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_retry_counts_when_it_is_sent_and_not_when_it_is_refused() {
        let tally = Tally::start();
        let backoff = |kind| Event::Backoff { retry: 1, delay: Duration::ZERO, kind, hint: None };
        for event in [
            Event::Call(CallResult::Failure),
            backoff(Kind::Transient),
            Event::Call(CallResult::Failure),
            backoff(Kind::Timeout),
            Event::Call(CallResult::Refused),
            Event::Call(CallResult::Success),
        ] {
            tally.event("datadog", &event);
        }
        let Counts { sent, refused, retries, .. } = tally.counts();
        assert_eq!((sent["datadog"], refused), (3, 1));
        assert_eq!(retries, BTreeMap::from([("transient", 1)]));
    }
}
