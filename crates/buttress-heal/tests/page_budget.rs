//! How often a human is called.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::BoxError;
use buttress_core::observe::Health;
use buttress_heal::{BoxFuture, Incident, PageBudget, Pager};
use tokio::time::advance;

/// Writes down what it is told, and fails while it is down.
#[derive(Clone, Default)]
struct Recorder {
    told: Arc<Mutex<Vec<String>>>,
    down: Arc<Mutex<bool>>,
}

impl Recorder {
    fn tell(&self, what: &str, incident: &Incident) -> Result<(), BoxError> {
        if *self.down.lock().unwrap() {
            return Err("the pager is down".into());
        }
        let evidence = incident.symptoms().next().map_or("", |(_, _, evidence)| evidence).to_owned();
        let name = if incident.service() == "page budget" { "notice" } else { incident.key() };
        let told =
            if evidence.is_empty() { format!("{what} {name}") } else { format!("{what} {name}: {evidence}") };
        self.told.lock().unwrap().push(told);
        Ok(())
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

impl Pager for Recorder {
    fn trigger<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async move { self.tell("trigger", incident) })
    }

    fn update<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async move { self.tell("update", incident) })
    }

    fn resolve<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async move { self.tell("resolve", incident) })
    }
}

fn incident(key: &str) -> Incident {
    Incident::new(key, "search", Health::Critical)
}

fn two_an_hour(pager: Recorder) -> PageBudget<Recorder> {
    PageBudget::new(pager).at_most(2, Duration::from_secs(3600)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn beyond_the_budget_pages_are_held_back_and_the_human_is_told_once() {
    let pager = Recorder::default();
    let budget = two_an_hour(pager.clone());
    let (a, b, c, d) = (incident("a"), incident("b"), incident("c"), incident("d"));
    budget.trigger(&a).await.unwrap();
    advance(Duration::from_secs(60)).await;
    budget.trigger(&b).await.unwrap();
    budget.trigger(&a).await.unwrap();
    assert_eq!(pager.told(), ["trigger a", "trigger b", "trigger a"], "the same page again counts once");
    let error = budget.clone().trigger(&c).await.unwrap_err().to_string();
    assert_eq!(error, "2 pages in 3600 s are used up; there is room in 3540 s");
    for held in [&c, &d, &d] {
        budget.trigger(held).await.unwrap_err();
    }
    assert_eq!(pager.told(), ["trigger notice: 2 pages in 3600 s are used up; held back: 1"]);
    assert_eq!(budget.held(), 2);
    budget.update(&c).await.unwrap();
    assert!(pager.told().is_empty(), "nobody has been called about it");
    budget.update(&a).await.unwrap();
    budget.resolve(&a).await.unwrap();
    assert_eq!(pager.told(), ["update a", "resolve a"], "these are never held back");
    // One has recovered while it was held back; the other one is still ill when there is room.
    budget.resolve(&c).await.unwrap();
    assert!(pager.told().is_empty());
    advance(Duration::from_secs(3539)).await;
    budget.trigger(&d).await.unwrap_err();
    advance(Duration::from_secs(1)).await;
    budget.trigger(&d).await.unwrap();
    assert_eq!(pager.told(), ["trigger d", "resolve notice"]);
    assert_eq!(budget.held(), 0);
}

/// Its incident lasts longer than the time that the budget is for.
#[tokio::test(start_paused = true)]
async fn a_page_that_is_open_is_not_held_back_when_it_is_asked_for_again_and_is_resolved() {
    let pager = Recorder::default();
    let budget = two_an_hour(pager.clone());
    let a = incident("a");
    budget.trigger(&a).await.unwrap();
    advance(Duration::from_secs(3600)).await;
    for key in ["b", "c"] {
        budget.trigger(&incident(key)).await.unwrap();
    }
    pager.told();
    budget.trigger(&a).await.unwrap();
    budget.update(&a).await.unwrap();
    *pager.down.lock().unwrap() = true;
    budget.resolve(&a).await.unwrap_err();
    *pager.down.lock().unwrap() = false;
    budget.trigger(&a).await.unwrap();
    budget.resolve(&a).await.unwrap();
    assert_eq!(
        (pager.told(), budget.held()),
        (["trigger a", "update a", "trigger a", "resolve a"].map(String::from).into(), 0)
    );
    // The next one is another page, for which there is no room.
    budget.trigger(&a).await.unwrap_err();
    budget.resolve(&a).await.unwrap();
    assert_eq!(
        pager.told(),
        ["trigger notice: 2 pages in 3600 s are used up; held back: 1", "resolve notice"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_notice_is_resolved_with_the_last_incident_that_was_held_back() {
    let pager = Recorder::default();
    let budget = two_an_hour(pager.clone());
    for key in ["a", "b"] {
        budget.trigger(&incident(key)).await.unwrap();
    }
    budget.trigger(&incident("c")).await.unwrap_err();
    budget.resolve(&incident("c")).await.unwrap();
    assert_eq!(
        pager.told()[2..],
        ["trigger notice: 2 pages in 3600 s are used up; held back: 1", "resolve notice"]
    );
    budget.trigger(&incident("d")).await.unwrap_err();
    assert_eq!(pager.told().len(), 1, "another notice");
    // Its supervisor is gone and does not ask again.
    advance(Duration::from_secs(3600)).await;
    budget.resolve(&incident("a")).await.unwrap();
    assert_eq!(pager.told(), ["resolve a", "resolve notice"]);
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_did_not_get_through_is_tried_again_and_resolved_in_any_case() {
    let pager = Recorder::default();
    let budget = two_an_hour(pager.clone());
    for key in ["a", "b"] {
        budget.trigger(&incident(key)).await.unwrap();
    }
    pager.told();
    *pager.down.lock().unwrap() = true;
    assert_eq!(budget.trigger(&incident("c")).await.unwrap_err().to_string(), "the pager is down");
    assert!(budget.resolve(&incident("c")).await.is_err(), "it may have got through");
    *pager.down.lock().unwrap() = false;
    budget.resolve(&incident("c")).await.unwrap();
    assert_eq!(pager.told(), ["resolve c", "resolve notice"]);
    *pager.down.lock().unwrap() = true;
    budget.trigger(&incident("d")).await.unwrap_err();
    *pager.down.lock().unwrap() = false;
    budget.trigger(&incident("d")).await.unwrap_err();
    assert_eq!(pager.told(), ["trigger notice: 2 pages in 3600 s are used up; held back: 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_did_not_get_through_is_not_counted_twice() {
    let pager = Recorder::default();
    let budget = two_an_hour(pager.clone());
    *pager.down.lock().unwrap() = true;
    for _ in 0..10 {
        budget.trigger(&incident("a")).await.unwrap_err();
    }
    *pager.down.lock().unwrap() = false;
    for key in ["a", "b"] {
        budget.trigger(&incident(key)).await.unwrap();
    }
    assert_eq!(budget.held(), 0);
}

#[test]
fn a_budget_of_nothing_is_an_error() {
    let budget = || PageBudget::new(Recorder::default());
    let error = budget().at_most(0, Duration::from_secs(1)).unwrap_err().to_string();
    assert_eq!(error, "`pages` is 0, but must be at least 1, or nobody is ever called");
    assert!(budget().at_most(1, Duration::ZERO).is_err());
}
