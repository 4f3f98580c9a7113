//! The program as its users start it, over SQLite files.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Place, Ran, kill, pause, sqlite, until};

const A: (&str, &str) = ("1_a.sql", "CREATE TABLE ledger (id text); INSERT INTO ledger VALUES ('a')");
const B: (&str, &str) = ("2_b.sql", "-- requires: 1_a\nINSERT INTO ledger VALUES ('b')");
const C: (&str, &str) = ("3_c.sql", "-- requires: 2_b\nINSERT INTO ledger VALUES ('c')");
const DOWN: [(&str, &str); 3] = [
    ("1_a.down.sql", "DROP TABLE ledger"),
    ("2_b.down.sql", "DELETE FROM ledger WHERE id = 'b'"),
    ("3_c.down.sql", "DELETE FROM ledger WHERE id = 'c'"),
];

/// Takes longer than other processes need to start: a second or two, or many on a busy machine.
const SLOW: &str = "INSERT INTO ledger SELECT 'slow ' || max(n) FROM \
                    (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 4000000) SELECT n FROM c)";

/// Takes minutes.
const ENDLESS: &str = "INSERT INTO ledger SELECT 'slow ' || max(n) FROM \
                       (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 4000000000) SELECT n FROM c)";

fn ledger(place: &Place) -> Vec<String> {
    sqlite::column(&place.file("app.db"), "SELECT id FROM ledger ORDER BY rowid")
}

/// Waits until a migration is under way: nobody else can write.
fn until_it_works(place: &Place) {
    until("the slow one is under way", || {
        let Ok(connection) = rusqlite::Connection::open(place.file("app.db")) else { return false };
        let begun =
            sqlite::column(&place.file("app.db"), "SELECT name FROM sqlite_schema WHERE name = 'ledger'")
                .len()
                == 1;
        connection.busy_timeout(Duration::ZERO).unwrap();
        begun && connection.execute_batch("BEGIN IMMEDIATE").is_err()
    });
}

fn ids(report: &Value, key: &str) -> Vec<String> {
    let entries = report[key].as_array().expect("it is a list");
    let id = |entry: &Value| entry.get("id").unwrap_or(entry).as_str().expect("it is text").to_owned();
    entries.iter().map(id).collect()
}

#[test]
fn what_is_pending_is_applied_once() {
    let place = Place::new(&[A, B, C]);
    assert_eq!(ids(&place.report(0, &["plan"]), "pending"), ["1_a", "2_b", "3_c"]);
    assert!(!place.file("app.db").exists(), "a plan makes nothing");
    let report = place.report(0, &["up", "--to", "2"]);
    assert_eq!(
        (ids(&report, "changes"), &report["runs"]),
        (vec!["1_a".into(), "2_b".into()], &json!(["run-1"]))
    );
    assert_eq!(ids(&place.report(0, &["up"]), "changes"), ["3_c"]);
    assert_eq!(place.report(0, &["up"])["changes"], json!([]));
    assert_eq!(ledger(&place), ["a", "b", "c"]);
    let status = place.report(0, &["status"]);
    assert_eq!(
        (ids(&status, "history"), &status["level"]),
        (vec!["1_a".into(), "2_b".into(), "3_c".into()], &json!(0))
    );
}

#[test]
fn a_file_that_was_applied_and_has_changed_is_an_error_with_both_hashes() {
    let place = Place::new(&[A, B]);
    place.expect(0, &["up", "--to", "1"]);
    let applied = sqlite::column(&place.file("app.db"), "SELECT hash FROM buttress_migrations").remove(0);
    place.write("1_a.sql", "CREATE TABLE ledger (id text, at text)");
    for command in ["up", "verify", "plan"] {
        let ran = place.expect(3, &[command]);
        ran.says(&format!("applied: sha256 {applied}"));
        ran.says("file:    sha256 ");
    }
    assert_eq!(ledger(&place), ["a"], "nothing is applied on top of what is not known");
    place.remove("1_a.sql");
    place.write("2_b.sql", "SELECT 1");
    place.expect(3, &["verify"]).says("1_a was applied, and has no file");
}

#[test]
fn files_that_cannot_be_ordered_are_an_error_before_anything_is_done() {
    let place = Place::new(&[
        A,
        ("2_b.sql", "-- requires: 3_c\nSELECT 1"),
        ("3_c.sql", "-- requires: 2_b\nSELECT 1"),
    ]);
    place.expect(2, &["up"]).says("2_b requires 3_c requires 2_b");
    place.write("3_c.sql", "-- requires: 9_z\nSELECT 1");
    place.expect(2, &["up"]).says("3_c requires 9_z: not in");
    assert!(!place.file("app.db").exists());
    place.expect(2, &["down"]).says("down: how many?");
}

