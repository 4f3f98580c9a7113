use std::sync::OnceLock;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::{CallResult, CircuitState, Event, HealResult, IdempotencyResult, Observe};
use crate::exhausted::Stop;
use crate::verdict::Verdict;

/// Counts the events of one service through the `metrics` crate.
///
/// | metric | labels |
/// |---|---|
/// | `circuit_breaker_state` (gauge: 0 closed, 1 half-open, 2 open or isolated) | `service` |
/// | `circuit_breaker_calls_total` | `service`, `result` |
/// | `retry_attempts_total` | `service`, `success` |
/// | `retry_budget_tokens` (gauge) | `service` |
/// | `retry_attempt_seconds`, `retry_backoff_seconds` (histograms) | `service` |
/// | `retry_gave_up_total` | `service`, `stop` (see [`Stop::label`]) |
/// | `deadline_elapsed_total` | `service` |
/// | `would_have_acted_total` (in [`Mode::Observe`](crate::Mode::Observe)) | `service`, `action`: `refuse`, `retry`, `hold`, `time_out` |
/// | `idempotency_outcomes_total` | `service`, `outcome` |
/// | `checkpoints_saved_total` | `service` |
/// | `degraded_responses_total` (levels 1 to 4) | `service`, `level` |
/// | `self_heal_attempts_total` | `service`, `action`, `success` |
/// | `self_heal_mttr_seconds` (histogram) | `service` |
/// | `service_health` (gauge: 0 healthy, 1 degraded, 2 unhealthy, 3 critical) | `service` |
/// | `system_degradation_level` (gauge: 0 to 4, what is true now) | |
/// | `system_degradation_level_declared` (gauge: one step at a time) | |
///
/// The handles are registered once, at the first event, so that a recorder installed after the stack was built still
/// gets them; they are never looked up per call. A keyed breaker moves the gauge of its service with each of its keys.
#[derive(Debug)]
pub struct Metrics {
    service: String,
    handles: OnceLock<Handles>,
}

#[derive(Debug)]
struct Handles {
    state: Gauge,
    /// By [`place`].
    calls: [Counter; 7],
    attempts_failed: Counter,
    attempts_succeeded: Counter,
    attempt_seconds: Histogram,
    backoff_seconds: Histogram,
    budget_tokens: Gauge,
    /// In the order of [`Stop::ALL`].
    gave_up: [Counter; Stop::ALL.len()],
    elapsed: Counter,
    /// In the order of [`Action`].
    would_have: [Counter; 4],
    /// In the order of [`IdempotencyResult::ALL`].
    idempotency: [Counter; IdempotencyResult::ALL.len()],
    saved: Counter,
    /// By level, from 1 on.
    degraded: [Counter; 4],
}

impl Metrics {
    /// An observer for the service of this name.
    pub fn new(service: impl Into<String>) -> Self {
        Self { service: service.into(), handles: OnceLock::new() }
    }
}

/// What a layer in [`Mode::Observe`](crate::Mode::Observe) would have done.
#[derive(Clone, Copy, Debug)]
enum Action {
    Refuse,
    Retry,
    Hold,
    TimeOut,
}

const CALLS: [CallResult; 7] = [
    CallResult::Success,
    CallResult::Failure,
    CallResult::Slow,
    CallResult::Ignored,
    CallResult::Abandoned,
    CallResult::Stale,
    CallResult::Refused,
];

/// Where a result stands in [`CALLS`].
const fn place(result: CallResult) -> usize {
    result as usize
}

impl Handles {
    fn register(service: &str) -> Self {
        let service = || service.to_owned();
        Self {
            state: gauge!("circuit_breaker_state", "service" => service()),
            calls: CALLS.map(|result| {
                counter!("circuit_breaker_calls_total", "service" => service(), "result" => result.as_str())
            }),
            attempts_failed: counter!("retry_attempts_total", "service" => service(), "success" => "false"),
            attempts_succeeded: counter!("retry_attempts_total", "service" => service(), "success" => "true"),
            attempt_seconds: histogram!("retry_attempt_seconds", "service" => service()),
            backoff_seconds: histogram!("retry_backoff_seconds", "service" => service()),
            budget_tokens: gauge!("retry_budget_tokens", "service" => service()),
            gave_up: Stop::ALL.map(
                |stop| counter!("retry_gave_up_total", "service" => service(), "stop" => stop.label()),
            ),
            elapsed: counter!("deadline_elapsed_total", "service" => service()),
            would_have: ["refuse", "retry", "hold", "time_out"].map(
                |action| counter!("would_have_acted_total", "service" => service(), "action" => action),
            ),
            idempotency: IdempotencyResult::ALL.map(|outcome| {
                counter!("idempotency_outcomes_total", "service" => service(), "outcome" => outcome.as_str())
            }),
            saved: counter!("checkpoints_saved_total", "service" => service()),
            degraded: ["1", "2", "3", "4"].map(
                |level| counter!("degraded_responses_total", "service" => service(), "level" => level),
            ),
        }
    }
}

