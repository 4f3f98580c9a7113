use super::*;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use buttress_idempotency::{Hash, Idempotency, Idempotent, Ran};
use buttress_store::ScopedKey;
use tokio::time::Instant;
use tower::limit::{ConcurrencyLimit, ConcurrencyLimitLayer};
use tower::{ServiceBuilder, ServiceExt};

use crate::faulty::Faulty;

fn waiting() -> Config {
    config().in_flight(InFlight::Wait(Duration::from_secs(60)))
}

/// IA-2
pub async fn a_duplicate_of_a_call_under_way_is_refused<St: ClaimStore>(store: St) {
    let (rig, other) = (Rig::shut(&store, config()), Rig::open(&store));
    let first = rig.spawn(post("k1", "100"));
    rig.handler.called(1).await;
    for refused in [rig.post("k1", "100").await, other.post("k1", "100").await] {
        assert_eq!((refused.status.as_u16(), refused.retry_after()), (409, Some("1")));
        assert_eq!(refused.headers["content-type"], "application/problem+json");
    }
    rig.handler.release();
    assert_eq!((first.await.unwrap().seen(), rig.handler.calls()), ((201, false), 1));
    assert_eq!((other.handler.calls(), other.log.take()), (0, vec![Is::InFlight]));
}

/// IA-3
pub async fn a_hundred_duplicates_wait_for_one_run_and_ask_the_store_once<St: ClaimStore>(store: St) {
    let store = Faulty::new(store);
    let rig = Rig::shut(&store, waiting());
    let calls: Vec<_> = (0..100).map(|_| rig.spawn(post("k1", "100"))).collect();
    rig.handler.called(1).await;
    // Its waiting is harmless, and so is its going away.
    let dropped = rig.spawn(post("k1", "100"));
    tokio::task::yield_now().await;
    dropped.abort();
    rig.handler.release();
    let mut replayed = 0;
    for call in calls {
        let got = call.await.unwrap();
        assert_eq!((got.status.as_u16(), &got.body[..]), (201, &b"answer 1"[..]));
        replayed += usize::from(got.is_replayed());
    }
    assert_eq!((replayed, rig.handler.calls()), (99, 1));
    let asked = store.switch.claims.load(Ordering::SeqCst);
    assert_eq!(asked, 1, "the duplicates are found before the store is asked");
}

/// IA-3: at this process, and at another.
pub async fn a_wait_ends_in_time<St: ClaimStore>(store: St) {
    let config = config().in_flight(InFlight::Wait(Duration::from_secs(1)));
    let (rig, other) = (Rig::shut(&store, config.clone()), Rig::shut(&store, config));
    let _first = rig.spawn(post("k1", "100"));
    rig.handler.called(1).await;
    for waiting in [&rig, &other] {
        let began = Instant::now();
        assert_eq!(waiting.post("k1", "100").await.status, 409);
        assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    }
    rig.handler.release();
}

/// IA-3: over one store, by two processes.
pub async fn a_duplicate_at_another_process_waits_in_the_store<St: ClaimStore>(store: St) {
    let (one, other) = (Rig::shut(&store, waiting()), Rig::shut(&store, waiting()));
    let first = one.spawn(post("k1", "100"));
    one.handler.called(1).await;
    let seconds: Vec<_> = (0..10).map(|_| other.spawn(post("k1", "100"))).collect();
    tokio::task::yield_now().await;
    one.handler.release();
    let first = first.await.unwrap();
    assert_eq!(first.seen(), (201, false));
    for second in seconds {
        let second = second.await.unwrap();
        assert_eq!((second.seen(), &second.body), ((201, true), &first.body));
    }
    assert_eq!(other.handler.calls(), 0);
}

