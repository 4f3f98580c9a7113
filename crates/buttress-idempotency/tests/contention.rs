//! Calls with one key at the same time.

mod support;

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use buttress_core::IdempotencyResult as Is;
use buttress_idempotency::{Config, HttpKeys, InFlight};
use buttress_store::Memory;
use buttress_testkit::clock::{advance, settle};
use support::{Faulty, Got, Handler, Rig, post};

fn shut(config: Config) -> Rig<Faulty> {
    Rig::new(Faulty::default(), config, HttpKeys::default(), Handler::shut())
}

fn waiting() -> Config {
    Config::new().in_flight(InFlight::Wait(Duration::from_secs(10)))
}

/// IA-2
#[tokio::test(start_paused = true)]
async fn a_duplicate_of_a_call_under_way_is_refused() {
    let rig = shut(Config::new());
    let first = tokio::spawn(rig.start(post("k1", "100")));
    settle().await;
    let second = rig.post("k1", "100").await;
    assert_eq!((second.status.as_u16(), second.retry_after()), (409, Some("1")));
    assert_eq!(second.headers["content-type"], "application/problem+json");
    rig.handler.release();
    let first = Got::of(first.await.unwrap().unwrap()).await;
    assert_eq!((first.seen(), rig.handler.calls()), ((201, false), 1));
}

/// IA-3
#[tokio::test(start_paused = true)]
async fn a_hundred_duplicates_wait_for_one_run_and_ask_the_store_once() {
    let rig = shut(waiting());
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let call = rig.start(post("k1", "100"));
            tokio::spawn(async move { Got::of(call.await.unwrap()).await })
        })
        .collect();
    settle().await;
    let dropped = tokio::spawn(rig.start(post("k1", "100")));
    settle().await;
    dropped.abort();
    rig.handler.release();
    let mut replayed = 0;
    for call in calls {
        let got = call.await.unwrap();
        assert_eq!((got.status.as_u16(), &got.body[..]), (201, &b"answer 1"[..]));
        replayed += usize::from(got.is_replayed());
    }
    assert_eq!((replayed, rig.handler.calls()), (99, 1));
    assert_eq!(rig.idempotency_claims(), 1, "the duplicates are found before the store is asked");
}

/// IA-3
#[tokio::test(start_paused = true)]
async fn a_wait_ends_in_time() {
    let rig = shut(waiting());
    let _first = tokio::spawn(rig.start(post("k1", "100")));
    settle().await;
    let began = tokio::time::Instant::now();
    assert_eq!(rig.post("k1", "100").await.status, 409);
    assert_eq!(began.elapsed().as_secs(), 10);
}

/// IA-3: over one store, by two processes.
#[tokio::test(start_paused = true)]
async fn a_duplicate_at_another_process_waits_in_the_store() {
    let store = Faulty::default();
    let one = Rig::new(store.clone(), waiting(), HttpKeys::default(), Handler::shut());
    let other = Rig::new(store, waiting(), HttpKeys::default(), Handler::open());
    let first = one.start(post("k1", "100"));
    let first = tokio::spawn(async move { Got::of(first.await.unwrap()).await });
    settle().await;
    let second = other.start(post("k1", "100"));
    let second = tokio::spawn(async move { Got::of(second.await.unwrap()).await });
    settle().await;
    one.handler.release();
    assert_eq!((first.await.unwrap().seen(), second.await.unwrap().seen()), ((201, false), (201, true)));
    assert_eq!(other.handler.calls(), 0);
}

/// IA-13
#[tokio::test(start_paused = true)]
async fn a_slow_call_keeps_its_key_up_to_the_ceiling() {
    let config = Config::new().lease(Duration::from_secs(10)).ceiling(Duration::from_secs(60));
    let store = Faulty::default();
    let one = Rig::new(store.clone(), config.clone(), HttpKeys::default(), Handler::shut());
    let other = Rig::new(store, config, HttpKeys::default(), Handler::open());
    let _first = tokio::spawn(one.start(post("k1", "100")));
    settle().await;
    for _ in 0..19 {
        advance(Duration::from_secs(3)).await;
        assert_eq!(other.post("k1", "100").await.status, 409);
    }
    for _ in 0..3 {
        advance(Duration::from_secs(3)).await;
    }
    assert_eq!(other.post("k1", "100").await.seen(), (201, false), "after the ceiling it may be taken");
    assert_eq!(other.handler.claims.lock().unwrap()[0].epoch(), 2);
}

