//! What an operator decides: to pause, to force a rung, to observe only, to switch it off.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use buttress_core::observe::PageKind;
use buttress_core::{Event, Mode};
use buttress_heal::{HealState, Health, Rung, Symptom};
use support::{Of, Remedy, SECOND, Switch, World, actions, secs, supervise, watched};
use tokio::time::sleep;

/// HD-31.
#[tokio::test(start_paused = true)]
async fn while_an_operator_has_paused_it_checks_go_on_nothing_is_done_and_it_resumes_at_the_same_rung() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, pages, _) = watched(&world, &switch);
    let [first, second] = ["first", "second"].map(Remedy::useless);
    let rung = |remedy: &Arc<Remedy>| Rung::new(Of(Arc::clone(remedy))).max_attempts(2);
    let (_client, handle) = supervisor.rung(rung(&first)).rung(rung(&second)).spawn().unwrap();
    switch.set(false);
    sleep(secs(3)).await;
    handle.pause();
    sleep(secs(10)).await;
    assert_eq!(actions(&handle), ["first"]);
    let looked = switch.runs.load(SeqCst);
    sleep(secs(3600)).await;
    assert_eq!((actions(&handle).len(), pages.told().len()), (1, 0));
    assert!(switch.runs.load(SeqCst) > looked + 3000 && handle.status().paused);
    handle.resume();
    // It has been so long that somebody is called as well.
    sleep(secs(30)).await;
    assert_eq!(actions(&handle)[..2], ["first", "first"]);
    assert_eq!(actions(&handle)[2], "second");
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
}

#[tokio::test(start_paused = true)]
async fn an_operator_can_force_a_rung_and_ask_what_would_be_done_and_why_nothing_else() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, _, _) = watched(&world, &switch);
    let supervisor =
        supervisor.rung(Rung::reset_pool()).rung(Of(Remedy::useless("useless"))).rung(Rung::fail_over());
    let (_client, handle) = supervisor.spawn().unwrap();
    sleep(secs(5)).await;
    let error = handle.force("reboot").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no rung `reboot`; there are: reset pool, useless, fail over");
    handle.force("reset pool").await.unwrap();
    sleep(secs(1)).await;
    assert_eq!(world.builds().len(), 2, "although nothing is wrong");
    sleep(secs(120)).await;
    assert!(handle.incidents()[0].is_over() && !handle.incidents()[0].is_escalated());
    switch.set(false);
    sleep(secs(7)).await;
    let explanation = handle.explain().await.unwrap().to_string();
    assert!(explanation.starts_with("degraded, ill; nothing can run now"), "{explanation}");
    assert!(explanation.contains("\n  reset pool: does not help against what is wrong"), "{explanation}");
    assert!(explanation.contains("\n  useless: cools down for"), "{explanation}");
    assert!(explanation.contains("\n  fail over: does not help"), "{explanation}");
    assert!(handle.shutdown(SECOND).await);
    assert!(handle.explain().await.is_none() && handle.force("useless").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn when_it_only_observes_it_tells_what_it_would_do_and_does_nothing_and_calls_nobody() {
    let world = World::new(1);
    let (supervisor, pages, events) = supervise(&world);
    let (_client, handle) = supervisor.mode(Mode::Observe).spawn().unwrap();
    sleep(secs(10)).await;
    world.set(0, false);
    sleep(secs(600)).await;
    world.set(0, true);
    sleep(secs(100)).await;
    assert_eq!((world.builds().len(), pages.told().len()), (1, 0));
    let would = events
        .all()
        .iter()
        .filter(|(_, event)| {
            matches!(event, Event::HealAttempt { result: buttress_core::observe::HealResult::WouldAct, .. })
        })
        .count();
    assert!(would >= 4, "{would}");
    assert!(handle.ledger().entries().is_empty(), "nothing was tried, and nothing is known of it");
    handle.set_mode(Mode::Off);
    sleep(secs(5)).await;
    let pings = world.pings.load(SeqCst);
    world.set(0, false);
    sleep(secs(600)).await;
    assert_eq!((world.pings.load(SeqCst), handle.health()), (pings, Health::Healthy));
    handle.set_mode(Mode::Enforce);
    sleep(secs(10)).await;
    assert_eq!(handle.health(), Health::Critical);
}

#[tokio::test(start_paused = true)]
async fn switched_off_during_an_outage_that_is_a_humans_it_takes_nothing_for_a_recovery() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, pages, _) = watched(&world, &switch);
    let (_client, handle) = supervisor.rung(Of(Remedy::useless("useless"))).spawn().unwrap();
    switch.set(false);
    sleep(secs(600)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
    handle.set_mode(Mode::Off);
    sleep(secs(3600)).await;
    assert_eq!((pages.kinds(), handle.incidents().len()), (vec![PageKind::Trigger], 1));
    handle.set_mode(Mode::Enforce);
    sleep(secs(600)).await;
    assert_eq!((pages.kinds(), handle.incidents().len()), (vec![PageKind::Trigger], 1), "still the same");
    switch.set(true);
    sleep(secs(120)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger, PageKind::Resolve]);
    // While it is seen whether an action helps.
    switch.set(false);
    while handle.status().state != HealState::Verifying {
        sleep(secs(1)).await;
    }
    handle.set_mode(Mode::Off);
    sleep(secs(600)).await;
    assert!(handle.ledger().entries().iter().all(|entry| entry.successes() == 0), "nobody knows");
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_forces_while_an_action_runs_has_its_turn_each_once_and_in_order() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, _, _) = watched(&world, &switch);
    let slow = Remedy::new("slow", || {
        Box::pin(async {
            sleep(secs(3)).await;
            Ok(buttress_heal::Then::Nothing)
        })
    });
    let [second, third] = ["second", "third"].map(Remedy::useless);
    let supervisor = supervisor.rung(Of(slow)).rung(Of(second)).rung(Of(third));
    let (_client, handle) = supervisor.spawn().unwrap();
    sleep(secs(1)).await;
    handle.force("slow").await.unwrap();
    sleep(secs(1)).await;
    for rung in ["third", "second", "third"] {
        handle.force(rung).await.unwrap();
    }
    sleep(secs(60)).await;
    assert_eq!(actions(&handle), ["slow", "third", "second"]);
}

#[tokio::test(start_paused = true)]
async fn while_it_is_paused_nobody_is_told_that_it_got_worse_or_called_for_what_was_seen_before() {
    let (world, memory, ping) =
        (World::new(1), Switch::new("memory", Symptom::Memory), Switch::new("ping", Symptom::Connectivity));
    let (supervisor, pages, _) = watched(&world, &memory);
    let supervisor = supervisor.check(Of(Arc::clone(&ping))).rung(Of(Remedy::useless("useless")));
    let (_client, handle) = supervisor.mode(Mode::Observe).spawn().unwrap();
    memory.set(false);
    sleep(secs(600)).await;
    handle.pause();
    handle.set_mode(Mode::Enforce);
    sleep(secs(60)).await;
    assert_eq!((handle.status().state, pages.told().len()), (HealState::Escalated, 0));
    handle.resume();
    sleep(secs(1)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
    handle.pause();
    ping.set(false);
    sleep(secs(60)).await;
    assert_eq!((handle.health(), pages.kinds()), (Health::Critical, vec![PageKind::Trigger]));
    handle.resume();
    sleep(secs(1)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger, PageKind::Update]);
}
