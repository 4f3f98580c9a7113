//! What the layer does, on the store `memory`.

use std::time::Duration;

use buttress_idempotency::{Config, HttpKeys};
use buttress_store::Memory;
use idempotency_tests::{Handler, Rig, post};

idempotency_tests::behaviours!(services::InMemory);

/// IA-10: the store has forgotten the claim, which only a clock that can be moved lets one see.
#[tokio::test(start_paused = true)]
async fn a_call_that_outlived_its_whole_claim_is_recorded() {
    let config = Config::new().lease(Duration::from_secs(10)).ceiling(Duration::from_secs(10));
    let rig = Rig::new(&Memory::new(), config, HttpKeys::default(), Handler::shut());
    let first = rig.spawn(post("k1", "100"));
    rig.handler.called(1).await;
    tokio::time::sleep(Duration::from_secs(200_000)).await;
    rig.handler.release();
    assert_eq!(first.await.unwrap().seen(), (201, false));
    assert_eq!((rig.post("k1", "100").await.seen(), rig.handler.calls()), ((201, true), 1));
}

/// IA-19: by default an answer is kept for a day.
#[tokio::test(start_paused = true)]
async fn an_answer_is_forgotten_after_a_day() {
    let rig = Rig::open(&Memory::new());
    rig.post("k1", "100").await;
    tokio::time::sleep(Duration::from_secs(86_390)).await;
    assert_eq!(rig.post("k1", "100").await.seen(), (201, true));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(rig.post("k1", "100").await.seen(), (201, false));
}
