//! One span for each incident, in which all is that is done about it.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use buttress_heal::{Rung, Symptom, Then};
use support::{Of, Remedy, Switch, World, secs, watched};
use tokio::time::sleep;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn all_that_is_done_in_an_incident_is_in_its_span_and_the_span_ends_with_it() {
    let lines = Lines::default();
    let spans = FmtSpan::NEW | FmtSpan::CLOSE;
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_span_events(spans)
        .with_ansi(false)
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, _, _) = watched(&world, &switch);
    let cure = {
        let switch = Arc::clone(&switch);
        Remedy::new("cure", move || {
            switch.set(true);
            Box::pin(async {
                sleep(secs(1)).await;
                tracing::info!("an action's own words");
                Ok(Then::Nothing)
            })
        })
    };
    let (_client, handle) = supervisor.rung(Rung::new(Of(cure))).spawn().unwrap();
    for _ in 0..2 {
        switch.set(false);
        sleep(secs(90)).await;
    }
    assert_eq!((handle.incidents().len(), switch.fails.load(SeqCst)), (2, false));
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let with = |words: &str| text.lines().filter(|line| line.contains(words)).collect::<Vec<_>>();
    assert_eq!((with(": new").len(), with(": close").len()), (2, 2), "{text}");
    for incident in handle.incidents() {
        let key = incident.key();
        for words in
            ["queue fails: off", "cure …", "an action's own words", "cure: cured", "all symptoms are gone"]
        {
            let lines = with(words);
            let inside = lines.iter().filter(|line| line.contains(&format!("incident=\"{key}\""))).count();
            assert_eq!((inside, lines.len()), (1, 2), "{words}: {text}");
        }
    }
}
