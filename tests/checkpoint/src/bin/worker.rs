//! A worker process for the tests that kill it: `worker STORE EFFECTS RUN FAULT`.
//!
//! It runs a workflow of ten steps, which has the name of the run so that no other worker takes it. Each effect is a line of the file EFFECTS: the step and its key. At its FAULT-th fault
//! point (0 is none) it kills itself. At the end it prints the result, and how many workers have held the run.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use buttress_checkpoint::{Cx, Failure, StepKey, Workflows};
use buttress_cli::AnyStore;
use checkpoint_tests::quick;

struct Faults {
    left: AtomicU32,
    effects: String,
}

impl Faults {
    fn point(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            loop {
                std::thread::park();
            }
        }
    }

    fn effect(&self, step: u32) -> Result<u32, Failure> {
        self.point();
        let key = StepKey::current().unwrap_or_default();
        let mut file = OpenOptions::new().append(true).create(true).open(&self.effects)?;
        file.write_all(format!("{step} {key}\n").as_bytes())?;
        self.point();
        Ok(step * step)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, effects, run, fault] = &arguments[..] else { panic!("worker STORE EFFECTS RUN FAULT") };
    let left = fault.parse::<u32>().expect("a number");
    let faults = Arc::new(Faults {
        left: AtomicU32::new(if left == 0 { u32::MAX } else { left }),
        effects: effects.clone(),
    });
    let store = AnyStore::create(store).await.expect("the store opens");
    let workflows =
        Workflows::with(store.clone(), quick(std::time::Duration::from_millis(800)).max_recoveries(1000));
    let body = faults.clone();
    let code = move |cx: Cx, ()| {
        let faults = body.clone();
        async move {
            faults.point();
            let mut sum = 0;
            for step in 0..10 {
                sum += cx.step(format!("step {step}"), async || faults.effect(step)).await?;
                faults.point();
            }
            Ok::<_, Failure>(sum)
        }
    };
    let flow = workflows.register(run.as_str(), 1, code).expect("it is the first");
    faults.point();
    let handle = flow.start(run.as_str(), ()).await.expect("it starts");
    faults.point();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = tokio::spawn(async move {
        workflows
            .run_until(async {
                let _ = stopped.await;
            })
            .await;
    });
    let result = handle.result().await.expect("it ends well");
    let info = handle.info().await.expect("the store works").expect("it is there");
    faults.point();
    let _ = stop.send(());
    let _ = worker.await;
    store.close().await;
    println!("{result} {}", info.epoch);
}
