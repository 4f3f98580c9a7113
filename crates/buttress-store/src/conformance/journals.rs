//! The cases for journals; each panics where the store does not do what [`JournalStore`] says.

#![expect(missing_docs, reason = "the name of a case says what it asserts")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Harness, LONG};
use crate::journal::{
    Acquired, Appended, Command, Created, Cursor, Entry, Flow, Hold, JournalStore, NewEntry, NewRun, Next,
    Page, Peek, Query, Renewed, Run, RunInfo, Status, StatusKind, Wanted,
};
use crate::key::{Fingerprint, Owner, RunId};

const INPUT: Fingerprint = Fingerprint::new([1; 32]);
const HELD: Renewed = Renewed::Held { cancel_requested: false };

fn id(id: &str) -> RunId {
    RunId::try_new(id).expect("short enough")
}

fn new(name: &str) -> NewRun {
    NewRun {
        id: id(name),
        name: "order".into(),
        version: 2,
        fingerprint: INPUT,
        input: Bytes::from_static(b"input"),
        parent: None,
        owner: Owner::random(),
        worker: "host".into(),
    }
}

fn wanted(lease: Duration) -> Wanted {
    let flows = vec![Flow { name: "order".into(), versions: 1..=3 }];
    Wanted { flows, id: None, owner: Owner::random(), worker: "another host".into(), lease, max: 100 }
}

fn entry(name: &str, payload: &'static [u8]) -> NewEntry {
    NewEntry { kind: 7, format: 1, name: name.into(), occurrence: 3, payload: Bytes::from_static(payload) }
}

async fn create<S: JournalStore>(store: &S, run: &NewRun, lease: Option<Duration>) -> Created {
    store.create(run, lease).await.expect("the store works")
}

async fn queue<S: JournalStore>(store: &S, name: &str) {
    let created = create(store, &new(name), None).await;
    assert!(matches!(created, Created::Queued), "{created:?}");
}

async fn held<S: JournalStore>(store: &S, name: &str, lease: Duration) -> Hold {
    match create(store, &new(name), Some(lease)).await {
        Created::Held(hold) => hold,
        other => panic!("expected to hold the run, and got {other:?}"),
    }
}

async fn acquire<S: JournalStore>(store: &S, wanted: &Wanted) -> Vec<Acquired> {
    store.acquire(wanted).await.expect("the store works")
}

async fn acquired_ids<S: JournalStore>(store: &S, wanted: &Wanted) -> Vec<String> {
    let mut ids: Vec<_> =
        acquire(store, wanted).await.iter().map(|run| run.info.id.as_str().to_owned()).collect();
    ids.sort();
    ids
}

async fn acquire_one<S: JournalStore>(store: &S, lease: Duration) -> Acquired {
    let mut acquired = acquire(store, &wanted(lease)).await;
    assert_eq!(acquired.len(), 1, "{acquired:?}");
    acquired.remove(0)
}

async fn append<S: JournalStore>(
    store: &S,
    hold: &Hold,
    seq: u64,
    entries: &[NewEntry],
    next: Next,
) -> Appended {
    store.append(hold, seq, entries, &next).await.expect("the store works")
}

async fn give_up<S: JournalStore>(store: &S, hold: &Hold, seq: u64, next: Next) {
    let appended = append(store, hold, seq, &[], next).await;
    assert!(matches!(appended, Appended::Applied { .. }), "{appended:?}");
}

async fn renew<S: JournalStore>(store: &S, hold: &Hold) -> Renewed {
    store.renew(hold, LONG).await.expect("the store works")
}

async fn load<S: JournalStore>(store: &S, name: &str) -> Run {
    store.load(&id(name)).await.expect("the store works").expect("there is such a run")
}

async fn peek<S: JournalStore>(store: &S, name: &str) -> Option<Peek> {
    store.peek(&id(name)).await.expect("the store works")
}

async fn info<S: JournalStore>(store: &S, name: &str) -> RunInfo {
    load(store, name).await.info
}

async fn control<S: JournalStore>(store: &S, name: &str, command: Command) -> Option<RunInfo> {
    store.control(&id(name), command).await.expect("the store works")
}

