//! A million rows that have expired, and claims that are alive.

use std::time::Duration;

use buttress_store::{ClaimStore, Claimed, Postgres, Sqlite, Sweeper, SweeperOptions, Written};
use store_tests::{HOUR, owned, request, value};
use tempfile::TempDir;
use tokio::time::Instant;

const EXPIRED: u64 = 1_000_000;

/// How long it takes to claim a key and to complete it: the median, and what nine of ten take at most.
async fn latency<S: ClaimStore>(store: &S, name: &str, times: usize) -> (Duration, Duration) {
    let mut taken = Vec::with_capacity(times);
    for index in 0..times {
        let start = Instant::now();
        let claim = owned(store, &format!("{name} {index}")).await;
        assert_eq!(store.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);
        taken.push(start.elapsed());
    }
    taken.sort();
    (taken[times / 2], taken[times * 9 / 10])
}

/// Of some turns the middle one.
fn middle(turns: &[(Duration, Duration)], of: impl Fn(&(Duration, Duration)) -> Duration) -> Duration {
    let mut times: Vec<_> = turns.iter().map(of).collect();
    times.sort();
    times[times.len() / 2]
}

/// The claims that are alive take no more than twice as long while the others are swept: half of them, and nine of ten. Compared
/// in turns, since the machine has other things to do.
async fn sweeps_without_getting_in_the_way<S: ClaimStore>(store: S) {
    latency(&store, "warm", 100).await;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let mut swept = 0;
    for turn in 0..5 {
        alone.push(latency(&store, &format!("alone {turn}"), 60).await);
        let sweeper = Sweeper::claims(store.clone(), SweeperOptions::new()).unwrap();
        let mut measured = latency(&store, &format!("beside {turn}"), 60).await;
        let mut more = 0;
        while sweeper.swept() == 0 {
            // The first batch is under way.
            measured = measured.max(latency(&store, &format!("beside {turn}, {more}"), 60).await);
            more += 1;
        }
        assert_eq!(sweeper.failures(), 0);
        beside.push(measured);
        swept += sweeper.swept();
        sweeper.shutdown(HOUR).await;
    }
    println!("alone {alone:?}, beside the sweeper {beside:?}, {swept} swept meanwhile");
    for of in [|turn: &(Duration, Duration)| turn.0, |turn: &(Duration, Duration)| turn.1] {
        let [alone, beside] = [&alone, &beside].map(|turns| middle(turns, of));
        println!("alone {alone:?}, beside the sweeper {beside:?}");
        assert!(beside <= alone * 2, "alone {alone:?}, beside the sweeper {beside:?}");
    }
    assert!(swept < EXPIRED, "there was something to sweep all the time");
    while store.sweep(20_000).await.unwrap() > 0 {}
    for turn in 0..5 {
        let claimed = store.claim(&request(&format!("beside {turn} 59"))).await.unwrap();
        assert!(matches!(claimed, Claimed::Done(_)), "{claimed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_sweeps_a_million_expired_rows_without_getting_in_the_way_of_live_claims() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = Sqlite::at(&path).busy_timeout(Duration::from_secs(60)).open().await.unwrap();
    let filler = rusqlite::Connection::open(&path).unwrap();
    let fill = format!(
        "PRAGMA synchronous = OFF;
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {EXPIRED})
         INSERT INTO claims SELECT randomblob(24), zeroblob(32), randomblob(16), 1, 0, 2, NULL, n, zeroblob(100), 0
         FROM n"
    );
    filler.execute_batch(&fill).unwrap();
    drop(filler);
    sweeps_without_getting_in_the_way(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_sweeps_a_million_expired_rows_without_getting_in_the_way_of_live_claims() {
    let server = services::Postgres::start();
    let config: tokio_postgres::Config = server.config().parse().unwrap();
    let options = Postgres::at(config.clone()).timeout(Duration::from_secs(60));
    let store = options.open(tokio_postgres::NoTls).await.unwrap();
    let (filler, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let fill = format!(
        "INSERT INTO buttress_claims
         SELECT decode(md5(n::text), 'hex'), 'x', 'x', 1, 0, 2, NULL, n, repeat('x', 100)::bytea, 0
         FROM generate_series(1, {EXPIRED}) AS n;
         VACUUM ANALYZE buttress_claims"
    );
    for statement in fill.split(';') {
        filler.batch_execute(statement).await.unwrap();
    }
    sweeps_without_getting_in_the_way(store).await;
}
