//! A human is called by the number of failed checks, however slow they are.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::{BoxError, ConfigError};
use buttress_heal::{
    Answer, BoxFuture, Check, CheckSettings, Fixes, Incident, Pager, Rung, SpawnError, Subject, Supervisor,
    Symptom,
};
use support::{Of, Remedy, World, secs};
use tokio::time::{Instant, sleep};

/// Fails after this time, or does not answer in its own, and counts how often.
struct Slow {
    takes: Duration,
    failed: Arc<AtomicUsize>,
}

/// One answer, unless it is cut off before.
struct Run<'a>(Instant, &'a Slow);

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let Self(start, Slow { takes, failed }) = self;
        if start.elapsed() >= (*takes).min(secs(1)) {
            failed.fetch_add(1, SeqCst);
        }
    }
}

impl<S: Sync> Check<S> for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn symptom(&self) -> Symptom {
        Symptom::Credentials
    }

    fn settings(&self) -> CheckSettings {
        CheckSettings { jitter_percent: 0, ..CheckSettings::default() }
    }

    fn probes(&self) -> bool {
        false
    }

    fn run<'a>(&'a self, _: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        let run = Run(Instant::now(), self);
        Box::pin(async move {
            let _run = run;
            sleep(self.takes).await;
            Answer::fail("password authentication failed")
        })
    }
}

/// Remembers after how many failures it was told.
#[derive(Default)]
struct Pages {
    failed: Arc<AtomicUsize>,
    told: Mutex<Vec<usize>>,
}

impl Pager for Pages {
    fn trigger<'a>(&'a self, _: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        self.told.lock().unwrap().push(self.failed.load(SeqCst));
        Box::pin(std::future::ready(Ok(())))
    }

    fn resolve<'a>(&'a self, _: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// After how many failed checks, each of which takes so long, this supervisor calls a human within this time.
async fn pages(within: Duration, takes: Duration, rungs: Vec<Rung>, most: Option<u32>) -> Vec<usize> {
    let pages = Arc::new(Pages::default());
    let supervisor = Supervisor::new("db", World::new(1).factory()).pager(Arc::clone(&pages));
    let mut supervisor = supervisor.check(Slow { takes, failed: Arc::clone(&pages.failed) });
    for rung in rungs {
        supervisor = supervisor.rung(rung);
    }
    if let Some(most) = most {
        supervisor = supervisor.page_after_failures(most);
    }
    let (_client, handle) = supervisor.spawn().unwrap();
    sleep(within).await;
    handle.shutdown(secs(1)).await;
    let told = pages.told.lock().unwrap();
    told.clone()
}

fn ladders() -> [Vec<Rung>; 4] {
    let hangs = Remedy::new("hangs", || Box::pin(std::future::pending()));
    let useless = || Rung::new(Of(Remedy::useless("useless")));
    let pool = Rung::reset_pool().fixes(Fixes::Any).cooldown(secs(1)).max_attempts(100);
    [vec![], vec![Rung::new(Of(hangs))], vec![useless(), useless()], vec![pool]]
}

#[tokio::test(start_paused = true)]
async fn a_human_is_called_once_and_at_the_latest_by_the_fifth_failed_check_however_slow_checks_are() {
    for takes in [0, 1, 100, 249, 280, 900, 5000].map(Duration::from_millis) {
        for (ladder, rungs) in ladders().into_iter().enumerate() {
            assert_eq!(pages(secs(600), takes, rungs, Some(5)).await, [5], "{takes:?}, ladder {ladder}");
        }
        let rungs = vec![Rung::reset_pool().fixes(Fixes::Only([Symptom::Pool].to_vec().into()))];
        assert_eq!(pages(secs(600), takes, rungs, Some(5)).await, [3], "{takes:?}, and nothing can help");
    }
}

#[tokio::test(start_paused = true)]
async fn what_nothing_can_cure_is_one_page_a_day() {
    let [_, _, useless, _] = ladders();
    let slow = Duration::from_millis(280);
    assert_eq!(pages(secs(24 * 3600), slow, useless, Some(5)).await, [5]);
}

#[tokio::test(start_paused = true)]
async fn a_bound_below_the_number_of_failures_that_are_believed_is_that_number() {
    for most in [1, 2, 3] {
        let [_, hangs, ..] = ladders();
        assert_eq!(pages(secs(600), Duration::ZERO, hangs, Some(most)).await, [3], "{most}");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_not_counted_unless_that_is_wanted() {
    let [_, hangs, ..] = ladders();
    let told = pages(secs(600), Duration::ZERO, hangs, None).await;
    assert!(told.len() == 1 && told[0] > 20, "{told:?}");
}

#[tokio::test]
async fn no_failure_at_all_is_no_reason_to_call_anybody() {
    let spawned = Supervisor::new("db", World::new(1).factory()).page_after_failures(0).spawn();
    let Err(SpawnError::Config(error)) = spawned else { panic!("it was started") };
    assert_eq!(ConfigError::field(&error), "page_after_failures");
}