async fn list<S: JournalStore>(store: &S, query: &Query) -> Page {
    store.list(query).await.expect("the store works")
}

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

pub async fn entries_come_back_as_they_were_written<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", LONG).await;
    let every_byte: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let last = NewEntry {
        kind: u16::MAX,
        format: u16::MAX,
        name: "ü".into(),
        occurrence: u32::MAX,
        payload: every_byte.into(),
    };
    let written = [entry("", b""), entry("it's; --", b"\0"), last];
    append_all(&store, &hold, &written[..1], 0).await;
    append_all(&store, &hold, &written[1..], 1).await;
    let run = load(&store, "a").await;
    assert_eq!(run.info.entries, 3);
    for (index, (stored, written)) in run.entries.iter().zip(&written).enumerate() {
        assert_eq!((stored.seq, &stored.entry), (index as u64, written));
        assert!(stored.at >= run.info.created && stored.at <= run.info.now, "{stored:?}");
    }
    assert_eq!(run.entries.len(), 3);

    let many: Vec<_> = (0..1000).map(|index| entry(&format!("step {index}"), b"result")).collect();
    append_all(&store, &hold, &many, 3).await;
    let entries = load(&store, "a").await.entries;
    assert!(entries[3..].iter().map(|entry| &entry.entry).eq(&many), "in their order");
    assert!(entries.iter().map(|entry| entry.seq).eq(0..1003));
}

async fn append_all<S: JournalStore>(store: &S, hold: &Hold, entries: &[NewEntry], seq: u64) {
    match append(store, hold, seq, entries, Next::Go).await {
        Appended::Applied { next, cancel_requested: false, .. } => {
            assert_eq!(next, seq + entries.len() as u64);
        }
        other => panic!("expected that it is stored, and got {other:?}"),
    }
}

pub async fn a_peek_gives_the_end_of_the_journal_and_nothing_else_of_it<H: Harness<Store: JournalStore>>(
    harness: &H,
) {
    let store = harness.store().await;
    assert_eq!(peek(&store, "a").await, None);
    let hold = held(&store, "a", LONG).await;
    append_all(&store, &hold, &[entry("one", b"1"), entry("two", b"2")], 0).await;
    let Some(Peek { info: peeked, last: None }) = peek(&store, "a").await else { panic!("it is not over") };
    let known = info(&store, "a").await;
    assert_eq!(peeked, RunInfo { now: peeked.now, lease: peeked.lease, ..known });
    assert!(peeked.lease.is_some_and(|lease| lease <= LONG), "{peeked:?}");
    assert_eq!((peeked.epoch, peeked.entries), (1, 2));

    let ends = [(Next::Done, Status::Done), (Next::Fail, Status::Failed), (Next::Cancel, Status::Cancelled)];
    for (next, status) in ends {
        let hold = held(&store, &format!("{next:?}"), LONG).await;
        append_all(&store, &hold, &[entry("first", b"1")], 0).await;
        let last = entry("output", b"result");
        let appended = append(&store, &hold, 1, std::slice::from_ref(&last), next.clone()).await;
        let Appended::Applied { at, .. } = appended else { panic!("{appended:?}") };
        let ended = peek(&store, hold.id.as_str()).await.expect("there is such a run");
        assert_eq!((ended.info.status, ended.info.entries), (status, 2));
        assert_eq!(ended.last, Some(Entry { seq: 1, at, entry: last }));
    }
    let halted = held(&store, "halted", LONG).await;
    append_all(&store, &halted, &[entry("first", b"1")], 0).await;
    give_up(&store, &halted, 1, Next::Pause("no code".into())).await;
    let peeked = peek(&store, "halted").await.expect("there is such a run");
    assert_eq!((peeked.info.status, peeked.last), (Status::Paused("no code".into()), None));
    let empty = held(&store, "empty", LONG).await;
    give_up(&store, &empty, 0, Next::Done).await;
    let peeked = peek(&store, "empty").await.expect("there is such a run");
    assert_eq!((peeked.info.status, peeked.last), (Status::Done, None));
}

