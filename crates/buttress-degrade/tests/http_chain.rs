//! Chains under HTTP: deadlines, alternates and writes.
#![cfg(feature = "http")]

#[path = "support/origin.rs"]
mod origin;
mod support;

use std::sync::{Arc, Mutex};

use buttress_core::{BoxError, Elapsed, ErrorsAreFailures, Level, Reason, Refused, find};
use buttress_degrade::{
    Chain, DegradeLayer, Gather, Grade, HttpRules, IntoAnswer, Need, Rung, Shortfall, Unanswered,
};
use buttress_http::{Http, StoredResponse};
use http::{Method, Response};
use origin::{Asked, Body, Given, Origin, body, get, response, store};
use support::{ms, secs};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt, service_fn};

#[tokio::test(start_paused = true)]
async fn a_reduced_mode_reads_and_refuses_to_write() {
    let replica = Origin::of(200, &[]);
    let chain = Chain::<Asked, Given>::new().rung(Rung::read_only("replica", replica.service(), Http::new()));
    let layer = DegradeLayer::new("search", chain).unwrap().policy(Http::new());
    let origin = Origin::new(|_| Err("connection reset".into()));
    let call = |method| {
        let mut request = get(&[]);
        *request.method_mut() = method;
        layer.layer(origin.service()).oneshot(request)
    };
    assert_eq!(call(Method::GET).await.unwrap().level(), Level::Moderate);
    let error = call(Method::POST).await.unwrap_err();
    let unanswered = error.downcast_ref::<Unanswered>().unwrap();
    let refused = unanswered.tried()[0].error().unwrap().downcast_ref::<Refused>().unwrap();
    assert_eq!(refused.reason(), Reason::ReadOnly);
    assert_eq!(
        error.to_string(),
        "`search` failed, and none of its fallbacks answered: `replica` serves reads only"
    );
    assert_eq!(replica.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_travels_with_the_request_bounds_the_service_and_the_rungs() {
    use buttress_core::Carry;
    let hanging = || service_fn(|_: Asked| std::future::pending::<Result<Response<Body>, BoxError>>());
    let chain = Chain::<Asked, Given>::new()
        .rung(Rung::alternate("replica", hanging(), ErrorsAreFailures).timeout(secs(60)))
        .rung(Rung::answer("static", |_| Some(StoredResponse::from(Response::new("sorry")))));
    // One that keeps nothing of the request.
    let fixed = || Rung::answer("static", |_| Some(StoredResponse::from(Response::new("sorry"))));
    let layer = |chain| DegradeLayer::new("search", chain).unwrap().policy(Http::new());
    let alone = layer(Chain::<Asked, Given>::new().rung(fixed()));
    for layer in [layer(chain), alone.clone(), alone.leaked()] {
        let start = tokio::time::Instant::now();
        let mut request = get(&[]);
        Http::new().carry(&mut request, |carried| carried.deadline = Some(start + ms(300)));
        let answer = layer.layer(hanging()).oneshot(request).await.unwrap();
        assert_eq!((answer.level(), start.elapsed()), (Level::Minimal, ms(300)));
    }
}

/// A layer below that knows how much time it has gives up by itself; the rungs have the time of the whole call.
#[tokio::test(start_paused = true)]
async fn a_budget_travels_to_the_service_and_not_to_the_rungs() {
    use buttress_core::Carry;
    let deadlines = Arc::new(Mutex::new(Vec::new()));
    let seen = {
        let deadlines = Arc::clone(&deadlines);
        move |request: &Asked| {
            let deadline = Http::new().carried(request).and_then(|carried| carried.deadline);
            deadlines.lock().unwrap().push(deadline);
        }
    };
    let (seen_by_rung, start) = (seen.clone(), tokio::time::Instant::now());
    let origin = Origin::new(move |request| {
        seen(request);
        Ok(response(503, &[], "busy"))
    });
    let replica = Origin::new(move |request| {
        seen_by_rung(request);
        Ok(response(200, &[("cache-control", "no-store")], "replica"))
    });
    let chain =
        || Chain::<Asked, Given>::new().rung(Rung::alternate("replica", replica.service(), Http::new()));
    let layer = DegradeLayer::new("search", chain()).unwrap().policy(Http::new()).budget(ms(500)).unwrap();
    let stored = layer.clone().last_good(store(HttpRules::private())).unwrap();
    for carried in [None, Some(start + ms(300)), Some(start + ms(900))] {
        let request = || {
            let mut request = get(&[]);
            if carried.is_some() {
                Http::new().carry(&mut request, |it| it.deadline = carried);
            }
            request
        };
        let below = start + ms(500);
        layer.layer(origin.service()).oneshot(request()).await.unwrap();
        let own = carried.map_or(below, |carried| carried.min(below));
        assert_eq!(std::mem::take(&mut *deadlines.lock().unwrap()), [Some(own), carried]);
        // A call for all has the time of one for all.
        stored.layer(origin.service()).oneshot(request()).await.unwrap();
        assert_eq!(std::mem::take(&mut *deadlines.lock().unwrap()), [Some(below), carried]);
        // One for one alone has that one's.
        let mut part = request();
        part.headers_mut().insert("range", http::HeaderValue::from_static("bytes=0-1"));
        stored.layer(origin.service()).oneshot(part).await.unwrap();
        assert_eq!(std::mem::take(&mut *deadlines.lock().unwrap()), [Some(own), carried]);
    }
}

#[tokio::test(start_paused = true)]
async fn each_reason_to_leave_a_rung_out_counts() {
    let replica = Origin::of(200, &[]);
    let rung = Rung::read_only("replica", replica.service(), Http::new());
    let chain = Chain::<Asked, Given>::new().rung(
        rung.skip_if(|_| None)
            .skip_if(|fallen| fallen.request()?.headers().contains_key("x-no").then_some("is not wanted"))
            .skip_if(|_| None),
    );
    let layer = DegradeLayer::new("search", chain).unwrap().policy(Http::new());
    let origin = Origin::new(|_| Err("connection reset".into()));
    let mut write = get(&[]);
    *write.method_mut() = Method::POST;
    for request in [write, get(&[("x-no", "1")])] {
        layer.layer(origin.service()).oneshot(request).await.unwrap_err();
    }
    assert_eq!(replica.calls(), 0);
    layer.layer(origin.service()).oneshot(get(&[])).await.unwrap();
}

/// RFC 9110 § 9.2.2: a replica that gets a write after a time-out may do it for a second time.
#[tokio::test(start_paused = true)]
async fn an_alternate_gets_no_write_that_may_have_been_done_already() {
    type Failing = fn() -> Result<Response<Body>, BoxError>;
    let reset: Failing = || Err("connection reset".into());
    let unavailable: Failing = || Ok(response(503, &[], ""));
    let throttled: Failing = || Ok(response(429, &[], ""));
    let refused: Failing = || Err(Refused::new("breaker", "search".into(), Reason::CircuitOpen).into());
    let no_connection: Failing = || Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
    for (fails, method, key, sent) in [
        (reset, Method::POST, false, false),
        (unavailable, Method::POST, false, false),
        (unavailable, Method::PATCH, false, false),
        (unavailable, Method::POST, true, true),
        (unavailable, Method::PUT, false, true),
        (reset, Method::GET, false, true),
        (throttled, Method::POST, false, true),
        (refused, Method::POST, false, true),
        (no_connection, Method::POST, false, true),
    ] {
        for at_least_once in [false, true] {
            let replica = Origin::of(200, &[]);
            let rung = Rung::alternate("replica", replica.service(), Http::new());
            let rung = if at_least_once { rung.at_least_once() } else { rung };
            let layer = DegradeLayer::new("search", Chain::<Asked, Given>::new().rung(rung)).unwrap();
            let layer = layer.policy(Http::new());
            let origin = Origin::new(move |_| fails());
            let mut request = get(if key { &[("idempotency-key", "k1")] } else { &[] });
            *request.method_mut() = method.clone();
            let answer = layer.layer(origin.service()).oneshot(request).await;
            assert_eq!(replica.calls() == 1, sent || at_least_once, "{method} {answer:?}");
            let passed = answer.is_ok_and(|answer| answer.status() == 200);
            assert_eq!(passed, sent || at_least_once);
        }
    }
}

#[derive(Clone)]
struct NeverReady;

impl Service<Asked> for NeverReady {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Pending
    }

    fn call(&mut self, _: Asked) -> Self::Future {
        panic!("called although it was not ready")
    }
}

/// RFC 9111 § 4.4.
#[tokio::test(start_paused = true)]
async fn a_write_that_an_alternate_has_taken_forgets_what_was_read() {
    let keeps = [("cache-control", "max-age=600")];
    for (alternate, expected) in [(204, "2"), (503, "1")] {
        let origin = Origin::of(200, &[("cache-control", "max-age=600")]);
        let rung = Rung::alternate("replica", Origin::of(alternate, &[]).service(), Http::new());
        let chain = Chain::<Asked, Given>::new().rung(rung);
        let layer = DegradeLayer::new("search", chain).unwrap().policy(Http::new());
        let layer = layer.last_good(store(HttpRules::private())).unwrap();
        assert_eq!(body(&layer, &origin, &[]).await, "1");
        let mut count = 1;
        origin.then(move |request| {
            if request.method() == Method::PUT {
                return Err(Refused::new("circuit breaker", "search".into(), Reason::CircuitOpen).into());
            }
            count += 1;
            Ok(response(200, &keeps, &count.to_string()))
        });
        let mut write = get(&[]);
        *write.method_mut() = Method::PUT;
        let _ = layer.layer(origin.service()).oneshot(write).await;
        assert_eq!(body(&layer, &origin, &[]).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_is_left_and_one_that_was_not_sent_goes_to_the_alternate() {
    let replica = Origin::of(200, &[]);
    let chain =
        || Chain::<Asked, Given>::new().rung(Rung::alternate("replica", replica.service(), Http::new()));
    let layer =
        |chain| DegradeLayer::new("search", chain).unwrap().policy(Http::new()).budget(ms(50)).unwrap();
    let post = || {
        let mut request = get(&[]);
        *request.method_mut() = Method::POST;
        request
    };
    let hanging = service_fn(|_: Asked| std::future::pending::<Result<Response<Body>, BoxError>>());
    let error = layer(chain()).layer(hanging).oneshot(post()).await.unwrap_err();
    assert!(
        error.to_string().ends_with("`replica` might do for a second time what must be done once"),
        "{error}"
    );
    assert_eq!(replica.calls(), 0);
    // Nothing was sent by a service that did not become ready.
    let answer = layer(chain()).layer(NeverReady).oneshot(post()).await;
    assert_eq!((answer.unwrap().level(), replica.calls()), (Level::Slight, 1));
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_judged_is_missing_if_its_status_is_a_failure() {
    let part = |status| async move { Ok::<_, BoxError>(response(status, &[], "x")) };
    let reset = async { Err::<Response<Body>, BoxError>("reset".into()) };
    let context = Gather::new()
        .part("bare", Need::Weight(1), part(503))
        .judged_part("busy", Need::Weight(1), Http::new(), part(503))
        .judged_part("not found", Need::Weight(1), Http::new(), part(404))
        .judged_part("reset", Need::Weight(1), Http::new(), reset)
        .await;
    let missing: Vec<_> = context
        .shortfalls()
        .iter()
        .map(|part| (part.component(), part.level(), part.cause().as_str()))
        .collect();
    assert_eq!(missing, [("busy", Level::Failed, "failed"), ("reset", Level::Failed, "failed")]);
    assert!(
        context.get("busy").is_none() && context.get("bare").is_some() && context.get("not found").is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn a_bare_client_is_a_part_beside_one_with_a_chain() {
    let chain = Chain::<Asked, Given>::new()
        .finally(Level::Minimal, "static", |_| StoredResponse::from(Response::new("{}")));
    let layer = DegradeLayer::new("search", chain).unwrap().policy(Http::new());
    let search = layer.layer(Origin::of(503, &[]).service());
    let bare = |status: u16| Origin::of(status, &[]).service().oneshot(get(&[]));
    let page = Gather::new()
        .part("search", Need::Weight(1), search.oneshot(get(&[])))
        .judged_part("bare", Need::Weight(1), Http::new(), async {
            bare(200).await.map(IntoAnswer::into_answer)
        })
        .judged_part("down", Need::Weight(1), Http::new(), async {
            bare(503).await.map(IntoAnswer::into_answer)
        })
        .await;
    let missing: Vec<_> = page.shortfalls().iter().map(Shortfall::component).collect();
    assert_eq!(missing, ["down", "search"]);
    assert_eq!(page.get("search").unwrap().level(), Level::Minimal);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_time_says_how_long_it_was_waited() {
    use buttress_core::Carry;
    let hanging = service_fn(|_: Asked| std::future::pending::<Result<Response<Body>, BoxError>>());
    let layer = DegradeLayer::new("search", Chain::<Asked, Given>::new()).unwrap().policy(Http::new());
    let hasty = || {
        let mut request = get(&[]);
        let end = tokio::time::Instant::now() + ms(300);
        Http::new().carry(&mut request, |carried| carried.deadline = Some(end));
        request
    };
    let plain = layer.clone().layer(hanging);
    let stored = layer.clone().last_good(store(HttpRules::private())).unwrap().layer(hanging);
    let unready = layer.layer(NeverReady);
    let says = |answer: Result<Given, BoxError>| {
        find::<Elapsed>(&*answer.unwrap_err()).expect("an error of time").to_string()
    };
    let expected =
        |waited| format!("`search` did not answer within {waited}; the request may have been applied");
    assert_eq!(says(plain.oneshot(hasty()).await), expected("300 ms"));
    for (request, waited) in [(hasty(), "300 ms"), (get(&[]), "10 s")] {
        let other = tokio::spawn(stored.clone().oneshot(get(&[])));
        assert_eq!(says(stored.clone().oneshot(request).await), expected(waited));
        other.abort();
    }
    assert_eq!(says(unready.clone().oneshot(hasty()).await), expected("300 ms"));
    assert_eq!(says(unready.oneshot(get(&[])).await), expected("10 s"));
}

/// RFC 9110 § 15.5.10, HD-61: whoever is told to come back later was answered. The same key at another service would have it done twice.
#[tokio::test(start_paused = true)]
async fn a_conflict_passes_and_is_neither_masked_nor_done_by_another() {
    const BUSY: &[(&str, &str)] = &[("retry-after", "5")];
    let (origin, replica) = (Origin::of(409, BUSY), Origin::of(200, &[]));
    let rung = Rung::alternate("replica", replica.service(), Http::new());
    let chain = Chain::<Asked, Given>::new()
        .rung(rung)
        .finally(Level::Minimal, "sorry", |_| StoredResponse::from(Response::new("later")));
    let layer = DegradeLayer::new("orders", chain).unwrap().policy(Http::new());
    let mut request = get(&[("idempotency-key", "k1")]);
    *request.method_mut() = Method::POST;
    let Ok(answer) = layer.layer(origin.service()).oneshot(request).await;
    assert_eq!((answer.status().as_u16(), answer.level(), replica.calls()), (409, Level::Full, 0));
    assert_eq!(answer.headers()["retry-after"], "5");
    // Nor is an old answer given in its place, and the store is not told of a failure.
    for alone in [false, true] {
        let store = store(HttpRules::private()).negative_ttl(secs(60));
        let layer = origin::layer(&store);
        let origin = Origin::of(200, &[("cache-control", "max-age=1")]);
        origin::body(&layer, &origin, &[]).await;
        advance(secs(2)).await;
        origin.then(|_| Ok(response(409, BUSY, "busy")));
        for _ in 0..2 {
            let asked: &[(&str, &str)] = if alone { &[("range", "bytes=0-1")] } else { &[] };
            assert_eq!(origin::body(&layer, &origin, asked).await, "busy");
        }
        assert_eq!(origin.calls(), 3, "nothing is left alone for a moment");
    }
    // What another service answers is as good.
    let replica = Origin::of(409, BUSY);
    let rung = Rung::alternate("replica", replica.service(), Http::new());
    let layer =
        DegradeLayer::new("orders", Chain::<Asked, Given>::new().rung(rung)).unwrap().policy(Http::new());
    let origin = Origin::of(503, &[]);
    let answer = layer.layer(origin.service()).oneshot(get(&[])).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.level()), (409, Level::Slight));
}
