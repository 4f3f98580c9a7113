//! Many runs: lists of them, and the end of what is over.

use std::time::Duration;

use super::{append, append_all, control, create, entry, give_up, held, id, info, list, load, new, queue};
use crate::conformance::{Harness, LONG};
use crate::journal::{
    Appended, Command, Created, Cursor, JournalStore, NewRun, Next, Query, RunInfo, StatusKind,
};

async fn listed<S: JournalStore>(store: &S, query: &Query) -> Vec<String> {
    list(store, query).await.runs.iter().map(|info| info.id.as_str().to_owned()).collect()
}

pub async fn listings_are_filtered<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    assert!(list(&store, &Query::default()).await.runs.is_empty());
    for name in ["a", "b", "c"] {
        let hold = held(&store, name, LONG).await;
        if name != "a" {
            give_up(&store, &hold, 0, if name == "b" { Next::Done } else { Next::Sleep(LONG) }).await;
        }
        harness.pass(Duration::from_millis(2)).await;
    }
    let child = NewRun { parent: Some(id("a")), name: "refund".into(), ..new("d") };
    create(&store, &child, None).await;

    let all = Query::default();
    assert_eq!(listed(&store, &all).await, ["d", "c", "b", "a"], "the youngest first");
    assert_eq!(listed(&store, &Query { name: Some("refund".into()), ..all.clone() }).await, ["d"]);
    assert_eq!(listed(&store, &Query { parent: Some(id("a")), ..all.clone() }).await, ["d"]);
    let statuses = vec![StatusKind::Done, StatusKind::Sleeping];
    assert_eq!(listed(&store, &Query { statuses, ..all.clone() }).await, ["c", "b"]);
    let running = Query { statuses: vec![StatusKind::Running], name: Some("order".into()), ..all.clone() };
    assert_eq!(listed(&store, &running).await, ["a"]);
    let page = list(&store, &all).await;
    assert_eq!(
        page.runs[3],
        RunInfo { now: page.runs[3].now, lease: page.runs[3].lease, ..info(&store, "a").await }
    );
}

pub async fn pages_miss_nothing_and_repeat_nothing<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    for index in 0..25 {
        queue(&store, &format!("{index:02}")).await;
    }
    let mut query = Query { limit: 10, ..Query::default() };
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = list(&store, &query).await;
        let ends: Vec<Cursor> = page.runs.iter().map(RunInfo::cursor).collect();
        assert!(ends.windows(2).all(|two| two[0] > two[1]), "the youngest first");
        seen.extend(page.runs.iter().map(|info| info.id.as_str().to_owned()));
        pages += 1;
        queue(&store, &format!("young {pages}")).await;
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    seen.sort();
    let expected: Vec<_> = (0..25).map(|index| format!("{index:02}")).collect();
    assert_eq!((seen, pages), (expected, 3));
}

pub async fn pruning_is_bounded_and_takes_only_what_is_over<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let ends = [Next::Done, Next::Fail, Next::Cancel, Next::Done, Next::Done];
    for (index, next) in ends.into_iter().enumerate() {
        let hold = held(&store, &format!("over {index}"), LONG).await;
        let appended = append(&store, &hold, 0, &[entry("output", b"result")], next).await;
        assert!(matches!(appended, Appended::Applied { .. }));
    }
    held(&store, "held", LONG).await;
    held(&store, "abandoned", Duration::ZERO).await;
    queue(&store, "queued").await;
    for (name, next) in [
        ("asleep", Next::Sleep(LONG)),
        ("paused", Next::Pause("x".into())),
        ("parked", Next::Park("x".into())),
    ] {
        let hold = held(&store, name, LONG).await;
        give_up(&store, &hold, 0, next).await;
    }
    let prune = async |age, max| store.prune(age, max).await.expect("the store works");
    assert_eq!(prune(LONG, 100).await, 0, "they are not old enough");
    harness.pass(harness.short()).await;
    assert_eq!(prune(harness.short(), 2).await, 2);
    assert_eq!(prune(harness.short(), 100).await, 3);
    assert_eq!(prune(Duration::ZERO, 100).await, 0);
    assert_eq!(list(&store, &Query::default()).await.runs.len(), 6);
    let again = held(&store, "over 0", LONG).await;
    assert_eq!(again.epoch, 1);
    assert!(load(&store, "over 0").await.entries.is_empty(), "its entries are gone with it");
}

pub async fn pruning_deletes_long_journals_one_after_another<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let many: Vec<_> = (0..1000).map(|_| entry("step", b"")).collect();
    for name in ["a", "b", "c", "d"] {
        let hold = held(&store, name, LONG).await;
        for thousand in 0..6 {
            append_all(&store, &hold, &many, thousand * 1000).await;
        }
        give_up(&store, &hold, 6000, Next::Done).await;
        harness.pass(Duration::from_millis(2)).await;
    }
    harness.pass(harness.short()).await;
    let prune = async || store.prune(harness.short(), 100).await.expect("the store works");
    assert_eq!(prune().await, 2, "with these it has deleted more than 10,000 entries");
    assert_eq!(listed(&store, &Query::default()).await, ["d", "c"], "the oldest went first");
    assert_eq!(prune().await, 2);
    assert_eq!(prune().await, 0);
}

pub async fn the_parents_of_what_is_not_over_stay<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let parent = held(&store, "parent", LONG).await;
    let child = NewRun { parent: Some(id("parent")), ..new("child") };
    let Created::Held(child) = create(&store, &child, Some(LONG)).await else { panic!("it is new") };
    give_up(&store, &parent, 0, Next::Done).await;
    harness.pass(harness.short()).await;
    let prune = async || store.prune(harness.short(), 100).await.expect("the store works");
    assert_eq!(prune().await, 0);
    give_up(&store, &child, 0, Next::Pause("x".into())).await;
    assert_eq!(prune().await, 0);
    control(&store, "child", Command::Abandon).await;
    assert_eq!(prune().await, 1, "the parent; the child is not old enough");
    harness.pass(harness.short()).await;
    assert_eq!(prune().await, 1);
}
