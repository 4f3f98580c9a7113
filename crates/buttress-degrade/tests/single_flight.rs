//! One call for many, and what of it is only for one.
#![cfg(feature = "http")]

#[path = "support/origin.rs"]
mod origin;
mod support;

use std::sync::{Arc, Mutex};

use buttress_core::{BoxError, Carry, Level, Verdict, classify_fn, error_verdict};
use buttress_degrade::{ByKey, Chain, DegradeLayer, Degraded, HttpRules, LastGood};
use buttress_http::Http;
use buttress_testkit::clock::settle;
use http::Method;
use http_body_util::BodyExt;
use origin::{Asked, Origin, body, get, layer, response, store};
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
    let next = service.oneshot((4, false)).await.unwrap();
    assert_eq!((next.level(), *next.get_ref()), (Level::Full, 4), "the service is well");
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_do_not_wait_for_a_caller_who_does_not_read() {
    let store = store(HttpRules::private());
    let layer = layer(&store);
    let origin = Origin::of(200, KEEPS);
    let service = layer.layer(origin.service());
    let unread = service.clone().oneshot(get(&[])).await.unwrap();
    let start = Instant::now();
    let answer = service.clone().oneshot(get(&[])).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "2");
    assert!(start.elapsed() <= secs(1), "{:?}", start.elapsed());
    assert_eq!(store.in_flight(), 0, "who comes now makes a call");
    // What is read late is kept all the same, if nothing has happened meanwhile.
    assert_eq!(unread.into_body().collect().await.unwrap().to_bytes(), "1");
    settle().await;
    assert_eq!((body(&layer, &origin, &[]).await.as_str(), origin.calls()), ("1", 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_read_late_is_not_kept_over_a_write_or_a_newer_answer() {
    for write in [false, true] {
        let store = store(HttpRules::private());
        let layer = layer(&store);
        let origin = Origin::of(200, KEEPS);
        let unread = layer.layer(origin.service()).oneshot(get(&[])).await.unwrap();
        sleep(secs(2)).await;
        if write {
            store.invalidate("another");
        } else {
            assert_eq!(body(&layer, &origin, &[]).await, "2");
        }
        unread.into_body().collect().await.unwrap();
        settle().await;
        assert_eq!(body(&layer, &origin, &[]).await, "2");
    }
}

/// A download, and a stream of events.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_cannot_be_kept() {
    for fields in [&[("content-length", "1099511627776")][..], &[("content-type", "text/event-stream; x")]] {
        let layer = layer(&store(HttpRules::private()));
        let origin = Origin::new(move |_| Ok(response(200, fields, "x")));
        let service = layer.layer(origin.service());
        let unread = service.clone().oneshot(get(&[])).await.unwrap();
        let start = Instant::now();
        service.oneshot(get(&[])).await.unwrap();
        assert_eq!((start.elapsed(), origin.calls()), (ms(0), 2), "{fields:?}");
        drop(unread);
    }
}
