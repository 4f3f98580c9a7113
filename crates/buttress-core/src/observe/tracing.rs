use tracing::{debug, error, info, warn};

use super::{CircuitState, Event, HealResult, HealState, IdempotencyResult, Observe, RunChange, Severity};

/// Reports each event through `tracing`, target `buttress`, field `service`.
///
/// State changes and failures are `warn` (`info` when a circuit closes), a call that was given up `error`, and what
/// happens on every call `debug`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing;

impl Observe for Tracing {
    fn event(&self, service: &str, event: &Event) {
        match event {
            Event::Call(result) => debug!(target: "buttress", service, result = result.as_str(), "call"),
            Event::Circuit { key, from, to: CircuitState::Closed, cause, .. } => {
                let (key, from, cause) = (key.as_deref(), from.as_str(), cause.as_str());
                info!(target: "buttress", service, key, from, cause, "circuit closed");
            }
            Event::Circuit { key, from, to, cause, open_for } => {
                let (key, from, to, cause) = (key.as_deref(), from.as_str(), to.as_str(), cause.as_str());
                warn!(target: "buttress", service, key, from, to, cause, ?open_for, "circuit");
            }
            Event::WouldRefuse => debug!(target: "buttress", service, "would refuse"),
            Event::Evicted { key } => {
                warn!(target: "buttress", service, key = &**key, "forgot a circuit that was not closed")
            }
            Event::Attempt { number, verdict, severity, elapsed } => match severity {
                Severity::Information => {
                    debug!(target: "buttress", service, number, ?verdict, ?elapsed, "attempt")
                }
                Severity::Warning => {
                    warn!(target: "buttress", service, number, ?verdict, ?elapsed, "attempt failed")
                }
                Severity::Error => {
                    error!(target: "buttress", service, number, ?verdict, ?elapsed, "last attempt failed")
                }
            },
            Event::Backoff { retry, delay, kind, hint } => {
                info!(target: "buttress", service, retry, ?delay, kind = kind.as_str(), ?hint, "will retry");
            }
            Event::GaveUp { attempts, stop } => {
                warn!(target: "buttress", service, attempts, reason = stop.as_str(), "gave up")
            }
            Event::WouldRetry { delay } => debug!(target: "buttress", service, ?delay, "would retry"),
            Event::Budget { tokens } => debug!(target: "buttress", service, tokens, "retry budget"),
            Event::Held { delay, enforced } => {
                info!(target: "buttress", service, ?delay, enforced, "held back, as the server asked")
            }
            Event::Elapsed { limit, enforced } => {
                warn!(target: "buttress", service, ?limit, enforced, "time limit passed")
            }
            Event::Refused(reason) => warn!(target: "buttress", service, reason = reason.as_str(), "refused"),
            Event::Injected { fault, enforced } => {
                warn!(target: "buttress", service, fault, enforced, "chaos")
            }
            Event::Idempotency(result) => idempotency(service, *result),
            Event::Step { run, step, occurrence, result, elapsed } => {
                let (run, step, result) = (&**run, &**step, result.as_str());
                debug!(target: "buttress", service, run, step, occurrence, result, ?elapsed, "step");
            }
            Event::Saved { entries } => debug!(target: "buttress", service, entries, "saved"),
            Event::Run { run, change } => changed(service, run, *change),
            Event::Degraded { level, source } => {
                warn!(target: "buttress", service, level = level.as_u8(), source = &**source, "degraded answer")
            }
            Event::Rung { rung, cause } => {
                warn!(target: "buttress", service, rung = &**rung, cause, "fallback gave no answer")
            }
            Event::Refreshed { success } => debug!(target: "buttress", service, success, "refreshed"),
            Event::SystemLevel { instant, declared } => {
                let (instant, declared) = (instant.as_u8(), declared.as_u8());
                warn!(target: "buttress", service, instant, declared, "system degradation level")
            }
            Event::StoreFailed { error, lasts: true } => {
                error!(target: "buttress", service, error = &**error, "the store failed, and it will not pass by itself");
            }
            Event::StoreFailed { error, lasts: false } => {
                warn!(target: "buttress", service, error = &**error, "the store failed");
            }
            Event::Heal { .. } | Event::HealAttempt { .. } => healing(service, event),
            Event::Checked { check, answer } => {
                debug!(target: "buttress", service, check = &**check, answer, "check");
            }
            Event::Swapped { generation, target } => {
                info!(target: "buttress", service, generation, to = target, "new generation");
            }
            Event::Healed { incident, mttr, attempts } => {
                info!(target: "buttress", service, incident = &**incident, ?mttr, attempts, "incident over");
            }
            Event::Paged { incident, kind, success } => {
                warn!(target: "buttress", service, incident = &**incident, kind = kind.as_str(), success, "page");
            }
            Event::Lost(count) => warn!(target: "buttress", service, count, "events lost"),
        }
    }
}

fn idempotency(service: &str, result: IdempotencyResult) {
    let outcome = result.as_str();
    match result {
        IdempotencyResult::Unknown
        | IdempotencyResult::Lost
        | IdempotencyResult::TooLarge
        | IdempotencyResult::Unavailable
        | IdempotencyResult::Unprotected
        | IdempotencyResult::Unrecorded => warn!(target: "buttress", service, outcome, "idempotency"),
        _ => debug!(target: "buttress", service, outcome, "idempotency"),
    }
}

/// Of a run of a workflow.
fn changed(service: &str, run: &str, change: RunChange) {
    let is_bad =
        matches!(change, RunChange::Lost | RunChange::Panicked | RunChange::Halted | RunChange::Unknown);
    let change = change.as_str();
    if is_bad {
        warn!(target: "buttress", service, run, change, "run");
    } else {
        info!(target: "buttress", service, run, change, "run");
    }
}

fn healing(service: &str, event: &Event) {
    match event {
        Event::Heal { from, to, health, cause, generation, incident, attempts } => {
            let (from, to, health, incident) = (from.as_str(), *to, health.as_str(), incident.as_deref());
            match to {
                HealState::Healthy => {
                    info!(target: "buttress", service, from, health, cause, generation, incident, "healthy");
                }
                HealState::Escalated => {
                    error!(target: "buttress", service, from, health, cause, generation, incident, attempts, "escalated");
                }
                to => {
                    warn!(target: "buttress", service, from, to = to.as_str(), health, cause, generation, incident, attempts, "heal");
                }
            }
        }
        Event::HealAttempt { action, result, elapsed, incident } => {
            let (action, incident) = (&**action, &**incident);
            match result {
                HealResult::Cured | HealResult::WouldAct => {
                    info!(target: "buttress", service, action, incident, result = result.as_str(), ?elapsed, "heal attempt");
                }
                _ => {
                    warn!(target: "buttress", service, action, incident, result = result.as_str(), ?elapsed, "heal attempt");
                }
            }
        }
        _ => {}
    }
}
