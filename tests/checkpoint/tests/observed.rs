//! What is counted of a run, and told of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use buttress_checkpoint::Config;
use buttress_core::observe::{Event, Metrics, RunChange, StepResult};
use checkpoint_tests::order;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

#[test]
fn each_entry_that_is_stored_is_counted_once() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        order(Config::default().observe(Arc::new(Metrics::new("orders"))))
    });
    let counted: HashMap<_, _> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, .., value)| {
            let labels: Vec<_> = key.key().labels().map(|label| label.value().to_owned()).collect();
            ((key.key().name().to_owned(), labels), value)
        })
        .collect();
    // Two steps, an attempt, a sleep, its end, the output.
    let saved = &counted[&("checkpoints_saved_total".to_owned(), vec!["orders".to_owned()])];
    assert_eq!(*saved, DebugValue::Counter(6));
}

#[test]
fn events_say_what_becomes_of_steps_and_runs_under_the_name_of_the_workflow() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let events = heard.clone();
    let observer = buttress_core::observe_fn(move |service, event: &Event| {
        assert_eq!(service, "order");
        let line = match event {
            Event::Step { run, step, result, .. } => format!("{run} {step} {}", result.as_str()),
            Event::Run { run, change } => format!("{run} {}", change.as_str()),
            Event::Saved { entries } => format!("saved {entries}"),
            other => panic!("{other:?}"),
        };
        events.lock().unwrap().push(line);
    });
    order(Config::default().observe(observer));
    let step = |name: &str, result: StepResult| format!("order-42 {name} {}", result.as_str());
    let change = |change: RunChange| format!("order-42 {}", change.as_str());
    let saved = || "saved 1".to_owned();
    assert_eq!(
        *heard.lock().unwrap(),
        [
            change(RunChange::Acquired),
            step("reserve", StepResult::Succeeded),
            saved(),
            step("charge", StepResult::WillRetry),
            saved(),
            step("charge", StepResult::Succeeded),
            saved(),
            saved(),
            change(RunChange::Released),
            change(RunChange::Acquired),
            step("reserve", StepResult::Skipped),
            step("charge", StepResult::Skipped),
            saved(),
            saved(),
            change(RunChange::Over),
        ]
    );
}
