use super::*;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use buttress_core::BoxError;
use buttress_testkit::clock::poll_in_task;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Channel};
use tokio::time::{Instant, sleep};
use tower::limit::ConcurrencyLimitLayer;
use tower::timeout::TimeoutLayer;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::faulty::{Faulty, Switch};

/// IA-21
pub async fn a_call_whose_caller_went_away_is_carried_on_and_replayed<St: ClaimStore>(store: St) {
    let rig = Rig::shut(&store, config());
    rig.abandon(post("k1", "100")).await;
    assert_eq!(rig.idempotency.detached(), 1);
    assert_eq!(rig.post("k1", "100").await.status, 409, "it is under way");
    rig.handler.release();
    until("the call ends", || rig.idempotency.detached() == 0).await;
    let retry = rig.post("k1", "100").await;
    assert_eq!((retry.seen(), rig.handler.calls(), rig.handler.ended()), ((201, true), 1, 1));
}

/// IA-21: before the effect has begun nothing is done, and the key is free.
pub async fn a_call_that_was_dropped_before_it_began_never_begins<St: ClaimStore>(store: St) {
    let store = Faulty::new(store);
    let rig = Rig::open(&store);
    drop(rig.start(post("k1", "100")));
    Switch::set(&store.switch.claims_hang, true);
    let mut call = Box::pin(rig.start(post("k1", "100")));
    tokio::select! {
        biased;
        _ = &mut call => panic!("the claim hangs"),
        () = until("it is claimed", || store.switch.claimed.load(std::sync::atomic::Ordering::SeqCst) == 1) => {}
    }
    Switch::set(&store.switch.claims_hang, false);
    drop(call);
    assert_eq!(rig.post_until_free("k1", "100").await.seen(), (201, false), "the claim was given back");
    assert_eq!(rig.handler.calls(), 1);
}

/// IA-22
pub async fn a_timeout_outside_does_not_stop_the_effect_and_a_limit_inside_still_counts_it<St: ClaimStore>(
    store: St,
) {
    let rig = Rig::shut(&store, config());
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SHORT))
        .layer(rig.layer.clone())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(rig.handler.clone());
    let error = stack.clone().oneshot(post("k1", "100")).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>());
    rig.handler.called(1).await;
    let mut next = Box::pin(stack.clone().oneshot(post("k2", "100")));
    assert!(poll_in_task(&mut next).await.is_pending());
    assert_eq!((rig.handler.calls(), rig.idempotency.detached()), (1, 1), "it has the only permit");
    rig.handler.release();
    assert_eq!(next.await.unwrap().status(), 201);
    assert_eq!(rig.post_until_free("k1", "100").await.seen(), (201, true));
    assert_eq!(rig.handler.calls(), 2);
}

/// IA-23, IA-21: the answer is told as it comes, and recorded to its end although its reader goes away.
pub async fn an_answer_streams_while_it_is_recorded<St: ClaimStore>(store: St) {
    let rig = Rig::open(&store);
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(4);
    let body = Arc::new(Mutex::new(Some(body)));
    let service = rig.layer.layer(service_fn(move |_: Request<_>| {
        let body = body.lock().unwrap().take().expect("called once");
        async move { Ok::<_, Infallible>(Response::new(body)) }
    }));
    let response = service.clone().oneshot(post("k1", "100")).await.unwrap();
    let mut live = response.into_body();
    sender.send_data(Bytes::from_static(b"first ")).await.unwrap();
    let first = live.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "first ", "it is not held back");
    drop(live);
    assert_eq!(rig.post("k1", "100").await.status, 409, "the answer is not whole");
    sender.send_data(Bytes::from_static(b"second")).await.unwrap();
    drop(sender);
    let replayed = rig.post_until_free("k1", "100").await;
    assert_eq!((replayed.is_replayed(), &replayed.body[..]), (true, &b"first second"[..]));
}