pub async fn entries_have_no_gaps_and_none_is_there_twice<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", LONG).await;
    append_all(&store, &hold, &[entry("one", b"1"), entry("two", b"2")], 0).await;
    let conflict = Appended::Conflict { next: 2 };
    for seq in [0, 1, 3] {
        let appended = append(&store, &hold, seq, &[entry("other", b"")], Next::Go).await;
        assert_eq!(appended, conflict, "entry {seq}");
        assert_eq!(append(&store, &hold, seq, &[], Next::Go).await, conflict, "entry {seq}");
        let appended = append(&store, &hold, seq, &[entry("other", b"")], Next::Done).await;
        assert_eq!(appended, conflict, "entry {seq}");
    }
    append_all(&store, &hold, &[], 2).await;
    assert_eq!(load(&store, "a").await.entries.len(), 2);
}

pub async fn an_append_can_be_repeated<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", LONG).await;
    append_all(&store, &hold, &[entry("zero", b"0")], 0).await;
    let entries = [entry("one", b"1"), entry("two", b"2")];
    let first = append(&store, &hold, 1, &entries, Next::Go).await;
    harness.pass(Duration::from_millis(2)).await;
    assert_eq!(append(&store, &hold, 1, &entries, Next::Go).await, first, "with the time of the first time");
    assert_eq!(load(&store, "a").await.entries.len(), 3);
    let other = [entry("one", b"1"), entry("two", b"3")];
    assert_eq!(append(&store, &hold, 1, &other, Next::Go).await, Appended::Conflict { next: 3 });
}

pub async fn an_ending_can_be_repeated<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let ends = [
        Next::Done,
        Next::Fail,
        Next::Cancel,
        Next::Pause("code changed".into()),
        Next::Park("it crashes".into()),
        Next::Sleep(LONG),
    ];
    let cancelled = ends.clone().map(|next| (next, true));
    for (index, (next, cancelled)) in ends.map(|next| (next, false)).into_iter().chain(cancelled).enumerate()
    {
        let hold = held(&store, &index.to_string(), LONG).await;
        if cancelled {
            control(&store, &index.to_string(), Command::Cancel).await;
        }
        let last = [entry("last", b"output")];
        let first = append(&store, &hold, 0, &last, next.clone()).await;
        assert!(matches!(first, Appended::Applied { next: 1, .. }), "{next:?}: {first:?}");
        assert_eq!(append(&store, &hold, 0, &last, next.clone()).await, first, "{next:?}");
        let other = append(&store, &hold, 0, &[entry("last", b"other")], next.clone()).await;
        assert_eq!(other, Appended::Fenced, "{next:?}");
        assert_eq!(append(&store, &hold, 1, &[], Next::Go).await, Appended::Fenced, "{next:?}");
    }
}

pub async fn the_last_entry_and_the_end_are_one_write<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let ends = [(Next::Done, Status::Done), (Next::Fail, Status::Failed), (Next::Cancel, Status::Cancelled)];
    for (index, (next, status)) in ends.into_iter().enumerate() {
        let name = index.to_string();
        let hold = held(&store, &name, LONG).await;
        let appended = append(&store, &hold, 0, &[entry("output", b"result")], next).await;
        let Appended::Applied { at, .. } = appended else { panic!("{appended:?}") };
        let run = load(&store, &name).await;
        assert_eq!((run.info.status, run.entries.len(), run.info.lease), (status, 1, None));
        assert_eq!((run.entries[0].at, run.info.changed), (at, at));
        assert_eq!(renew(&store, &hold).await, Renewed::Fenced);
    }
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

pub async fn an_acquired_run_is_never_half_written<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", LONG).await;
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for pair in 0..20 {
            append_all(&writer, &hold, &[entry("left", b""), entry("right", b"")], pair * 2).await;
        }
    });
    while !writing.is_finished() {
        let run = load(&store, "a").await;
        assert_eq!(run.entries.len() % 2, 0, "both or neither");
        assert_eq!(run.entries.len() as u64, run.info.entries, "of one moment");
        tokio::task::yield_now().await;
    }
    writing.await.expect("no panic");
    assert_eq!(load(&store, "a").await.entries.len(), 40);
}
