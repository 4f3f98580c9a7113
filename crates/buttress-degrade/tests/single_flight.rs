//! One call for many, and what of it is only for one.
#![cfg(feature = "http")]

#[path = "support/origin.rs"]
mod origin;
mod support;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use buttress_core::{BoxError, Carry, Level, Verdict, classify_fn, error_verdict};
use buttress_degrade::{ByKey, Chain, DegradeLayer, Degraded, Grade, HttpRules, LastGood};
use buttress_http::Http;
use buttress_testkit::clock::settle;
use buttress_testkit::{Scripted, ok, panics};
use http::Method;
use http_body_util::BodyExt;
use origin::{Asked, Origin, body, get, layer, response, slow, store};
use support::{ms, secs};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

const KEEPS: &[(&str, &str)] = &[("cache-control", "max-age=600")];

/// RFC 9111 § 4.4: a read that began before a write may not outlive it.
#[tokio::test(start_paused = true)]
async fn a_write_takes_the_reads_with_it_that_began_before() {
    for clears in [false, true] {
        let store = store(HttpRules::private());
        let value = Arc::new(Mutex::new("old"));
        let origin = {
            let value = Arc::clone(&value);
            service_fn(move |request: Asked| {
                let value = Arc::clone(&value);
                async move {
                    if *request.method() == Method::PUT {
                        *value.lock().unwrap() = "new";
                        return Ok::<_, BoxError>(response(204, &[], ""));
                    }
                    let now = *value.lock().unwrap();
                    sleep(ms(50)).await;
                    Ok(response(200, KEEPS, now))
                }
            })
        };
        let service = layer(&store).layer(origin);
        let read = || tokio::spawn(service.clone().oneshot(get(&[])));
        let before = read();
        settle().await;
        if clears {
            *value.lock().unwrap() = "new";
            store.clear();
        } else {
            let mut put = get(&[]);
            *put.method_mut() = Method::PUT;
            service.clone().oneshot(put).await.unwrap();
        }
        let after = read();
        for (call, expected) in [(before, "old"), (after, "new"), (read(), "new")] {
            let answer = call.await.unwrap().unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), expected);
            settle().await;
        }
        assert_eq!((store.len(), store.in_flight()), (1, 0));
    }
}

/// The service obeys the deadline that travels with the request.
#[tokio::test(start_paused = true)]
async fn the_deadline_of_one_caller_does_not_fail_the_others() {
    let origin = service_fn(|request: Asked| async move {
        let deadline = Http::new().carried(&request).and_then(|carried| carried.deadline);
        let work = sleep(ms(100));
        match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, work).await?,
            None => work.await,
        }
        Ok::<_, BoxError>(response(200, KEEPS, "x"))
    });
    let service = layer(&store(HttpRules::private())).layer(origin);
    let mut hurried = get(&[]);
    Http::new().carry(&mut hurried, |carried| carried.deadline = Some(Instant::now() + ms(5)));
    let hurried = tokio::spawn(service.clone().oneshot(hurried));
    settle().await;
    let patient = service.oneshot(get(&[])).await.unwrap();
    assert_eq!(patient.status(), 200);
    assert!(hurried.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_request_at_fault_is_not_the_fault_of_those_who_asked_the_same() {
    #[derive(Debug)]
    struct Malformed;
    impl std::fmt::Display for Malformed {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("malformed")
        }
    }
    impl std::error::Error for Malformed {}
    let policy = classify_fn(|outcome: Result<&u32, _>| match outcome {
        Ok(_) => Verdict::Success,
        Err(error) if error.is::<Malformed>() => Verdict::Rejected,
        Err(error) => error_verdict(error),
    });
    let rules = ByKey::new(|_: &(u32, bool)| Some("k".into()));
    let store = LastGood::new(rules).ttl(secs(1)).negative_ttl(secs(5)).refresh_jitter(0);
    let store = store.while_revalidate(secs(0));
    let layer = DegradeLayer::new("s", Chain::<(u32, bool), Degraded<u32>>::new()).unwrap();
    let layer = layer.policy(policy).last_good(store).unwrap();
    let service = layer.layer(service_fn(|(value, bad): (u32, bool)| async move {
        sleep(ms(10)).await;
        if bad { Err::<u32, BoxError>(Malformed.into()) } else { Ok(value) }
    }));
    service.clone().oneshot((1, false)).await.unwrap();
    tokio::time::advance(secs(2)).await;
    let bad = tokio::spawn(service.clone().oneshot((2, true)));
    settle().await;
    let good = service.clone().oneshot((3, false)).await.unwrap();
    assert_eq!((good.level(), *good.get_ref()), (Level::Full, 3));
    assert!(bad.await.unwrap().unwrap_err().is::<Malformed>());
    tokio::time::advance(secs(2)).await;
    let next = service.oneshot((4, false)).await.unwrap();
    assert_eq!((next.level(), *next.get_ref()), (Level::Full, 4), "the service is well");
}

