use super::*;

use buttress_idempotency::{Error, Hash, Idempotency, Ran, RunError};
use buttress_store::ScopedKey;
use tokio::time::{Instant, sleep, timeout};

/// IA-9: whoever comes after a crash is refused while the lease runs, and takes over when it is over; `processes.rs` kills real
/// ones.
pub async fn what_a_crashed_owner_left_is_taken_over_after_its_lease<St: ClaimStore>(store: St) {
    let crashed = Rig::shut(&store, config().lease(SHORT).ceiling(SHORT));
    let began = Instant::now();
    let mut call = Box::pin(crashed.start(post("k1", "100")));
    tokio::select! {
        biased;
        _ = &mut call => panic!("the handler waits"),
        () = crashed.handler.called(1) => {}
    }
    // It is neither dropped nor polled any more: so far, that is what a crash looks like to the store.
    std::mem::forget(call);
    let other = Rig::new(&store, heir(), HttpKeys::default(), Handler::open());
    assert_eq!(other.post("k1", "100").await.seen(), (201, false));
    assert!(began.elapsed() >= SHORT, "it waited for the lease: {:?}", began.elapsed());
    let claims = other.handler.claims();
    assert_eq!((claims[0].epoch(), claims[0].unfinished()), (2, 1), "the epoch grows");
}

/// IA-10
pub async fn a_zombie_is_fenced_and_its_caller_gets_the_answer_of_the_new_owner<St: ClaimStore>(store: St) {
    let handler = Handler::shut().counting_from(10);
    let zombie = Rig::new(&store, short(), HttpKeys::default(), handler);
    let other = Rig::new(&store, heir(), HttpKeys::default(), Handler::open());
    let first = zombie.spawn(post("k1", "100"));
    zombie.handler.called(11).await;
    assert_eq!(other.post("k1", "100").await.body, "answer 1");
    zombie.handler.release();
    let first = first.await.unwrap();
    assert_eq!((first.seen(), &first.body[..]), ((201, true), &b"answer 1"[..]));
    assert_eq!(zombie.log.take(), [Is::Lost]);
    let epochs = (zombie.handler.claims()[0].epoch(), other.handler.claims()[0].epoch());
    assert_eq!(epochs, (1, 2), "the fencing token grows");
}

/// IA-10: the new owner is still at it, so that there is no answer yet.
pub async fn a_zombie_whose_heir_is_still_at_it_says_so<St: ClaimStore>(store: St) {
    let refusing = config().lease(SHORT).ceiling(SHORT);
    let zombie = Rig::shut(&store, refusing);
    let waiting = config().in_flight(InFlight::Wait(Duration::from_secs(60)));
    let other = Rig::shut(&store, waiting);
    let first = zombie.spawn(post("k1", "100"));
    zombie.handler.called(1).await;
    let second = other.spawn(post("k1", "100"));
    other.handler.called(1).await;
    zombie.handler.release();
    let first = first.await.unwrap();
    assert_eq!((first.status.as_u16(), first.retry_after()), (409, Some("1")));
    other.handler.release();
    assert_eq!(second.await.unwrap().seen(), (201, false));
}

/// IA-10: nobody took the key, so that the late answer is the answer.
pub async fn a_call_that_outlived_its_lease_unnoticed_is_recorded<St: ClaimStore>(store: St) {
    let rig = Rig::shut(&store, short());
    let first = rig.spawn(post("k1", "100"));
    rig.handler.called(1).await;
    sleep(SHORT * 2).await;
    rig.handler.release();
    assert_eq!(first.await.unwrap().seen(), (201, false));
    assert_eq!((rig.post("k1", "100").await.seen(), rig.handler.calls()), ((201, true), 1));
}

