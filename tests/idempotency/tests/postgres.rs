//! What the layer does, on the store `postgres`.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use buttress_idempotency::{Claim, Config, Hash, Idempotency, Ran, record_of};
use buttress_store::{Postgres, ScopedKey};
use idempotency_tests::cases;
use tokio_postgres::{Client, NoTls};

idempotency_tests::behaviours!(services::InPostgres);

async fn connect(config: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(config, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// IA-14
#[tokio::test]
async fn a_claim_without_a_lease_is_never_an_orphan() {
    let server = services::Postgres::start();
    let (store, other_hand) = (server.store().await, connect(&server.config()).await);
    let update = async |set: &str| {
        let sql = format!("UPDATE buttress_claims SET {set}");
        assert_eq!(other_hand.execute(&sql, &[]).await.unwrap(), 1);
    };
    let strip = async || update("lease_until = NULL").await;
    let outdate = async || update("expires = 1").await;
    cases::leases::a_claim_without_a_lease_is_never_an_orphan(store, strip, outdate).await;
}

/// IA-26, IA-27
#[tokio::test]
async fn a_server_that_is_killed_refuses_calls_and_loses_none() {
    let server = services::Postgres::start();
    let (store, server) = (server.store().await, RefCell::new(server));
    let (kill, restart) = (|| server.borrow_mut().kill(), || server.borrow_mut().restart());
    cases::store_failures::a_server_that_is_killed_refuses_calls_and_loses_none(store, kill, restart).await;
}

async fn pay(store: &Postgres, config: &str, claim: &Claim, commits: bool) -> io::Result<u64> {
    let mut client = connect(config).await;
    let transaction = client.transaction().await.map_err(io::Error::other)?;
    transaction.execute("INSERT INTO ledger VALUES (7)", &[]).await.map_err(io::Error::other)?;
    claim.complete_in(store, &transaction, &record_of(&7)).await.map_err(io::Error::other)?;
    if commits {
        transaction.commit().await.map_err(io::Error::other)?;
        return Ok(7);
    }
    transaction.rollback().await.map_err(io::Error::other)?;
    Err(io::Error::other("the transaction was rolled back"))
}

/// Exactly once within one PostgreSQL: also where the first attempt failed, and where its answer was lost.
#[tokio::test]
async fn what_is_committed_with_the_claim_happens_exactly_once() {
    let server = services::Postgres::start();
    let (store, config) = (server.store().await, server.config());
    let client = connect(&config).await;
    client.batch_execute("CREATE TABLE ledger (amount bigint)").await.unwrap();
    let idempotency =
        Idempotency::new("test", store.clone(), Config::new().hold_unknown(Duration::ZERO)).unwrap();
    let run = |commits| {
        let (store, config) = (store.clone(), config.clone());
        let effect = async move |claim: Claim| pay(&store, &config, &claim, commits).await;
        idempotency.run(ScopedKey::try_new("", "f").unwrap(), Hash::new().fingerprint(), effect)
    };
    run(false).await.unwrap_err();
    assert_eq!(run(true).await.unwrap(), Ran::Executed(7));
    assert_eq!(run(true).await.unwrap(), Ran::Replayed(7));
    let rows = client.query_one("SELECT count(*) FROM ledger", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);
}
