//! Who holds a run, and for how long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::task::JoinSet;

use super::{
    HELD, INPUT, acquire, acquire_one, acquired_ids, append, append_all, control, create, entry, give_up,
    held, id, info, load, new, queue, renew, wanted,
};
use crate::conformance::{Harness, LONG};
use crate::journal::{
    Appended, Command, Created, Flow, Hold, JournalStore, NewRun, Next, Renewed, RunInfo, Status, Wanted,
};
use crate::key::Fingerprint;

pub async fn a_queued_run_waits_to_be_acquired<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    assert!(store.load(&id("a")).await.expect("the store works").is_none());
    let run = NewRun { parent: Some(id("parent")), ..new("a") };
    assert!(matches!(create(&store, &run, None).await, Created::Queued));
    let stored = load(&store, "a").await;
    assert_eq!((stored.input, stored.entries.len()), (run.input, 0));
    let info = stored.info;
    assert_eq!((info.id, &*info.name, info.version), (run.id, "order", 2));
    assert_eq!((info.fingerprint, info.parent), (INPUT, Some(id("parent"))));
    assert_eq!((info.status, info.epoch, info.lease), (Status::Running, 0, None));
    assert!(info.created <= info.now && info.created > UNIX_EPOCH);

    let wanted = wanted(LONG);
    let acquired = acquire(&store, &wanted).await.remove(0);
    assert_eq!(acquired.hold, Hold { id: id("a"), owner: wanted.owner, epoch: 1 });
    assert_eq!((acquired.info.recoveries, &*acquired.info.worker), (0, "another host"));
    assert!(acquired.info.lease.is_some_and(|lease| lease <= LONG), "{:?}", acquired.info);
}

pub async fn a_run_can_be_begun_and_held_in_one_step<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", LONG).await;
    assert_eq!(hold.epoch, 1);
    assert!(acquire(&store, &wanted(LONG)).await.is_empty());
    assert_eq!(renew(&store, &hold).await, HELD);
    assert_eq!(info(&store, "a").await.epoch, 1);
}

pub async fn beginning_a_run_again_says_what_there_is<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    held(&store, "a", LONG).await;
    for lease in [None, Some(LONG)] {
        let exists = create(&store, &NewRun { version: 3, ..new("a") }, lease).await;
        assert!(matches!(&exists, Created::Exists(info) if info.version == 2), "{exists:?}");
        let other_input = NewRun { fingerprint: Fingerprint::new([2; 32]), ..new("a") };
        assert!(matches!(create(&store, &other_input, lease).await, Created::Conflict(_)));
        let other_name = NewRun { name: "refund".into(), ..new("a") };
        assert!(matches!(create(&store, &other_name, lease).await, Created::Conflict(_)));
    }
    assert_eq!(load(&store, "a").await.input, new("a").input, "it is unharmed");
}

pub async fn beginning_a_run_can_be_repeated<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let (queued, taken) = (new("a"), new("b"));
    for _ in 0..2 {
        assert!(matches!(create(&store, &queued, None).await, Created::Queued));
        let created = create(&store, &taken, Some(LONG)).await;
        assert!(matches!(&created, Created::Held(hold) if hold.epoch == 1), "{created:?}");
    }
    assert_eq!(acquired_ids(&store, &wanted(LONG)).await, ["a"]);
    let created = create(&store, &queued, None).await;
    assert!(matches!(created, Created::Exists(_)), "others have it by now: {created:?}");
}

pub async fn only_wanted_runs_are_acquired<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    for (name, version) in
        [("order", 0), ("order", 1), ("order", 3), ("order", 4), ("refund", 9), ("Order", 2)]
    {
        let run = NewRun { name: name.into(), version, ..new(&format!("{name} {version}")) };
        assert!(matches!(create(&store, &run, None).await, Created::Queued));
    }
    let none = Wanted { flows: Vec::new(), ..wanted(LONG) };
    assert!(acquire(&store, &none).await.is_empty(), "who has no code runs nothing");
    let one = Wanted { id: Some(id("order 4")), ..wanted(LONG) };
    assert!(acquire(&store, &one).await.is_empty(), "its version is not wanted");
    let one = Wanted { id: Some(id("order 3")), ..wanted(LONG) };
    assert_eq!(acquired_ids(&store, &one).await, ["order 3"]);
    let mut both = wanted(LONG);
    both.flows.push(Flow { name: "refund".into(), versions: 9..=u32::MAX });
    assert_eq!(acquired_ids(&store, &both).await, ["order 1", "refund 9"]);
    assert!(acquire(&store, &both).await.is_empty());
}

