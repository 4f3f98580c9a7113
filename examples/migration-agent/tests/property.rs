//! Whatever is killed, cut off, starved or locked, and whenever it is begun again: in the end the schema is that of a run in
//! which nothing failed, and each migration ran once. `BUTTRESS_SEEDS=1000` draws more.

mod support;

use std::process::Child;
use std::time::Duration;

use buttress_chaos::Toxic;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::postgres::{Database, Server};
use support::set::{Kind, Set};
use support::{Place, Ran, kill, lanes, pause, sqlite};

/// What may go wrong in an invocation, on any database.
fn ill_fated(place: &Place, set: &Set, rng: &mut StdRng, arguments: &[&str]) -> Ran {
    let output = |child: Child| child.wait_with_output().expect("it ends").into();
    match rng.random_range(0..5) {
        0 => {
            let mut child = place.start(arguments);
            pause(millis(rng, 0, 80));
            kill(&mut child);
            output(child)
        }
        1 | 2 => {
            let id = &set.ids[rng.random_range(0..set.ids.len())];
            let point = ["before", "during", "after"][rng.random_range(0..3)];
            let at = format!("{id}:{point}");
            place.run(&[arguments, &["--crash-at", &at]].concat())
        }
        3 => {
            let child = place.start(arguments);
            pause(millis(rng, 0, 60));
            // It may have ended already.
            let _ = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).output();
            output(child)
        }
        _ => {
            // Two at once, of which one is killed.
            let mut children = [place.start(arguments), place.start(arguments)];
            pause(millis(rng, 0, 80));
            let victim = rng.random_range(0..2);
            kill(&mut children[victim]);
            let [first, second] = children;
            output(if victim == 0 { second } else { first })
        }
    }
}

fn millis(rng: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.random_range(from..=to))
}

/// It was killed, or it is not the migrations' fault.
fn acceptable(ran: &Ran, context: &str) {
    assert!(matches!(ran.exit, None | Some(0 | 4 | 6 | 130)), "{context}: {ran:?}");
}

#[test]
fn whatever_happens_a_sqlite_file_ends_as_if_nothing_had() {
    lanes::run("migrations on SQLite", lanes::number_from("BUTTRESS_SEEDS", 100), |seed| {
        let (set, context) = (Set::draw(seed, Kind::Sqlite), format!("seed {seed}"));
        let peaceful = Place::new(&set.files());
        peaceful.expect(0, &["up"]);
        let place = Place::new(&set.files());
        let mut rng = StdRng::seed_from_u64(!seed);
        let arguments = ["up", "--lock-timeout", "100ms"];
        for _ in 0..rng.random_range(1..=3) {
            let ran = if rng.random_range(0..4) == 0 {
                locked_file(&place, &mut rng, &arguments)
            } else {
                ill_fated(&place, &set, &mut rng, &arguments)
            };
            acceptable(&ran, &context);
        }
        // Where leases end by themselves, because nobody gets to run, a run may have been halted.
        place.expect(0, &["up", "--resume"]);
        place.expect(0, &["verify"]);
        assert_eq!(sqlite::dump(&place.file("app.db")), sqlite::dump(&peaceful.file("app.db")), "{context}");
        set.assert_once(sqlite::column(&place.file("app.db"), "SELECT id FROM ledger"), &context);
    });
}

/// Somebody else writes for a while.
fn locked_file(place: &Place, rng: &mut StdRng, arguments: &[&str]) -> Ran {
    let connection = rusqlite::Connection::open(place.file("app.db")).expect("the folder is there");
    connection.busy_timeout(Duration::from_secs(10)).expect("it is a time");
    connection.execute_batch("BEGIN IMMEDIATE").expect("nobody else writes");
    let child = place.start(arguments);
    pause(millis(rng, 20, 700));
    connection.execute_batch("ROLLBACK").expect("it has begun");
    child.wait_with_output().expect("it ends").into()
}

