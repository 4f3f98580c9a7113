//! What the layer does, on the store `redis`.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use buttress_core::{IdempotencyResult as Is, find};
use buttress_idempotency::{Config, Error, HttpKeys};
use http_body_util::BodyExt;
use idempotency_tests::{Handler, Rig, cases, post};

idempotency_tests::behaviours!(services::InRedis);

/// A script that is run for each claim.
fn for_each_claim(server: &services::Redis, script: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let each = format!("if redis.call('TYPE', key).ok == 'hash' then {script} end");
    let command =
        format!("EVAL \"for _, key in ipairs(redis.call('KEYS', '*')) do {each} end return 'done'\" 0\r\n");
    stream.write_all(command.as_bytes()).unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"$4\r\ndone\r\n", "{}", String::from_utf8_lossy(&answer));
}

/// IA-14
#[tokio::test]
async fn a_claim_without_a_lease_is_never_an_orphan() {
    let server = services::Redis::start();
    let store = server.store().await;
    let strip = async || for_each_claim(&server, "assert(redis.call('HDEL', key, 'l') == 1)");
    let outdate = async || for_each_claim(&server, "redis.call('HSET', key, 'x', '1')");
    cases::leases::a_claim_without_a_lease_is_never_an_orphan(store, strip, outdate).await;
}

/// IA-26, IA-27
#[tokio::test]
async fn a_server_that_is_killed_refuses_calls_and_loses_none() {
    let server = services::Redis::start();
    let (store, server) = (server.store().await, RefCell::new(server));
    let (kill, restart) = (|| server.borrow_mut().kill(), || server.borrow_mut().restart());
    cases::store_failures::a_server_that_is_killed_refuses_calls_and_loses_none(store, kill, restart).await;
}

/// IA-35: with `everysec` a crash loses a second at most, of which the store warns.
#[tokio::test]
async fn a_crash_with_everysec_keeps_what_is_older_than_that() {
    let settings = [("appendonly", "yes"), ("appendfsync", "everysec"), ("maxmemory-policy", "noeviction")];
    let mut server = services::Redis::start_with(&settings);
    let store = server.store().await;
    assert!(store.warnings().iter().any(|warning| warning.contains("appendfsync")), "{:?}", store.warnings());
    let rig = Rig::open(&store);
    rig.post("k1", "100").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.kill();
    server.restart();
    let again = Rig::open(&server.store().await);
    assert_eq!((again.post("k1", "100").await.seen(), again.handler.calls()), ((201, true), 0));
}

/// IA-35: a server that comes back empty, as without an append-only file, or as a replica does that had received nothing yet:
/// the effect is run twice, as documented, and whoever holds a claim from before can do nothing with it, although the epochs
/// begin again.
#[tokio::test]
async fn a_claim_from_before_the_server_forgot_everything_is_rejected() {
    let mut server = services::Redis::start_with(&[("appendonly", "no")]);
    let store = server.store().await;
    assert!(!store.warnings().is_empty());
    let stale = Rig::new(&store, Config::new(), HttpKeys::default(), Handler::shut().counting_from(10));
    let failing = Rig::new(&store, Config::new(), HttpKeys::default(), Handler::shut());
    failing.handler.answer([429]);
    let first = tokio::spawn(stale.start(post("k1", "100")));
    let failed = failing.spawn(post("k2", "100"));
    stale.handler.called(11).await;
    failing.handler.called(1).await;
    server.kill();
    server.restart();

    let new = Rig::open(&server.store().await);
    assert_eq!(new.post("k1", "100").await.seen(), (201, false), "this is the loss");
    assert_eq!(new.post("k2", "100").await.seen(), (201, false));
    assert_eq!((stale.handler.claims()[0].epoch(), new.handler.claims()[0].epoch()), (1, 1));
    stale.handler.release();
    failing.handler.release();
    // Its lease had not ended, so that its answer had begun; without its end it is none.
    let error = first.await.unwrap().unwrap().into_body().collect().await.unwrap_err();
    assert!(matches!(find(&*error), Some(Error::Lost { .. })), "{error}");
    assert_eq!(stale.log.take(), [Is::Lost]);
    assert_eq!(failed.await.unwrap().status, 429);
    for key in ["k1", "k2"] {
        assert_eq!(
            new.post(key, "100").await.seen(),
            (201, true),
            "{key}: it neither completes nor frees it"
        );
    }
}

/// IA-35: a server that evicts forgets answers, of which the store warns: their calls are made again, and nothing worse.
#[tokio::test]
async fn what_was_evicted_is_carried_out_again() {
    let server = services::Redis::start_with(&[("maxmemory", "4mb"), ("maxmemory-policy", "allkeys-lru")]);
    let store = server.store().await;
    assert!(
        store.warnings().iter().any(|warning| warning.contains("maxmemory-policy")),
        "{:?}",
        store.warnings()
    );
    let rig = Rig::open(&store);
    let body = "x".repeat(100 << 10);
    let echo = tower::Layer::layer(
        &rig.layer,
        tower::service_fn(async |request: http::Request<_>| {
            let got = idempotency_tests::Got::of(http::Response::new(request.into_body())).await;
            Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::new(got.body)))
        }),
    );
    let send = async |number: usize| {
        let answer =
            tower::ServiceExt::oneshot(echo.clone(), post(&format!("k{number}"), &body)).await.unwrap();
        idempotency_tests::Got::of(answer).await
    };
    for number in 0..80 {
        assert_eq!(send(number).await.seen(), (200, false));
    }
    let mut again = 0;
    for number in 0..80 {
        let got = send(number).await;
        assert_eq!((got.status.as_u16(), got.body.len()), (200, body.len()));
        again += usize::from(!got.is_replayed());
    }
    assert!(again > 0, "80 answers of 100 KiB do not fit into 4 MiB");
}