/// IA-3: nothing of the service inside is kept busy by those who wait, in this process or for another.
pub async fn a_call_that_waits_holds_no_permit_of_the_service_inside<St: ClaimStore>(store: St) {
    let (rig, other) = (Rig::shut(&store, waiting()), Rig::shut(&store, waiting()));
    let stack = |rig: &Rig<St>, permits| {
        let limit = ConcurrencyLimitLayer::new(permits);
        ServiceBuilder::new().layer(rig.layer.clone()).layer(limit).service(rig.handler.clone())
    };
    let (here, there) = (stack(&rig, 2), stack(&other, 1));
    let send = |stack: &Idempotent<ConcurrencyLimit<Handler>, HttpKeys, St>, key: &str| {
        let call = stack.clone().oneshot(post(key, "100"));
        tokio::spawn(async move { Got::of(call.await.unwrap()).await })
    };
    let first = send(&here, "k1");
    rig.handler.called(1).await;
    let duplicates = [send(&here, "k1"), send(&here, "k1"), send(&there, "k1")];
    let others = [send(&here, "k2"), send(&there, "k3")];
    rig.handler.called(2).await;
    other.handler.called(1).await;
    rig.handler.release();
    other.handler.release();
    assert_eq!(first.await.unwrap().seen(), (201, false));
    for duplicate in duplicates {
        assert_eq!(duplicate.await.unwrap().seen(), (201, true));
    }
    for other in others {
        assert_eq!(other.await.unwrap().seen(), (201, false));
    }
}

/// IA-3: whoever waited and is to carry the call out after all makes the service inside ready again.
pub async fn whoever_waited_in_vain_gets_a_permit_before_it_goes_on<St: ClaimStore>(store: St) {
    let rig = Rig::shut(&store, waiting());
    rig.handler.answer([429]);
    let limit = ConcurrencyLimitLayer::new(1);
    let stack = ServiceBuilder::new().layer(rig.layer.clone()).layer(limit).service(rig.handler.clone());
    let send = |key: &str| {
        let call = stack.clone().oneshot(post(key, "100"));
        tokio::spawn(async move { Got::of(call.await.unwrap()).await.seen() })
    };
    let first = rig.spawn(post("k1", "100"));
    rig.handler.called(1).await;
    let second = send("k1");
    tokio::task::yield_now().await;
    let busy = send("k2");
    rig.handler.called(2).await;
    rig.handler.release();
    assert_eq!(first.await.unwrap().status, 429);
    assert_eq!((busy.await.unwrap(), second.await.unwrap()), ((201, false), (201, false)));
    assert_eq!(rig.handler.calls(), 3);
}

/// IA-4: two owners in one process; `processes.rs` has real ones.
pub async fn of_two_that_claim_the_same_keys_each_has_one_winner<St: ClaimStore>(store: St) {
    const KEYS: usize = 200;
    let executed: Arc<AtomicUsize> = Arc::default();
    let owners = (0..2).map(|_| Idempotency::new("race", store.clone(), waiting()).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for owner in owners {
        let next: Arc<AtomicUsize> = Arc::default();
        for _ in 0..8 {
            let (owner, next, executed) = (owner.clone(), Arc::clone(&next), Arc::clone(&executed));
            tasks.spawn(async move {
                let mut answers = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= KEYS {
                        return answers;
                    }
                    let key = ScopedKey::try_new("race", format!("k{number}")).unwrap();
                    let executed = Arc::clone(&executed);
                    let effect = async move |_| {
                        tokio::task::yield_now().await;
                        Ok::<_, std::io::Error>(executed.fetch_add(1, Ordering::SeqCst))
                    };
                    let ran = owner.run(key, Hash::new().fingerprint(), effect).await.unwrap();
                    answers.push((number, matches!(ran, Ran::Executed(_)), ran.into_inner()));
                }
            });
        }
    }
    let answers: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!((answers.len(), executed.load(Ordering::SeqCst)), (2 * KEYS, KEYS));
    assert_eq!(answers.iter().filter(|(_, won, _)| *won).count(), KEYS);
    let distinct: HashSet<_> = answers.iter().map(|(number, _, answer)| (number, answer)).collect();
    assert_eq!(distinct.len(), KEYS, "both owners have the same answer for a key");
}