#[test]
fn whatever_happens_a_postgres_database_ends_as_if_nothing_had() {
    let server = Server::start();
    let seeds = (lanes::number_from("BUTTRESS_SEEDS", 100) * 2).div_ceil(5);
    lanes::run("migrations on PostgreSQL", seeds, |seed| {
        let (set, context) = (Set::draw(seed, Kind::Postgres), format!("seed {seed}"));
        let peace = server.database(&format!("peace_{seed}"));
        Place::new(&set.files()).at(peace.url()).expect(0, &["up"]);
        let database = server.database(&format!("chaos_{seed}"));
        let place = Place::new(&set.files()).at(database.url());
        let mut rng = StdRng::seed_from_u64(!seed);
        let arguments = ["up", "--lock-timeout", "200ms"];
        for _ in 0..rng.random_range(1..=3) {
            let ran = if rng.random_range(0..3) == 0 {
                ill_fated(&place, &set, &mut rng, &arguments)
            } else {
                ill_connected(&database, &place, &mut rng, &arguments)
            };
            acceptable(&ran, &context);
        }
        place.expect(0, &["up", "--resume"]);
        place.expect(0, &["verify"]);
        assert_eq!(database.dump(), peace.dump(), "{context}");
        set.assert_once(database.column("SELECT id FROM ledger"), &context);
    });
}

/// The network, the server or another session stands in the way for a while.
fn ill_connected(database: &Database, place: &Place, rng: &mut StdRng, arguments: &[&str]) -> Ran {
    let proxy = database.proxy();
    let output = |child: Child| child.wait_with_output().expect("it ends").into();
    match rng.random_range(0..6) {
        0 => {
            let child = place.start(arguments);
            pause(millis(rng, 20, 150));
            proxy.add(Toxic::reset_peer(Duration::ZERO)).expect("there is none");
            pause(millis(rng, 0, 500));
            proxy.clear();
            output(child)
        }
        1 => {
            // In the middle of whatever it says or hears: some connections are cut there, until the toxic is gone.
            let toxic = Toxic::limit_data(rng.random_range(100..6000));
            let toxic =
                if rng.random_bool(0.5) { toxic.stream(buttress_chaos::Stream::Upstream) } else { toxic };
            proxy.add(toxic).expect("there is none");
            let child = place.start(arguments);
            pause(millis(rng, 100, 900));
            proxy.clear();
            output(child)
        }
        2 => cut_at_commit(database, place, arguments),
        3 => {
            database.connections(rng.random_range(0..=2));
            let child = place.start(arguments);
            pause(millis(rng, 100, 1500));
            database.connections(-1);
            output(child)
        }
        4 => {
            let holder = database.admin();
            let there = support::postgres::column(&holder, "SELECT to_regclass('ledger')::text");
            if there[0].is_empty() {
                return place.run(arguments);
            }
            support::postgres::execute(&holder, "BEGIN; LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE");
            let child = place.start(arguments);
            pause(millis(rng, 50, 900));
            support::postgres::execute(&holder, "ROLLBACK");
            output(child)
        }
        _ => {
            let child = place.start(arguments);
            pause(millis(rng, 30, 200));
            database.terminate();
            output(child)
        }
    }
}

/// Answers are late, so that the connection can be cut after a commit and before its answer.
fn cut_at_commit(database: &Database, place: &Place, arguments: &[&str]) -> Ran {
    let proxy = database.proxy();
    proxy.add(Toxic::latency(Duration::from_millis(60))).expect("there is none");
    let admin = database.admin();
    let applied = || {
        let there = support::postgres::column(&admin, "SELECT to_regclass('buttress_migrations')::text");
        if there[0].is_empty() {
            return "0".to_owned();
        }
        let sql = "SELECT count(*)::text FROM buttress_migrations WHERE state = 'applied'";
        support::postgres::column(&admin, sql).remove(0)
    };
    let (before, mut child) = (applied(), place.start(arguments));
    while applied() == before && child.try_wait().expect("it is a child").is_none() {
        pause(Duration::from_millis(2));
    }
    database.cut();
    child.wait_with_output().expect("it ends").into()
}
