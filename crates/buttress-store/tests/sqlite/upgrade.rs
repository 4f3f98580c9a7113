//! Files of an older release, and what leaves a run's row as it is.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use buttress_store::{
    Appended, ClaimStore, Claimed, Command, Created, Flow, Hold, JournalStore, Next, Owner, Query, RunId,
    RunInfo, Sqlite, Status, StatusKind, Wanted,
};
use rusqlite::Connection;
use tempfile::TempDir;

use super::processes::{entry, run};
use super::{HOUR, open, request, value};

/// What a release of version 1 wrote in the microsecond 1,700,000,000,000,000.
const VERSION_1: &str = include_str!("version1.sql");
const WRITTEN: u64 = 1_700_000_000_000_000;

fn version_1() -> TempDir {
    let directory = TempDir::new().unwrap();
    let connection = Connection::open(directory.path().join("store.db")).unwrap();
    connection.execute_batch(&format!("PRAGMA journal_mode = WAL; BEGIN; {VERSION_1}; COMMIT")).unwrap();
    directory
}

async fn open_at(directory: &Path, micros: u64) -> Sqlite {
    let now = move || UNIX_EPOCH + Duration::from_micros(micros);
    Sqlite::at(directory.join("store.db")).clock(now).open().await.unwrap()
}

fn version(directory: &Path) -> i64 {
    let connection = Connection::open(directory.join("store.db")).unwrap();
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

fn id(name: &str) -> RunId {
    RunId::try_new(name).unwrap()
}

/// What was written, as it was written.
async fn assert_whole(store: &Sqlite) {
    let until = UNIX_EPOCH + Duration::from_micros(WRITTEN + 3_600_000_000);
    let expected = [
        ("held", Status::Running, 3, 0),
        ("paused", Status::Paused("a reason".into()), 4, 0),
        ("asleep", Status::Sleeping { until }, 4, 0),
        ("done", Status::Done, 4, 0),
        ("recovered", Status::Running, 3, 2),
        ("queued", Status::Running, 0, 0),
    ];
    for (name, status, entries, recoveries) in expected {
        let run = store.load(&id(name)).await.unwrap().unwrap();
        assert_eq!((run.info.status, run.info.recoveries), (status, recoveries), "{name}");
        assert_eq!((run.info.entries, &run.input[..]), (entries, &b"input"[..]), "{name}");
        assert!(
            run.entries.iter().map(|stored| &stored.entry).eq(&(0..entries).map(entry).collect::<Vec<_>>())
        );
    }
}

/// The holder's, as it has it since before the upgrade.
fn hold() -> Hold {
    let owner = Owner::from_u128(0x50F6_DA1B_B3ED_1AF7_C10A_4B4F_2281_1DBC).unwrap();
    Hold { id: id("held"), owner, epoch: 1 }
}

#[tokio::test]
async fn a_file_of_version_1_is_brought_up_to_date_with_all_that_is_in_it() {
    let directory = version_1();
    let store = open_at(directory.path(), WRITTEN + 1_000_000).await;
    assert_eq!(version(directory.path()), 2);
    assert_whole(&store).await;
    let claimed = store.claim(&request("claim")).await.unwrap();
    assert!(matches!(&claimed, Claimed::Done(record) if *record == value("answer")), "{claimed:?}");

    let appended = store.append(&hold(), 3, &[entry(3)], &Next::Go).await.unwrap();
    assert!(matches!(appended, Appended::Applied { next: 4, .. }), "{appended:?}");
    let flows = vec![Flow { name: "flow".into(), versions: 0..=9 }];
    let (owner, worker) = (Owner::random(), "later".into());
    let wanted = Wanted { flows, id: Some(id("recovered")), owner, worker, lease: HOUR, max: 1 };
    let acquired = store.acquire(&wanted).await.unwrap().pop().unwrap();
    assert_eq!((acquired.info.recoveries, acquired.info.entries), (3, 3));
    let appended = store.append(&acquired.hold, 3, &[entry(3)], &Next::Go).await.unwrap();
    assert!(matches!(appended, Appended::Applied { next: 4, .. }), "{appended:?}");
    for name in ["held", "recovered"] {
        let run = store.load(&id(name)).await.unwrap().unwrap();
        assert_eq!((run.entries.len(), run.info.entries, run.info.recoveries), (4, 4, 0), "{name}");
    }
    assert_eq!(store.prune(Duration::ZERO, 100).await.unwrap(), 1);
}

#[tokio::test]
async fn an_upgrade_that_ends_anywhere_has_been_made_or_not_and_is_made_the_next_time() {
    let directory = version_1();
    let before = fs::read(directory.path().join("store.db")).unwrap();
    let store = open_at(directory.path(), WRITTEN).await;
    let log = fs::read(directory.path().join("store.db-wal")).unwrap();
    store.shutdown().await;
    assert!(log.len() > 4096);
    let mut versions = Vec::new();
    for cut in (0..log.len()).step_by(149).chain([log.len()]) {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("store.db"), &before).unwrap();
        fs::write(directory.path().join("store.db-wal"), &log[..cut]).unwrap();
        versions.push(version(directory.path()));
        let store = open_at(directory.path(), WRITTEN).await;
        assert_whole(&store).await;
        let appended = store.append(&hold(), 3, &[entry(3)], &Next::Go).await.unwrap();
        assert!(matches!(appended, Appended::Applied { next: 4, .. }), "{appended:?}");
        assert_eq!(version(directory.path()), 2);
    }
    assert!(versions.iter().all(|version| [1, 2].contains(version)) && versions.is_sorted(), "{versions:?}");
    assert_eq!((versions[0], versions.last()), (1, Some(&2)));
}

