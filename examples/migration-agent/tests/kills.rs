//! `kill -9` at random moments and at each point of each step, again and again, until a set of migrations is through.
//! `BUTTRESS_KILLS=1000` kills more.

mod support;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::postgres::Server;
use support::set::{Kind, Set};
use support::{Place, Ran, kill, lanes, pause, sqlite};
use tokio::time::Instant;

/// Kills until there were so many, each set of migrations until it is through; `history` gets a seed and counts.
fn kill_again_and_again(name: &str, kills: u64, history: impl Fn(u64, &AtomicU64) + Sync) {
    let (killed, seeds, began) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while killed.load(Relaxed) < kills {
                    history(1_000_000 + seeds.fetch_add(1, Relaxed), &killed);
                }
            });
        }
    });
    let (killed, seeds) = (killed.into_inner(), seeds.into_inner());
    println!(
        "kill -9 on {name}: {killed} kills in {seeds} sets of migrations, in {:.0?}, failures 0",
        began.elapsed()
    );
}

/// Starts the program until it ends by itself, and kills it up to six times before.
fn struggle(place: &Place, set: &Set, seed: u64, killed: &AtomicU64) {
    let mut rng = StdRng::seed_from_u64(!seed);
    for _ in 0..6 {
        let exit = if rng.random_bool(0.5) {
            let id = &set.ids[rng.random_range(0..set.ids.len())];
            let point = ["before", "during", "after"][rng.random_range(0..3)];
            place.run(&["up", "--crash-at", &format!("{id}:{point}")])
        } else {
            let mut child = place.start(&["up"]);
            pause(Duration::from_millis(rng.random_range(1..100)));
            kill(&mut child);
            Ran::from(child.wait_with_output().expect("it ends"))
        };
        match exit.exit {
            None => killed.fetch_add(1, Relaxed),
            Some(0) => break,
            Some(_) => panic!("seed {seed}: {exit:?}"),
        };
    }
    place.expect(0, &["up", "--resume"]);
    place.expect(0, &["verify"]);
}

fn kills() -> u64 {
    lanes::number_from("BUTTRESS_KILLS", 100).div_ceil(2)
}

#[test]
fn killed_again_and_again_each_migration_runs_once_on_sqlite() {
    kill_again_and_again("SQLite", kills(), |seed, killed| {
        let (set, context) = (Set::draw(seed, Kind::Sqlite), format!("seed {seed}"));
        let peaceful = Place::new(&set.files());
        peaceful.expect(0, &["up"]);
        let place = Place::new(&set.files());
        struggle(&place, &set, seed, killed);
        assert_eq!(sqlite::dump(&place.file("app.db")), sqlite::dump(&peaceful.file("app.db")), "{context}");
        set.assert_once(sqlite::column(&place.file("app.db"), "SELECT id FROM ledger"), &context);
    });
}

#[test]
fn killed_again_and_again_each_migration_runs_once_on_postgres() {
    let server = Server::start();
    kill_again_and_again("PostgreSQL", kills(), |seed, killed| {
        let (set, context) = (Set::draw(seed, Kind::Postgres), format!("seed {seed}"));
        let peace = server.database(&format!("peace_{seed}"));
        Place::new(&set.files()).at(peace.url()).expect(0, &["up"]);
        let database = server.database(&format!("killed_{seed}"));
        let place = Place::new(&set.files()).at(database.url());
        struggle(&place, &set, seed, killed);
        assert_eq!(database.dump(), peace.dump(), "{context}");
        set.assert_once(database.column("SELECT id FROM ledger"), &context);
    });
}
