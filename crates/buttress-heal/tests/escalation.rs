//! Escalation: a human is called once, the service keeps serving, and somebody hears that it is over.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use buttress_core::observe::PageKind;
use buttress_core::{BoxError, Event, Mode};
use buttress_heal::{BoxFuture, HealState, Health, Incident, Pager, Rung, Symptom, Unavailable};
use support::{Of, Remedy, Switch, World, secs, supervise, watched};
use tokio::time::sleep;
use tower::ServiceExt;

/// HD-26.
#[tokio::test(start_paused = true)]
async fn a_day_of_illness_is_one_page_one_update_when_it_gets_worse_and_one_resolve() {
    let (world, memory, ping) =
        (World::new(1), Switch::new("memory", Symptom::Memory), Switch::new("ping", Symptom::Connectivity));
    let (supervisor, pages, _) = watched(&world, &memory);
    let (_client, handle) = supervisor.check(Of(Arc::clone(&ping))).spawn().unwrap();
    memory.set(false);
    sleep(secs(12 * 3600)).await;
    assert_eq!((pages.kinds(), pages.told()[0].health), (vec![PageKind::Trigger], Health::Unhealthy));
    ping.set(false);
    sleep(secs(6 * 3600)).await;
    ping.set(true);
    sleep(secs(300)).await;
    ping.set(false);
    sleep(secs(6 * 3600)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger, PageKind::Update]);
    memory.set(true);
    ping.set(true);
    sleep(secs(120)).await;
    let told = pages.told();
    assert_eq!(pages.kinds(), [PageKind::Trigger, PageKind::Update, PageKind::Resolve]);
    assert!(told.iter().all(|page| page.key == told[0].key) && told[1].health == Health::Critical);
    assert_eq!((handle.health(), handle.incidents().len()), (Health::Healthy, 1));
}

#[tokio::test(start_paused = true)]
async fn a_page_is_sent_when_it_is_decided_and_not_when_something_else_happens() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, pages, events) = watched(&world, &switch);
    let rung = Rung::new(Of(Remedy::useless("useless"))).verify(std::time::Duration::from_millis(5300));
    let (_client, _handle) = supervisor.rung(rung.max_attempts(1)).spawn().unwrap();
    switch.set(false);
    sleep(secs(60)).await;
    let is_escalated = |event: &Event| matches!(event, Event::Heal { to: HealState::Escalated, .. });
    let all = events.all();
    let (at, _) = all.iter().find(|(_, event)| is_escalated(event)).unwrap();
    assert_eq!(pages.told()[0].at, *at);
}

/// HD-29. And the fourth of seven broken rules: whoever has escalated stops serving.
#[tokio::test(start_paused = true)]
async fn after_a_page_calls_go_on_with_what_there_is_and_work_again_when_somebody_has_mended_it() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, pages, _) = watched(&world, &switch);
    let (client, handle) = supervisor.rung(Of(Remedy::useless("useless"))).spawn().unwrap();
    switch.set(false);
    sleep(secs(3600)).await;
    assert_eq!((handle.status().state, pages.kinds()), (HealState::Escalated, vec![PageKind::Trigger]));
    client.clone().oneshot(()).await.expect("what answers is not taken away");

    let (supervisor, pages, _) = supervise(&world);
    let (client, handle) = supervisor.spawn().unwrap();
    sleep(secs(10)).await;
    world.set(0, false);
    sleep(secs(3600)).await;
    let key = handle.status().incident.unwrap();
    let error = client.clone().oneshot(()).await.unwrap_err();
    if let Some(unavailable) = buttress_core::find::<Unavailable>(&*error) {
        assert_eq!(unavailable.incident(), Some(&*key));
    }
    world.set(0, true);
    sleep(secs(70)).await;
    client.clone().oneshot(()).await.expect("traffic resumes");
    sleep(secs(90)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger, PageKind::Resolve]);
    assert_eq!(pages.told()[1].key, *key);
}

/// The dependency is back, and only a new pool would notice: sqlx's pool was dead for 17 hours.
#[tokio::test(start_paused = true)]
async fn a_new_pool_is_tried_every_minute_after_a_page_since_nobody_else_mends_this_client() {
    let world = World::new(1);
    let (supervisor, pages, _) = supervise(&world);
    let (client, _handle) = supervisor.rung(Rung::reset_pool()).spawn().unwrap();
    sleep(secs(10)).await;
    world.set(0, false);
    sleep(secs(7200)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
    world.poison();
    world.set(0, true);
    sleep(secs(70)).await;
    client.clone().oneshot(()).await.expect("a new generation");
    sleep(secs(70)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger, PageKind::Resolve]);
}