#[test]
fn a_migration_that_fails_leaves_nothing_and_can_be_corrected() {
    let place =
        Place::new(&[A, ("2_b.sql", "INSERT INTO ledger VALUES ('b'); INSERT INTO legder VALUES ('b')"), C]);
    place.write("3_c.sql", "INSERT INTO ledger VALUES ('c')");
    let report = place.report(1, &["up"]);
    assert!(
        report["error"].as_str().unwrap().contains("2_b: SQLite says: no such table: legder"),
        "{report}"
    );
    assert_eq!((ledger(&place), &report["outcome"]), (vec!["a".to_owned()], &json!("failed")));
    place.write("2_b.sql", "INSERT INTO ledger VALUES ('b')");
    assert_eq!(ids(&place.report(0, &["up"]), "changes"), ["2_b", "3_c"]);
    assert_eq!(ledger(&place), ["a", "b", "c"]);
}

#[test]
fn killed_at_any_point_of_any_step_it_goes_on() {
    let vacuum = ("4_d.sql", "VACUUM");
    std::thread::scope(|scope| {
        for id in ["1", "2_b", "3", "4"] {
            for point in ["before", "during", "after"] {
                scope.spawn(move || {
                    let place = Place::new(&[A, B, C, vacuum]);
                    let killed = place.run(&["up", "--crash-at", &format!("{id}:{point}")]);
                    assert_eq!(killed.exit, None, "{killed:?}");
                    let report = place.report(0, &["up"]);
                    // Once more, where so much goes on that its own lease ends in between.
                    assert!(report["recovered"].as_u64() >= Some(1), "{id}:{point}: {report}");
                    assert_eq!(ids(&report, "changes"), ["1_a", "2_b", "3_c", "4_d"], "it is the same run");
                    assert_eq!(ledger(&place), ["a", "b", "c"], "{id}:{point}");
                    place.expect(0, &["verify"]);
                });
            }
        }
    });
}

#[test]
fn a_pending_file_that_is_corrected_after_a_crash_is_planned_anew() {
    let place = Place::new(&[A, B, C]);
    place.run(&["up", "--crash-at", "2:before"]);
    place.write("3_c.sql", "INSERT INTO ledger VALUES ('c, corrected')");
    let report = place.report(0, &["up"]);
    assert_eq!(report["runs"], json!(["run-1", "run-2"]));
    assert_eq!(ledger(&place), ["a", "b", "c, corrected"]);
}

#[test]
fn of_two_at_once_one_works_and_the_other_waits_or_leaves() {
    let place = Place::new(&[A, ("2_b.sql", SLOW)]);
    let first = place.start(&["up"]);
    until_it_works(&place);
    place.expect(5, &["up", "--no-wait"]).says("run-1 belongs to process ");
    let second = place.run(&["up"]);
    second.says("waiting until it has ended");
    assert_eq!(second.exit, Some(0), "{second:?}");
    let first = Ran::from(first.wait_with_output().unwrap());
    assert_eq!(first.exit, Some(0), "{first:?}");
    assert_eq!(ledger(&place), ["a", "slow 4000000"]);
}

#[test]
fn a_statement_has_so_much_time_and_no_more() {
    let place = Place::new(&[A, ("2_b.sql", ENDLESS)]);
    place.expect(0, &["up", "--to", "1"]);
    let report = place.report(1, &["up", "--statement-timeout", "300ms"]);
    assert!(report["error"].as_str().unwrap().contains("raise --statement-timeout"), "{report}");
    assert_eq!(report["retries"], json!(0), "it would take as long again");
    assert_eq!(ledger(&place), ["a"], "nothing of it is left");
    place.write("2_b.sql", &format!("-- statement-timeout: 30min\n{SLOW}"));
    place.expect(0, &["up", "--statement-timeout", "300ms"]);
}

#[test]
fn one_that_is_told_to_end_gives_its_run_back() {
    let place = Place::new(&[A, ("2_b.sql", SLOW), C]);
    place.write("3_c.sql", "INSERT INTO ledger VALUES ('c')");
    let child = place.start(&["up", "--lease", "1min"]);
    until_it_works(&place);
    let told = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(told.success());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.exit, Some(130), "{ran:?}");
    assert_eq!(ledger(&place), ["a", "slow 4000000"], "what was under way has ended");
    let report = place.report(0, &["up", "--no-wait"]);
    assert_eq!((ids(&report, "changes").len(), &report["runs"]), (3, &json!(["run-1"])));
}

#[test]
fn the_last_are_undone_first_and_only_if_all_can_be() {
    let place = Place::new(&[&[A, B, C][..], &DOWN[..2]].concat());
    place.expect(0, &["up"]);
    place.expect(2, &["down", "2"]).says("3_c cannot be undone: there is no 3_c.down.sql");
    place.write(DOWN[2].0, DOWN[2].1);
    place.run(&["down", "2", "--crash-at", "2:during"]);
    let report = place.report(0, &["down", "2"]);
    assert_eq!(ids(&report, "changes"), ["3_c", "2_b"], "that the first one had begun, and nothing more");
    assert_eq!(ledger(&place), ["a"]);
    assert_eq!(ids(&place.report(0, &["up"]), "changes"), ["2_b", "3_c"]);
}

