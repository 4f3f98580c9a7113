//! Many supervisors of one dependency.

mod support;

use std::sync::Arc;
use std::time::Duration;

use buttress_core::Mode;
use buttress_core::observe::PageKind;
use buttress_heal::{Health, Rung, Siblings, SupervisorHandle, Symptom};
use support::{Of, Pages, Remedy, Switch, World, secs, watched};
use tokio::time::sleep;

struct Sibling {
    switch: Arc<Switch>,
    restart: Arc<Remedy>,
    pages: Arc<Pages>,
    handle: SupervisorHandle,
    /// Its supervisor lives as long.
    _client: Box<dyn std::any::Any>,
}

fn family(siblings: &Siblings, number: usize) -> Vec<Sibling> {
    let world = World::new(1);
    let sibling = |_| {
        let switch = Switch::new("ping", Symptom::Connectivity);
        let (supervisor, pages, _) = watched(&world, &switch);
        let restart = Remedy::useless("restart");
        let rung = Rung::new(Of(Arc::clone(&restart))).as_restart().cooldown(secs(10)).max_attempts(u32::MAX);
        let (client, handle) = supervisor.siblings(siblings).rung(rung).spawn().unwrap();
        Sibling { switch, restart, pages, handle, _client: Box::new(client) }
    };
    (0..number).map(sibling).collect()
}

fn restarts(family: &[Sibling]) -> usize {
    family.iter().map(|sibling| sibling.restart.started().len()).sum()
}

fn pages(family: &[Sibling]) -> Vec<(PageKind, String)> {
    let told = family.iter().flat_map(|sibling| sibling.pages.told());
    told.map(|told| (told.kind, told.key)).collect()
}

async fn fall_ill(family: &[Sibling]) {
    for sibling in family {
        sibling.switch.set(false);
        sleep(Duration::from_millis(1500)).await;
    }
}

/// HD-30.
#[tokio::test(start_paused = true)]
async fn when_six_of_ten_want_to_restart_within_ten_seconds_restarts_stop_at_five_and_one_page_says_so() {
    let siblings = Siblings::new("database");
    let family = family(&siblings, 10);
    sleep(secs(5)).await;
    fall_ill(&family[..6]).await;
    sleep(secs(3600)).await;
    assert_eq!(restarts(&family), 5);
    assert!(siblings.is_holding());
    let told = pages(&family);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].0 == PageKind::Trigger && told[0].1.starts_with("database-correlated-"));
    let text = family.iter().flat_map(|sibling| sibling.pages.told()).next().unwrap().text;
    assert!(text.contains("6 of 10 want to restart: restarts are held"), "{text}");
    for sibling in &family {
        sibling.switch.set(true);
    }
    sleep(secs(90)).await;
    assert!(!siblings.is_holding());
    let told = pages(&family);
    assert_eq!((told.len(), told[0].1 == told[1].1), (2, true), "{told:?}");
    assert!(told.iter().any(|(kind, _)| *kind == PageKind::Resolve));
    assert!(family.iter().all(|sibling| sibling.handle.health() == Health::Healthy));
}

/// HD-30, its other half.
#[tokio::test(start_paused = true)]
async fn when_four_of_ten_want_to_restart_all_of_them_do() {
    let siblings = Siblings::new("database");
    let family = family(&siblings, 10);
    sleep(secs(5)).await;
    fall_ill(&family[..4]).await;
    sleep(secs(3)).await;
    assert_eq!(family[..4].iter().filter(|sibling| sibling.restart.started().len() == 1).count(), 4);
    assert_eq!((siblings.is_holding(), pages(&family).len()), (false, 0));
}

/// Whoever has paged ends, and the others do not page again.
#[tokio::test(start_paused = true)]
async fn when_the_one_that_has_paged_ends_another_one_answers_for_the_same_page() {
    let siblings = Siblings::new("database");
    let mut family = family(&siblings, 6);
    sleep(secs(5)).await;
    fall_ill(&family).await;
    sleep(secs(30)).await;
    let at = family.iter().position(|sibling| !sibling.pages.told().is_empty()).unwrap();
    let gone = family.remove(at);
    assert!(gone.handle.shutdown(secs(1)).await);
    sleep(secs(30)).await;
    for sibling in &family {
        sibling.switch.set(true);
    }
    sleep(secs(90)).await;
    let told = pages(&family);
    let kinds: Vec<_> = told.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [PageKind::Trigger, PageKind::Resolve], "the same key: no human is called twice");
    assert!(told.iter().all(|(_, key)| *key == gone.pages.told()[0].key));
}