impl Observe for Metrics {
    fn event(&self, _: &str, event: &Event) {
        let handles = self.handles.get_or_init(|| Handles::register(&self.service));
        let would_have = |action: Action| handles.would_have[action as usize].increment(1);
        match event {
            Event::Call(result) => handles.calls[place(*result)].increment(1),
            Event::Circuit { to, .. } => handles.state.set(match to {
                CircuitState::Closed => 0.0,
                CircuitState::HalfOpen => 1.0,
                CircuitState::Open | CircuitState::Isolated => 2.0,
            }),
            Event::Attempt { verdict, elapsed, .. } => {
                handles.attempt_seconds.record(elapsed.as_secs_f64());
                let succeeded = matches!(verdict, Verdict::Success | Verdict::Rejected);
                if succeeded { &handles.attempts_succeeded } else { &handles.attempts_failed }.increment(1);
            }
            Event::Backoff { delay, .. } => handles.backoff_seconds.record(delay.as_secs_f64()),
            Event::Budget { tokens } => handles.budget_tokens.set(*tokens),
            Event::Saved { entries } => handles.saved.increment(*entries as u64),
            Event::GaveUp { stop, .. } => handles.gave_up[*stop as usize].increment(1),
            Event::Elapsed { enforced: true, .. } => handles.elapsed.increment(1),
            Event::Elapsed { .. } => would_have(Action::TimeOut),
            Event::WouldRefuse => would_have(Action::Refuse),
            Event::WouldRetry { .. } => would_have(Action::Retry),
            Event::Held { enforced: false, .. } => would_have(Action::Hold),
            Event::Degraded { level, .. } if level.is_degraded() => {
                handles.degraded[usize::from(level.as_u8()) - 1].increment(1);
            }
            // Seldom, and of no service: looked up each time.
            Event::SystemLevel { instant, declared } => {
                gauge!("system_degradation_level").set(f64::from(instant.as_u8()));
                gauge!("system_degradation_level_declared").set(f64::from(declared.as_u8()));
            }
            // Seldom as well: looked up each time.
            Event::HealAttempt { action, result, .. } if *result != HealResult::WouldAct => {
                let success = if *result == HealResult::Cured { "true" } else { "false" };
                let (service, action) = (self.service.clone(), action.to_string());
                counter!("self_heal_attempts_total", "service" => service, "action" => action, "success" => success)
                    .increment(1);
            }
            Event::Healed { mttr, .. } => {
                histogram!("self_heal_mttr_seconds", "service" => self.service.clone())
                    .record(mttr.as_secs_f64());
            }
            Event::Heal { health, .. } => {
                gauge!("service_health", "service" => self.service.clone()).set(f64::from(health.as_u8()));
            }
            Event::Idempotency(outcome) => handles.idempotency[*outcome as usize].increment(1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;
    use crate::observe::CircuitCause;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use std::collections::HashMap;

    #[test]
    fn each_result_has_a_counter_of_its_own() {
        assert!(CALLS.iter().enumerate().all(|(at, result)| place(*result) == at));
        assert!(IdempotencyResult::ALL.iter().enumerate().all(|(at, outcome)| *outcome as usize == at));
        assert!(Stop::ALL.iter().enumerate().all(|(at, stop)| *stop as usize == at));
    }

    #[test]
    fn events_become_the_documented_metrics() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let observer = Metrics::new("datadog");
        metrics::with_local_recorder(&recorder, || {
            observer.event("datadog", &Event::Call(CallResult::Success));
            observer.event("datadog", &Event::Call(CallResult::Refused));
            observer.event("datadog", &Event::Call(CallResult::Refused));
            observer.event("datadog", &Event::Idempotency(IdempotencyResult::Replayed));
            observer.event("datadog", &Event::Budget { tokens: 4.5 });
            observer.event("datadog", &Event::GaveUp { attempts: 2, stop: Stop::Budget });
            let limit = std::time::Duration::from_secs(1);
            observer.event("datadog", &Event::Elapsed { limit, enforced: true });
            observer.event("datadog", &Event::Elapsed { limit, enforced: false });
            observer.event("datadog", &Event::WouldRefuse);
            let level = Level::Moderate;
            observer.event("datadog", &Event::Degraded { level, source: "last good answer".into() });
            observer.event("all", &Event::SystemLevel { instant: level, declared: Level::Slight });
            let (from, to) = (CircuitState::HalfOpen, CircuitState::Isolated);
            observer.event(
                "x",
                &Event::Circuit { key: None, from, to, cause: CircuitCause::Operator, open_for: None },
            );
        });
        let seen: HashMap<String, DebugValue> = snapshotter
            .snapshot()
            .into_vec()
            .into_iter()
            .map(|(key, _, _, value)| {
                let labels = key.key().labels().map(|label| format!(",{}={}", label.key(), label.value()));
                (format!("{}{}", key.key().name(), labels.collect::<String>()), value)
            })
            .collect();
        assert_eq!(
            seen["circuit_breaker_calls_total,service=datadog,result=refused"],
            DebugValue::Counter(2)
        );
        assert_eq!(
            seen["circuit_breaker_calls_total,service=datadog,result=success"],
            DebugValue::Counter(1)
        );
        assert_eq!(seen["circuit_breaker_state,service=datadog"], DebugValue::Gauge(2.0.into()));
        assert_eq!(seen["degraded_responses_total,service=datadog,level=2"], DebugValue::Counter(1));
        assert_eq!(seen["degraded_responses_total,service=datadog,level=4"], DebugValue::Counter(0));
        assert_eq!(seen["retry_gave_up_total,service=datadog,stop=budget"], DebugValue::Counter(1));
        assert_eq!(seen["deadline_elapsed_total,service=datadog"], DebugValue::Counter(1));
        assert_eq!(seen["would_have_acted_total,service=datadog,action=time_out"], DebugValue::Counter(1));
        assert_eq!(seen["would_have_acted_total,service=datadog,action=refuse"], DebugValue::Counter(1));
        assert_eq!(seen["system_degradation_level"], DebugValue::Gauge(2.0.into()));
        assert_eq!(seen["system_degradation_level_declared"], DebugValue::Gauge(1.0.into()));
        assert_eq!(seen["retry_budget_tokens,service=datadog"], DebugValue::Gauge(4.5.into()));
    }

    #[test]
    fn healing_is_counted_by_action_and_success_and_what_was_only_observed_is_not() {
        use crate::observe::{HealState, Health};

        let recorder = DebuggingRecorder::new();
        let observer = Metrics::new("db");
        metrics::with_local_recorder(&recorder, || {
            let (elapsed, incident) =
                (std::time::Duration::from_secs(3), std::sync::Arc::<str>::from("db-1"));
            for result in
                [HealResult::Cured, HealResult::NoEffect, HealResult::Panicked, HealResult::WouldAct]
            {
                let (action, incident) = ("reset pool".into(), incident.clone());
                observer.event("db", &Event::HealAttempt { action, result, elapsed, incident });
            }
            let (from, to, health, cause) =
                (HealState::Healthy, HealState::Ill, Health::Critical, "a check fails");
            let key = Some(incident.clone());
            let event = Event::Heal { from, to, health, cause, generation: 1, incident: key, attempts: 0 };
            observer.event("db", &event);
            observer.event("db", &Event::Healed { incident, mttr: elapsed, attempts: 2 });
        });
        let seen = recorder.snapshotter().snapshot().into_vec();
        let value = |name: &str, success: Option<&str>| {
            let found = seen.iter().find(|(key, ..)| {
                let success =
                    success.is_none_or(|value| key.key().labels().any(|label| label.value() == value));
                key.key().name() == name && success
            });
            &found.unwrap().3
        };
        assert_eq!(*value("self_heal_attempts_total", Some("true")), DebugValue::Counter(1));
        assert_eq!(*value("self_heal_attempts_total", Some("false")), DebugValue::Counter(2));
        assert_eq!(*value("self_heal_mttr_seconds", None), DebugValue::Histogram(vec![3.0.into()]));
        assert_eq!(*value("service_health", None), DebugValue::Gauge(3.0.into()));
    }
}
