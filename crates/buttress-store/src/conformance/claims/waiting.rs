//! Who waits for a key.

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{APPLIED, ONE, complete, key, owned, release, request, value};
use crate::claim::{ClaimStore, Waited};
use crate::conformance::{Harness, LONG};

pub async fn waiting_ends_with_the_completion<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let claim = owned(&store, &request(LONG)).await;
    let mut waiters = JoinSet::new();
    for _ in 0..100 {
        let store = store.clone();
        waiters.spawn(async move { store.wait(&key("key"), &ONE, LONG).await });
    }
    tokio::task::yield_now().await;
    assert_eq!(complete(&store, &claim, &value("answer")).await, APPLIED);
    for waited in waiters.join_all().await {
        let waited = waited.expect("the store works");
        assert!(matches!(&waited, Waited::Done(record) if *record == value("answer")), "{waited:?}");
    }
}

pub async fn waiting_ends_with_the_release<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let claim = owned(&store, &request(LONG)).await;
    let other = store.clone();
    let waiter = tokio::spawn(async move { other.wait(&key("key"), &ONE, LONG).await });
    tokio::task::yield_now().await;
    assert_eq!(release(&store, &claim).await, APPLIED);
    let waited = waiter.await.expect("no panic").expect("the store works");
    assert!(matches!(waited, Waited::Free), "{waited:?}");
}

pub async fn waiting_ends_when_the_lease_is_over<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    owned(&store, &request(harness.short())).await;
    let waiter = tokio::spawn(async move { store.wait(&key("key"), &ONE, LONG).await });
    harness.pass(harness.short()).await;
    let waited = waiter.await.expect("no panic").expect("the store works");
    assert!(matches!(waited, Waited::Free), "{waited:?}");
}

pub async fn waiting_is_bounded<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    owned(&store, &request(LONG)).await;
    let waited = store.wait(&key("key"), &ONE, harness.short()).await.expect("the store works");
    assert!(matches!(waited, Waited::InFlight { .. }), "{waited:?}");
}

pub async fn a_waiter_that_leaves_harms_nobody<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let claim = owned(&store, &request(LONG)).await;
    let (staying, name) = (store.clone(), key("key"));
    let leaving = timeout(harness.short(), store.wait(&name, &ONE, LONG));
    let staying = tokio::spawn(async move { staying.wait(&key("key"), &ONE, LONG).await });
    assert!(leaving.await.is_err());
    assert_eq!(complete(&store, &claim, &value("answer")).await, APPLIED);
    let waited = staying.await.expect("no panic").expect("the store works");
    assert!(matches!(waited, Waited::Done(_)), "{waited:?}");
}