/// IA-21: what is read for the record although nobody else reads it counts as detached, and so is bounded.
pub async fn a_stream_that_outlives_its_caller_is_counted<St: ClaimStore>(store: St) {
    let rig = Rig::new(&store, config().max_detached(1), HttpKeys::default(), Handler::open());
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(4);
    let body = Arc::new(Mutex::new(Some(body)));
    let service = rig.layer.layer(service_fn(move |_: Request<_>| {
        let body = body.lock().unwrap().take().expect("called once");
        async move { Ok::<_, Infallible>(Response::new(body)) }
    }));
    let mut live = service.oneshot(post("k1", "100")).await.unwrap().into_body();
    sender.send_data(Bytes::from_static(b"first ")).await.unwrap();
    live.frame().await.unwrap().unwrap();
    assert_eq!(rig.idempotency.detached(), 0, "it has a reader");
    assert_eq!(rig.post("k2", "100").await.status, 201);
    drop(live);
    until("it is counted", || rig.idempotency.detached() == 1).await;
    assert_eq!(rig.post("k3", "100").await.status, 503);
    drop(sender);
    until("it ends", || rig.idempotency.detached() == 0).await;
    assert_eq!(rig.post("k3", "100").await.status, 201);
}

/// IA-23: the end of the answer is told when it is stored, so that whoever saw it can rely on a replay.
pub async fn whoever_saw_the_end_of_an_answer_gets_it_again<St: ClaimStore>(store: St) {
    for number in 0..20 {
        let (rig, other) = (Rig::open(&store), Rig::open(&store));
        let key = format!("k{number}");
        assert_eq!(rig.post(&key, "100").await.seen(), (201, false));
        assert_eq!(other.post(&key, "100").await.seen(), (201, true));
    }
}

/// IA-37
pub async fn a_shutdown_waits_for_what_has_begun_and_lets_nothing_begin<St: ClaimStore>(store: St) {
    let rig = Rig::shut(&store, config());
    rig.abandon(post("k1", "100")).await;
    let idempotency = rig.idempotency.clone();
    let drain = tokio::spawn(async move { idempotency.shutdown(Duration::from_secs(60)).await });
    tokio::task::yield_now().await;
    let refused = rig.post("k2", "100").await;
    assert_eq!((refused.status.as_u16(), refused.retry_after()), (503, Some("1")));
    rig.handler.release();
    assert_eq!((drain.await.unwrap(), rig.handler.ended()), (0, 1));
    assert_eq!(Rig::open(&store).post("k1", "100").await.seen(), (201, true), "it is stored");
}

/// IA-37: what is left is dropped, and its claim lapses.
pub async fn a_shutdown_ends_in_time_and_says_what_was_left<St: ClaimStore>(store: St) {
    let rig = Rig::shut(&store, short());
    rig.abandon(post("k1", "100")).await;
    assert!(rig.idempotency.shutdown(Duration::from_millis(100)).await > 0);
    until("it is dropped", || rig.idempotency.detached() == 0).await;
    assert_eq!(rig.handler.ended(), 0);
    let next = Rig::new(&store, short(), HttpKeys::default(), Handler::open());
    assert_eq!(next.post("k1", "100").await.seen(), (201, false));
}

/// The cap on detached work.
pub async fn too_many_detached_calls_let_no_more_begin<St: ClaimStore>(store: St) {
    let rig = Rig::shut(&store, config().max_detached(2));
    for key in ["k1", "k2"] {
        rig.abandon(post(key, "100")).await;
    }
    assert_eq!(rig.post("k3", "100").await.status, 503);
    rig.handler.release();
    until("they end", || rig.idempotency.detached() == 0).await;
    assert_eq!(rig.post("k3", "100").await.seen(), (201, false));
}

/// IA-13: the ceiling bounds what nobody waits for, too, and counts from the claim: a call that began later, and was left sooner,
/// does not end before it.
pub async fn a_detached_call_that_hangs_ends_at_the_ceiling<St: ClaimStore>(store: St) {
    let ceiling = SHORT * 4;
    let rig = || Rig::shut(&store, config().lease(SHORT).ceiling(ceiling));
    let (first, later) = (rig(), rig());
    let began = Instant::now();
    let call = first.spawn(post("k1", "100"));
    first.handler.called(1).await;
    sleep(ceiling / 4).await;
    later.abandon(post("k2", "100")).await;
    sleep(ceiling / 4).await;
    call.abort();
    call.await.unwrap_err();
    until("it is dropped", || later.idempotency.detached() == 0).await;
    assert_eq!(first.idempotency.detached(), 0, "its caller's going away prolongs nothing");
    for rig in [first, later] {
        assert_eq!((rig.handler.ended(), rig.log.has(Is::Unknown)), (0, true));
    }
    assert!(began.elapsed() >= ceiling, "{:?}", began.elapsed());
}