/// IA-11: it fails in a way that would have freed the key, and in one that leaves it claimed.
pub async fn a_zombie_that_fails_leaves_the_new_owners_record_alone<St: ClaimStore>(store: St) {
    for status in [429, 503] {
        let key = format!("k{status}");
        let zombie = Rig::shut(&store, short().hold_unknown(Duration::ZERO));
        zombie.handler.answer([status]);
        let other = Rig::new(&store, heir(), HttpKeys::default(), Handler::open());
        let first = zombie.spawn(post(&key, "100"));
        zombie.handler.called(1).await;
        assert_eq!(other.post(&key, "100").await.seen(), (201, false));
        zombie.handler.release();
        assert_eq!(first.await.unwrap().status, status);
        assert_eq!((other.post(&key, "100").await.seen(), other.handler.calls()), ((201, true), 1));
    }
}

/// IA-11: nor does it let a third one in while the new owner is at it.
pub async fn a_zombie_that_fails_frees_nothing_of_the_new_owners<St: ClaimStore>(store: St) {
    let zombie = Rig::shut(&store, short());
    zombie.handler.answer([429]);
    let waiting = config().in_flight(InFlight::Wait(Duration::from_secs(60)));
    let (other, third) = (Rig::shut(&store, waiting), Rig::open(&store));
    let first = zombie.spawn(post("k1", "100"));
    zombie.handler.called(1).await;
    let second = other.spawn(post("k1", "100"));
    other.handler.called(1).await;
    zombie.handler.release();
    assert_eq!(first.await.unwrap().status, 429);
    assert_eq!((third.post("k1", "100").await.status.as_u16(), third.handler.calls()), (409, 0));
    other.handler.release();
    assert_eq!(second.await.unwrap().seen(), (201, false));
}

/// IA-13
pub async fn a_slow_call_keeps_its_key_up_to_the_ceiling<St: ClaimStore>(store: St) {
    const LEASE: Duration = Duration::from_secs(5);
    let ceiling = LEASE * 5 / 2;
    let config = config().lease(LEASE).ceiling(ceiling);
    let (one, other) =
        (Rig::shut(&store, config.clone()), Rig::new(&store, config, HttpKeys::default(), Handler::open()));
    let began = Instant::now();
    let _first = one.spawn(post("k1", "100"));
    one.handler.called(1).await;
    while began.elapsed() < LEASE * 2 {
        assert_eq!(other.post("k1", "100").await.status, 409, "after {:?}", began.elapsed());
        sleep(LEASE / 10).await;
    }
    let free = timeout(HOUR, other.post_until_free("k1", "100")).await;
    assert_eq!(free.expect("its lease is renewed for ever").seen(), (201, false));
    assert!(began.elapsed() >= ceiling, "{:?}", began.elapsed());
    assert_eq!(other.handler.claims()[0].epoch(), 2);
}

/// IA-15: a lease of which nothing is left is over now, and not missing.
pub async fn a_lease_of_nothing_is_over_at_once<St: ClaimStore>(store: St) {
    Idempotency::new("test", store.clone(), config().lease(Duration::ZERO)).unwrap_err();
    let config = config().hold_unknown(Duration::ZERO);
    let idempotency = Idempotency::new("test", store, config).unwrap();
    let key = || ScopedKey::try_new("", "k1").unwrap();
    let fingerprint = Hash::new().fingerprint();
    for epoch in 1..4 {
        let effect = async move |claim: buttress_idempotency::Claim| {
            assert_eq!((claim.epoch(), claim.unfinished()), (epoch, epoch as u32 - 1));
            Err::<u64, _>(std::io::Error::other("nobody knows"))
        };
        let failed = idempotency.run(key(), fingerprint, effect).await;
        assert!(matches!(failed, Err(RunError::Effect(_))), "{failed:?}");
    }
    let ran = idempotency.run(key(), fingerprint, async |_| Ok::<u64, std::io::Error>(7)).await.unwrap();
    assert_eq!(ran, Ran::Executed(7));
}

