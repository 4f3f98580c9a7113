//! Checks: when they are run, what their answers are, and when they are believed.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use buttress_core::Event;
use buttress_core::observe::PageKind;
use buttress_heal::{
    Answer, BoxFuture, Check, CheckSettings, Happened, HealState, Health, Monitor, Policy, Rung, Subject,
    Supervisor, Symptom, check_fn,
};
use support::{Client, Of, Pages, SECOND, Switch, World, secs, supervise, watched};
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

/// A check that does what it is told, and knows how often it runs at once.
struct Odd {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    run: fn() -> BoxFuture<'static, Answer>,
}

struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl<S> Check<S> for Odd {
    fn name(&self) -> &str {
        "odd"
    }

    fn symptom(&self) -> Symptom {
        Symptom::Connectivity
    }

    fn settings(&self) -> CheckSettings {
        CheckSettings { every: SECOND, ..CheckSettings::default() }
    }

    fn run<'a>(&'a self, _: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        self.most.fetch_max(self.now.fetch_add(1, SeqCst) + 1, SeqCst);
        let leave = Leave(Arc::clone(&self.now));
        let run = (self.run)();
        Box::pin(async move {
            let _leave = leave;
            run.await
        })
    }
}

fn odd(run: fn() -> BoxFuture<'static, Answer>) -> (Odd, [Arc<AtomicUsize>; 2]) {
    let (now, most) = (Arc::default(), Arc::default());
    (Odd { now: Arc::clone(&now), most: Arc::clone(&most), run }, [now, most])
}

/// HD-14.
#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_fails_at_its_time_and_is_never_run_twice_at_once() {
    let world = World::new(1);
    let (check, [now, most]) = odd(|| Box::pin(sleep(secs(3600)).map_to_pass()));
    let supervisor = buttress_heal::Supervisor::new("db", world.factory()).check(check);
    let (_client, handle) = supervisor.spawn().unwrap();
    let start = Instant::now();
    let mut watch = handle.watch();
    watch.wait_for(|status| status.health == Health::Critical).await.unwrap();
    assert!((secs(3)..=secs(4)).contains(&start.elapsed()), "{:?}", start.elapsed());
    sleep(secs(60)).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    sleep(secs(1000)).await;
    assert!(tokio::runtime::Handle::current().metrics().num_alive_tasks() <= tasks);
    assert!(most.load(SeqCst) == 1 && now.load(SeqCst) <= 1);
}

trait MapToPass: Future + Sized {
    async fn map_to_pass(self) -> Answer {
        self.await;
        Answer::Pass
    }
}

impl MapToPass for tokio::time::Sleep {}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_is_not_believed_until_it_has_done_so_too_often_and_harms_nobody() {
    let world = World::new(1);
    for run in [(|| panic!("at once")) as fn() -> BoxFuture<'static, Answer>, || {
        Box::pin(async {
            tokio::task::yield_now().await;
            panic!("later")
        })
    }] {
        let (check, [now, _]) = odd(run);
        let (supervisor, _, events) = supervise(&world);
        let (client, handle) = supervisor.check(check).spawn().unwrap();
        sleep(Duration::from_millis(600)).await;
        assert_eq!((handle.health(), handle.status().state), (Health::Healthy, HealState::Suspect));
        sleep(secs(2)).await;
        assert_eq!(handle.health(), Health::Critical);
        client.clone().oneshot(()).await.unwrap();
        let answers = events.all().into_iter().filter_map(|(_, event)| match event {
            Event::Checked { check, answer } if &*check == "odd" => Some(answer),
            _ => None,
        });
        assert_eq!(answers.collect::<Vec<_>>(), ["panicked"], "once, since it did not change");
        assert_eq!(now.load(SeqCst), 0);
        assert!(handle.shutdown(SECOND).await);
    }
}

