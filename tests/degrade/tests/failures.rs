//! Stores that go down, hang, are full, damaged, of a newer release, or whose clock is set.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use buttress_degrade::{Backing, Degraded};
use buttress_store::Sqlite;
use degrade_tests::{Asker, Origin, backing};
use rusqlite::Connection;
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

fn seen(answer: &Degraded<String>) -> (u8, &str) {
    (answer.level().as_u8(), answer.get_ref())
}

/// Calls go on while the store is down; what they gave is written once it is back, and found by who comes later.
async fn goes_down_and_comes_back(place: &str, mut set_down: impl FnMut(bool)) {
    let origin = Origin::start();
    let asker = Asker::new(&origin.address(), backing(place).await.unwrap(), HOUR);
    assert_eq!(seen(&asker.ask("a").await.unwrap()), (0, "a 0"));
    asker.written().await;
    set_down(true);
    for key in ["b", "c", "d"] {
        assert_eq!(asker.ask(key).await.unwrap().level().as_u8(), 0);
    }
    asker.memory.invalidate("a");
    let told = loop {
        let told = asker.told();
        if !told.is_empty() {
            break told;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(told[0].contains("cannot be reached") || told[0].contains("did not answer"), "{told:?}");
    while asker.memory.in_flight() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(asker.memory.unwritten() > 0);
    set_down(false);
    asker.written().await;
    origin.set_down(true);
    let next = Asker::new(&origin.address(), backing(place).await.unwrap(), HOUR);
    for (key, value) in [("b", "b 1"), ("c", "c 2"), ("d", "d 3")] {
        assert_eq!(seen(&next.ask(key).await.unwrap()), (0, value));
    }
    assert!(next.ask("a").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_killed_costs_no_call_and_gets_everything_later() {
    let mut server = services::Postgres::start();
    let place = format!("postgres {}", server.config());
    goes_down_and_comes_back(&place, |down| if down { server.kill() } else { server.restart() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_costs_no_call_and_gets_everything_later() {
    let mut server = services::Redis::start();
    let place = format!("redis {}", server.url());
    goes_down_and_comes_back(&place, |down| if down { server.kill() } else { server.restart() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_costs_one_call_a_moment_and_gets_everything_later() {
    let mut server = services::Redis::start();
    let place = format!("redis {}", server.url());
    goes_down_and_comes_back(&place, |down| server.freeze(down)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_full_is_told_of_and_costs_no_call() {
    let server = services::Redis::start_with(&[("maxmemory", "1500000"), ("maxmemory-policy", "noeviction")]);
    let place = format!("redis {}", server.url());
    let origin = Origin::start();
    let asker = Asker::new(&origin.address(), backing(&place).await.unwrap(), HOUR);
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let set = async |connection: &mut redis::aio::MultiplexedConnection, bytes: &str| {
        let mut set = redis::cmd("CONFIG");
        let _: () = set.arg("SET").arg("maxmemory").arg(bytes).query_async(connection).await.unwrap();
    };
    set(&mut connection, "1").await;
    assert_eq!(seen(&asker.ask("a").await.unwrap()), (0, "a 0"));
    let told = loop {
        let told = asker.told();
        if !told.is_empty() {
            break told;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(told.iter().all(|told| told.contains("the store is full")), "{told:?}");
    assert_eq!(seen(&asker.ask("a").await.unwrap()), (0, "a 0"), "from memory");
    set(&mut connection, "0").await;
    asker.written().await;
    let next = Asker::new(&origin.address(), backing(&place).await.unwrap(), HOUR);
    assert_eq!((seen(&next.ask("a").await.unwrap()), origin.calls()), ((0, "a 0"), 1));
}

struct File(TempDir);

impl File {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("answers.db")
    }

    fn place(&self) -> String {
        format!("sqlite {}", self.path().display())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_is_told_of_asked_for_anew_and_replaced() {
    let (file, origin) = (File::new(), Origin::start());
    let asker = Asker::new(&origin.address(), backing(&file.place()).await.unwrap(), HOUR);
    asker.ask("a").await.unwrap();
    asker.ask("b").await.unwrap();
    asker.written().await;
    let connection = Connection::open(file.path()).unwrap();
    let damaged =
        connection.execute("UPDATE answers SET body = body || x'00' WHERE instr(body, x'612030') > 0", []);
    assert_eq!(damaged.unwrap(), 1);
    let next = Asker::new(&origin.address(), backing(&file.place()).await.unwrap(), HOUR);
    assert_eq!(seen(&next.ask("a").await.unwrap()), (0, "a 2"));
    let told = next.told();
    assert!(told.len() == 1 && told[0].contains("is damaged"), "{told:?}");
    assert_eq!(seen(&next.ask("b").await.unwrap()), (0, "b 1"), "the rest works");
    next.written().await;
    let last = Asker::new(&origin.address(), backing(&file.place()).await.unwrap(), HOUR);
    assert_eq!((seen(&last.ask("a").await.unwrap()), last.told().len()), ((0, "a 2"), 0));
}

/// A process of a newer release has changed the file under this one.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_release_is_told_of_and_costs_no_call() {
    let (file, origin) = (File::new(), Origin::start());
    let asker = Asker::new(&origin.address(), backing(&file.place()).await.unwrap(), HOUR);
    asker.ask("a").await.unwrap();
    asker.written().await;
    Connection::open(file.path()).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
    assert_eq!(seen(&asker.ask("b").await.unwrap()), (0, "b 1"));
    let told = asker.told();
    assert!(told.iter().all(|told| told.contains("newer release")) && !told.is_empty(), "{told:?}");
    assert_eq!(seen(&asker.ask("a").await.unwrap()), (0, "a 0"), "from memory");
}

/// The wall clock jumps while no process is there.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_clock_does_nothing_is_fresh_that_is_not_and_nothing_is_lost() {
    let (file, origin) = (File::new(), Origin::start());
    let seconds = Arc::new(AtomicU64::new(1_700_000_000));
    let asker = async |backing_ttl: Duration| {
        let clock = Arc::clone(&seconds);
        let now = move || UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::SeqCst));
        let store = Sqlite::at(file.path()).clock(now).open().await.unwrap();
        Asker::new(&origin.address(), Backing::new(store, "prices").unwrap(), backing_ttl)
    };
    let day = 86_400;
    let first = asker(HOUR).await;
    first.ask("a").await.unwrap();
    first.written().await;
    seconds.fetch_add(600, Ordering::SeqCst);
    let aged = asker(HOUR).await.ask("a").await.unwrap();
    assert_eq!((seen(&aged), aged.age().map(|age| age.as_secs() / 10)), ((0, "a 0"), Some(60)));

    seconds.fetch_sub(day, Ordering::SeqCst);
    origin.set_down(true);
    let back = asker(HOUR).await.ask("a").await.unwrap();
    assert_eq!(seen(&back), (2, "a 0"), "nobody knows how old it is: not fresh, and better than nothing");
    assert!(back.age().is_some_and(|age| age >= HOUR));
    origin.set_down(false);
    let replacing = asker(HOUR).await;
    let calls = origin.calls();
    assert_eq!(seen(&replacing.ask("a").await.unwrap()), (0, &*format!("a {calls}")));
    replacing.written().await;
    let fresh = asker(HOUR).await.ask("a").await.unwrap();
    assert_eq!(seen(&fresh), (0, &*format!("a {calls}")), "what was of the future is replaced");

    seconds.fetch_add(2 * day, Ordering::SeqCst);
    assert_eq!(seen(&asker(HOUR).await.ask("a").await.unwrap()), (0, &*format!("a {}", calls + 1)));
}
