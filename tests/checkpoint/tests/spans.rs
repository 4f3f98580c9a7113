//! The spans of a run's steps. The only test of its process: whether a span is wanted is remembered for all threads.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_checkpoint::{Cx, Failure, Workflows};
use buttress_core::Backoff;
use buttress_store::Memory;
use checkpoint_tests::Worker;
use tracing_subscriber::fmt::MakeWriter;

/// Two steps, of which the second one fails once, and a sleep for which the run is put down.
async fn run() {
    let workflows = Workflows::open(Memory::new());
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

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[test]
fn each_attempt_at_a_step_has_a_span_and_a_replay_has_none() {
    use tracing_subscriber::fmt::format::FmtSpan;
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, || paused().block_on(run()));
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let closed: Vec<&str> = text.lines().filter(|line| line.contains("step{")).collect();
    let expected = [("reserve", 1), ("charge", 1), ("charge", 2)];
    assert_eq!(closed.len(), expected.len(), "{text}");
    for (line, (name, attempt)) in closed.iter().zip(expected) {
        let fields =
            format!("step{{run=order-42 name=\"{name}\" occurrence=0 attempt={attempt}}}: buttress: close");
        assert!(line.contains(&fields), "{line}");
    }
}
