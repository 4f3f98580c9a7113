//! The store in memory.

use std::time::Duration;

use buttress_store::conformance::Harness;
use buttress_store::{
    ClaimRequest, ClaimStore, Claimed, Fault, Fingerprint, Memory, Record, ScopedKey, Sweeper,
    SweeperOptions, Written,
};
use tokio::runtime::{Builder, Runtime};

struct Paused;

impl Harness for Paused {
    type Store = Memory;

    async fn store(&self) -> Memory {
        Memory::new()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn runtime(&self) -> Runtime {
        Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
    }
}

mod claims {
    buttress_store::claim_conformance!(super::Paused);
}

mod journals {
    buttress_store::journal_conformance!(super::Paused);
}

mod answers {
    buttress_store::answer_conformance!(super::Paused);
}

const HOUR: Duration = Duration::from_secs(3600);

fn request(name: &str) -> ClaimRequest {
    ClaimRequest::new(ScopedKey::try_new("", name).unwrap(), Fingerprint::new([0; 32]), HOUR)
}

#[tokio::test(start_paused = true)]
async fn a_full_store_evicts_what_has_expired_and_refuses_rather_than_forget_what_is_alive() {
    let store = Memory::bounded(2).unwrap();
    let mut claims = Vec::new();
    for name in ["a", "b"] {
        let Claimed::Owned(claim) = store.claim(&request(name)).await.unwrap() else { panic!("it is free") };
        claims.push(claim);
    }
    let error = store.claim(&request("c")).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Full);
    assert_eq!(
        error.to_string(),
        "`memory` failed to claim: the store is full (all of 2 claims are alive); make room"
    );
    assert!(
        matches!(store.claim(&request("a")).await.unwrap(), Claimed::InFlight { .. }),
        "no room is needed"
    );

    assert_eq!(store.complete(&claims[0], &Record::TooLarge, HOUR).await.unwrap(), Written::Applied);
    tokio::time::advance(HOUR).await;
    assert!(matches!(store.claim(&request("c")).await.unwrap(), Claimed::Owned(_)));
    assert_eq!(store.claims(), 2);
}

#[tokio::test]
async fn a_value_beyond_the_bound_is_refused_and_the_claim_unharmed() {
    let store = Memory::new();
    let Claimed::Owned(claim) = store.claim(&request("a")).await.unwrap() else { panic!("it is free") };
    let large = Record::Value(vec![0; (16 << 20) + 1].into());
    let error = store.complete(&claim, &large, HOUR).await.unwrap_err();
    assert_eq!(error.fault(), Fault::TooLarge);
    assert_eq!(store.complete(&claim, &Record::TooLarge, HOUR).await.unwrap(), Written::Applied);
}

#[tokio::test(start_paused = true)]
async fn a_sweeper_deletes_what_has_expired_batch_by_batch_and_ends_when_it_is_told_to() {
    let store = Memory::new();
    let sweeper = Sweeper::claims(store.clone(), SweeperOptions::new().batch(10).unwrap()).unwrap();
    for index in 0..95 {
        let claimed = store.claim(&request(&index.to_string())).await.unwrap();
        let Claimed::Owned(claim) = claimed else { panic!("{claimed:?}") };
        let ttl = if index < 90 { HOUR } else { 3 * HOUR };
        assert_eq!(store.complete(&claim, &Record::TooLarge, ttl).await.unwrap(), Written::Applied);
    }
    tokio::time::sleep(HOUR - Duration::from_secs(1)).await;
    assert_eq!((sweeper.swept(), store.claims()), (0, 95));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!((sweeper.swept(), sweeper.failures(), store.claims()), (90, 0, 5));
    sweeper.shutdown(HOUR).await;
    tokio::time::sleep(3 * HOUR).await;
    assert_eq!(store.claims(), 5, "nobody sweeps any more");
}

#[test]
fn without_a_timer_waiting_is_a_typed_error_and_the_rest_works() {
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Memory::new();
        assert!(matches!(store.claim(&request("a")).await.unwrap(), Claimed::Owned(_)));
        let request = request("a");
        let error = store.wait(request.key(), request.fingerprint(), HOUR).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Misconfigured);
    });
}

#[test]
fn without_a_runtime_a_sweeper_is_a_typed_error() {
    assert!(Sweeper::claims(Memory::new(), SweeperOptions::new()).is_err());
    assert_eq!(SweeperOptions::new().batch(0).unwrap_err().field(), "batch");
    assert_eq!(SweeperOptions::new().every(Duration::ZERO).unwrap_err().field(), "every");
}