pub async fn the_longest_due_run_comes_first<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    for name in ["c", "a", "b"] {
        queue(&store, name).await;
        harness.pass(Duration::from_millis(2)).await;
    }
    for expected in ["c", "a", "b"] {
        assert_eq!(acquired_ids(&store, &Wanted { max: 1, ..wanted(LONG) }).await, [expected]);
    }
    assert!(acquire(&store, &Wanted { max: 1, ..wanted(LONG) }).await.is_empty());
}

pub async fn a_held_run_is_not_acquired<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", harness.short()).await;
    assert_eq!(renew(&store, &hold).await, HELD);
    harness.pass(harness.short()).await;
    assert!(acquire(&store, &wanted(LONG)).await.is_empty());
    let one = Wanted { id: Some(id("a")), ..wanted(LONG) };
    assert!(acquire(&store, &one).await.is_empty());
}

pub async fn an_abandoned_run_is_acquired_and_its_recoveries_counted<H: Harness<Store: JournalStore>>(
    harness: &H,
) {
    let store = harness.store().await;
    held(&store, "a", Duration::ZERO).await;
    for recoveries in 1..4 {
        let acquired = acquire_one(&store, Duration::ZERO).await;
        assert_eq!((acquired.info.recoveries, acquired.hold.epoch), (recoveries, u64::from(recoveries) + 1));
    }
    assert_eq!(info(&store, "a").await.lease, Some(Duration::ZERO));
}

pub async fn recoveries_are_counted_anew_once_a_run_gets_further<H: Harness<Store: JournalStore>>(
    harness: &H,
) {
    let store = harness.store().await;
    held(&store, "a", Duration::ZERO).await;
    acquire_one(&store, Duration::ZERO).await;
    let hold = acquire_one(&store, Duration::ZERO).await.hold;
    append_all(&store, &hold, &[], 0).await;
    assert_eq!(info(&store, "a").await.recoveries, 2, "it has got no further");
    append_all(&store, &hold, &[entry("one", b"1")], 0).await;
    assert_eq!(info(&store, "a").await.recoveries, 0);
    assert_eq!(acquire_one(&store, Duration::ZERO).await.info.recoveries, 1);
}

pub async fn who_lost_a_run_can_write_nothing<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let lost = held(&store, "a", Duration::ZERO).await;
    let taken = acquire_one(&store, LONG).await.hold;
    for next in [Next::Go, Next::Yield, Next::Done, Next::Pause("zombie".into())] {
        let appended = append(&store, &lost, 0, &[entry("zombie", b"")], next).await;
        assert_eq!(appended, Appended::Fenced);
    }
    assert_eq!(renew(&store, &lost).await, Renewed::Fenced);
    let forged = Hold { epoch: taken.epoch, ..lost };
    assert_eq!(renew(&store, &forged).await, Renewed::Fenced, "the epoch is equal, not the owner");
    let run = load(&store, "a").await;
    assert_eq!((run.info.status, run.entries.len()), (Status::Running, 0));
    assert_eq!(renew(&store, &taken).await, HELD);
    let nowhere = Hold { id: id("nowhere"), ..taken };
    assert_eq!(renew(&store, &nowhere).await, Renewed::Fenced);
    assert_eq!(append(&store, &nowhere, 0, &[], Next::Done).await, Appended::Fenced);
}

pub async fn a_lapsed_run_that_nobody_took_is_still_its_owners<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", Duration::ZERO).await;
    let appended = append(&store, &hold, 0, &[entry("late", b"")], Next::Go).await;
    assert!(matches!(appended, Appended::Applied { next: 1, .. }), "{appended:?}");
    assert_eq!(renew(&store, &hold).await, HELD);
    assert!(acquire(&store, &wanted(LONG)).await.is_empty());
}

