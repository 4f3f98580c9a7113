//! What the layer does, on the store `sqlite`.

use buttress_store::Sqlite;
use idempotency_tests::{Rig, cases};

idempotency_tests::behaviours!(services::InSqlite);

/// IA-14
#[tokio::test]
async fn a_claim_without_a_lease_is_never_an_orphan() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("claims.db");
    let store = Sqlite::open(&path).await.unwrap();
    let other_hand = rusqlite::Connection::open(&path).unwrap();
    let strip = async || {
        assert_eq!(other_hand.execute("UPDATE claims SET lease_until = NULL", []).unwrap(), 1);
    };
    let outdate = async || {
        assert_eq!(other_hand.execute("UPDATE claims SET expires = 1", []).unwrap(), 1);
    };
    cases::leases::a_claim_without_a_lease_is_never_an_orphan(store, strip, outdate).await;
}

/// IA-1: and without an fsync.
#[tokio::test]
async fn a_replay_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(folder.path().join("claims.db")).await.unwrap();
    let rig = Rig::open(&store);
    rig.post("k1", "100").await;
    let commits = store.statistics().commits;
    for _ in 0..10 {
        assert_eq!(rig.post("k1", "100").await.seen(), (201, true));
    }
    assert_eq!(store.statistics().commits, commits);
}
