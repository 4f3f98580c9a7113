//! What only a server can do to migrations: locks, indexes that are built concurrently, sessions that outlive their clients.

mod support;

use std::io::{BufRead, BufReader};
use std::time::Duration;

use buttress_chaos::Toxic;
use serde_json::{Value, json};
use support::postgres::{Database, Server, column, execute, runtime};
use support::{Place, Ran, kill, pause, until};

const A: (&str, &str) = ("1_a.sql", "CREATE TABLE ledger (id text); INSERT INTO ledger VALUES ('a')");
const B: (&str, &str) = ("2_b.sql", "-- requires: 1_a\nINSERT INTO ledger VALUES ('b')");
const INDEX: (&str, &str) =
    ("3_i.sql", "-- requires: 1_a\nCREATE INDEX CONCURRENTLY ledger_id ON ledger (id)");

fn place(server: &Server, name: &str, files: &[(&str, &str)]) -> (Place, Database) {
    let database = server.database(name);
    (Place::new(files).at(database.url()), database)
}

fn ledger(database: &Database) -> Vec<String> {
    database.column("SELECT id FROM ledger ORDER BY id")
}

fn indexes(database: &Database) -> Vec<String> {
    let sql = "SELECT indexrelid::regclass::text || CASE WHEN indisvalid THEN '' ELSE ', not valid' END FROM pg_index \
               WHERE indrelid = 'ledger'::regclass ORDER BY 1";
    database.column(sql)
}

fn error(report: &Value) -> &str {
    report["error"].as_str().unwrap_or_default()
}

