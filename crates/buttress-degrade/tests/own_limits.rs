//! Requests that bring limits of their own, and ask for what others ask for.
#![cfg(feature = "http")]

#[path = "support/origin.rs"]
mod origin;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use buttress_core::{BoxError, Carry, Elapsed, Level, find};
use buttress_deadline::DeadlineLayer;
use buttress_degrade::{Gather, Grade, HttpRules, LastGood, Need};
use buttress_http::{Http, RequestExt};
use buttress_testkit::clock::settle;
use http::Response;
use http_body_util::BodyExt;
use origin::{Asked, Body, Given, get, layer, response, slow};
use support::{ms, secs};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Status and level, once the body was read.
type Answered = Result<(u16, Level), BoxError>;

const GOOD: (u16, Level) = (200, Level::Full);

fn good(_: &Asked) -> Response<Body> {
    response(200, &[("cache-control", "max-age=60, stale-if-error=600")], "x")
}

fn store() -> LastGood<HttpRules> {
    LastGood::new(HttpRules::private()).while_revalidate(secs(0)).negative_ttl(secs(30)).refresh_jitter(0)
}

fn total(limit: Duration) -> DeadlineLayer<Http> {
    DeadlineLayer::total("search", limit).unwrap().carry(Http::new())
}

/// What each of these requests gets, in the order in which they are sent, and after how long.
async fn all<S>(service: &S, requests: impl IntoIterator<Item = Asked>) -> Vec<(Answered, Duration)>
where
    S: Service<Asked, Response = Given, Error = BoxError, Future: Send> + Clone + Send + 'static,
{
    let start = Instant::now();
    let mut calls = Vec::new();
    for request in requests {
        let call = service.clone().oneshot(request);
        calls.push(tokio::spawn(async move {
            let answer = async {
                let answer = call.await?;
                let seen = (answer.status().as_u16(), answer.level());
                answer.into_body().collect().await?;
                Ok(seen)
            };
            (answer.await, start.elapsed())
        }));
        settle().await;
    }
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    answers
}

fn waited(answer: &Answered) -> Duration {
    find::<Elapsed>(&**answer.as_ref().unwrap_err()).unwrap().limit()
}

/// HD-51: one call for all, whose time is not that of the one who came first.
#[tokio::test(start_paused = true)]
async fn one_who_has_less_time_goes_and_the_others_get_what_he_asked_for() {
    let (origin, calls) = slow(secs(1), good);
    let service = layer(&store()).layer(total(secs(10)).layer(origin));
    let [(hurried, gone), (patient, came)] =
        all(&service, [get(&[]).with_time_limit(ms(50)), get(&[])]).await.try_into().unwrap();
    assert_eq!((waited(&hurried), gone), (ms(50), ms(50)));
    assert_eq!((patient.unwrap(), came), (GOOD, secs(1)));
    assert_eq!(calls.load(Relaxed), 1);
}

/// Nor does it count as a failure of the service that he had no time: a stale answer would be served for it as long.
#[tokio::test(start_paused = true)]
async fn what_one_in_a_hurry_did_not_wait_for_is_kept_and_is_fresh() {
    let store = store();
    let (origin, calls) = slow(secs(1), good);
    let service = layer(&store).layer(total(secs(10)).layer(origin));
    all(&service, [get(&[])]).await;
    tokio::time::advance(secs(61)).await;
    let [(stale, gone)] = all(&service, [get(&[]).with_time_limit(ms(50))]).await.try_into().unwrap();
    assert_eq!((stale.unwrap(), gone), ((200, Level::Moderate), ms(50)));
    sleep(secs(1)).await;
    let [(fresh, at_once)] = all(&service, [get(&[])]).await.try_into().unwrap();
    assert_eq!((fresh.unwrap(), at_once), (GOOD, Duration::ZERO));
    assert_eq!(calls.load(Relaxed), 2);
}