#[tokio::test]
async fn an_append_to_a_run_that_goes_on_writes_one_page() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    let Created::Held(hold) = store.create(&run("run"), Some(HOUR)).await.unwrap() else {
        panic!("it is new")
    };
    let log = || fs::metadata(directory.path().join("store.db-wal")).unwrap().len();
    let mut before = log();
    // So many that all are in one page.
    for seq in 0..20 {
        let appended = store.append(&hold, seq, &[entry(seq)], &Next::Go).await.unwrap();
        assert!(matches!(appended, Appended::Applied { .. }), "{appended:?}");
        assert_eq!(log() - before, 24 + 4096, "a frame's head and a page, for entry {seq}");
        before = log();
    }
    let statistics = store.statistics();
    let appended = store.append(&hold, 20, &[], &Next::Go).await.unwrap();
    assert!(matches!(appended, Appended::Applied { next: 20, .. }), "{appended:?}");
    assert_eq!(store.statistics().commits, statistics.commits, "nothing was added");
}

#[tokio::test]
async fn what_an_append_changed_is_seen_by_all_though_the_runs_row_is_as_it_was() {
    let directory = TempDir::new().unwrap();
    let micros = Arc::new(AtomicU64::new(WRITTEN));
    let clock = Arc::clone(&micros);
    let now = move || UNIX_EPOCH + Duration::from_micros(clock.load(Ordering::Relaxed));
    let store = Sqlite::at(directory.path().join("store.db")).clock(now).open().await.unwrap();
    assert!(matches!(store.create(&run("run"), None).await.unwrap(), Created::Queued));
    let flows = vec![Flow { name: "flow".into(), versions: 0..=9 }];
    let (owner, worker) = (Owner::random(), "worker".into());
    let wanted = Wanted { flows, id: None, owner, worker, lease: Duration::ZERO, max: 1 };
    let mut hold = store.acquire(&wanted).await.unwrap().pop().unwrap().hold;
    let connection = Connection::open(directory.path().join("store.db")).unwrap();
    let sql = "SELECT entries || ' ' || recoveries || ' ' || (changed - 1700000000000000) FROM runs";
    let row = || -> String { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
    let state = |info: &RunInfo| {
        let changed = info.changed.duration_since(UNIX_EPOCH).unwrap().as_micros() as u64 - WRITTEN;
        (info.entries, info.recoveries, changed)
    };
    let seen = async || {
        let loaded = store.load(&id("run")).await.unwrap().unwrap();
        assert_eq!(loaded.entries.len() as u64, loaded.info.entries);
        let listed = store.list(&Query::default()).await.unwrap().runs.pop().unwrap();
        let peeked = store.peek(&id("run")).await.unwrap().unwrap();
        let all = [state(&loaded.info), state(&listed), state(&peeked.info)];
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
        all[0]
    };
    for round in 0..3_u64 {
        micros.fetch_add(10, Ordering::Relaxed);
        let acquired = store.acquire(&wanted).await.unwrap().pop().unwrap();
        let written = row();
        assert_eq!(written, format!("{round} 1 {}", 20 * round + 10), "written with all that was added");
        assert_eq!(state(&acquired.info), (round, 1, 20 * round + 10), "recovered once since the last entry");
        micros.fetch_add(10, Ordering::Relaxed);
        let fenced = store.append(&hold, round, &[entry(round)], &Next::Go).await.unwrap();
        assert_eq!(fenced, Appended::Fenced, "whoever had it before can add nothing");
        hold = acquired.hold;
        let appended = store.append(&hold, round, &[entry(round)], &Next::Go).await.unwrap();
        assert!(matches!(appended, Appended::Applied { .. }), "{appended:?}");
        assert_eq!((row(), seen().await), (written, (round + 1, 0, 20 * round + 20)));
    }
    store.control(&id("run"), Command::Cancel).await.unwrap();
    assert_eq!((row(), seen().await), ("3 0 60".to_owned(), (3, 0, 60)));
    let appended = store.append(&hold, 3, &[entry(3)], &Next::Done).await.unwrap();
    assert!(matches!(appended, Appended::Applied { cancel_requested: true, .. }), "{appended:?}");
    assert_eq!((row(), seen().await), ("4 0 60".to_owned(), (4, 0, 60)));
    let peeked = store.peek(&id("run")).await.unwrap().unwrap();
    assert_eq!((peeked.info.status.kind(), peeked.last.unwrap().seq), (StatusKind::Done, 3));
    let rows = |table| -> i64 {
        connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!(
        ["runs", "inputs", "entries"].map(rows),
        [1, 1, 4],
        "of what is over nothing is counted beside"
    );
    assert!(matches!(store.create(&run("abandoned"), None).await.unwrap(), Created::Queued));
    let hold = store.acquire(&wanted).await.unwrap().pop().unwrap().hold;
    let appended = store.append(&hold, 0, &[entry(0)], &Next::Go).await.unwrap();
    assert!(matches!(appended, Appended::Applied { .. }), "{appended:?}");
    assert_eq!(rows("entries"), 4 + 2);
    store.control(&id("abandoned"), Command::Abandon).await.unwrap();
    assert_eq!(rows("entries"), 4 + 1);
    micros.fetch_add(1, Ordering::Relaxed);
    assert_eq!(store.prune(Duration::ZERO, 2).await.unwrap(), 2);
    assert_eq!(["runs", "inputs", "entries"].map(rows), [0; 3], "nothing is left of them");
}
