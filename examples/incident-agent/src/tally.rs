//! What Buttress did, counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use buttress::core::observe::{CallResult, CircuitState};
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
    /// Calls that a half-open circuit let through, to see how things are.
    pub(crate) probes: u64,
    /// By cause: calls that were sent again.
    pub(crate) retries: BTreeMap<&'static str, u64>,
    pub(crate) transitions: Vec<Transition>,
    pub(crate) levels: Vec<LevelChange>,
    /// By service: the generation of its client that calls use.
    pub(crate) generations: BTreeMap<String, u64>,
}

/// A change of the level of the whole system.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct LevelChange {
    pub(crate) at_ms: u64,
    /// The truth.
    pub(crate) instant: u8,
    /// What people are told: one step at a time.
    pub(crate) declared: u8,
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
                // One that leaves the circuit half-open.
                let state = counts.transitions.iter().rfind(|change| change.vendor == service);
                counts.probes += u64::from(state.is_some_and(|change| change.to == "half-open"));
                if let Some(kind) = waiting.remove(service) {
                    *counts.retries.entry(kind.as_str()).or_default() += 1;
                }
            }
            Event::Circuit { from, to, cause, open_for, .. } => {
                // The probe that this follows from is reported after it.
                counts.probes += u64::from(*from == CircuitState::HalfOpen);
                counts.transitions.push(Transition {
                    at_ms: millis(self.start.elapsed()),
                    vendor: service.to_owned(),
                    from: from.as_str(),
                    to: to.as_str(),
                    cause: cause.as_str(),
                    open_for_ms: open_for.map(millis),
                });
            }
            Event::Swapped { generation, .. } => {
                counts.generations.insert(service.to_owned(), *generation);
            }
            Event::SystemLevel { instant, declared } => {
                let at_ms = millis(self.start.elapsed());
                let (instant, declared) = (instant.as_u8(), declared.as_u8());
                counts.levels.push(LevelChange { at_ms, instant, declared });
            }
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

    #[test]
    fn every_probe_is_counted_once() {
        use buttress::core::observe::CircuitCause;
        let tally = Tally::start();
        let circuit = |from, to| Event::Circuit {
            key: None,
            from,
            to,
            cause: CircuitCause::ProbesSucceeded,
            open_for: None,
        };
        use CircuitState::{Closed, HalfOpen, Open};
        for event in [
            Event::Call(CallResult::Success),
            circuit(Closed, Open),
            circuit(Open, HalfOpen),
            // A probe that fails.
            circuit(HalfOpen, Open),
            Event::Call(CallResult::Failure),
            circuit(Open, HalfOpen),
            // Two that succeed.
            Event::Call(CallResult::Success),
            circuit(HalfOpen, Closed),
            Event::Call(CallResult::Success),
            Event::Call(CallResult::Success),
        ] {
            tally.event("aws", &event);
        }
        assert_eq!((tally.counts().probes, tally.counts().sent["aws"]), (3, 5));
    }
}