pub async fn a_run_that_is_given_back_is_acquired_at_once<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", LONG).await;
    give_up(&store, &hold, 0, Next::Yield).await;
    assert_eq!(info(&store, "a").await.lease, None);
    assert_eq!(renew(&store, &hold).await, Renewed::Fenced);
    let next = acquire_one(&store, LONG).await;
    assert_eq!((next.hold.epoch, next.info.recoveries), (2, 0), "it was not abandoned");
}

pub async fn a_run_sleeps_until_its_time<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "long", LONG).await;
    give_up(&store, &hold, 0, Next::Sleep(LONG)).await;
    let asleep = info(&store, "long").await;
    let Status::Sleeping { until } = asleep.status else { panic!("{asleep:?}") };
    assert!(until > asleep.created && until <= asleep.now + LONG);
    assert!(acquire(&store, &wanted(LONG)).await.is_empty());

    let hold = held(&store, "short", LONG).await;
    give_up(&store, &hold, 0, Next::Sleep(harness.short())).await;
    harness.pass(harness.short()).await;
    let awake = acquire_one(&store, LONG).await;
    assert_eq!((awake.info.status, awake.info.recoveries), (Status::Running, 0));

    let far = UNIX_EPOCH + Duration::from_secs(200 * 365 * 86_400);
    give_up(&store, &awake.hold, 0, Next::SleepUntil(far)).await;
    assert_eq!(info(&store, "short").await.status, Status::Sleeping { until: far });
    let hold = held(&store, "past", LONG).await;
    give_up(&store, &hold, 0, Next::SleepUntil(UNIX_EPOCH)).await;
    assert_eq!(acquired_ids(&store, &wanted(LONG)).await, ["past"]);

    let woken = control(&store, "long", Command::Resume).await.expect("there is such a run");
    assert_eq!(woken.status, Status::Running);
    assert_eq!(acquired_ids(&store, &wanted(LONG)).await, ["long"]);
}

pub async fn a_halted_run_waits_for_an_operator<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let reason: Arc<str> = "step 3 was renamed".into();
    let halts = [
        (Next::Pause(reason.clone()), Status::Paused(reason.clone())),
        (Next::Park(reason.clone()), Status::Parked(reason.clone())),
    ];
    for (next, status) in halts {
        let name = format!("{:?}", status.kind());
        held(&store, &name, Duration::ZERO).await;
        let hold = acquire_one(&store, LONG).await.hold;
        give_up(&store, &hold, 0, next).await;
        assert_eq!(info(&store, &name).await.status, status);
        assert!(acquire(&store, &wanted(LONG)).await.is_empty());
        assert_eq!(renew(&store, &hold).await, Renewed::Fenced);
        let resumed = control(&store, &name, Command::Resume).await.expect("there is such a run");
        assert_eq!((resumed.status, resumed.recoveries), (Status::Running, 0));
        assert_eq!(acquire_one(&store, LONG).await.hold.epoch, 3);
    }
}

pub async fn a_run_that_is_over_never_changes<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    for next in [Next::Done, Next::Fail, Next::Cancel] {
        let name = format!("{next:?}");
        let hold = held(&store, &name, LONG).await;
        give_up(&store, &hold, 0, next).await;
        let before = info(&store, &name).await;
        for command in [Command::Cancel, Command::Resume, Command::Abandon] {
            let after = control(&store, &name, command).await.expect("there is such a run");
            assert_eq!(after, RunInfo { now: after.now, ..before.clone() });
        }
    }
    assert!(acquire(&store, &wanted(LONG)).await.is_empty());
}

pub async fn of_many_that_acquire_each_run_goes_to_one<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    for index in 0..100 {
        queue(&store, &index.to_string()).await;
    }
    let mut workers = JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        workers.spawn(async move {
            let mut ids = Vec::new();
            loop {
                let acquired = acquired_ids(&store, &Wanted { max: 7, ..wanted(LONG) }).await;
                if acquired.is_empty() {
                    return ids;
                }
                ids.extend(acquired);
            }
        });
    }
    let mut times: HashMap<String, u32> = HashMap::new();
    for id in workers.join_all().await.into_iter().flatten() {
        *times.entry(id).or_default() += 1;
    }
    // One that finds all others locked may leave early; the rest is still there.
    for id in acquired_ids(&store, &wanted(LONG)).await {
        *times.entry(id).or_default() += 1;
    }
    assert_eq!(times.len(), 100);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}
