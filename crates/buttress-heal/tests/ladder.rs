//! The ladder: which action is tried when, how often, and when a human is called instead.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use buttress_core::observe::{HealResult, PageKind};
use buttress_core::{Backoff, Event, Jitter};
use buttress_heal::{Fixes, Health, Intensity, Rung, Symptom, Then, Tried};
use support::{Events, Of, Remedy, Switch, World, actions, seconds, secs, supervise, watched};
use tokio::time::sleep;
use tower::ServiceExt;

const QUIET: Duration = Duration::from_secs(30 * 86_400);

fn results(events: &Events) -> Vec<(String, HealResult)> {
    let all = events.all().into_iter();
    all.filter_map(|(_, event)| match event {
        Event::HealAttempt { action, result, .. } => Some((action.to_string(), result)),
        _ => None,
    })
    .collect()
}

/// HD-1.
#[tokio::test(start_paused = true)]
async fn the_second_failure_within_five_seconds_is_a_humans_with_the_intensity_of_otp() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, pages, _) = watched(&world, &switch);
    let restart = Remedy::cure("restart", &switch);
    let rung = Rung::new(Of(Arc::clone(&restart))).as_restart().cooldown(Duration::ZERO).verify(secs(1));
    let (_client, _handle) = supervisor.rung(rung).intensity(Intensity::new(1, secs(5))).spawn().unwrap();
    switch.set(false);
    sleep(secs(3)).await;
    assert_eq!((restart.started().len(), pages.told().len()), (1, 0));
    switch.set(false);
    sleep(secs(60)).await;
    assert_eq!(restart.started().len(), 1, "no third start, nor a second");
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
    assert!(pages.told()[0].at <= secs(5), "{:?}", pages.told());
}

/// HD-4.
#[tokio::test(start_paused = true)]
async fn a_slow_leak_never_exceeds_the_intensity_and_is_paged_once_all_the_same() {
    let (world, switch) = (World::new(1), Switch::new("leak", Symptom::Queue));
    let (supervisor, pages, _) = watched(&world, &switch);
    let restart = {
        let switch = Arc::clone(&switch);
        Remedy::new("restart", move || {
            switch.set(true);
            let switch = Arc::clone(&switch);
            tokio::spawn(async move {
                sleep(Duration::from_millis(6100)).await;
                switch.set(false);
            });
            Box::pin(std::future::ready(Ok(Then::Nothing)))
        })
    };
    let rung =
        Rung::new(Of(Arc::clone(&restart))).as_restart().cooldown(Duration::ZERO).max_attempts(u32::MAX);
    let (_client, _handle) = supervisor.rung(rung).intensity(Intensity::new(5, secs(30))).spawn().unwrap();
    switch.set(false);
    sleep(secs(3600)).await;
    let restarts = restart.started();
    assert!(restarts.len() > 400, "it is never too much for the intensity: {}", restarts.len());
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
    assert!(pages.told()[0].text.contains("it has lasted too long"), "{}", pages.told()[0].text);
}

/// HD-6.
#[tokio::test(start_paused = true)]
async fn restarts_that_crash_at_once_wait_as_in_kubernetes_and_begin_anew_after_ten_good_minutes() {
    let (world, switch) = (World::new(1), Switch::new("crash", Symptom::Queue));
    let (supervisor, _, _) = watched(&world, &switch);
    let restart = Remedy::useless("restart");
    let backoff = Backoff::exponential(secs(10), 2.0, secs(300)).unwrap().jitter(Jitter::None);
    let rung = Rung::new(Of(Arc::clone(&restart))).backoff(backoff).verify(secs(1)).max_attempts(u32::MAX);
    let supervisor = supervisor.rung(rung).patience(secs(300)).page_after(QUIET).stable_for(secs(600));
    let (_client, _handle) = supervisor.spawn().unwrap();
    switch.set(false);
    sleep(secs(920)).await;
    let started = restart.started();
    let waits: Vec<_> = started.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(seconds(&waits), [10, 20, 40, 80, 160, 300, 300], "and the first at once");
    assert!(started[0] < secs(2));
    for (good, wait) in [(590, 300), (610, 10)] {
        switch.set(true);
        sleep(secs(good)).await;
        switch.set(false);
        sleep(secs(400)).await;
        let started = restart.started();
        let first = started.len() - if wait == 10 { 6 } else { 2 };
        assert_eq!(seconds(&[started[first + 1] - started[first]]), [wait], "after {good} s");
    }
}