/// HD-16. And the second of seven broken rules: one dead check of four is degraded, for ever, and nobody is told.
#[tokio::test(start_paused = true)]
async fn connectivity_alone_of_four_checks_is_critical_or_degraded_and_an_incident_in_both_cases() {
    for (policy, health) in [(Policy::Severity, Health::Critical), (Policy::Fraction, Health::Degraded)] {
        let settings = || CheckSettings { every: secs(30), ..CheckSettings::default() };
        let world = World::new(1);
        let ping = Switch::with("ping", Symptom::Connectivity, settings());
        let others =
            [("memory", Symptom::Memory), ("queue", Symptom::Queue), ("latency", Symptom::ResponseTime)];
        let (supervisor, pages, _) = watched(&world, &ping);
        let supervisor = others.into_iter().fold(supervisor, |supervisor, (name, symptom)| {
            supervisor.check(Of(Switch::with(name, symptom, settings())))
        });
        let (_client, handle) = supervisor.policy(policy).spawn().unwrap();
        sleep(secs(100)).await;
        let before = ping.runs.load(SeqCst);
        ping.set(false);
        let mut watch = handle.watch();
        watch.wait_for(|status| status.incident.is_some()).await.unwrap();
        assert!(ping.runs.load(SeqCst) - before <= 5);
        assert_eq!(handle.health(), health, "{policy:?}");
        sleep(secs(150)).await;
        assert_eq!(pages.told().len(), 1, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn checks_are_run_at_their_interval_and_faster_while_it_is_not_clear_how_things_are() {
    let world = World::new(1);
    let settings = CheckSettings { every: secs(10), jitter_percent: 0, ..CheckSettings::default() };
    let switch = Switch::with("ping", Symptom::Connectivity, settings);
    let (supervisor, _, _) = watched(&world, &switch);
    let (_client, handle) = supervisor.spawn().unwrap();
    let start = Instant::now();
    sleep(Duration::from_millis(100_100)).await;
    assert_eq!(switch.runs.load(SeqCst), 11, "at once, and every ten seconds");
    switch.set(false);
    let mut watch = handle.watch();
    watch.wait_for(|status| status.health == Health::Critical).await.unwrap();
    assert_eq!(start.elapsed().as_millis(), 110_500, "three looks, 250 ms apart");
}

#[tokio::test(start_paused = true)]
async fn intervals_are_spread_and_two_clients_do_not_stay_in_step() {
    let (world, [one, two]) = (
        World::new(1),
        ["one", "two"].map(|name| {
            Switch::with(name, Symptom::Queue, CheckSettings { every: secs(10), ..CheckSettings::default() })
        }),
    );
    let supervise = |switch: &Arc<Switch>| watched(&world, switch).0.spawn().unwrap();
    let (_first, _second) = (supervise(&one), supervise(&two));
    let (mut apart, start) = (0, Instant::now());
    while start.elapsed() < secs(1000) {
        sleep(Duration::from_millis(500)).await;
        apart += usize::from(one.runs.load(SeqCst) != two.runs.load(SeqCst));
    }
    let runs = [&one, &two].map(|switch| switch.runs.load(SeqCst));
    assert!(runs.iter().all(|runs| (90..=112).contains(runs)) && apart > 10, "{runs:?} {apart}");
}

/// The checks every 30 s would find it after 90 s; five calls find it at once.
#[tokio::test(start_paused = true)]
async fn calls_that_fail_in_a_row_make_the_checks_run_at_once() {
    let world = World::new(1);
    let ping = check_fn("ping", Symptom::Connectivity, Client::ping);
    let supervisor = buttress_heal::Supervisor::new("db", world.factory());
    let supervisor = supervisor.check(Monitor::new(ping).every(secs(30)).jitter(0));
    let (mut client, handle) = supervisor.spawn().unwrap();
    sleep(secs(10)).await;
    client.ready().await.unwrap().call(()).await.unwrap();
    world.poison();
    let start = Instant::now();
    for _ in 0..5 {
        client.ready().await.unwrap().call(()).await.unwrap_err();
    }
    let mut watch = handle.watch();
    watch.wait_for(|status| status.generation == 2).await.unwrap();
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    client.ready().await.unwrap().call(()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_any_check_the_calls_themselves_are_what_is_looked_at() {
    let world = World::new(1);
    let (mut client, handle) = buttress_heal::Supervisor::new("db", world.factory()).spawn().unwrap();
    client.ready().await.unwrap().call(()).await.unwrap();
    world.poison();
    for _ in 0..5 {
        client.ready().await.unwrap().call(()).await.unwrap_err();
    }
    sleep(secs(2)).await;
    assert_eq!(handle.status().generation, 2);
    client.ready().await.unwrap().call(()).await.unwrap();
    sleep(secs(70)).await;
    assert_eq!((handle.status().state, handle.incidents().len()), (HealState::Healthy, 1));
}

/// The first of seven broken rules: it is "healed" again and again, and nobody is told.
#[tokio::test(start_paused = true)]
async fn calls_that_come_seldom_and_all_fail_are_not_taken_for_healed_and_a_human_is_called_once() {
    for gap in [15, 90, 1200] {
        let world = World::new(1);
        let (pages, supervisor) = (Pages::new(), Supervisor::new("db", world.factory()));
        let (mut client, handle) = supervisor.pager(Arc::clone(&pages)).spawn().unwrap();
        sleep(SECOND).await;
        for _ in 0..40 {
            world.set(0, false);
            client.ready().await.unwrap().call(()).await.unwrap_err();
            world.set(0, true);
            sleep(secs(gap)).await;
        }
        assert_eq!((pages.kinds(), handle.incidents().len()), (vec![PageKind::Trigger], 1), "{gap}");
        // The first of them may be made just before its generation is replaced.
        for _ in 0..6 {
            client.ready().await.unwrap().call(()).await.unwrap();
            sleep(secs(15)).await;
        }
        assert_eq!(pages.kinds(), [PageKind::Trigger, PageKind::Resolve], "{gap}");
        assert!(handle.shutdown(SECOND).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_harmless_by_severity_is_reported_and_nothing_else() {
    let world = World::new(1);
    let settings =
        CheckSettings { every: SECOND, severity: Some(Health::Healthy), ..CheckSettings::default() };
    let switch = Switch::with("note", Symptom::Queue, settings);
    let (supervisor, pages, _) = watched(&world, &switch);
    let (_client, handle) = supervisor.spawn().unwrap();
    switch.set(false);
    sleep(secs(3600)).await;
    assert_eq!((handle.health(), handle.incidents().len(), pages.told().len()), (Health::Healthy, 0, 0));
}

/// The old service goes first, and for two seconds there is none: that is the supervisor's own doing.
#[tokio::test(start_paused = true)]
async fn that_there_is_no_service_while_one_is_replaced_is_no_finding() {
    let world = World::new(1);
    let (supervisor, _, _) = supervise(&world);
    let switch = Switch::new("queue", Symptom::Queue);
    let supervisor = supervisor.check(Of(Arc::clone(&switch))).rung(Rung::restart());
    let (_client, handle) = supervisor.spawn().unwrap();
    sleep(secs(10)).await;
    world.connect.store(2, SeqCst);
    switch.set(false);
    let mut watch = handle.watch();
    watch.wait_for(|status| status.generation == 0).await.unwrap();
    watch.wait_for(|status| status.generation == 2).await.unwrap();
    sleep(secs(5)).await;
    let incident = handle.incident().unwrap();
    let fell = incident.timeline().iter().filter(|(_, happened)| matches!(happened, Happened::Fell { .. }));
    assert_eq!((fell.count(), incident.worst()), (1, Health::Degraded), "{incident}");
}

#[tokio::test(start_paused = true)]
async fn an_action_after_which_nobody_calls_is_no_cure_before_a_call_has_succeeded() {
    let world = World::new(1);
    let (mut client, handle) = buttress_heal::Supervisor::new("db", world.factory()).spawn().unwrap();
    let successes =
        || handle.ledger().entries().iter().map(buttress_heal::LedgerEntry::successes).sum::<u32>();
    sleep(SECOND).await;
    for _ in 0..20 {
        world.set(0, false);
        client.ready().await.unwrap().call(()).await.unwrap_err();
        world.set(0, true);
        sleep(secs(15)).await;
        assert_eq!(successes(), 0, "all calls fail");
    }
    let attempts = handle.ledger().entries()[0].attempts();
    assert!(attempts >= 3, "{attempts}");
    sleep(secs(90)).await;
    let before = successes();
    client.ready().await.unwrap().call(()).await.unwrap();
    sleep(secs(2)).await;
    assert_eq!((before, successes()), (0, 1));
}