#[test]
fn what_runs_outside_of_a_transaction_is_reconciled_by_its_query() {
    let update = "-- transaction: none\n-- reconcile: SELECT count(*) > 1 FROM ledger\nINSERT INTO ledger VALUES ('b')";
    for point in ["before", "during", "after"] {
        let place = Place::new(&[A, ("2_b.sql", update)]);
        place.run(&["up", "--crash-at", &format!("2:{point}")]);
        place.expect(0, &["up"]);
        assert_eq!(ledger(&place), ["a", "b"], "{point}");
        place.expect(0, &["verify"]);
    }
}

#[test]
fn rows_that_refer_to_nothing_are_not_committed() {
    let parent =
        "CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE child (parent REFERENCES parent (id))";
    let place = Place::new(&[("1_a.sql", parent), ("2_b.sql", "INSERT INTO child VALUES (7)")]);
    place.expect(1, &["up"]).says("2_b leaves rows that refer to nothing");
}

#[test]
fn a_history_that_cannot_be_read_is_shown_from_its_last_good_copy_and_nothing_is_done_by_it() {
    let place = Place::new(&[A, B, C]);
    place.expect(0, &["up", "--to", "2"]);
    std::fs::write(place.file("app.db"), "this is no database, and far too short for one").unwrap();
    let status = place.report(0, &["status"]);
    assert_eq!(
        (ids(&status, "history"), ids(&status, "pending")),
        (vec!["1_a".into(), "2_b".into()], vec!["3_c".into()])
    );
    assert!(status["history_age"].as_u64() < Some(60) && status["level"] == json!(2), "{status}");
    place.expect(6, &["up"]).says("file is not a database");
    place.expect(6, &["verify"]);
}

#[test]
fn monitoring_that_is_absent_or_never_answers_stops_nothing() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", deaf.local_addr().unwrap());
    // If it waited for each notice, it would take eight seconds; on a machine that is busy it takes as long now and then.
    let is_quick = |_| {
        let place = Place::new(&[A, B, C]);
        let report = place.report(0, &["up", "--notify", &url, "--statsd", "127.0.0.1:9"]);
        assert_eq!(ledger(&place), ["a", "b", "c"]);
        report["elapsed_ms"].as_u64() < Some(4000)
    };
    assert!((0..10).any(is_quick), "it waits for who never answers");
    let place = Place::new(&[A]);
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let report = place.report(0, &["up", "--notify", &format!("http://{refusing}/")]);
    assert_eq!((&report["level"], &report["notices_lost"]), (&json!(1), &json!(2)), "{report}");
}

#[test]
fn monitoring_hears_of_each_migration() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let statsd = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", server.local_addr().unwrap());
    let heard = std::thread::spawn(move || {
        let mut heard = Vec::new();
        while heard.len() < 2 {
            let (mut stream, _) = server.accept().unwrap();
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                // The body may come after its head.
                if let Some(body) = text.rfind('{').map(|_| text[text.find('{').unwrap()..].to_owned()) {
                    heard.push(serde_json::from_str::<Value>(&body).unwrap());
                    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
                }
            }
        }
        heard
    });
    let place = Place::new(&[A]);
    let statsd_address = statsd.local_addr().unwrap().to_string();
    let report = place.report(0, &["up", "--notify", &url, "--statsd", &statsd_address]);
    assert_eq!((&report["notices_sent"], &report["notices_lost"]), (&json!(4), &json!(0)));
    let heard = heard.join().unwrap();
    assert_eq!((&heard[0]["event"], &heard[0]["migration"]), (&json!("applied"), &json!("1_a")));
    assert_eq!(heard[1]["event"], json!("finished"));
    let mut line = [0; 256];
    let read = statsd.recv(&mut line).unwrap();
    assert!(line[..read].starts_with(b"migration_agent.applied:1|c\nmigration_agent.applied_time:"));
}

#[test]
fn a_plan_says_what_it_does_not_understand() {
    let place = Place::new(&[A, ("2_b.sql", "CREATE TABEL b (n int)")]);
    let report = place.report(0, &["plan"]);
    assert!(
        ids(&report, "findings")[0].starts_with("2_b: not understood here, the database decides"),
        "{report}"
    );
}

#[test]
fn one_that_is_killed_while_another_waits_is_followed_by_it() {
    let place = Place::new(&[A, ("2_b.sql", SLOW)]);
    let mut first = place.start(&["up"]);
    until_it_works(&place);
    let second = place.start(&["up"]);
    pause(Duration::from_millis(150));
    kill(&mut first);
    let second = Ran::from(second.wait_with_output().unwrap());
    assert_eq!(second.exit, Some(0), "{second:?}");
    second.says("run-1 goes on: whoever had begun it has gone");
    assert_eq!(ledger(&place), ["a", "slow 4000000"]);
}

#[test]
fn a_run_that_kills_its_agent_each_time_is_halted_until_somebody_has_looked() {
    let place = Place::new(&[A, B]);
    for _ in 0..11 {
        assert_eq!(place.run(&["up", "--crash-at", "2:before"]).exit, None);
    }
    place.expect(6, &["up", "--crash-at", "2:before"]);
    place.expect(6, &["up"]).says("give --resume to go on");
    place.expect(0, &["up", "--resume"]);
    assert_eq!(ledger(&place), ["a", "b"]);
}
