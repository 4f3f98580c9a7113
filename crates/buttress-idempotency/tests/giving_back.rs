//! What becomes of claims that are given back to a store that fails.

use std::time::Duration;

use buttress_core::IdempotencyResult as Is;
use buttress_idempotency::{Config, Error, Idempotency, OnUnknown, Ran, RunError};
use buttress_store::Fault;
use tokio::time::{Instant, sleep};

mod scripted;
use scripted::{Do, Log, Scripted, Verb, not_sent, run, run_with};

const SECOND: Duration = Duration::from_secs(1);

fn guard(store: &Scripted, config: Config) -> (Idempotency<Scripted>, Log) {
    let log = Log::default();
    (Idempotency::new("test", store.clone(), config).unwrap().observe(log.observer()), log)
}

/// IA-30: the effect has certainly not begun, whatever the store says at the moment.
#[tokio::test(start_paused = true)]
async fn a_release_that_fails_is_made_again_and_the_key_is_not_taken_for_unknown() {
    let store = Scripted::new();
    let (idempotency, log) = guard(&store, Config::new().on_unknown(OnUnknown::Reject));
    store.script(|verb, number| match (verb, number) {
        (Verb::Release, ..4) => Do::Fail(Fault::Unavailable),
        _ => Do::Pass,
    });
    let failed = run(&idempotency, async |_| Err(not_sent())).await;
    assert!(matches!(failed, Err(RunError::Effect(_))), "{failed:?}");
    assert_eq!(log.take(), [], "it is not free yet");
    let refused = run(&idempotency, async |_| Ok(0)).await;
    assert!(matches!(refused, Err(RunError::Idempotency(Error::InFlight { .. }))), "{refused:?}");
    sleep(10 * SECOND).await;
    assert_eq!(log.take(), [Is::InFlight, Is::Released]);
    assert_eq!(run(&idempotency, async |_| Ok(1)).await.unwrap(), Ran::Executed(1));
}

/// IA-30, without a task of its own.
#[tokio::test(start_paused = true)]
async fn inline_too() {
    let store = Scripted::new();
    let (idempotency, log) = guard(&store, Config::new().on_unknown(OnUnknown::Reject));
    store.script(|verb, number| match (verb, number) {
        (Verb::Release, ..4) => Do::Fail(Fault::Unavailable),
        _ => Do::Pass,
    });
    let key = buttress_store::ScopedKey::try_new("", "k").unwrap();
    let fingerprint = buttress_idempotency::Hash::new().part("").fingerprint();
    idempotency.run_inline(key, fingerprint, async |_| Err::<u32, _>(not_sent())).await.unwrap_err();
    sleep(10 * SECOND).await;
    assert_eq!(log.take(), [Is::Released]);
    assert_eq!(run(&idempotency, async |_| Ok(1)).await.unwrap(), Ran::Executed(1));
}

/// IA-28: the storm that keeps a slow store down.
#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_not_asked_ten_times_for_each_claim() {
    let store = Scripted::new();
    let (idempotency, _) = guard(&store, Config::new());
    store.script(|verb, _| if verb == Verb::Claim { Do::Lose } else { Do::Fail(Fault::Unavailable) });
    for number in 0..1000 {
        run_with(&idempotency, &number.to_string(), "", async |_| Ok(0)).await.unwrap_err();
    }
    sleep(60 * SECOND).await;
    let asked = store.count(Verb::Claim) + store.count(Verb::Release);
    assert!((1000 + 64..1000 + 64 * 16).contains(&asked), "{asked}");
}

/// IA-37, IA-28
#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_store_that_is_down() {
    let store = Scripted::new();
    let (idempotency, _) = guard(&store, Config::new());
    store.script(|_, _| Do::Lose);
    for number in 0..10 {
        run_with(&idempotency, &number.to_string(), "", async |_| Ok(0)).await.unwrap_err();
    }
    let began = Instant::now();
    assert_eq!(idempotency.shutdown(20 * SECOND).await, 0);
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    sleep(6 * SECOND).await;
    let asked = store.count(Verb::Claim);
    sleep(60 * SECOND).await;
    assert_eq!(store.count(Verb::Claim), asked, "it ends");
}

/// IA-28: what was had without anybody hearing of it is free again, long before its lease ends.
#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_is_given_back() {
    let store = Scripted::new();
    let (idempotency, _) = guard(&store, Config::new());
    store.script(|_, number| if number <= 2 { Do::Lose } else { Do::Pass });
    run(&idempotency, async |_| Ok(0)).await.unwrap_err();
    sleep(2 * SECOND).await;
    assert_eq!(run(&idempotency, async |_| Ok(1)).await.unwrap(), Ran::Executed(1));
}
