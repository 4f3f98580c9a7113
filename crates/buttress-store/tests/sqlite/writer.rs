//! The thread that writes.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use buttress_store::{ClaimStore, Claimed, Fault, Sqlite, Written};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{HOUR, open, owned, request, value};

#[tokio::test]
async fn writes_that_come_together_share_one_commit() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    // Another connection keeps the writer waiting, so that all the claims are there when it goes on.
    let other = rusqlite::Connection::open(directory.path().join("store.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut claims = JoinSet::new();
    let first = store.clone();
    claims.spawn(async move { first.claim(&request("first")).await });
    tokio::task::yield_now().await;
    for index in 0..200 {
        let store = store.clone();
        claims.spawn(async move { store.claim(&request(&index.to_string())).await });
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    other.execute_batch("COMMIT").unwrap();
    for claimed in claims.join_all().await {
        assert!(matches!(claimed, Ok(Claimed::Owned(_))), "{claimed:?}");
    }
    let statistics = store.statistics();
    assert_eq!(statistics.commands, 201);
    assert!(statistics.commits <= 2, "{statistics:?}");
}

#[tokio::test]
async fn one_write_alone_is_one_commit_and_what_changes_nothing_is_none() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    let claim = owned(&store, "a").await;
    for _ in 0..5 {
        assert!(matches!(store.claim(&request("a")).await.unwrap(), Claimed::InFlight { .. }));
    }
    assert_eq!(store.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    for _ in 0..5 {
        assert!(matches!(store.claim(&request("a")).await.unwrap(), Claimed::Done(_)));
    }
    let statistics = store.statistics();
    assert_eq!((statistics.commands, statistics.commits), (12, 2));
}

#[tokio::test]
async fn a_write_that_was_handed_over_is_applied_though_its_future_was_dropped() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    let request = request("a");
    {
        let mut claiming = pin!(store.claim(&request));
        let _ = claiming.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    store.shutdown().await;
    let store = open(directory.path()).await;
    assert!(matches!(store.claim(&super::request("a")).await.unwrap(), Claimed::InFlight { .. }));
    assert!(matches!(store.claim(&request).await.unwrap(), Claimed::Owned(claim) if claim.epoch() == 1));
}

#[tokio::test]
async fn shutting_down_carries_out_what_was_handed_over_and_refuses_the_rest() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    let mut claims = JoinSet::new();
    for index in 0..100 {
        let store = store.clone();
        claims.spawn(async move { store.claim(&request(&index.to_string())).await });
    }
    // Each has sent its command once it was polled.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    tokio::join!(store.shutdown(), async {
        store.shutdown().await;
        // The last one to close a file removes its log.
        assert!(
            !directory.path().join("store.db-wal").exists(),
            "whoever shuts it down waits until it is closed"
        );
    });
    for claimed in claims.join_all().await {
        assert!(matches!(claimed, Ok(Claimed::Owned(_))), "{claimed:?}");
    }
    let error = store.claim(&request("late")).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Closed);
    assert_eq!(error.to_string(), "`sqlite` failed to claim: the store was shut down; open it again");
    store.shutdown().await;
    let again = open(directory.path()).await;
    assert!(matches!(again.claim(&request("99")).await.unwrap(), Claimed::InFlight { .. }));
}

#[tokio::test]
async fn while_another_process_writes_a_command_waits_and_then_says_that_the_store_is_busy() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = Sqlite::at(&path).busy_timeout(Duration::from_millis(50)).open().await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.claim(&request("a")).await.unwrap_err();
    assert_eq!((error.fault(), error.is_transient()), (Fault::Busy, true));
    other.execute_batch("ROLLBACK").unwrap();
    owned(&store, "a").await;
}
