//! A million rows that have expired, and claims that are alive.

use std::time::Duration;

use buttress_store::{ClaimStore, Claimed, Postgres, Sqlite, Sweeper, SweeperOptions, Written};
use store_tests::{HOUR, owned, request, value};
use tempfile::TempDir;
use tokio::time::Instant;

const EXPIRED: u64 = 1_000_000;

/// Rows that the sweeper deletes at once.
const BATCH: u32 = 100;

/// Claims a key and completes it: how long that took.
async fn effect<S: ClaimStore>(store: &S, name: &str) -> Duration {
    let start = Instant::now();
    let claim = owned(store, name).await;
    assert_eq!(store.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    start.elapsed()
}

/// IA-36. Live claims go on while a million others are swept: they wait for one batch at most, most of them for none, and there
/// are many of them to each batch.
///
/// Counted in batches, so that it does not depend on how fast the machine is. The times are printed for those who want to know.
async fn sweeps_without_getting_in_the_way<S: ClaimStore>(store: S) {
    let sweeper = Sweeper::claims(store.clone(), SweeperOptions::new().batch(BATCH).unwrap()).unwrap();
    let (mut times, mut met) = (Vec::new(), Vec::new());
    while times.len() < 300 || sweeper.swept() < u64::from(BATCH) * 2 {
        let before = sweeper.swept();
        times.push(effect(&store, &format!("live {}", times.len())).await);
        met.push((sweeper.swept() - before).div_ceil(BATCH.into()));
    }
    let (swept, effects) = (sweeper.swept(), times.len() as u64);
    assert_eq!(sweeper.failures(), 0);
    sweeper.shutdown(HOUR).await;
    assert!(swept < EXPIRED, "there was something to sweep all the time");
    assert_eq!(swept % u64::from(BATCH), 0, "a batch is as large as was asked for");

    times.sort();
    met.sort();
    let at = |share: u64| (effects * share / 100) as usize;
    println!(
        "{effects} effects beside {swept} rows: half took {:?}, 99 of 100 {:?}",
        times[at(50)],
        times[at(99)]
    );
    assert_eq!(met[at(75)], 0, "three of four meet no batch: {met:?}");
    assert!(met[at(95)] <= 1, "19 of 20 meet one batch at most: {met:?}");
    assert!(swept / u64::from(BATCH) <= effects / 4, "{swept} rows beside {effects} effects");

    while store.sweep(20_000).await.unwrap() > 0 {}
    for index in 0..effects {
        let claimed = store.claim(&request(&format!("live {index}"))).await.unwrap();
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