#[tokio::test(start_paused = true)]
async fn whoever_was_called_hears_the_end_in_any_mode_and_who_was_not_is_called_when_it_is_enforced() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, pages, _) = watched(&world, &switch);
    let supervisor = supervisor.rung(Of(Remedy::useless("useless")));
    let (_client, handle) = supervisor.mode(Mode::Observe).spawn().unwrap();
    switch.set(false);
    sleep(secs(600)).await;
    assert_eq!((handle.status().state, pages.told().len()), (HealState::Escalated, 0));
    handle.set_mode(Mode::Enforce);
    sleep(secs(1)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
    handle.set_mode(Mode::Observe);
    switch.set(true);
    sleep(secs(120)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger, PageKind::Resolve]);
}

/// Fails, hangs and panics before it works.
struct Unreliable(Arc<support::Pages>);

impl Pager for Unreliable {
    fn trigger<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        match self.0.attempts.load(SeqCst) {
            0 => {
                self.0.attempts.fetch_add(1, SeqCst);
                Box::pin(std::future::pending())
            }
            1 => {
                self.0.attempts.fetch_add(1, SeqCst);
                panic!("a pager's own fault")
            }
            _ => self.0.trigger(incident),
        }
    }

    fn resolve<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        self.0.resolve(incident)
    }
}

#[tokio::test(start_paused = true)]
async fn a_pager_that_hangs_panics_and_fails_is_asked_until_it_works_and_healing_does_not_wait_for_it() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, pages, events) = watched(&world, &switch);
    let useless = Remedy::useless("useless");
    pages.failures.store(3, SeqCst);
    let supervisor = supervisor.rung(Rung::new(Of(useless)).max_attempts(1));
    let (_client, handle) = supervisor.pager(Unreliable(Arc::clone(&pages))).spawn().unwrap();
    switch.set(false);
    sleep(secs(8)).await;
    assert_eq!((handle.status().state, pages.told().len()), (HealState::Escalated, 0));
    sleep(secs(120)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
    let failed =
        events.all().iter().filter(|(_, event)| matches!(event, Event::Paged { success: false, .. })).count();
    assert_eq!(failed, 5);
    switch.set(true);
    sleep(secs(120)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger, PageKind::Resolve]);
}

#[tokio::test(start_paused = true)]
async fn a_resolve_is_never_lost_and_a_page_that_never_got_through_is_not_sent_when_all_is_over() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, pages, _) = watched(&world, &switch);
    let supervisor = supervisor.rung(Rung::new(Of(Remedy::useless("useless"))).max_attempts(1));
    let (_client, _handle) = supervisor.spawn().unwrap();
    pages.failures.store(usize::MAX, SeqCst);
    switch.set(false);
    sleep(secs(600)).await;
    switch.set(true);
    sleep(secs(600)).await;
    pages.failures.store(0, SeqCst);
    sleep(secs(120)).await;
    assert_eq!(pages.kinds(), [PageKind::Resolve], "it was tried, and may have got through");
    switch.set(false);
    sleep(secs(60)).await;
    pages.failures.store(usize::MAX, SeqCst);
    switch.set(true);
    sleep(secs(3600)).await;
    pages.failures.store(0, SeqCst);
    sleep(secs(120)).await;
    assert_eq!(pages.kinds(), [PageKind::Resolve, PageKind::Trigger, PageKind::Resolve]);
}