/// HD-10. The first of seven broken rules: a restart that resets the counter of failures restarts for ever.
#[tokio::test(start_paused = true)]
async fn what_is_critical_for_a_day_is_paged_once_within_five_checks_and_hardly_restarted() {
    let world = World::new(1);
    let (supervisor, pages, _) = supervise(&world);
    let (supervisor, ping) = (
        supervisor,
        Switch::with("held", Symptom::Connectivity, {
            buttress_heal::CheckSettings { every: secs(30), ..Default::default() }
        }),
    );
    let rung = Rung::restart().cooldown(secs(60)).max_attempts(5);
    let (_client, handle) = supervisor.check(Of(Arc::clone(&ping))).rung(rung).spawn().unwrap();
    sleep(secs(100)).await;
    ping.set(false);
    sleep(secs(86_400)).await;
    assert_eq!(handle.health(), Health::Critical);
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
    assert!(pages.told()[0].at <= secs(100 + 5 * 30), "{:?}", pages.told()[0].at);
    let restarts: Vec<_> = world.builds().iter().skip(1).map(|build| build.0).collect();
    assert!(!restarts.is_empty() && restarts.len() <= 5, "{restarts:?}");
    assert!(restarts.windows(4).all(|four| four[3] - four[0] > secs(300)), "{restarts:?}");
}

/// HD-20. And the last of seven broken rules: caches, which an outage needs, are cleared for it.
#[tokio::test(start_paused = true)]
async fn rungs_are_tried_in_their_order_and_what_does_not_help_against_the_symptom_never() {
    let world = World::new(2);
    let (supervisor, pages, _) = supervise(&world);
    let memory = Fixes::Only(vec![Symptom::Memory].into());
    let clear = Remedy::against("clear caches", memory, || Box::pin(std::future::ready(Ok(Then::Nothing))));
    let reload = Remedy::new("reload", || Box::pin(std::future::ready(Ok(Then::Rebuild))));
    let supervisor = supervisor
        .targets(["eu", "us"])
        .rung(Of(Arc::clone(&clear)))
        .rung(Rung::reset_pool())
        .rung(Rung::new(Of(reload)).cooldown(secs(60)).max_attempts(2))
        .rung(Rung::fail_over())
        .rung(Rung::restart())
        .patience(secs(10));
    let (_client, handle) = supervisor.spawn().unwrap();
    sleep(secs(20)).await;
    world.set(0, false);
    world.set(1, false);
    sleep(secs(120)).await;
    let incident = handle.incident().unwrap();
    let started: Vec<_> = incident
        .timeline()
        .iter()
        .filter_map(|(at, happened)| match happened {
            buttress_heal::Happened::Acted { action } => Some((&**action, at.as_secs())),
            buttress_heal::Happened::Escalated(_) => Some(("page", at.as_secs())),
            _ => None,
        })
        .take(7)
        .collect();
    let expected = [
        ("reset pool", 0),
        ("reset pool", 10),
        ("reset pool", 20),
        ("reload", 20),
        ("fail over", 20),
        ("restart", 20),
        ("page", 20),
    ];
    assert_eq!(started, expected, "{incident}");
    assert!(clear.started().is_empty());
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
}

