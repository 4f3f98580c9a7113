//! Who shares a call with others, and who may not.
#![cfg(feature = "http")]

#[path = "support/origin.rs"]
mod origin;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use buttress_core::BoxError;
use buttress_degrade::{ByKey, Chain, DegradeLayer, Degraded, Grade, HttpRules, LastGood};
use buttress_testkit::clock::settle;
use http::Response;
use http_body_util::{BodyExt, Full};
use origin::{Asked, Body, get, layer, response, slow, store};
use support::{ms, secs};
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt, service_fn};

type Fields = &'static [(&'static str, &'static str)];

/// With these headers, each time with another body; confirms what is asked about.
fn numbered(headers: Fields) -> impl Fn(&Asked) -> Response<Body> + Clone + Send + 'static {
    let count = Arc::new(AtomicUsize::new(0));
    move |request| {
        let status = if request.headers().contains_key("if-none-match") { 304 } else { 200 };
        response(status, headers, &count.fetch_add(1, Relaxed).to_string())
    }
}

/// RFC 9111 §§ 4, 5.2.2.4: what may not be used again without asking is an answer to nobody else, also to none who asks at the same
/// time.
#[tokio::test(start_paused = true)]
async fn what_has_to_be_confirmed_is_for_him_who_asked() {
    const CASES: [(Fields, usize); 6] = [
        (&[("cache-control", "no-cache"), ("etag", "\"1\"")], 10),
        (&[("cache-control", "no-cache")], 10),
        (&[("cache-control", "max-age=10, must-revalidate"), ("age", "20"), ("etag", "\"1\"")], 10),
        (&[("cache-control", "max-age=10, must-revalidate"), ("age", "20")], 10),
        (&[("cache-control", "max-age=10, must-revalidate"), ("age", "5")], 1),
        (&[("cache-control", "max-age=0")], 1),
    ];
    for (headers, expected) in CASES {
        let (origin, calls) = slow(ms(100), numbered(headers));
        let store = store(HttpRules::private());
        let service = layer(&store).layer(origin);
        for round in 1..=2 {
            let start = Instant::now();
            let asked: Vec<_> = (0..10).map(|_| tokio::spawn(service.clone().oneshot(get(&[])))).collect();
            for call in asked {
                let answer = call.await.unwrap().unwrap();
                assert_eq!(answer.status(), 200, "{headers:?}");
                answer.into_body().collect().await.unwrap();
            }
            settle().await;
            // Once it is known, nobody waits for what is not for him.
            let waits = if expected == 10 && round == 1 { 2 } else { 1 };
            let seen = (calls.swap(0, Relaxed), start.elapsed());
            assert_eq!(seen, (expected, ms(100) * waits), "{headers:?}, round {round}");
            advance(secs(60)).await;
        }
    }
}

/// A query in a body, as search engines take it, is no part of the URI.
#[tokio::test(start_paused = true)]
async fn a_read_with_a_body_is_asked_for_each_time() {
    let (origin, calls) = slow(ms(1), numbered(&[("cache-control", "max-age=60")]));
    let service = layer(&store(HttpRules::private())).layer(origin);
    for query in ["a", "b", "a"] {
        let request = get(&[]).map(|_| Full::from(query));
        assert!(service.clone().oneshot(request).await.unwrap().served().is_none());
    }
    assert_eq!(calls.load(Relaxed), 3);
}

/// HD-50, the second half, of an answer that varies.
#[tokio::test(start_paused = true)]
async fn who_comes_too_late_for_a_stale_answer_waits_for_its_refresh_also_if_it_varies() {
    let (origin, calls) = slow(
        secs(3),
        numbered(&[("cache-control", "max-age=1, stale-while-revalidate=4"), ("vary", "accept-encoding")]),
    );
    let service = layer(&store(HttpRules::private())).layer(origin);
    let ask = || service.clone().oneshot(get(&[("accept-encoding", "gzip")]));
    let body = async |asked| {
        let answer: origin::Given = asked;
        answer.into_body().collect().await.unwrap().to_bytes()
    };
    // The three seconds count: it is four seconds old at seven.
    assert_eq!(body(ask().await.unwrap()).await, "0");
    settle().await;
    advance(ms(1500)).await;
    assert_eq!(body(ask().await.unwrap()).await, "0");
    settle().await;
    advance(secs(1)).await;
    assert_eq!(body(ask().await.unwrap()).await, "1");
    assert_eq!(calls.load(Relaxed), 2);
}

/// HD-51, on several threads: nobody goes by the store once there is an answer in it, however they are polled.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_several_threads_one_call_is_made_for_all() {
    for _ in 0..20 {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let store = LastGood::new(ByKey::new(|_: &u32| Some("k".into())).weighing(|_: &u32| 4))
            .ttl(secs(600))
            .refresh_jitter(0);
        let layer = DegradeLayer::new("s", Chain::<u32, Degraded<u32>>::new()).unwrap();
        let layer = layer.last_good(store).unwrap();
        let mut service = layer.layer(service_fn(move |value: u32| {
            count.fetch_add(1, Relaxed);
            async move { Ok::<u32, BoxError>(value) }
        }));
        // They look before the first is made, and ask when they are polled.
        let asked: Vec<_> = (0..1000).map(|_| service.call(7)).collect();
        let asked: Vec<_> = asked.into_iter().map(tokio::spawn).collect();
        for call in asked {
            assert_eq!(call.await.unwrap().unwrap().into_inner(), 7);
        }
        assert_eq!(calls.load(Relaxed), 1);
    }
}