/// HD-51, of answers that differ by what the request says.
#[tokio::test(start_paused = true)]
async fn those_who_ask_for_one_variant_share_a_call_and_wait_for_one_other_at_most() {
    let store = store(HttpRules::private());
    let (origin, calls) = slow(ms(100), |request| {
        let language = request.headers()["accept-language"].to_str().unwrap();
        response(200, &[KEEPS[0], ("vary", "accept-language")], language)
    });
    let service = layer(&store).layer(origin);
    let languages = ["en", "de", "fr", "it"];
    for round in [200, 100] {
        let start = Instant::now();
        let ask = |n: usize| {
            let language = languages[n % 4];
            let call = service.clone().oneshot(get(&[("accept-language", language)]));
            tokio::spawn(async move {
                let body = call.await.unwrap().into_body();
                assert_eq!(body.collect().await.unwrap().to_bytes(), language);
            })
        };
        for call in (0..1000).map(ask).collect::<Vec<_>>() {
            call.await.unwrap();
        }
        assert_eq!(
            (calls.swap(0, Relaxed), start.elapsed()),
            (4, ms(round)),
            "once it is known, nobody waits for another's"
        );
        settle().await;
        store.invalidate("another");
        tokio::time::advance(secs(601)).await;
    }
}

/// As Varnish's hit-for-miss.
#[tokio::test(start_paused = true)]
async fn nobody_waits_again_for_what_is_for_one_alone_until_it_is_for_all_again() {
    let store = store(HttpRules::private());
    let shared = Arc::new(AtomicUsize::new(0));
    let for_all = Arc::clone(&shared);
    let (origin, calls) = slow(ms(100), move |_| {
        let keeps: [(&str, &str); 1] = if for_all.load(Relaxed) == 0 {
            [("cache-control", "no-store")]
        } else {
            [("cache-control", "max-age=0")]
        };
        response(200, &keeps, "x")
    });
    let service = layer(&store).layer(origin);
    let mut seen = Vec::new();
    for keeps in [0, 0, 1, 1] {
        shared.store(keeps, Relaxed);
        let start = Instant::now();
        for call in (0..100).map(|_| tokio::spawn(service.clone().oneshot(get(&[])))).collect::<Vec<_>>() {
            call.await.unwrap().unwrap().into_body().collect().await.unwrap();
        }
        seen.push((calls.swap(0, Relaxed), start.elapsed()));
        settle().await;
    }
    assert_eq!(seen, [(100, ms(200)), (100, ms(100)), (100, ms(100)), (1, ms(100))]);
}

/// HD-51: an error page forbids to be kept, mostly.
#[tokio::test(start_paused = true)]
async fn a_failure_that_is_for_one_alone_is_one_for_all_who_have_something_else() {
    let store = store(HttpRules::private());
    let layer = layer(&store);
    body(&layer, &Origin::of(200, &[("cache-control", "max-age=1")]), &[]).await;
    tokio::time::advance(secs(2)).await;
    let (origin, calls) = slow(ms(100), |_| response(503, &[("cache-control", "no-store")], "busy"));
    let service = layer.layer(origin);
    let all = async || {
        let mut levels = Vec::new();
        for call in (0..100).map(|_| tokio::spawn(service.clone().oneshot(get(&[])))).collect::<Vec<_>>() {
            let answer = call.await.unwrap().unwrap();
            levels.push((answer.status().as_u16(), answer.level()));
        }
        (levels, calls.swap(0, Relaxed))
    };
    for _ in 0..2 {
        assert_eq!(all().await, (vec![(200, Level::Moderate); 100], 1));
    }
    store.clear();
    assert_eq!(all().await, (vec![(503, Level::Failed); 100], 100), "a 503 stays one, each has his own");
}

/// A panic is a failure of the service, too: it is left alone for a moment.
#[tokio::test(start_paused = true)]
async fn after_a_panic_a_stale_answer_is_served_without_asking() {
    let rules = ByKey::new(|_: &u64| Some("k".into()));
    let store = LastGood::new(rules).ttl(secs(1)).while_revalidate(secs(0)).negative_ttl(secs(5));
    let layer = DegradeLayer::new("s", Chain::<u64, Degraded<u32>>::new()).unwrap().last_good(store).unwrap();
    let inner = Scripted::new([ok(1), panics(), ok(2)]);
    let service = layer.layer(inner.clone());
    service.clone().oneshot(1).await.unwrap();
    tokio::time::advance(secs(2)).await;
    for _ in 0..2 {
        let answer = service.clone().oneshot(1).await.unwrap();
        assert_eq!((answer.level(), *answer.get_ref(), inner.calls()), (Level::Moderate, 1, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_shutdown_callers_call_for_themselves_and_nothing_more_is_kept() {
    let store = store(HttpRules::private());
    let layer = layer(&store);
    body(&layer, &Origin::of(200, &[("cache-control", "max-age=1")]), &[]).await;
    assert_eq!(store.shutdown(secs(1)).await, 0);
    tokio::time::advance(secs(2)).await;
    let (origin, calls) = slow(ms(100), |_| response(200, KEEPS, "new"));
    let service = layer.layer(origin);
    for call in (0..5).map(|_| tokio::spawn(service.clone().oneshot(get(&[])))).collect::<Vec<_>>() {
        let answer = call.await.unwrap().unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "new");
    }
    assert_eq!((calls.load(Relaxed), store.in_flight()), (5, 0));
    let down = Origin::new(|_| Err("connection reset".into()));
    assert_eq!(body(&layer, &down, &[]).await, "1", "what there was is still there for an outage");
}
