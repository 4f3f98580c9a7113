//! Records that are completed in the caller's own transaction.

use buttress_store::{ClaimStore, Claimed, Postgres, Waited, Written};
use std::time::Duration;
use store_tests::{HOUR, owned, request, value};

use super::{connect, open};

#[tokio::test]
async fn what_the_caller_writes_and_the_record_are_stored_together_or_not_at_all() {
    let server = services::Postgres::start();
    let (store, mut client) = (open(&server.config()).await, connect(&server).await);
    client.batch_execute("CREATE TABLE transfers (amount bigint)").await.unwrap();
    let count = "SELECT count(*) FROM transfers";

    let claim = owned(&store, "a").await;
    let transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO transfers VALUES (7)", &[]).await.unwrap();
    let written = store.complete_in(&transaction, &claim, &value("paid"), HOUR).await.unwrap();
    assert_eq!(written, Written::Applied);
    transaction.rollback().await.unwrap();
    assert_eq!(client.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 0);
    let looked = store.wait(claim.key(), request("a").fingerprint(), Duration::ZERO).await.unwrap();
    assert!(matches!(looked, Waited::InFlight { .. }), "it is still claimed: {looked:?}");

    let transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO transfers VALUES (7)", &[]).await.unwrap();
    let written = store.complete_in(&transaction, &claim, &value("paid"), HOUR).await.unwrap();
    assert_eq!(written, Written::Applied);
    transaction.commit().await.unwrap();
    assert_eq!(client.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 1);
    assert!(
        matches!(store.claim(&request("a")).await.unwrap(), Claimed::Done(record) if record == value("paid"))
    );
}

#[tokio::test]
async fn a_transaction_that_is_repeated_after_its_commit_is_not_to_be_committed_again() {
    let server = services::Postgres::start();
    let (store, mut client) = (open(&server.config()).await, connect(&server).await);
    let claim = owned(&store, "a").await;
    for committed in [false, true] {
        let transaction = client.transaction().await.unwrap();
        let written = store.complete_in(&transaction, &claim, &value("paid"), HOUR).await.unwrap();
        let winner = Some(value("paid"));
        assert_eq!(written, if committed { Written::Fenced { winner } } else { Written::Applied });
        // As if its answer had been lost.
        transaction.commit().await.unwrap();
    }
}

#[tokio::test]
async fn who_lost_the_claim_is_told_so_in_the_transaction_and_gets_the_winners_record() {
    let server = services::Postgres::start();
    let (store, mut client) = (open(&server.config()).await, connect(&server).await);
    let lost = owned(&store, "a").await;
    assert_eq!(store.renew(&lost, Duration::ZERO).await.unwrap(), Written::Applied);
    let taken = owned(&store, "a").await;
    assert_eq!(store.complete(&taken, &value("the winner's"), HOUR).await.unwrap(), Written::Applied);

    let transaction = client.transaction().await.unwrap();
    let written = store.complete_in(&transaction, &lost, &value("the loser's"), HOUR).await.unwrap();
    assert_eq!(written, Written::Fenced { winner: Some(value("the winner's")) });
}

#[tokio::test]
async fn a_rival_waits_for_the_transaction_and_then_sees_what_it_came_to() {
    let server = services::Postgres::start();
    let (store, mut client) = (open(&server.config()).await, connect(&server).await);
    for commits in [true, false] {
        let name = format!("commits: {commits}");
        let claim = owned(&store, &name).await;
        assert_eq!(store.renew(&claim, Duration::ZERO).await.unwrap(), Written::Applied);
        let transaction = client.transaction().await.unwrap();
        let written = store.complete_in(&transaction, &claim, &value("paid"), HOUR).await.unwrap();
        assert_eq!(written, Written::Applied);
        let rival = tokio::spawn({
            let (store, request) = (store.clone(), request(&name));
            async move { store.claim(&request).await.unwrap() }
        });
        wait_for_a_lock(&server).await;
        if commits {
            transaction.commit().await.unwrap();
            assert!(matches!(rival.await.unwrap(), Claimed::Done(_)));
        } else {
            transaction.rollback().await.unwrap();
            assert!(matches!(rival.await.unwrap(), Claimed::Owned(claim) if claim.unfinished() == 1));
        }
    }
}

/// Until some session waits for another one's lock.
async fn wait_for_a_lock(server: &services::Postgres) {
    let observer = connect(server).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    while observer.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_hot_key_that_a_long_transaction_completes_keeps_nobody_from_other_keys() {
    let server = services::Postgres::start();
    let config = server.config().parse().unwrap();
    let store = Postgres::at(config).connections(2).open(tokio_postgres::NoTls).await.unwrap();
    let mut client = connect(&server).await;
    let hot = owned(&store, "hot").await;
    let transaction = client.transaction().await.unwrap();
    let written = store.complete_in(&transaction, &hot, &value("answer"), HOUR).await.unwrap();
    assert_eq!(written, Written::Applied);
    // Each of them would hold a connection until the transaction ends.
    for _ in 0..5 {
        let claimed = store.claim(&request("hot")).await.unwrap();
        assert!(matches!(claimed, Claimed::InFlight { .. }), "{claimed:?}");
        let short = Duration::from_millis(20);
        let waited = store.wait(hot.key(), request("hot").fingerprint(), short).await.unwrap();
        assert!(matches!(waited, Waited::InFlight { .. }), "{waited:?}");
    }
    owned(&store, "another").await;
    transaction.commit().await.unwrap();
    assert!(matches!(store.claim(&request("hot")).await.unwrap(), Claimed::Done(_)));
}