#[tokio::test(start_paused = true)]
async fn shutdown_cuts_off_an_action_sends_what_is_on_its_way_and_refuses_calls() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, pages, _) = watched(&world, &switch);
    let hang = Remedy::new("hang", || Box::pin(std::future::pending()));
    let first = Rung::new(Of(Remedy::useless("useless"))).max_attempts(1);
    let second = Rung::new(Of(Arc::clone(&hang))).timeout(secs(3600)).max_attempts(1);
    let (client, handle) = supervisor.rung(first).rung(second).page_after(secs(2)).spawn().unwrap();
    pages.failures.store(1, SeqCst);
    switch.set(false);
    sleep(secs(8)).await;
    assert_eq!(handle.status().state, HealState::Healing);
    assert!(handle.shutdown(secs(5)).await);
    assert_eq!(hang.started().len(), 1);
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
    client.clone().oneshot(()).await.unwrap_err();
    let tried = handle.incident().unwrap();
    assert!(tried.to_string().contains("hang: cancelled"), "{tried}");
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_supervisor_ends_with_the_last_clone_of_its_service() {
    let world = World::new(1);
    let (supervisor, _, _) = supervise(&world);
    let (client, handle) = supervisor.spawn().unwrap();
    sleep(secs(10)).await;
    let clone = client.clone();
    drop(client);
    sleep(secs(10)).await;
    assert!(handle.explain().await.is_some());
    drop(clone);
    sleep(secs(10)).await;
    assert!(handle.explain().await.is_none());
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[test]
fn without_a_runtime_and_with_settings_that_cannot_work_there_is_a_typed_error() {
    let factory = |_| async { Ok::<_, BoxError>(()) };
    let supervisor = || buttress_heal::Supervisor::new("db", factory);
    let source = |result: Result<_, buttress_heal::SpawnError>| {
        let error: Box<dyn std::error::Error> = Box::new(result.map(|_| ()).unwrap_err());
        error.source().unwrap().to_string()
    };
    assert!(source(supervisor().spawn()).contains("no tokio timer here"));
    let none: [&str; 0] = [];
    assert_eq!(source(supervisor().targets(none).spawn()), "`targets` is [], but must name at least one");
    assert!(
        source(supervisor().stable_for(std::time::Duration::ZERO).spawn()).starts_with("`stable_for` is 0ns")
    );
    let ping = buttress_heal::check_fn("ping", Symptom::Connectivity, |()| async { Ok::<_, BoxError>(()) });
    let ping = buttress_heal::Monitor::new(ping).every(secs(30)).in_doubt_every(secs(30));
    assert_eq!(
        source(supervisor().check(ping).spawn()),
        "`verify` is 5s, but must be at least 60s, or `ping` cannot rise while `reset pool` is verified"
    );
    let failback = buttress_heal::Failback { min_dwell: secs(900), ..Default::default() };
    assert_eq!(
        source(supervisor().failback(failback).spawn()),
        "`failback.min_dwell` is 900s, but must be at most `max_dwell`, which is 600s"
    );
    let ping = buttress_heal::check_fn("ping", Symptom::Connectivity, |()| async { Ok::<_, BoxError>(()) });
    let ping = buttress_heal::Monitor::new(ping).jitter(101);
    assert_eq!(
        source(supervisor().check(ping).spawn()),
        "`jitter_percent` is 101, but must be at most 100, for `ping`"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_was_not_called_is_not_called_when_all_is_well_again() {
    let (world, switch) = (World::new(1), Switch::new("queue", Symptom::Queue));
    let (supervisor, pages, _) = watched(&world, &switch);
    let supervisor = supervisor.rung(Of(Remedy::useless("useless")));
    let (_client, handle) = supervisor.mode(Mode::Observe).spawn().unwrap();
    switch.set(false);
    sleep(secs(600)).await;
    switch.set(true);
    sleep(secs(10)).await;
    assert_eq!(handle.status().state, HealState::Recovering);
    handle.set_mode(Mode::Enforce);
    sleep(secs(10)).await;
    assert_eq!(pages.told().len(), 0);
    switch.set(false);
    sleep(secs(10)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger], "it is back");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_an_incident_only_if_a_human_was_called_for_it() {
    let world = World::new(1);
    world.set(0, false);
    let (supervisor, pages, _) = supervise(&world);
    let (client, handle) = supervisor.mode(Mode::Observe).spawn().unwrap();
    sleep(secs(600)).await;
    assert_eq!((handle.status().state, pages.told().len()), (HealState::Escalated, 0));
    let incident = handle.incident().unwrap();
    assert!(!incident.is_escalated() && !incident.to_string().contains("a human is called"), "{incident}");
    let refused = async || {
        let error = client.clone().oneshot(()).await.unwrap_err();
        buttress_core::find::<Unavailable>(&*error).unwrap().incident().map(str::to_owned)
    };
    assert_eq!(refused().await, None);
    handle.set_mode(Mode::Enforce);
    sleep(secs(1)).await;
    assert_eq!(refused().await.as_deref(), handle.status().incident.as_deref());
    let incident = handle.incident().unwrap();
    assert!(incident.is_escalated() && incident.to_string().contains("a human is called"), "{incident}");
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
}
