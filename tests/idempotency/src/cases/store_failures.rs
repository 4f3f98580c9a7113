use super::*;

use std::sync::atomic::Ordering;

use buttress_idempotency::{Hash, Idempotency, Ran, RunError};
use buttress_store::ScopedKey;
use tokio::time::Instant;

use crate::faulty::{Faulty, Switch};

/// IA-26
pub async fn without_the_store_nothing_is_done_unless_it_is_to_fail_open<St: ClaimStore>(store: St) {
    let store = Faulty::new(store);
    Switch::set(&store.switch.claims_fail, true);
    let closed = Rig::open(&store);
    let refused = closed.post("k1", "100").await;
    assert_eq!((refused.status.as_u16(), refused.retry_after(), closed.handler.calls()), (503, Some("1"), 0));
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    assert_eq!(closed.log.take(), [Is::Unavailable]);

    let open = Rig::new(&store, config().fail_open(), HttpKeys::default(), Handler::open());
    let answer = open.post("k1", "100").await;
    assert_eq!(answer.seen(), (201, false));
    assert_eq!(answer.headers["idempotent-unprotected"], "true");
    assert_eq!(open.log.take(), [Is::Unprotected]);
    let claim = &open.handler.claims()[0];
    assert_eq!((claim.is_protected(), claim.epoch()), (false, 0), "there is no fencing token");

    Switch::set(&store.switch.claims_fail, false);
    assert_eq!(closed.post("k1", "100").await.seen(), (201, false), "nothing was claimed meanwhile");
    let protected = &closed.handler.claims()[0];
    assert!(protected.is_protected());
    assert_eq!(protected.derive("charge"), claim.derive("charge"), "there is a key for what lies below");
}

/// IA-27
pub async fn an_answer_that_cannot_be_stored_is_given_and_stored_later<St: ClaimStore>(store: St) {
    let store = Faulty::new(store);
    let config = config().lease(Duration::from_secs(5));
    let rig = Rig::new(&store, config, HttpKeys::default(), Handler::open());
    Switch::set(&store.switch.completions_fail, true);
    assert_eq!(rig.post("k1", "100").await.seen(), (201, false), "the caller gets the true answer");
    assert_eq!(rig.log.take(), [Is::Unrecorded]);
    until("the lease is renewed", || store.switch.renewals.load(Ordering::SeqCst) > 3).await;
    assert_eq!(rig.post("k1", "100").await.status, 409);
    assert_eq!(Rig::open(&store).post("k1", "100").await.status, 409, "it is claimed meanwhile");
    Switch::set(&store.switch.completions_fail, false);
    until("it is recorded", || rig.log.has(Is::Recorded)).await;
    assert_eq!((rig.post("k1", "100").await.seen(), rig.handler.calls()), ((201, true), 1));
}

/// IA-27, without a task: the caller gets the true answer, and nothing tries again.
pub async fn inline_an_answer_that_cannot_be_stored_is_given_and_its_key_lapses<St: ClaimStore>(store: St) {
    let store = Faulty::new(store);
    let idempotency = Idempotency::new("test", store.clone(), short()).unwrap();
    let key = || ScopedKey::try_new("", "k1").unwrap();
    let run = |answer: u64| {
        let effect = async move |_| Ok::<_, std::io::Error>(answer);
        idempotency.run_inline(key(), Hash::new().fingerprint(), effect)
    };
    Switch::set(&store.switch.completions_fail, true);
    assert_eq!(run(1).await.unwrap(), Ran::Executed(1));
    Switch::set(&store.switch.completions_fail, false);
    let refusing = Idempotency::new("test", store.clone(), config()).unwrap();
    let effect = async |_| Ok::<u64, std::io::Error>(3);
    let refused = refusing.run_inline(key(), Hash::new().fingerprint(), effect).await;
    assert!(matches!(refused, Err(RunError::Idempotency(_))), "{refused:?}");
    assert_eq!(run(2).await.unwrap(), Ran::Executed(2), "once the lease is over");
    assert_eq!(run(3).await.unwrap(), Ran::Replayed(2));
}

/// IA-28
pub async fn a_claim_that_comes_too_late_is_refused_and_given_back<St: ClaimStore>(store: St) {
    let store = Faulty::new(store);
    let config = config().store_timeout(Duration::from_millis(500)).lease(Duration::from_secs(2));
    let rig = Rig::new(&store, config, HttpKeys::default(), Handler::open());
    Switch::set(&store.switch.claims_hang, true);
    let began = Instant::now();
    let late = tokio::time::timeout(HOUR / 2, rig.post("k1", "100")).await;
    assert_eq!(late.expect("it is waited for until it comes").status, 503);
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(rig.handler.calls(), 0);
    Switch::set(&store.switch.claims_hang, false);
    assert_eq!(rig.post_until_free("k1", "100").await.seen(), (201, false), "there is no lock for ever");
}

/// IA-24: the store's own bound.
pub async fn an_answer_that_the_store_has_no_room_for_is_never_made_again<St: ClaimStore>(store: St) {
    let store = Faulty::new(store);
    Switch::set(&store.switch.answers_too_large, true);
    let rig = Rig::open(&store);
    assert_eq!(rig.post("k1", "100").await.seen(), (201, false));
    let refused = rig.post("k1", "100").await;
    assert_eq!((refused.status.as_u16(), refused.retry_after(), rig.handler.calls()), (409, None, 1));
}

/// IA-26, IA-27: the server itself is killed, in the middle of a call and before one.
pub async fn a_server_that_is_killed_refuses_calls_and_loses_none<St: ClaimStore>(
    store: St,
    kill: impl FnOnce(),
    restart: impl FnOnce(),
) {
    let rig = Rig::new(&store, Config::new(), HttpKeys::default(), Handler::shut());
    let first = rig.spawn(post("k1", "100"));
    rig.handler.called(1).await;
    kill();
    rig.handler.release();
    assert_eq!(first.await.unwrap().seen(), (201, false), "the caller gets the true answer");
    assert_eq!(rig.post("k2", "100").await.status, 503);
    assert_eq!(rig.handler.calls(), 1);
    restart();
    until("it is recorded", || rig.log.has(Is::Recorded)).await;
    assert_eq!(rig.post_until_free("k1", "100").await.seen(), (201, true));
}