/// HD-21.
#[tokio::test(start_paused = true)]
async fn an_action_that_hangs_has_failed_after_its_time_and_the_next_rung_runs() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, _, events) = watched(&world, &switch);
    let hang = Remedy::new("hang", || Box::pin(std::future::pending()));
    let cure = Remedy::cure("cure", &switch);
    let first = Rung::new(Of(Arc::clone(&hang))).timeout(secs(5)).max_attempts(1);
    let (client, handle) = supervisor.rung(first).rung(Of(Arc::clone(&cure))).spawn().unwrap();
    sleep(secs(10)).await;
    switch.set(false);
    sleep(secs(3)).await;
    assert_eq!(hang.started().len(), 1);
    client.clone().oneshot(()).await.expect("calls go on");
    sleep(secs(4)).await;
    assert_eq!(cure.started()[0] - hang.started()[0], secs(5));
    sleep(secs(10)).await;
    let expected = [("hang".to_owned(), HealResult::TimedOut), ("cure".to_owned(), HealResult::Cured)];
    assert_eq!(results(&events), expected);
    assert_eq!((hang.most_at_once.load(SeqCst), handle.health()), (1, Health::Healthy));
}

/// HD-22.
#[tokio::test(start_paused = true)]
async fn an_action_that_panics_has_failed_and_the_next_rung_runs() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, _, events) = watched(&world, &switch);
    let early = Remedy::new("early", || panic!("before it began"));
    let late = Remedy::new("late", || {
        Box::pin(async {
            tokio::task::yield_now().await;
            panic!("while it ran")
        })
    });
    let cure = Remedy::cure("cure", &switch);
    let supervisor =
        supervisor.rung(Rung::new(Of(early)).max_attempts(1)).rung(Rung::new(Of(late)).max_attempts(1));
    let (_client, handle) = supervisor.rung(Of(cure)).spawn().unwrap();
    switch.set(false);
    sleep(secs(20)).await;
    let expected =
        [("early", HealResult::Panicked), ("late", HealResult::Panicked), ("cure", HealResult::Cured)];
    assert_eq!(results(&events), expected.map(|(name, result)| (name.to_owned(), result)));
    assert_eq!(handle.health(), Health::Healthy);
}

/// HD-25.
#[tokio::test(start_paused = true)]
async fn two_checks_that_fail_in_the_same_tick_are_one_incident_and_one_action() {
    let (world, one, two) =
        (World::new(1), Switch::new("one", Symptom::Queue), Switch::new("two", Symptom::ResponseTime));
    let (supervisor, _, _) = watched(&world, &one);
    let slow = Remedy::new("slow", || {
        Box::pin(async {
            sleep(secs(2)).await;
            Ok(Then::Nothing)
        })
    });
    let (_client, handle) =
        supervisor.check(Of(Arc::clone(&two))).rung(Of(Arc::clone(&slow))).spawn().unwrap();
    sleep(secs(5)).await;
    one.set(false);
    two.set(false);
    sleep(secs(4)).await;
    assert_eq!((slow.started().len(), slow.most_at_once.load(SeqCst)), (1, 1));
    assert_eq!((handle.incidents().len(), handle.incident().unwrap().symptoms().count()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_action_that_changes_nothing_does_not_count_as_a_cure_whatever_it_returns() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, _, events) = watched(&world, &switch);
    let useless = Remedy::useless("useless");
    let (_client, handle) =
        supervisor.rung(Rung::new(Of(useless)).max_attempts(2)).page_after(QUIET).spawn().unwrap();
    switch.set(false);
    sleep(secs(30)).await;
    assert_eq!(
        results(&events),
        [("useless".to_owned(), HealResult::NoEffect), ("useless".to_owned(), HealResult::NoEffect)]
    );
    let ledger = handle.ledger();
    assert_eq!((ledger.entries()[0].attempts(), ledger.entries()[0].successes()), (2, 0));
    let incident = handle.incident().unwrap();
    let no_effect = |happened: &buttress_heal::Happened| {
        matches!(happened, buttress_heal::Happened::Tried { tried: Tried::NoEffect, .. })
    };
    assert_eq!(incident.timeline().iter().filter(|(_, happened)| no_effect(happened)).count(), 2);
    assert_eq!(actions(&handle).len(), 2);
}
