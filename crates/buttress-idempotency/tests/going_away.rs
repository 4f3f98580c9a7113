//! Callers that go away, handlers that panic, stores that fail, servers that stop.

mod support;

use std::convert::Infallible;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use buttress_core::{BoxError, IdempotencyResult as Is};
use buttress_idempotency::{Config, HttpKeys, InFlight, OnPanic, OnUnknown, Reconciled};
use buttress_store::Memory;
use buttress_testkit::clock::{advance, poll_in_task, settle};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Channel};
use support::{Faulty, Got, Handler, Rig, post, rig};
use tower::limit::ConcurrencyLimitLayer;
use tower::timeout::TimeoutLayer;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

fn shut() -> Rig<Memory> {
    Rig::new(Memory::new(), Config::new(), HttpKeys::default(), Handler::shut())
}

/// IA-21
#[tokio::test(start_paused = true)]
async fn a_call_whose_caller_went_away_is_carried_on_and_replayed() {
    let rig = shut();
    let mut call = Box::pin(rig.start(post("k1", "100")));
    assert!(poll_in_task(&mut call).await.is_pending());
    drop(call);
    assert_eq!(rig.idempotency.detached(), 1);
    assert_eq!(rig.post("k1", "100").await.status, 409, "it is under way");
    rig.handler.release();
    settle().await;
    assert_eq!(rig.idempotency.detached(), 0);
    let retry = rig.post("k1", "100").await;
    assert_eq!((retry.seen(), rig.handler.calls(), rig.handler.ended()), ((201, true), 1, 1));
}

/// IA-21: before the effect has begun nothing is done, and the key is free.
#[tokio::test(start_paused = true)]
async fn a_call_that_was_dropped_before_it_began_never_begins() {
    let rig = rig();
    drop(rig.start(post("k1", "100")));
    let faulty = Rig::new(Faulty::default(), Config::new(), HttpKeys::default(), Handler::open());
    faulty.idempotency.store().switch.claims_hang.store(true, SeqCst);
    let mut call = Box::pin(faulty.start(post("k1", "100")));
    assert!(poll_in_task(&mut call).await.is_pending());
    drop(call);
    faulty.idempotency.store().switch.claims_hang.store(false, SeqCst);
    settle().await;
    assert_eq!(faulty.handler.calls(), 0);
    assert_eq!(faulty.post("k1", "100").await.seen(), (201, false), "the claim was given back");
}

/// IA-22
#[tokio::test(start_paused = true)]
async fn a_timeout_outside_does_not_stop_the_effect_and_a_limit_inside_still_counts_it() {
    let rig = shut();
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(1)))
        .layer(rig.layer.clone())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(rig.handler.clone());
    let error = stack.clone().oneshot(post("k1", "100")).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>());
    let mut next = Box::pin(stack.clone().oneshot(post("k2", "100")));
    assert!(poll_in_task(&mut next).await.is_pending());
    assert_eq!(rig.handler.calls(), 1, "the detached call has the only permit");
    rig.handler.release();
    assert_eq!(next.await.unwrap().status(), 201);
    assert_eq!(stack.oneshot(post("k1", "100")).await.unwrap().headers()["idempotent-replayed"], "true");
}

/// IA-23
#[tokio::test(start_paused = true)]
async fn an_answer_streams_while_it_is_recorded_and_is_recorded_although_its_reader_goes_away() {
    let rig = rig();
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(4);
    let body = std::sync::Mutex::new(Some(body));
    let body = std::sync::Arc::new(body);
    let service = rig.layer.layer(service_fn(move |_: Request<_>| {
        let body = body.lock().unwrap().take().expect("called once");
        async move { Ok::<_, Infallible>(Response::new(body)) }
    }));
    let response = service.clone().oneshot(post("k1", "100")).await.unwrap();
    let mut live = response.into_body();
    sender.send_data(Bytes::from_static(b"first ")).await.unwrap();
    assert_eq!(live.frame().await.unwrap().unwrap().into_data().unwrap(), "first ", "it is not held back");
    drop(live);
    sender.send_data(Bytes::from_static(b"second")).await.unwrap();
    drop(sender);
    settle().await;
    let replayed = Got::of(service.oneshot(post("k1", "100")).await.unwrap()).await;
    assert_eq!((replayed.is_replayed(), &replayed.body[..]), (true, &b"first second"[..]));
}

