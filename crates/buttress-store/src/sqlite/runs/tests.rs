use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use buttress_core::clock;
use rusqlite::StatementStatus;

use super::*;
use crate::journal::Flow;
use crate::key::{Fingerprint, Owner};
use crate::sqlite::{SqliteOptions, claims, schema};

fn new_run(id: &str) -> NewRun {
    NewRun {
        id: RunId::try_new(id).unwrap(),
        name: "flow".into(),
        version: 1,
        fingerprint: Fingerprint::new([0; 32]),
        input: Bytes::new(),
        parent: None,
        owner: Owner::random(),
        worker: "".into(),
    }
}

fn wanted(lease: Duration) -> Wanted {
    let flows = vec![Flow { name: "flow".into(), versions: 0..=9 }];
    Wanted { flows, id: None, owner: Owner::random(), worker: "".into(), lease, max: 1000 }
}

fn plan(connection: &Connection, sql: &str) -> Vec<String> {
    let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    for parameter in 1..=explain.parameter_count() {
        explain.raw_bind_parameter(parameter, 1).unwrap();
    }
    let mut rows = explain.raw_query();
    let mut plan = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        plan.push(row.get::<_, String>(3).unwrap().replace("COVERING INDEX", "INDEX"));
    }
    plan
}

#[test]
fn a_hundred_open_runs_are_found_among_a_hundred_thousand_that_are_over_without_a_look_at_those() {
    let directory = tempfile::tempdir().unwrap();
    let connection = schema::open(&directory.path().join("store.db"), Duration::ZERO).unwrap();
    connection.execute_batch("BEGIN").unwrap();
    for number in 0..100 {
        insert(&connection, &RunRow::new(&new_run(&format!("open {number}")), None, number)).unwrap();
    }
    let mut over = RunRow::new(&new_run("over"), None, 0);
    over.appended(&[], &Next::Done, 1);
    insert(&connection, &over).unwrap();
    let columns = "name, version, fingerprint, parent, status, reason, cancel, epoch, owner, worker, lease_until, \
                   due, recoveries, entries, created, changed, sum";
    let copies = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99999) \
         INSERT INTO runs (id, {columns}) SELECT 'over ' || i, {columns} FROM runs, n WHERE id = 'over'"
    );
    assert_eq!(connection.execute(&copies, []).unwrap(), 99_999);
    connection.execute_batch("COMMIT; ANALYZE").unwrap();

    let steps = [
        "SEARCH runs USING INDEX runs_due (name=? AND due<?)",
        "SEARCH tail USING PRIMARY KEY (run=? AND seq=?) LEFT-JOIN",
    ];
    assert_eq!(plan(&connection, DUE), steps);
    let mut select = connection.prepare(DUE).unwrap();
    let rows = select.query_map(params!["flow", 1000, 0, 9], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(rows.count(), 100);
    let counted = |status| select.get_status(status);
    assert_eq!((counted(StatementStatus::FullscanStep), counted(StatementStatus::Sort)), (0, 0));
    let steps = counted(StatementStatus::VmStep);
    assert!(steps < 100 * 40, "{steps} steps of SQLite's machine");

    assert_eq!(due(&connection, &wanted(Duration::from_secs(1)), 1000, false).unwrap().len(), 100);
}

#[test]
fn no_statement_is_compiled_again_for_other_values() {
    let directory = tempfile::tempdir().unwrap();
    let connection = schema::open(&directory.path().join("store.db"), Duration::ZERO).unwrap();
    for sql in [DUE, LIST, OLD, FIND, ENTRIES, claims::SWEEP] {
        let mut statement = connection.prepare(sql).unwrap();
        for value in 0..3 {
            for parameter in 1..=statement.parameter_count() {
                statement.raw_bind_parameter(parameter, value).unwrap();
            }
            assert!(statement.raw_query().next().unwrap().is_none());
            statement.clear_bindings();
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0, "{sql}");
    }
}

#[test]
fn what_is_looked_for_is_found_by_an_index_and_in_its_order() {
    let directory = tempfile::tempdir().unwrap();
    let connection = schema::open(&directory.path().join("store.db"), Duration::ZERO).unwrap();
    for (sql, index) in [
        (DUE, "SEARCH runs USING INDEX runs_due (name=? AND due<?)"),
        (LIST, "SEARCH runs USING INDEX runs_created ((created,id)<(?,?))"),
        (OLD, "SEARCH run USING INDEX runs_over (changed<?)"),
        (OLD, "SEARCH child USING INDEX runs_parent (parent=?)"),
        (claims::SWEEP, "SEARCH claims USING INDEX claims_expires (expires<?)"),
    ] {
        let plan = plan(&connection, sql);
        assert!(plan.iter().any(|step| step == index), "{sql}\n{plan:#?}");
        assert!(!plan.iter().any(|step| step.starts_with("SCAN") || step.contains("B-TREE")), "{plan:#?}");
    }
}

const LEASE: Duration = Duration::from_secs(30);

static AHEAD: AtomicU64 = AtomicU64::new(0);

/// The machine's wall clock, which this test sets forward.
fn wall() -> SystemTime {
    clock::wall() + Duration::from_secs(AHEAD.load(Ordering::SeqCst))
}

/// A connection of its own each time, as another process has one.
async fn open(path: &Path) -> Sqlite {
    SqliteOptions { wall, ..Sqlite::at(path) }.open().await.unwrap()
}

async fn acquire(store: &Sqlite, wanted: &Wanted) -> Vec<(String, u32)> {
    let acquired = store.acquire(wanted).await.unwrap();
    acquired.iter().map(|it| (it.info.id.as_str().to_owned(), it.info.recoveries)).collect()
}

#[tokio::test]
async fn a_wall_clock_that_is_set_forward_takes_no_run_from_an_owner_that_renews_its_lease() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let (owner, other) = (open(&path).await, open(&path).await);
    let Created::Held(hold) = owner.create(&new_run("held"), Some(LEASE)).await.unwrap() else { panic!() };
    assert_eq!(acquire(&other, &wanted(LEASE)).await, []);

    AHEAD.fetch_add(3600, Ordering::SeqCst);
    owner.create(&new_run("queued"), None).await.unwrap();
    let queued = [("queued".to_owned(), 0)];
    assert_eq!(acquire(&other, &wanted(LEASE)).await, queued, "what nobody holds is had at once");
    let this = Wanted { id: Some(hold.id.clone()), ..wanted(LEASE) };
    assert_eq!(acquire(&other, &this).await, []);
    let renewed = owner.renew(&hold, LEASE).await.unwrap();
    assert_eq!(renewed, Renewed::Held { cancel_requested: false });

    // For how long that goes is said by whoever asks: a lease of no time is over.
    AHEAD.fetch_add(3600, Ordering::SeqCst);
    assert_eq!(acquire(&other, &wanted(LEASE)).await, []);
    let mut taken = acquire(&other, &wanted(Duration::ZERO)).await;
    taken.sort();
    assert_eq!(
        taken,
        [("held".to_owned(), 1), ("queued".to_owned(), 1)],
        "nobody waits for longer than a lease"
    );
}
