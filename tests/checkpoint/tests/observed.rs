//! What is counted of a run, and told of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_checkpoint::{Config, Cx, Failure, Workflows};
use buttress_core::Backoff;
use buttress_core::observe::{Event, Metrics, Observe, RunChange, StepResult};
use buttress_store::Memory;
use checkpoint_tests::Worker;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

/// Two steps, of which the second one fails once, and a sleep for which the run is put down.
async fn run(observer: Arc<dyn Observe>) {
    let workflows = Workflows::with(Memory::new(), Config::default().observe(observer));
    let code = async |cx: Cx, ()| {
        cx.step("reserve", async || Ok::<_, Failure>(())).await?;
        let mut first = true;
        let charge = move || {
            let fails = std::mem::take(&mut first);
            std::future::ready(if fails { Err(Failure::new("no")) } else { Ok(7) })
        };
        let paid = cx.step("charge", charge).retry(Backoff::constant(Duration::from_millis(1)), 1).await?;
        cx.sleep(Duration::from_secs(3600)).await?;
        Ok::<_, Failure>(paid)
    };
    let flow = workflows.register("order", 1, code).unwrap();
    let worker = Worker::start(&workflows);
    assert_eq!(flow.start("order-42", ()).await.unwrap().result().await.unwrap(), 7);
    worker.stop().await;
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

#[test]
fn each_entry_that_is_stored_is_counted_once() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || paused().block_on(run(Arc::new(Metrics::new("orders")))));
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
    paused().block_on(run(observer));
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