#[tokio::test(start_paused = true)]
async fn who_only_observes_does_not_keep_the_groups_page_to_itself_and_counts_no_restart_that_it_does_not_make()
 {
    let siblings = Siblings::new("database");
    let family = family(&siblings, 10);
    family[5].handle.set_mode(Mode::Observe);
    sleep(secs(5)).await;
    fall_ill(&family[..7]).await;
    sleep(secs(3600)).await;
    let told = pages(&family);
    assert_eq!((told.len(), siblings.is_holding()), (1, true), "{told:?}");
    assert!(told[0].0 == PageKind::Trigger && told[0].1.starts_with("database-correlated-"));
    let siblings = Siblings::new("cache");
    let family = self::family(&siblings, 4);
    family[..2].iter().for_each(|sibling| sibling.handle.set_mode(Mode::Observe));
    sleep(secs(5)).await;
    fall_ill(&family[..4]).await;
    assert_eq!(restarts(&family), 2, "the other two");
}

/// Three of five hold, and two of four do not.
#[tokio::test(start_paused = true)]
async fn when_the_leaving_of_the_one_that_has_paged_ends_the_hold_it_resolves_its_page() {
    let siblings = Siblings::new("database");
    let mut family = family(&siblings, 5);
    sleep(secs(5)).await;
    fall_ill(&family[..3]).await;
    sleep(secs(30)).await;
    let at = family.iter().position(|sibling| !sibling.pages.told().is_empty()).unwrap();
    let gone = family.remove(at);
    assert!(gone.handle.shutdown(secs(1)).await && !siblings.is_holding());
    assert_eq!(gone.pages.kinds(), [PageKind::Trigger, PageKind::Resolve]);
    let told = gone.pages.told();
    assert_eq!(told[0].key, told[1].key);
    family.iter().for_each(|sibling| sibling.switch.set(true));
    sleep(secs(90)).await;
    fall_ill(&family).await;
    sleep(secs(30)).await;
    let again = pages(&family).into_iter().map(|(_, key)| key).find(|key| key.starts_with("database-"));
    assert!(again.is_some_and(|key| key != told[0].key), "another hold, another page");
}

#[tokio::test(start_paused = true)]
async fn the_page_of_one_that_has_left_is_resolved_by_another_one_when_the_hold_is_over() {
    let siblings = Siblings::new("database");
    let mut family = family(&siblings, 4);
    sleep(secs(5)).await;
    fall_ill(&family[..3]).await;
    sleep(secs(30)).await;
    let at = family.iter().position(|sibling| !sibling.pages.told().is_empty()).unwrap();
    let gone = family.remove(at);
    family.iter().for_each(|sibling| sibling.switch.set(true));
    assert!(gone.handle.shutdown(secs(1)).await);
    sleep(secs(90)).await;
    let told = pages(&family);
    let resolves: Vec<_> = told.iter().filter(|(kind, _)| *kind == PageKind::Resolve).collect();
    assert_eq!((gone.pages.kinds(), resolves.len()), (vec![PageKind::Trigger], 1), "{told:?}");
    assert_eq!(resolves[0].1, gone.pages.told()[0].key);
    fall_ill(&family).await;
    sleep(secs(30)).await;
    assert_ne!(pages(&family).last().unwrap().1, gone.pages.told()[0].key, "another hold, another page");
}

#[tokio::test(start_paused = true)]
async fn who_only_observes_holds_nobody_back() {
    let siblings = Siblings::new("database");
    let family = family(&siblings, 4);
    family[..2].iter().for_each(|sibling| sibling.handle.set_mode(Mode::Observe));
    sleep(secs(5)).await;
    fall_ill(&family).await;
    sleep(secs(25)).await;
    assert!(!siblings.is_holding(), "two of four restart");
    assert_eq!((restarts(&family[..2]), restarts(&family[2..])), (0, 6));
}