#[test]
fn an_index_whose_building_was_cut_off_is_dropped_and_built_again() {
    let server = Server::start();
    let (place, database) = place(&server, "cut_index", &[A, INDEX]);
    place.expect(0, &["up", "--to", "1"]);
    // It waits for whoever looked before it began.
    let reader = database.admin();
    execute(&reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM ledger");
    let mut child = place.start(&["up"]);
    until("the index is being built", || indexes(&database) == ["ledger_id, not valid"]);
    kill(&mut child);
    until("the server has noticed", || {
        database.column("SELECT pid::text FROM pg_locks WHERE locktype = 'advisory'").is_empty()
    });
    execute(&reader, "COMMIT");
    assert_eq!(indexes(&database), ["ledger_id, not valid"]);
    let report = place.report(0, &["up"]);
    assert_eq!(indexes(&database), ["ledger_id"]);
    assert!(report["recovered"].as_u64() >= Some(1), "{report}");
}

#[test]
fn killed_at_any_point_of_a_concurrent_build_it_goes_on() {
    let server = Server::start();
    for point in ["before", "during", "after"] {
        let (place, database) = place(&server, &format!("index_{point}"), &[A, INDEX]);
        assert_eq!(place.run(&["up", "--crash-at", &format!("3:{point}")]).exit, None);
        let half = database.column("SELECT id || ' ' || state FROM buttress_migrations ORDER BY sequence");
        let state = if point == "after" { "3_i applied" } else { "3_i applying" };
        assert_eq!(half[1], state, "{point}");
        place.expect(0, &["up"]);
        place.expect(0, &["verify"]);
        assert_eq!(indexes(&database), ["ledger_id"], "{point}");
    }
}

#[test]
fn killed_at_any_point_of_undoing_it_goes_on_and_undoes_no_more() {
    let server = Server::start();
    let down = ("3_i.down.sql", "DROP INDEX CONCURRENTLY ledger_id");
    for point in ["before", "during", "after"] {
        let (place, database) = place(&server, &format!("undo_{point}"), &[A, INDEX, down]);
        place.expect(0, &["up"]);
        assert_eq!(place.run(&["down", "1", "--crash-at", &format!("3:{point}")]).exit, None);
        let half = database.column("SELECT state FROM buttress_migrations WHERE id = '3_i'");
        assert_eq!(half, if point == "after" { vec![] } else { vec!["undoing"] }, "{point}");
        place.expect(0, &["down", "1"]);
        assert_eq!((indexes(&database), ledger(&database)), (vec![], vec!["a".to_owned()]), "{point}");
        place.expect(0, &["up"]);
        assert_eq!(indexes(&database), ["ledger_id"], "{point}");
    }
}

#[test]
fn an_index_that_cannot_be_built_leaves_nothing_and_can_be_corrected() {
    let server = Server::start();
    let unique = "CREATE UNIQUE INDEX CONCURRENTLY ledger_id ON ledger (left(id, 0))";
    let (place, database) = place(&server, "no_index", &[A, B, ("3_i.sql", unique)]);
    let report = place.report(1, &["up"]);
    assert!(error(&report).contains("PostgreSQL says 23505"), "{report}");
    assert!(indexes(&database).is_empty(), "what is not valid is dropped");
    place.write(INDEX.0, INDEX.1);
    place.expect(0, &["up"]);
    assert_eq!(indexes(&database), ["ledger_id"]);
}

#[test]
fn a_lock_that_is_held_for_a_while_is_waited_for_and_one_that_is_kept_is_named() {
    let server = Server::start();
    let (place, database) = place(&server, "locked", &[A, B]);
    place.expect(0, &["up", "--to", "1"]);
    let holder = database.admin();
    execute(&holder, "BEGIN; LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE");
    let report = place.report(4, &["up", "--lock-timeout", "100ms", "--retries", "2"]);
    assert!(error(&report).contains("55P03") && error(&report).contains("after 3 attempts"), "{report}");
    let mut child = place.start(&["up", "--lock-timeout", "100ms", "--report", "json"]);
    let mut told = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    assert!(told.any(|line| line.is_ok_and(|line| line.contains("retry 1 in"))), "it has not met the lock");
    execute(&holder, "COMMIT");
    let ran = Ran::from(child.wait_with_output().unwrap());
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(ran.exit == Some(0) && report["retries"].as_u64() >= Some(1), "{ran:?}");
    assert_eq!(ledger(&database), ["a", "b"]);
}

#[test]
fn whoever_was_cut_off_still_has_the_lock_of_the_migrations_and_is_named() {
    let server = Server::start();
    let (place, database) = place(&server, "fenced", &[A]);
    // A session that goes on although nobody hears of it any more.
    let zombie = database.admin();
    column(&zombie, "SELECT pg_advisory_lock(7094704831476364147)::text");
    let report = place.report(4, &["up", "--lock-timeout", "100ms", "--retries", "0"]);
    assert!(error(&report).contains("holds the lock of the migrations"), "{report}");
    column(&zombie, "SELECT pg_advisory_unlock(7094704831476364147)::text");
    place.expect(0, &["up"]);
    assert_eq!(ledger(&database), ["a"]);
}

#[test]
fn a_commit_whose_answer_is_lost_is_found_by_the_next_attempt() {
    let server = Server::start();
    let sleeps = ("2_b.sql", "INSERT INTO ledger VALUES ('b'); SELECT pg_sleep(3)");
    let (place, database) = place(&server, "lost_answer", &[A, sleeps]);
    place.expect(0, &["up", "--to", "1"]);
    let admin = database.admin();
    let child = place.start(&["up", "--report", "json", "--lease", "1min"]);
    let asleep =
        "SELECT pid::text FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3)%' AND pid <> pg_backend_pid()";
    until("it is under way", || !column(&admin, asleep).is_empty());
    // Answers are late, so that the connection can be cut after the commit and before its answer.
    database.proxy().add(Toxic::latency(Duration::from_secs(3))).unwrap();
    until("it is committed", || column(&admin, "SELECT id FROM ledger").len() == 2);
    database.cut();
    let ran = Ran::from(child.wait_with_output().unwrap());
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    assert_eq!(report["changes"][0]["before"], json!(true), "{report}");
    assert!(report["retries_by_kind"]["transient"].as_u64() >= Some(1), "{report}");
    assert_eq!(ledger(&database), ["a", "b"]);
}

#[test]
fn a_pool_without_connections_is_reset_and_then_somebody_is_called() {
    let server = Server::start();
    let (place, database) = place(&server, "starved", &[A]);
    database.connections(0);
    let report = place.report(6, &["up", "--retries", "9"]);
    assert!(error(&report).contains("53300"), "{report}");
    assert_eq!(report["healed"], json!(["reset pool: no effect", "reset pool: no effect"]), "{report}");
    assert_eq!(report["escalated"], json!(true), "{report}");
    assert_eq!(report["breaker"][0], json!("open"), "{report}");
    let child = place.start(&["up", "--report", "json"]);
    pause(Duration::from_millis(1000));
    database.connections(-1);
    let ran = Ran::from(child.wait_with_output().unwrap());
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(ran.exit == Some(0) && report["escalated"] == json!(false), "{ran:?}");
}

#[test]
fn a_statement_has_so_much_time_and_no_more() {
    let server = Server::start();
    let (place, _database) = place(&server, "slow", &[("1_a.sql", "SELECT pg_sleep(20)")]);
    let report = place.report(1, &["up", "--statement-timeout", "200ms"]);
    assert!(error(&report).contains("raise --statement-timeout"), "{report}");
    assert_eq!(report["retries"], json!(0));
}

#[test]
fn a_plan_is_rehearsed_and_leaves_nothing() {
    let server = Server::start();
    let wrong = ("2_b.sql", "INSERT INTO ledger VALUES (now(), 1)");
    let (place, database) = place(&server, "rehearsed", &[A, wrong, INDEX]);
    let report = place.report(1, &["plan"]);
    assert!(report["findings"][0].as_str().unwrap().starts_with("2_b fails in a rehearsal: "), "{report}");
    place.write(B.0, B.1);
    place.expect(0, &["plan"]).says("all of it works");
    assert!(database.column("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'").is_empty());
}

#[test]
fn what_a_migration_sets_is_not_for_the_next_one() {
    let server = Server::start();
    let sets = ("2_b.sql", "CREATE SCHEMA other; SET search_path = other; SET statement_timeout = '1ms'");
    let (place, database) =
        place(&server, "settings", &[A, sets, ("3_c.sql", "INSERT INTO ledger VALUES ('c')")]);
    place.expect(0, &["up"]);
    place.expect(0, &["verify"]);
    assert_eq!(ledger(&database), ["a", "c"]);
}

#[test]
fn a_server_that_is_killed_and_comes_back_is_waited_for() {
    let mut server = services::Postgres::start();
    let url = format!("postgres://buttress@127.0.0.1:{}/postgres", server.port());
    let slow = ("2_b.sql", "INSERT INTO ledger VALUES ('b'); SELECT pg_sleep(0.5)");
    let place = Place::new(&[A, slow]).at(url);
    let child = place.start(&["up", "--report", "json"]);
    pause(Duration::from_millis(400));
    server.kill();
    pause(Duration::from_millis(300));
    server.restart();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    place.expect(0, &["verify"]).says("2 applied");
}

#[test]
fn two_at_once_with_different_files_apply_each_migration_once() {
    let server = Server::start();
    let (place, database) = place(&server, "two", &[A, B]);
    let other = Place::new(&[A, B, ("4_d.sql", "INSERT INTO ledger VALUES ('d')")]).at(database.url());
    let (first, second) = (place.start(&["up"]), other.start(&["up"]));
    for child in [first, second] {
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(ran.exit, Some(0), "{ran:?}");
    }
    other.expect(0, &["up"]);
    assert_eq!(ledger(&database), ["a", "b", "d"]);
}

#[test]
fn the_history_of_a_server_that_is_gone_is_shown_from_its_copy() {
    let server = Server::start();
    let (place, database) = place(&server, "gone", &[A, B]);
    place.expect(0, &["up"]);
    runtime().block_on(database.proxy().down()).unwrap();
    let report = place.report(0, &["status", "--retries", "1"]);
    assert_eq!((report["history"].as_array().unwrap().len(), &report["level"]), (2, &json!(2)), "{report}");
    place.expect(4, &["up", "--retries", "1"]);
}

#[test]
fn a_table_of_the_history_that_cannot_be_read_is_shown_from_its_copy() {
    let server = Server::start();
    let (place, database) = place(&server, "unreadable", &[A, B]);
    place.expect(0, &["up"]);
    let copied = |what: &str| {
        let report = place.report(0, &["status", "--lock-timeout", "100ms", "--retries", "1"]);
        let applied = report["history"].as_array().map(Vec::len);
        assert_eq!((applied, &report["level"]), (Some(2), &json!(2)), "{what}: {report}");
    };
    let holder = database.admin();
    execute(&holder, "BEGIN; LOCK TABLE buttress_migrations IN ACCESS EXCLUSIVE MODE");
    copied("it is locked");
    let report = place.report(4, &["up", "--lock-timeout", "100ms", "--retries", "1"]);
    assert!(error(&report).contains("55P03"), "nothing is done by a copy: {report}");
    execute(&holder, "ROLLBACK");
    database.execute("ALTER TABLE buttress_migrations OWNER TO buttress");
    copied("somebody else has it");
    let report = place.report(1, &["up"]);
    assert!(error(&report).contains("42501"), "{report}");
    database.execute("ALTER TABLE buttress_migrations OWNER TO unreadable");
    assert_eq!(place.report(0, &["status"])["level"], json!(0));
}
