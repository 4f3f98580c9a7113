//! The spans of a run's steps. The only test of its process: whether a span is wanted is remembered for all threads.

use std::io;
use std::sync::{Arc, Mutex};

use buttress_checkpoint::Config;
use checkpoint_tests::order;
use tracing_subscriber::fmt::MakeWriter;

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
    tracing::subscriber::with_default(subscriber, || order(Config::default()));
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