/// It is in the place of the layers' own limits, but of a budget.
#[tokio::test(start_paused = true)]
async fn one_who_has_more_time_gets_it_and_takes_nobody_elses_call() {
    for budget in [None, Some(secs(2))] {
        let (origin, calls) = slow(secs(5), good);
        let degrade = layer(&store()).patience(secs(2)).unwrap();
        let degrade = if let Some(budget) = budget { degrade.budget(budget).unwrap() } else { degrade };
        let service = degrade.layer(total(secs(1)).layer(origin));
        let requests = [get(&[]), get(&[]).with_time_limit(secs(8)), get(&[]).with_time_limit(secs(8))];
        let [plain, patient, other] = all(&service, requests).await.try_into().unwrap();
        if budget.is_none() {
            assert_eq!((waited(&plain.0), plain.1), (secs(1), secs(1)));
            assert_eq!((patient.0.unwrap(), patient.1), (GOOD, secs(5)));
            assert_eq!((other.0.unwrap(), other.1), (GOOD, secs(5)));
            assert_eq!(calls.load(Relaxed), 2);
        } else {
            // Nobody has more time than another, so that it is one call, with the limits of those who made it.
            assert_eq!([plain.1, patient.1, other.1], [secs(1), secs(1), secs(1)]);
            assert_eq!(calls.load(Relaxed), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_attempts_have_limits_of_their_own_is_shared_with_those_who_have_the_same() {
    let (origin, calls) = slow(secs(1), good);
    let attempt = DeadlineLayer::attempt("search", secs(10)).unwrap().carry(Http::new());
    let service = layer(&store()).layer(attempt.layer(origin));
    let hurried = || get(&[]).with_attempt_limit(ms(50));
    let [first, plain, second] = all(&service, [hurried(), get(&[]), hurried()]).await.try_into().unwrap();
    for (hurried, gone) in [first, second] {
        assert_eq!((waited(&hurried), gone), (ms(50), ms(50)));
    }
    assert_eq!((plain.0.unwrap(), plain.1), (GOOD, secs(1)));
    assert_eq!(calls.load(Relaxed), 2);
    // So with how often it is sent, and when.
    let (origin, calls) = slow(ms(10), good);
    let service = layer(&store()).layer(origin);
    let requests = [get(&[]).with_max_retries(0), get(&[]), get(&[]).with_max_retries(0)];
    all(&service, requests).await;
    assert_eq!(calls.load(Relaxed), 2);
}

/// The soft deadline cuts off whatever is under way, a chain that has not begun to fall included.
#[tokio::test(start_paused = true)]
async fn a_part_that_has_less_time_than_the_whole_falls_in_time() {
    let store = store();
    let answers = Arc::new(AtomicBool::new(true));
    let hangs = Arc::clone(&answers);
    let origin = service_fn(move |_: Asked| {
        let answers = hangs.load(Relaxed);
        async move {
            if !answers {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>(response(200, &[("cache-control", "max-age=60, stale-if-error=600")], "x"))
        }
    });
    let (plain, bounded) = (layer(&store), layer(&store).budget(ms(150)).unwrap());
    let (plain, bounded) = (plain.layer(origin.clone()), bounded.layer(origin));
    all(&plain, [get(&[])]).await;
    tokio::time::advance(secs(61)).await;
    answers.store(false, Relaxed);
    let gathered = async |part| {
        let start = Instant::now();
        let gather = Gather::new().soft_deadline(ms(200)).part("search", Need::Required, part);
        (gather.await.level(), start.elapsed())
    };
    let late = plain.clone().oneshot(get(&[]));
    let limited = plain.oneshot(get(&[]).with_time_limit(ms(150)));
    assert_eq!(gathered(late).await, (Level::Failed, ms(200)));
    assert_eq!(gathered(limited).await, (Level::Moderate, ms(150)));
    assert_eq!(gathered(bounded.oneshot(get(&[]))).await, (Level::Moderate, ms(150)));
}

/// Two calls for one key, of which the one that fails is the later.
#[tokio::test(start_paused = true)]
async fn whose_call_fails_gets_what_another_one_has_just_brought() {
    let store = store();
    let first = Arc::new(AtomicBool::new(true));
    let is_first = Arc::clone(&first);
    let origin = service_fn(move |request: Asked| {
        let (first, once) =
            (is_first.load(Relaxed), Http::new().carried(&request).and_then(|it| it.max_retries));
        async move {
            if once.is_some() && !first {
                sleep(ms(60)).await;
                return Err(BoxError::from("reset"));
            }
            sleep(ms(50)).await;
            Ok(response(200, &[("cache-control", "max-age=60, stale-if-error=600")], "x"))
        }
    });
    let service = layer(&store).layer(origin);
    all(&service, [get(&[])]).await;
    tokio::time::advance(secs(61)).await;
    first.store(false, Relaxed);
    let [failed, plain] = all(&service, [get(&[]).with_max_retries(0), get(&[])]).await.try_into().unwrap();
    assert_eq!((plain.0.unwrap(), plain.1), (GOOD, ms(50)));
    assert_eq!((failed.0.unwrap(), failed.1), (GOOD, ms(60)));
}

/// The same where there was nothing before.
#[tokio::test(start_paused = true)]
async fn whose_call_fails_gets_what_another_one_has_brought_also_if_there_was_nothing() {
    for strict in [false, true] {
        let origin = service_fn(|request: Asked| async move {
            if Http::new().carried(&request).is_some_and(|it| it.max_retries.is_some()) {
                sleep(ms(60)).await;
                return Err(BoxError::from("reset"));
            }
            sleep(ms(50)).await;
            Ok(response(200, &[("cache-control", "max-age=60")], "x"))
        });
        let service = layer(&store()).layer(origin);
        let headers: &[_] = if strict { &[("cache-control", "no-cache")] } else { &[] };
        let requests = [get(headers).with_max_retries(0), get(&[])];
        let [failed, plain] = all(&service, requests).await.try_into().unwrap();
        assert_eq!((plain.0.unwrap(), failed.1), (GOOD, ms(60)));
        assert_eq!(failed.0.is_err(), strict, "who wants it confirmed gets no other one");
    }
}

/// Each has another limit, longer than the patience.
#[tokio::test(start_paused = true)]
async fn those_with_less_time_share_the_call_of_one_with_more() {
    let (origin, calls) = slow(secs(5), good);
    let service = layer(&store()).patience(secs(2)).unwrap().layer(origin);
    let requests = (0..20).rev().map(|n| get(&[]).with_time_limit(secs(10) + ms(n)));
    for (answer, came) in all(&service, requests).await {
        assert_eq!((answer.unwrap(), came), (GOOD, secs(5)));
    }
    assert_eq!(calls.load(Relaxed), 1);
}

/// The order is that in which they were asked for.
#[tokio::test(start_paused = true)]
async fn a_call_that_takes_long_brings_nothing_over_what_was_asked_for_later() {
    let count = Arc::new(AtomicUsize::new(0));
    let origin = service_fn(move |_: Asked| {
        let first = count.fetch_add(1, Relaxed) == 0;
        async move {
            sleep(if first { secs(5) } else { ms(10) }).await;
            Ok::<_, BoxError>(response(
                200,
                &[("cache-control", "max-age=60")],
                if first { "old" } else { "new" },
            ))
        }
    });
    let service = layer(&store()).layer(origin);
    let slow = tokio::spawn(service.clone().oneshot(get(&[]).with_attempt_limit(secs(30))));
    sleep(secs(1)).await;
    all(&service, [get(&[])]).await;
    slow.await.unwrap().unwrap().into_body().collect().await.unwrap();
    settle().await;
    let kept = service.oneshot(get(&[])).await.unwrap();
    assert_eq!(kept.into_body().collect().await.unwrap().to_bytes(), "new");
}

/// One who has an hour, whose call hangs, holds up nobody who has seconds.
#[tokio::test(start_paused = true)]
async fn a_call_that_may_take_long_and_hangs_is_nobodys_who_has_less_time() {
    let count = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&count);
    let origin = service_fn(move |_: Asked| {
        let first = calls.fetch_add(1, Relaxed) == 0;
        async move {
            if first {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>(response(200, &[("cache-control", "max-age=60")], "x"))
        }
    });
    let service = layer(&store()).layer(total(secs(1)).layer(origin));
    let patient = tokio::spawn(service.clone().oneshot(get(&[]).with_time_limit(secs(3600))));
    settle().await;
    for request in [get(&[]), get(&[]).with_time_limit(secs(60))] {
        let [(answer, came)] = all(&service, [request]).await.try_into().unwrap();
        assert_eq!((answer.unwrap(), came), (GOOD, Duration::ZERO));
    }
    patient.abort();
}
