//! Processes that are killed, and processes that share, over each store that outlives them.

use std::time::Duration;

use degrade_tests::{Origin, Process, Seen};
use tempfile::TempDir;

const ASKER: &str = env!("CARGO_BIN_EXE_asker");

/// A store with a place, and what has to live as long as it.
trait Stored {
    fn place(&self) -> String;
}

struct File(TempDir);

impl Stored for File {
    fn place(&self) -> String {
        format!("sqlite {}", self.0.path().join("answers.db").display())
    }
}

impl Stored for services::Postgres {
    fn place(&self) -> String {
        format!("postgres {}", self.config())
    }
}

impl Stored for services::Redis {
    fn place(&self) -> String {
        format!("redis {}", self.url())
    }
}

fn file() -> File {
    File(TempDir::new().unwrap())
}

/// Killed without notice, and started again in an outage.
fn the_next_process_serves_the_last_good_answers(store: &impl Stored) {
    let (origin, place) = (Origin::start(), store.place());
    let mut first = Process::start(ASKER, &place, &origin.address(), 0);
    for key in ["a", "b"] {
        assert_eq!(first.ask(key).level, 0);
    }
    let last = first.ask("a");
    assert_eq!((last.level, last.age, last.value.as_str()), (0, None, "a 2"));
    assert_eq!(first.tell("written").as_deref(), Some("written"));
    first.kill();
    origin.set_down(true);
    let mut next = Process::start(ASKER, &place, &origin.address(), 0);
    for (key, value) in [("a", "a 2"), ("b", "b 1")] {
        let seen = next.ask(key);
        assert!(seen.age.is_some_and(|age| age < 60), "{seen:?}");
        assert_eq!((seen.level, seen.value.as_str()), (2, value));
    }
    assert_eq!(next.ask("c").level, 4);
    // Once more, from memory.
    assert_eq!(next.ask("a").value, "a 2");
    origin.set_down(false);
    assert_eq!(next.ask("a").level, 0);
}

fn two_processes_share(store: &impl Stored) {
    let (origin, place) = (Origin::start(), store.place());
    let mut processes = [(); 2].map(|()| Process::start(ASKER, &place, &origin.address(), 3600));
    let [one, other] = &mut processes;
    assert_eq!(one.ask("a").value, "a 0");
    one.tell("written");
    let seen = other.ask("a");
    assert_eq!((seen.level, seen.value.as_str(), origin.calls()), (0, "a 0", 1), "nobody asked again");
    for what in ["invalidate a", "clear"] {
        other.ask("a");
        other.tell("written");
        let calls = origin.calls();
        one.tell(what);
        one.tell("written");
        // To itself, to whoever is started later, and to the store.
        let mut third = Process::start(ASKER, &place, &origin.address(), 3600);
        assert_eq!(third.ask("a").value, format!("a {calls}"), "{what}");
        third.tell("written");
        assert_eq!((one.ask("a").value, origin.calls()), (format!("a {calls}"), calls + 1), "{what}");
        // It has forgotten on its own.
        other.tell("invalidate a");
        other.tell("written");
    }
}

/// Killed while it writes: what is found is an answer that was given, to that key, or none.
fn killed_at_random(store: &impl Stored) {
    const KILLS: u64 = 12;
    let (origin, place) = (Origin::start(), store.place());
    let (mut from, mut found) = (0, 0);
    for kill in 0.. {
        // More of them, and later, where a machine is too busy to keep anything.
        if kill >= KILLS && found > 0 {
            break;
        }
        assert!(kill < 10 * KILLS, "nothing was ever found");
        let later = if found == 0 { 10 * kill } else { 0 };
        let mut process = Process::start(ASKER, &place, &origin.address(), 0);
        process.begin(&format!("work {from}"));
        // It is the child's clock that runs.
        #[allow(clippy::disallowed_methods, reason = "a real process is killed after a real time")]
        std::thread::sleep(Duration::from_millis(50 + 31 * kill % 200 + later));
        process.kill();
        origin.set_down(true);
        let mut next = Process::start(ASKER, &place, &origin.address(), 0);
        while let Seen { level: 2, value, .. } = next.ask(&format!("key {from}")) {
            assert!(value.starts_with(&format!("key {from} ")), "{value}");
            (from, found) = (from + 1, found + 1);
        }
        next.kill();
        origin.set_down(false);
    }
}

macro_rules! over {
    ($($store:ident: $open:expr,)+) => { $(
        mod $store {
            #[test]
            fn the_next_process_serves_the_last_good_answers() {
                super::the_next_process_serves_the_last_good_answers(&$open);
            }

            #[test]
            fn two_processes_share() {
                super::two_processes_share(&$open);
            }

            #[test]
            fn killed_at_random() {
                super::killed_at_random(&$open);
            }
        }
    )+ };
}

over! {
    sqlite: super::file(),
    postgres: services::Postgres::start(),
    redis: services::Redis::start(),
}
