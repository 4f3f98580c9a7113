//! The behaviours that a store has a part in, over each of them.

use std::io;
use std::time::Duration;

use buttress_idempotency::{Config, Error, Hash, Idempotency, InFlight, Ran, RunError, record_of};
use buttress_store::{ClaimStore, Memory, Postgres, Redis, ScopedKey, Sqlite, Written};
use idempotency_tests::LEASE;
use tokio::sync::oneshot;

fn key(name: &str) -> ScopedKey {
    ScopedKey::try_new("", name).unwrap()
}

fn of<St: ClaimStore>(store: &St, config: Config) -> Idempotency<St> {
    Idempotency::new("test", store.clone(), config).unwrap()
}

type Ended = Result<Ran<String>, RunError<io::Error>>;

async fn run<St: ClaimStore>(at: &Idempotency<St>, name: &str, content: &str, answer: &'static str) -> Ended {
    let fingerprint = Hash::new().part(content).fingerprint();
    at.run(key(name), fingerprint, async move |_| Ok(answer.to_owned())).await
}

async fn all<St: ClaimStore>(store: St) {
    let (one, other) = (of(&store, Config::new()), of(&store, Config::new()));
    // IA-1, IA-5
    assert_eq!(run(&one, "a", "100", "first").await.unwrap(), Ran::Executed("first".into()));
    assert_eq!(run(&other, "a", "100", "second").await.unwrap(), Ran::Replayed("first".into()));
    let mismatch = run(&other, "a", "101", "second").await.unwrap_err();
    assert!(matches!(mismatch, RunError::Idempotency(Error::Mismatch)), "{mismatch:?}");

    // IA-2, IA-3, IA-21: refused, waited for, and carried on although its caller went away.
    let (go, wait) = oneshot::channel::<()>();
    let (begins, begun) = oneshot::channel();
    let owner = one.clone();
    let first = tokio::spawn(async move {
        let fingerprint = Hash::new().part("100").fingerprint();
        let effect = async move |_| {
            let _ = begins.send(());
            let _ = wait.await;
            Ok::<_, io::Error>(String::from("slow"))
        };
        owner.run(key("b"), fingerprint, effect).await
    });
    begun.await.unwrap();
    first.abort();
    let refused = run(&other, "b", "100", "second").await.unwrap_err();
    assert!(matches!(refused, RunError::Idempotency(Error::InFlight { .. })), "{refused:?}");
    let patient = of(&store, Config::new().in_flight(InFlight::Wait(Duration::from_secs(30))));
    let waiting = tokio::spawn(async move { run(&patient, "b", "100", "second").await });
    go.send(()).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), Ran::Replayed("slow".into()));

    // IA-9, IA-10, IA-11: the lease of a zombie ends, and its answer does not count.
    let short = Config::new().lease(LEASE).ceiling(LEASE).in_flight(InFlight::Wait(Duration::from_secs(30)));
    let (zombie, heir) = (of(&store, short.clone()), of(&store, short));
    let (go, wait) = oneshot::channel::<()>();
    let (begins, begun) = oneshot::channel();
    let lost = tokio::spawn(async move {
        let fingerprint = Hash::new().part("100").fingerprint();
        let effect = async move |claim: buttress_idempotency::Claim| {
            let _ = begins.send(claim.epoch());
            let _ = wait.await;
            Ok::<_, io::Error>(String::from("late"))
        };
        zombie.run(key("c"), fingerprint, effect).await
    });
    let epoch = begun.await.unwrap();
    let fingerprint = Hash::new().part("100").fingerprint();
    let effect =
        async |claim: buttress_idempotency::Claim| Ok::<_, io::Error>((claim.epoch(), claim.unfinished()));
    let taken = heir.run(key("c"), fingerprint, effect).await.unwrap();
    assert_eq!(taken, Ran::Executed((epoch + 1, 1)));
    go.send(()).unwrap();
    let unreadable = lost.await.unwrap();
    // The winner's answer is a pair and not a text: that it cannot be read proves whose it is.
    assert!(matches!(unreadable, Err(RunError::Idempotency(Error::Unreadable(_)))), "{unreadable:?}");

    // IA-29: an error is never stored, and leaves the key to its lease.
    let failing = of(&store, Config::new().hold_unknown(Duration::ZERO));
    let failed =
        failing.run(key("d"), fingerprint, async |_| Err::<String, _>(io::Error::other("broken"))).await;
    assert!(matches!(failed, Err(RunError::Effect(_))));
    assert_eq!(run(&failing, "d", "100", "again").await.unwrap(), Ran::Executed("again".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    all(Memory::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(folder.path().join("claims.db")).await.unwrap();
    all(store.clone()).await;
    // A replay writes nothing.
    let idempotency = of(&store, Config::new());
    run(&idempotency, "e", "100", "first").await.unwrap();
    let commits = store.statistics().commits;
    for _ in 0..10 {
        run(&idempotency, "e", "100", "first").await.unwrap();
    }
    assert_eq!(store.statistics().commits, commits, "without an fsync");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    let server = services::Postgres::start();
    all(open(&server).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis() {
    let server = services::Redis::start();
    all(Redis::at(server.url()).unwrap().open().await.unwrap()).await;
}

async fn open(server: &services::Postgres) -> Postgres {
    Postgres::at(server.config().parse().unwrap()).open(tokio_postgres::NoTls).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_commits_with_the_claim_happens_exactly_once() {
    let server = services::Postgres::start();
    let store = open(&server).await;
    let (client, connection) =
        tokio_postgres::connect(&server.config(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("CREATE TABLE ledger (amount bigint)").await.unwrap();
    let config = server.config();
    let idempotency = of(&store, Config::new());
    for expected in [Ran::Executed(7), Ran::Replayed(7)] {
        let (store, config) = (store.clone(), config.clone());
        let effect = async move |claim: buttress_idempotency::Claim| {
            let (mut client, connection) =
                tokio_postgres::connect(&config, tokio_postgres::NoTls).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            let transaction = client.transaction().await.map_err(io::Error::other)?;
            transaction.execute("INSERT INTO ledger VALUES (7)", &[]).await.map_err(io::Error::other)?;
            let ttl = Duration::from_secs(60);
            let written = claim.complete_in(&store, &transaction, &record_of(&7), ttl).await;
            assert_eq!(written.map_err(io::Error::other)?, Written::Applied);
            transaction.commit().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(7)
        };
        let ran = idempotency.run(key("f"), Hash::new().fingerprint(), effect).await.unwrap();
        assert_eq!(ran, expected);
    }
    let rows = client.query_one("SELECT count(*) FROM ledger", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);
}