/// IA-26
#[tokio::test(start_paused = true)]
async fn without_the_store_nothing_is_done_unless_it_is_to_fail_open() {
    let closed = Rig::new(Faulty::default(), Config::new(), HttpKeys::default(), Handler::open());
    closed.idempotency.store().switch.claims_fail.store(true, SeqCst);
    let refused = closed.post("k1", "100").await;
    assert_eq!((refused.status.as_u16(), refused.retry_after(), closed.handler.calls()), (503, Some("1"), 0));
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    assert_eq!(closed.log.take(), [Is::Unavailable]);

    let open = Rig::new(Faulty::default(), Config::new().fail_open(), HttpKeys::default(), Handler::open());
    open.idempotency.store().switch.claims_fail.store(true, SeqCst);
    let answer = open.post("k1", "100").await;
    assert_eq!(
        (answer.seen(), &answer.headers["idempotent-unprotected"]),
        ((201, false), &"true".parse().unwrap())
    );
    assert_eq!(open.log.take(), [Is::Unprotected]);
}

/// IA-27
#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_stored_is_given_and_stored_later() {
    let rig = Rig::new(Faulty::default(), Config::new(), HttpKeys::default(), Handler::open());
    let switch = rig.idempotency.store().switch.clone();
    switch.completions_fail.store(true, SeqCst);
    assert_eq!(rig.post("k1", "100").await.seen(), (201, false));
    assert_eq!(rig.log.take(), [Is::Unrecorded]);
    for _ in 0..20 {
        advance(Duration::from_secs(5)).await;
        assert_eq!(rig.post("k1", "100").await.status, 409, "the lease is renewed meanwhile");
    }
    assert!(switch.renewals.load(SeqCst) > 5);
    switch.completions_fail.store(false, SeqCst);
    advance(Duration::from_secs(5)).await;
    assert!(rig.log.take().contains(&Is::Recorded));
    assert_eq!((rig.post("k1", "100").await.seen(), rig.handler.calls()), ((201, true), 1));
}

/// IA-28
#[tokio::test(start_paused = true)]
async fn a_claim_that_comes_too_late_is_refused_and_given_back() {
    let rig = Rig::new(Faulty::default(), Config::new(), HttpKeys::default(), Handler::open());
    let switch = rig.idempotency.store().switch.clone();
    switch.claims_hang.store(true, SeqCst);
    let began = tokio::time::Instant::now();
    assert_eq!(rig.post("k1", "100").await.status, 503);
    assert_eq!((began.elapsed().as_secs(), rig.handler.calls()), (5, 0));
    switch.claims_hang.store(false, SeqCst);
    // The task that gives it back asks at once and is late itself; the key is free when it gives up, within a lease.
    advance(Duration::from_secs(31)).await;
    assert_eq!(rig.post("k1", "100").await.seen(), (201, false));
}

