//! What an operator decides about a run.

use std::sync::Arc;
use std::time::Duration;

use super::{
    acquire, acquire_one, append, append_all, control, entry, give_up, held, id, info, load, queue, renew,
    wanted,
};
use crate::conformance::{Harness, LONG};
use crate::journal::{Appended, Command, JournalStore, Next, Renewed, Status};

pub async fn a_holder_learns_that_it_is_to_cancel<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", LONG).await;
    let asked = control(&store, "a", Command::Cancel).await.expect("there is such a run");
    assert_eq!((asked.status, asked.cancel_requested), (Status::Running, true));
    assert!(acquire(&store, &wanted(LONG)).await.is_empty(), "it is still held");
    assert_eq!(renew(&store, &hold).await, Renewed::Held { cancel_requested: true });
    let appended = append(&store, &hold, 0, &[entry("one", b"")], Next::Go).await;
    assert!(matches!(appended, Appended::Applied { cancel_requested: true, .. }), "{appended:?}");
    give_up(&store, &hold, 1, Next::Sleep(LONG)).await;
    let woken = acquire_one(&store, LONG).await;
    assert!(woken.info.cancel_requested, "it sleeps no more");
}

pub async fn what_is_to_be_cancelled_is_halted_like_any_other<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let reason: Arc<str> = "the refund fails".into();
    let halts = [
        (Next::Pause(reason.clone()), Status::Paused(reason.clone())),
        (Next::Park(reason.clone()), Status::Parked(reason.clone())),
    ];
    for (next, status) in halts {
        let name = format!("{:?}", status.kind());
        let hold = held(&store, &name, LONG).await;
        control(&store, &name, Command::Cancel).await;
        give_up(&store, &hold, 0, next).await;
        let halted = info(&store, &name).await;
        assert_eq!((halted.status, halted.cancel_requested), (status, true));
        assert!(acquire(&store, &wanted(LONG)).await.is_empty(), "an operator has to look");
        control(&store, &name, Command::Resume).await;
        let resumed = acquire_one(&store, LONG).await;
        assert!(resumed.info.cancel_requested, "it goes on being cancelled");
    }
}

pub async fn cancelling_wakes_what_sleeps_or_is_halted_so_that_it_can_clean_up<
    H: Harness<Store: JournalStore>,
>(
    harness: &H,
) {
    let store = harness.store().await;
    let ends = [Next::Sleep(LONG), Next::Pause("renamed".into()), Next::Park("it crashes".into())];
    for (index, next) in ends.into_iter().enumerate() {
        let name = index.to_string();
        held(&store, &name, Duration::ZERO).await;
        let hold = acquire_one(&store, LONG).await.hold;
        give_up(&store, &hold, 0, next.clone()).await;
        let woken = control(&store, &name, Command::Cancel).await.expect("there is such a run");
        assert_eq!((woken.status, woken.cancel_requested), (Status::Running, true), "{next:?}");
        let woken = acquire_one(&store, LONG).await.info;
        assert_eq!((woken.id, woken.cancel_requested), (id(&name), true), "{next:?}");
        if !matches!(next, Next::Sleep(_)) {
            assert_eq!(woken.recoveries, 0, "it has all its tries: {next:?}");
        }
    }
}

pub async fn what_is_abandoned_is_over_at_once_whatever_it_did<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    queue(&store, "queued").await;
    for (name, next) in [
        ("asleep", Next::Sleep(LONG)),
        ("paused", Next::Pause("x".into())),
        ("parked", Next::Park("x".into())),
    ] {
        let hold = held(&store, name, LONG).await;
        give_up(&store, &hold, 0, next).await;
    }
    let hold = held(&store, "held", LONG).await;
    append_all(&store, &hold, &[entry("one", b"1")], 0).await;
    for name in ["queued", "asleep", "paused", "parked", "held"] {
        let ended = control(&store, name, Command::Abandon).await.expect("there is such a run");
        assert_eq!((ended.status, ended.lease), (Status::Cancelled, None), "{name}");
    }
    assert!(acquire(&store, &wanted(LONG)).await.is_empty());
    assert_eq!(renew(&store, &hold).await, Renewed::Fenced, "its holder has lost it");
    for next in [Next::Go, Next::Done] {
        assert_eq!(append(&store, &hold, 1, &[entry("two", b"2")], next).await, Appended::Fenced);
    }
    assert_eq!(load(&store, "held").await.entries.len(), 1, "what it did stays readable");
    harness.pass(harness.short()).await;
    assert_eq!(store.prune(harness.short(), 100).await.expect("the store works"), 5);
}

pub async fn commands_for_unknown_runs_find_nothing<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    assert_eq!(control(&store, "nowhere", Command::Cancel).await, None);
    assert_eq!(control(&store, "nowhere", Command::Resume).await, None);
}
