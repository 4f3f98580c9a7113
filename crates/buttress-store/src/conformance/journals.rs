//! The cases for journals; each panics where the store does not do what [`JournalStore`] says.

#![expect(missing_docs, reason = "the name of a case says what it asserts")]

mod commands;
mod entries;
mod holding;
mod lists;

use std::time::Duration;

use bytes::Bytes;

use super::LONG;

use crate::journal::{
    Acquired, Appended, Command, Created, Flow, Hold, JournalStore, NewEntry, NewRun, Next, Page, Peek,
    Query, Renewed, Run, RunInfo, Wanted,
};
use crate::key::{Fingerprint, Owner, RunId};

pub use commands::*;
pub use entries::*;
pub use holding::*;
pub use lists::*;

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

async fn append_all<S: JournalStore>(store: &S, hold: &Hold, entries: &[NewEntry], seq: u64) {
    match append(store, hold, seq, entries, Next::Go).await {
        Appended::Applied { next, cancel_requested: false, .. } => {
            assert_eq!(next, seq + entries.len() as u64);
        }
        other => panic!("expected that it is stored, and got {other:?}"),
    }
}