/// IA-29
#[tokio::test(start_paused = true)]
async fn a_panic_is_never_stored() {
    for (on_panic, blocked) in [(OnPanic::Lapse, true), (OnPanic::Release, false)] {
        let config = Config::new().on_panic(on_panic);
        let rig = Rig::new(Memory::new(), config, HttpKeys::default(), Handler::open());
        rig.handler.panics.store(true, SeqCst);
        assert!(tokio::spawn(rig.start(post("k1", "100"))).await.unwrap_err().is_panic());
        settle().await;
        rig.handler.panics.store(false, SeqCst);
        let next = rig.post("k1", "100").await.status.as_u16();
        assert_eq!(next, if blocked { 409 } else { 201 });
        advance(Duration::from_secs(31)).await;
        assert_eq!(rig.post("k1", "100").await.seen(), (201, !blocked));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_effect_is_repeated_or_rejected_or_looked_up() {
    let unknown = || Handler::answering([503]);
    let config = || Config::new().hold_unknown(Duration::ZERO);
    let rerun = Rig::new(Memory::new(), config(), HttpKeys::default(), unknown());
    rerun.post("k1", "100").await;
    assert_eq!(rerun.post("k1", "100").await.seen(), (201, false));
    assert_eq!(rerun.handler.claims.lock().unwrap()[1].unfinished(), 1);

    let config_rejecting = config().on_unknown(OnUnknown::Reject);
    let reject = Rig::new(Memory::new(), config_rejecting, HttpKeys::default(), unknown());
    reject.post("k1", "100").await;
    for _ in 0..2 {
        let refused = reject.post("k1", "100").await;
        assert_eq!((refused.status.as_u16(), refused.retry_after(), reject.handler.calls()), (409, None, 1));
    }

    let keys = HttpKeys::default()
        .reconcile(|_| async { Ok(Reconciled::Done(Response::new(Bytes::from_static(b"it was done")))) });
    let look = Rig::new(Memory::new(), config(), keys, unknown());
    look.post("k1", "100").await;
    for _ in 0..2 {
        let found = look.post("k1", "100").await;
        assert_eq!((found.seen(), &found.body[..]), ((200, true), &b"it was done"[..]));
    }
    assert_eq!(look.handler.calls(), 1);

    let keys = HttpKeys::default().reconcile(|_| async { Err("the bank does not answer".into()) });
    let failed = Rig::new(Memory::new(), config(), keys, unknown());
    failed.post("k1", "100").await;
    for _ in 0..2 {
        assert_eq!(failed.post("k1", "100").await.status, 503);
    }
    assert_eq!(failed.handler.calls(), 1);
}

/// IA-37
#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_what_has_begun_and_lets_nothing_begin() {
    let rig = shut();
    let mut call = Box::pin(rig.start(post("k1", "100")));
    assert!(poll_in_task(&mut call).await.is_pending());
    drop(call);
    let idempotency = rig.idempotency.clone();
    let drain = tokio::spawn(async move { idempotency.shutdown(Duration::from_secs(30)).await });
    settle().await;
    let refused = rig.post("k2", "100").await;
    assert_eq!((refused.status.as_u16(), refused.retry_after()), (503, Some("1")));
    rig.handler.release();
    assert_eq!((drain.await.unwrap(), rig.handler.ended()), (0, 1));
}

/// IA-37
#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_in_time_and_says_what_was_left() {
    let rig = shut();
    let mut call = Box::pin(rig.start(post("k1", "100")));
    assert!(poll_in_task(&mut call).await.is_pending());
    drop(call);
    assert!(rig.idempotency.shutdown(Duration::from_secs(30)).await > 0);
    settle().await;
    assert_eq!((rig.idempotency.detached(), rig.handler.ended()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn too_many_detached_calls_let_no_more_begin() {
    let config = Config::new().max_detached(2).in_flight(InFlight::Refuse);
    let rig = Rig::new(Memory::new(), config, HttpKeys::default(), Handler::shut());
    for key in ["k1", "k2"] {
        let mut call = Box::pin(rig.start(post(key, "100")));
        assert!(poll_in_task(&mut call).await.is_pending());
    }
    assert_eq!(rig.post("k3", "100").await.status, 503);
    rig.handler.release();
    settle().await;
    assert_eq!(rig.post("k3", "100").await.seen(), (201, false));
}

#[tokio::test(start_paused = true)]
async fn a_detached_call_that_hangs_ends_at_the_ceiling() {
    let rig = shut();
    let mut call = Box::pin(rig.start(post("k1", "100")));
    assert!(poll_in_task(&mut call).await.is_pending());
    drop(call);
    for _ in 0..61 {
        advance(Duration::from_secs(10)).await;
    }
    assert_eq!(rig.idempotency.detached(), 0);
}