/// IA-14: a claim whose row has no lease, as another release or a hand in the store may have left it, is never taken for an
/// orphan; it blocks its key until the row is past its time. `strip` takes the lease away, `outdate` puts the row's end into
/// the past.
pub async fn a_claim_without_a_lease_is_never_an_orphan<St: ClaimStore>(
    store: St,
    strip: impl AsyncFn(),
    outdate: impl AsyncFn(),
) {
    let owner = Rig::shut(&store, config());
    owner.abandon(post("k1", "100")).await;
    // Long before it renews the lease.
    strip().await;
    let other = Rig::open(&store);
    let began = Instant::now();
    while began.elapsed() < SHORT * 2 {
        let refused = other.post("k1", "100").await;
        assert!(matches!(refused.status.as_u16(), 409 | 503), "{refused:?}");
        sleep(SHORT / 5).await;
    }
    assert_eq!(other.handler.calls(), 0);
    outdate().await;
    store.sweep(100).await.unwrap();
    assert_eq!(other.post_until_free("k1", "100").await.seen(), (201, false));
}

/// IA-19
pub async fn the_time_to_live_begins_with_the_completion<St: ClaimStore>(store: St) {
    const TTL: Duration = Duration::from_secs(3);
    let rig = Rig::shut(&store, config().ttl(TTL));
    let first = rig.spawn(post("k1", "100"));
    rig.handler.called(1).await;
    sleep(TTL + SHORT).await;
    assert_eq!(rig.post("k1", "100").await.status, 409, "the key is not lost meanwhile");
    let completed = Instant::now();
    rig.handler.release();
    first.await.unwrap();
    let second = rig.post("k1", "100").await;
    // Unless the machine was too busy to ask in time.
    assert!(second.seen() == (201, true) || completed.elapsed() >= TTL, "{second:?}");
    while rig.post("k1", "100").await.is_replayed() {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(completed.elapsed() >= TTL, "{:?}", completed.elapsed());
    assert_eq!(rig.handler.calls(), 2, "it is forgotten after its time");
}

/// IA-36: a million rows, and how long live claims take meanwhile, are the sweeper's own test.
pub async fn what_is_over_is_swept_in_bounded_batches_and_what_is_alive_is_replayed<St: ClaimStore>(
    store: St,
) {
    let brief =
        Rig::new(&store, config().ttl(Duration::from_millis(1)), HttpKeys::default(), Handler::open());
    let lasting = Rig::open(&store);
    for number in 0..50 {
        brief.post(&format!("brief {number}"), "100").await;
        lasting.post(&format!("lasting {number}"), "100").await;
    }
    sleep(Duration::from_millis(50)).await;
    let mut swept = 0;
    loop {
        let batch = store.sweep(20).await.unwrap();
        assert!(batch <= 20, "{batch}");
        assert_eq!(lasting.post("lasting 7", "100").await.seen(), (201, true));
        swept += batch;
        if batch == 0 {
            break;
        }
    }
    // Redis lets them expire by itself.
    assert!(swept == 50 || swept == 0, "{swept}");
    assert_eq!(brief.post("brief 7", "100").await.seen(), (201, false));
    for number in 0..50 {
        assert_eq!(lasting.post(&format!("lasting {number}"), "100").await.seen(), (201, true));
    }
}

/// An answer that was meant for another type is not given as one of this.
pub async fn an_answer_that_cannot_be_read_is_an_error_and_not_a_rerun<St: ClaimStore>(store: St) {
    let idempotency = Idempotency::new("test", store, config()).unwrap();
    let key = || ScopedKey::try_new("", "k1").unwrap();
    let fingerprint = Hash::new().fingerprint();
    idempotency.run(key(), fingerprint, async |_| Ok::<u64, std::io::Error>(7)).await.unwrap();
    let effect = async |_| Ok::<String, std::io::Error>(String::from("again"));
    let error = idempotency.run(key(), fingerprint, effect).await.unwrap_err();
    assert!(matches!(error, RunError::Idempotency(Error::Unreadable(_))), "{error:?}");
}