/// IA-10
#[tokio::test(start_paused = true)]
async fn a_zombie_is_fenced_and_its_caller_gets_the_answer_of_the_new_owner() {
    let config = Config::new().lease(Duration::from_secs(10)).ceiling(Duration::from_secs(10));
    let store = Faulty::default();
    let zombie = Rig::new(store.clone(), config.clone(), HttpKeys::default(), Handler::shut());
    zombie.handler.calls.store(10, SeqCst);
    let other = Rig::new(store, config, HttpKeys::default(), Handler::open());
    let first = zombie.start(post("k1", "100"));
    let first = tokio::spawn(async move { Got::of(first.await.unwrap()).await });
    settle().await;
    advance(Duration::from_secs(11)).await;
    assert_eq!(other.post("k1", "100").await.body, "answer 1");
    zombie.handler.release();
    let first = first.await.unwrap();
    assert_eq!((first.seen(), &first.body[..]), ((201, true), &b"answer 1"[..]));
    assert_eq!(zombie.log.take(), [Is::Lost]);
    let claims =
        (zombie.handler.claims.lock().unwrap()[0].epoch(), other.handler.claims.lock().unwrap()[0].epoch());
    assert_eq!(claims, (1, 2), "the fencing token grows");
}

/// IA-10: nobody took the key, so that the late answer is the answer.
#[tokio::test(start_paused = true)]
async fn a_call_that_outlived_its_lease_unnoticed_is_recorded() {
    let config = Config::new().lease(Duration::from_secs(10)).ceiling(Duration::from_secs(10));
    let rig = shut(config);
    let first = rig.start(post("k1", "100"));
    let first = tokio::spawn(async move { Got::of(first.await.unwrap()).await });
    settle().await;
    advance(Duration::from_secs(200_000)).await;
    rig.handler.release();
    assert_eq!(first.await.unwrap().seen(), (201, false));
    assert_eq!((rig.post("k1", "100").await.seen(), rig.handler.calls()), ((201, true), 1));
}

/// IA-11
#[tokio::test(start_paused = true)]
async fn a_zombie_that_fails_leaves_the_new_owners_record_alone() {
    let config = Config::new().lease(Duration::from_secs(10)).ceiling(Duration::from_secs(10));
    let store = Faulty::default();
    let handler = Handler { gate: Handler::shut().gate, ..Handler::answering([429]) };
    let zombie = Rig::new(store.clone(), config.clone(), HttpKeys::default(), handler);
    let other = Rig::new(store, config, HttpKeys::default(), Handler::open());
    let first = tokio::spawn(zombie.start(post("k1", "100")));
    settle().await;
    advance(Duration::from_secs(11)).await;
    other.post("k1", "100").await;
    zombie.handler.release();
    assert_eq!(first.await.unwrap().unwrap().status(), 429);
    assert_eq!(other.post("k1", "100").await.seen(), (201, true));
}

/// IA-19
#[tokio::test(start_paused = true)]
async fn the_time_to_live_begins_with_the_completion() {
    let config = Config::new().ttl(Duration::from_secs(60));
    let rig = Rig::new(Memory::new(), config, HttpKeys::default(), Handler::shut());
    let first = rig.start(post("k1", "100"));
    let first = tokio::spawn(async move { Got::of(first.await.unwrap()).await });
    settle().await;
    for _ in 0..12 {
        advance(Duration::from_secs(10)).await;
    }
    rig.handler.release();
    first.await.unwrap();
    advance(Duration::from_secs(59)).await;
    assert_eq!(rig.post("k1", "100").await.seen(), (201, true));
}

impl Rig<Faulty> {
    fn idempotency_claims(&self) -> usize {
        self.idempotency.store().switch.claims.load(SeqCst)
    }
}
