//! Chains and stores under HTTP.
#![cfg(feature = "http")]

#[path = "support/origin.rs"]
mod origin;
mod support;

use buttress_core::{BoxError, Elapsed, ErrorsAreFailures, Level, Reason, Refused, find};
use buttress_degrade::{
    Chain, DEGRADATION, DegradationRegistry, DegradeLayer, Gather, Grade, HttpRules, Need, Rung, Served,
    Unanswered,
};
use buttress_http::{Http, HttpCapture, StoredResponse};
use http::{HeaderMap, Method, Response};
use http_body_util::{BodyExt, Full};
use origin::{Asked, Body, Given, Origin, Seen, body, get, layer, response, seen, store};
use support::{ms, secs};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt, service_fn};

/// HD-47, on the wire: RFC 9111 § 5.1, RFC 9211.
#[tokio::test(start_paused = true)]
async fn an_answer_from_the_store_says_how_old_it_is_and_why_it_is_served() {
    let layer = layer(&store(HttpRules::private()));
    let origin = Origin::of(
        200,
        &[("cache-control", "max-age=600, stale-if-error=1200, stale-while-revalidate=60"), ("age", "100")],
    );
    let ask = async || seen(&layer, &origin, get(&[])).await;
    let first = ask().await.unwrap();
    assert_eq!(
        (first.body.as_str(), first.level, first.age.as_deref(), first.cache),
        ("1", 0, Some("100"), None)
    );
    let stored = |level, age: u64, cache: &str| Seen {
        status: 200,
        level,
        body: "1".into(),
        age: Some(age.to_string()),
        cache: Some(cache.into()),
    };
    advance(secs(499)).await;
    assert_eq!(ask().await.unwrap(), stored(0, 599, "buttress; hit; ttl=1"));
    origin.down();
    advance(secs(11)).await;
    assert_eq!(ask().await.unwrap(), stored(1, 610, "buttress; hit; ttl=-10; detail=stale-while-revalidate"));
    advance(secs(1189)).await;
    assert_eq!(ask().await.unwrap(), stored(2, 1799, "buttress; hit; ttl=-1199; detail=stale-if-error"));
    advance(secs(2)).await;
    assert_eq!(ask().await.unwrap_err().to_string(), "connection reset");
}

/// HD-49.
#[tokio::test(start_paused = true)]
async fn what_forbids_to_be_served_stale_is_not_whatever_fails() {
    for (shared, cache_control, stale) in [
        (false, "max-age=1", true),
        (false, "max-age=1, must-revalidate", false),
        (false, "max-age=1, no-cache", false),
        (false, "no-cache, stale-if-error=100", false),
        (false, "max-age=1, s-maxage=1, proxy-revalidate", true),
        (true, "s-maxage=1", false),
        (true, "max-age=1, proxy-revalidate", false),
        (true, "max-age=1, stale-if-error=100", true),
        (false, "max-age=1, stale-if-error=0", false),
    ] {
        let layer = layer(&store(if shared { HttpRules::shared() } else { HttpRules::private() }));
        let origin = Origin::new(move |_| Ok(response(200, &[("cache-control", cache_control)], "good")));
        assert_eq!(body(&layer, &origin, &[]).await, "good");
        origin.down();
        advance(secs(2)).await;
        let expected = if stale { "good" } else { "failed" };
        assert_eq!(body(&layer, &origin, &[]).await, expected, "{cache_control}, shared: {shared}");
        assert_eq!(origin.calls(), 2, "{cache_control}");
    }
}

/// What RFC 9111 § 3 lets a store keep.
#[tokio::test(start_paused = true)]
async fn what_may_not_be_kept_is_asked_for_each_time() {
    type Fields = &'static [(&'static str, &'static str)];
    const KEEPS: (&str, &str) = ("cache-control", "max-age=60");
    let cases: [(bool, u16, Fields, Fields, bool); 19] = [
        (false, 200, &[], &[KEEPS], true),
        (false, 203, &[], &[KEEPS], true),
        (false, 301, &[], &[KEEPS], true),
        (false, 200, &[], &[("cache-control", "no-store, max-age=60")], false),
        (false, 200, &[("cache-control", "no-store")], &[KEEPS], false),
        (false, 200, &[], &[KEEPS, ("vary", "accept, *")], false),
        (false, 200, &[("range", "bytes=0-1")], &[KEEPS], false),
        (false, 200, &[("if-none-match", "\"x\"")], &[KEEPS], false),
        (false, 206, &[], &[KEEPS], false),
        (false, 404, &[], &[KEEPS], false),
        (false, 500, &[], &[KEEPS], false),
        (false, 200, &[("authorization", "Bearer x")], &[KEEPS], false),
        (false, 200, &[("cookie", "a=b")], &[KEEPS], false),
        (false, 200, &[], &[("cache-control", "private, max-age=60")], true),
        (true, 200, &[], &[("cache-control", "private, max-age=60")], false),
        (true, 200, &[], &[KEEPS, ("set-cookie", "a=b")], false),
        (false, 200, &[], &[KEEPS, ("set-cookie", "a=b")], true),
        (false, 200, &[("cache-control", "no-cache")], &[KEEPS], false),
        (false, 200, &[], &[KEEPS, ("buttress-degradation", "2")], false),
    ];
    for (shared, status, asked, given, kept) in cases {
        let layer = layer(&store(if shared { HttpRules::shared() } else { HttpRules::private() }));
        let origin = Origin::of(status, given);
        for _ in 0..2 {
            seen(&layer, &origin, get(asked)).await.unwrap();
        }
        assert_eq!(origin.calls() == 1, kept, "{status} {asked:?} {given:?}, shared: {shared}");
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_are_kept_apart_by_an_explicit_part_of_the_key() {
    fn by_user(headers: &HeaderMap) -> Option<std::borrow::Cow<'_, str>> {
        headers.get("authorization")?.to_str().ok().map(Into::into)
    }
    for (shared, cache_control, calls) in
        [(false, "max-age=60", 2), (true, "max-age=60", 4), (true, "max-age=60, public", 2)]
    {
        let rules = if shared { HttpRules::shared() } else { HttpRules::private() };
        let layer = layer(&store(rules.principal(by_user)));
        let origin = Origin::new(move |_| Ok(response(200, &[("cache-control", cache_control)], "x")));
        for user in ["a", "b", "a", "b"] {
            body(&layer, &origin, &[("authorization", user)]).await;
        }
        assert_eq!(origin.calls(), calls, "{cache_control}, shared: {shared}");
    }
    // A key of an API is a credential where that is said.
    let layer = layer(&store(HttpRules::private().credential("x-ours".parse().unwrap())));
    let origin = Origin::of(200, &[("cache-control", "max-age=60")]);
    for _ in 0..2 {
        body(&layer, &origin, &[("x-ours", "x")]).await;
    }
    assert_eq!(origin.calls(), 2);
}

/// RFC 9111 § 4.1.
#[tokio::test(start_paused = true)]
async fn what_an_answer_varies_on_has_to_be_the_same() {
    let layer = layer(&store(HttpRules::private()));
    let origin = Origin::of(200, &[("cache-control", "max-age=60"), ("vary", "Accept-Language, x-none")]);
    let mut bodies = Vec::new();
    for language in ["de", "de", "en", "en", "de"] {
        bodies.push(body(&layer, &origin, &[("accept-language", language), ("accept", "a")]).await);
    }
    assert_eq!(bodies, ["1", "1", "2", "2", "3"]);
    // Nor is an old one served in the place of another.
    origin.down();
    assert_eq!(body(&layer, &origin, &[("accept-language", "fr")]).await, "failed");
}

/// RFC 9111 § 4.3.
#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_confirmed_by_its_validators_and_is_fresh_again() {
    let layer = layer(&store(HttpRules::private()));
    let fields = [
        ("cache-control", "max-age=10"),
        ("etag", "\"v1\""),
        ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ];
    let origin = Origin::new(move |request| {
        Ok(match request.headers().get("if-none-match") {
            Some(etag) if etag == "\"v1\"" => {
                response(304, &[("etag", "\"v1\""), ("cache-control", "max-age=20"), ("x-new", "1")], "")
            }
            _ => response(200, &fields, "whole"),
        })
    });
    assert_eq!(body(&layer, &origin, &[]).await, "whole");
    advance(secs(11)).await;
    let confirmed = seen(&layer, &origin, get(&[])).await.unwrap();
    assert_eq!(
        (confirmed.status, confirmed.body.as_str(), confirmed.age.as_deref()),
        (200, "whole", Some("0"))
    );
    assert_eq!(confirmed.cache.as_deref(), Some("buttress; fwd=stale; fwd-status=304; ttl=20"));
    let conditions = origin.asked.lock().unwrap()[1].clone();
    assert_eq!(conditions["if-modified-since"], "Thu, 01 Jan 1970 00:00:00 GMT");
    advance(secs(19)).await;
    let answer = layer.layer(origin.service()).oneshot(get(&[])).await.unwrap();
    assert_eq!((origin.calls(), answer.headers()["x-new"].to_str().unwrap()), (2, "1"));
    // A caller that asks for a confirmation gets one.
    assert_eq!(body(&layer, &origin, &[("cache-control", "no-cache")]).await, "whole");
    assert_eq!(origin.calls(), 3);
    // And no other, when the service fails.
    origin.down();
    assert_eq!(body(&layer, &origin, &[("cache-control", "no-cache")]).await, "failed");
    assert_eq!(body(&layer, &origin, &[]).await, "whole");
}

/// HD-54, HD-61: 410 drops the entry, and nothing of the caller's fault is masked.
#[tokio::test(start_paused = true)]
async fn rejections_pass_and_change_nothing_but_gone_is_gone() {
    let store = store(HttpRules::private());
    let layer = layer(&store);
    let origin = Origin::of(200, &[("cache-control", "max-age=10")]);
    body(&layer, &origin, &[]).await;
    advance(secs(11)).await;
    for status in [401, 403, 404, 410] {
        origin.then(move |_| Ok(response(status, &[("cache-control", "max-age=600")], "no")));
        let answer = seen(&layer, &origin, get(&[])).await.unwrap();
        assert_eq!((answer.status, answer.level, answer.body.as_str()), (status, 0, "no"));
        assert_eq!(store.len(), usize::from(status != 410), "{status}");
    }
    origin.then(|_| Ok(response(503, &[], "busy")));
    let answer = seen(&layer, &origin, get(&[])).await.unwrap();
    assert_eq!((answer.status, answer.level, answer.body.as_str()), (503, 4, "busy"), "a 503 stays one");
}

/// RFC 9111 § 4.4.
#[tokio::test(start_paused = true)]
async fn a_write_that_succeeds_forgets_what_was_read_and_one_that_fails_does_not() {
    let store = store(HttpRules::private());
    let layer = layer(&store);
    let origin = Origin::of(200, &[("cache-control", "max-age=600")]);
    body(&layer, &origin, &[]).await;
    let put = || {
        let mut request = get(&[]);
        *request.method_mut() = Method::PUT;
        request
    };
    origin.down();
    seen(&layer, &origin, put()).await.unwrap_err();
    assert_eq!(store.len(), 1);
    origin.then(|_| Ok(response(204, &[], "")));
    assert_eq!((seen(&layer, &origin, put()).await.unwrap().status, store.len()), (204, 0));
}

/// HD-51: what one asks for all need not be for all.
#[tokio::test(start_paused = true)]
async fn those_who_ask_at_once_share_a_call_unless_its_answer_is_for_one_alone() {
    for (status, cache_control, calls) in
        [(200, "max-age=60", 1), (404, "max-age=60", 1), (503, "max-age=60", 1), (200, "no-store", 100)]
    {
        let layer = layer(&store(HttpRules::private()));
        let origin = Origin::new(move |_| Ok(response(status, &[("cache-control", cache_control)], "x")));
        let service = layer.layer(origin.service());
        let all: Vec<_> = (0..100).map(|_| tokio::spawn(service.clone().oneshot(get(&[])))).collect();
        for one in all {
            let answer = one.await.unwrap().unwrap();
            assert_eq!(answer.status(), status);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "x");
        }
        assert_eq!(origin.calls(), calls, "{status} {cache_control}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_or_broken_body_passes_and_is_not_kept() {
    let store = store(HttpRules::private().max_body(4));
    let layer = layer(&store);
    let origin = Origin::new(|_| Ok(response(200, &[("cache-control", "max-age=60")], "too large")));
    for _ in 0..2 {
        assert_eq!(body(&layer, &origin, &[]).await, "too large");
    }
    assert_eq!((store.len(), origin.calls()), (0, 2));
}

/// Levels compose over hops.
#[tokio::test(start_paused = true)]
async fn the_next_hop_reads_the_level_and_what_fell_short() {
    let chain = || {
        Chain::<Asked, Given>::new()
            .rung(Rung::answer("static", |_| Some(StoredResponse::from(Response::new(&b"sorry"[..])))))
    };
    let below = DegradeLayer::new("prices", chain()).unwrap().policy(Http::new());
    let origin = Origin::of(503, &[]);
    let below = below.layer(origin.service());
    // What goes over the network: header fields, no extensions.
    let wire = service_fn(move |request: Asked| {
        let below = below.clone();
        async move {
            let (mut parts, body) = below.oneshot(request).await?.into_parts();
            parts.extensions.clear();
            Ok::<_, BoxError>(Response::from_parts(parts, Full::new(body.collect().await?.to_bytes())))
        }
    });
    let above = DegradeLayer::new("shop", chain()).unwrap().policy(Http::new()).layer(wire);
    let answer = above.oneshot(get(&[])).await.unwrap();
    assert_eq!(answer.headers()[DEGRADATION], "3; components=\"prices\"");
    let served = answer.extensions().get::<Served>().unwrap();
    assert_eq!((served.level(), served.shortfalls()[0].component()), (Level::Minimal, "prices"));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "sorry");
}

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
    let service = DegradeLayer::new("search", chain).unwrap().policy(Http::new()).layer(hanging());
    let start = tokio::time::Instant::now();
    let mut request = get(&[]);
    Http::new().carry(&mut request, |carried| carried.deadline = Some(start + ms(300)));
    assert_eq!((service.oneshot(request).await.unwrap().level(), start.elapsed()), (Level::Minimal, ms(300)));
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

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_failure_is_of_level_3_at_worst_whatever_it_says() {
    let answer = || StoredResponse::from(Response::new("sorry"));
    for status in [200, 404] {
        let chain = Chain::<Asked, Given>::new().finally(Level::Minimal, "static", move |_| answer());
        let layer = DegradeLayer::new("search", chain).unwrap().policy(Http::new());
        let origin = Origin::of(status, &[("buttress-degradation", "4; components=\"db\"")]);
        let Ok(given) = layer.layer(origin.service()).oneshot(get(&[])).await;
        assert_eq!((given.status().as_u16(), given.level()), (status, Level::Minimal));
        assert_eq!(given.headers()[DEGRADATION], "3; components=\"db\"");
        // Nor from a rung, nor where it is shared.
        let rung = Rung::alternate("replica", origin.service(), Http::new());
        let chain =
            Chain::<Asked, Given>::new().rung(rung).finally(Level::Minimal, "static", move |_| answer());
        let layer = DegradeLayer::new("search", chain).unwrap().policy(Http::new());
        let down = Origin::new(|_| Err("connection reset".into()));
        let Ok(given) = layer.layer(down.service()).oneshot(get(&[])).await;
        assert_eq!((given.status().as_u16(), given.level()), (status, Level::Minimal));
        let layer = layer.last_good(store(HttpRules::private())).unwrap();
        let service = layer.layer(origin.service());
        let calls: Vec<_> = (0..2).map(|_| tokio::spawn(service.clone().oneshot(get(&[])))).collect();
        for call in calls {
            let Ok(given) = call.await.unwrap();
            assert_eq!((given.status().as_u16(), given.level()), (status, Level::Minimal));
            given.into_body().collect().await.unwrap();
        }
    }
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

/// RFC 8941: an item has one line; what was not understood is not passed on.
#[tokio::test(start_paused = true)]
async fn what_the_next_hop_says_is_passed_on_as_it_was_understood() {
    let many: &'static str = String::leak(format!("1; components=\"{}\"", vec!["a"; 1000].join(",")));
    for (said, passed) in [
        (&["two"][..], None),
        (&["1", "3; components=\"b\"", "0"], Some("3; components=\"b\"")),
        (Vec::leak(vec![many]), Some("1; components=\"a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a\"")),
    ] {
        let origin = Origin::new(move |_| {
            let fields: Vec<_> = said.iter().map(|value| ("buttress-degradation", *value)).collect();
            Ok(response(200, &fields, "x"))
        });
        let layer = DegradeLayer::new("search", Chain::<Asked, Given>::new()).unwrap().policy(Http::new());
        // Through a layer that gives answers of the same type, too.
        let same = tower::util::MapResponse::new(origin.service(), HttpCapture::pass);
        for answer in [
            layer.layer(origin.service()).oneshot(get(&[])).await.unwrap(),
            layer.layer(same).oneshot(get(&[])).await.unwrap(),
        ] {
            let fields: Vec<_> = answer.headers().get_all(DEGRADATION).iter().collect();
            assert_eq!(fields, passed.as_slice(), "{said:?}");
            assert_eq!(answer.level() == Level::Full, passed.is_none());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stranger_says_of_its_answers_is_neither_believed_nor_passed_on() {
    let origin = || {
        Origin::of(200, &[("cache-control", "max-age=60"), ("buttress-degradation", "3; components=\"db\"")])
    };
    let layer =
        || DegradeLayer::new("search", Chain::<Asked, Given>::new()).unwrap().policy(Http::new()).foreign();
    let seen = |answer: &Given| (answer.level(), answer.headers().contains_key(DEGRADATION));
    let answer = layer().layer(origin().service()).oneshot(get(&[])).await.unwrap();
    assert_eq!(seen(&answer), (Level::Full, false));
    let kept = store(HttpRules::private());
    let service = layer().last_good(kept.clone()).unwrap().layer(origin().service());
    for keyed in [true, true, false] {
        let answer =
            service.clone().oneshot(get(if keyed { &[] } else { &[("range", "bytes=0-1")] })).await.unwrap();
        assert_eq!(seen(&answer), (Level::Full, false));
        answer.into_body().collect().await.unwrap();
        buttress_testkit::clock::settle().await;
    }
    assert_eq!(kept.len(), 1);
    // What a layer of ours says of it counts.
    let rung = Rung::answer("static", |_| Some(StoredResponse::from(Response::new("sorry"))));
    let below =
        DegradeLayer::new("below", Chain::<Asked, Given>::new().rung(rung)).unwrap().policy(Http::new());
    let answer = layer().layer(below.layer(Origin::of(503, &[]).service())).oneshot(get(&[])).await.unwrap();
    assert_eq!(seen(&answer), (Level::Minimal, true));
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_gather_is_as_good_as_the_next_hop_says() {
    let part =
        async { Ok::<_, BoxError>(response(200, &[("buttress-degradation", "3; components=\"db\"")], "x")) };
    let context = Gather::new().part("a", Need::Weight(1), part).await;
    let served = context.served().unwrap();
    assert_eq!((context.level(), served.shortfalls()[0].level()), (Level::Minimal, Level::Minimal));
}

/// RFC 9110 §§ 13.1.2, 14.2: a condition may be left out of account, and so may a range.
#[tokio::test(start_paused = true)]
async fn who_asks_for_a_part_or_a_change_gets_the_whole_answer_in_an_outage() {
    let search = DegradationRegistry::new("shop").component("search", Need::Required);
    let kept = store(HttpRules::private());
    let layer = layer(&kept).report_to(search.clone());
    let origin = Origin::of(200, &[("cache-control", "max-age=1"), ("vary", "accept-language")]);
    body(&layer, &origin, &[]).await;
    advance(secs(2)).await;
    let conditions = [("range", "bytes=0-1"), ("if-none-match", "\"x\""), ("if-modified-since", "x")];
    for condition in conditions {
        origin.then(|_| Ok(response(206, &[], "part")));
        let answer = seen(&layer, &origin, get(&[condition])).await.unwrap();
        assert_eq!((answer.status, answer.level, answer.body.as_str()), (206, 0, "part"));
        origin.down();
        let answer = seen(&layer, &origin, get(&[condition])).await.unwrap();
        assert_eq!((answer.status, answer.level, answer.body.as_str()), (200, 2, "1"), "{condition:?}");
        // Only what is for this one, and not where the condition protects something.
        for other in [("accept-language", "de"), ("cache-control", "no-store"), ("if-match", "\"y\"")] {
            seen(&layer, &origin, get(&[condition, other])).await.unwrap_err();
        }
        let calls = origin.calls();
        search.set_drill(Level::Moderate);
        assert_eq!(seen(&layer, &origin, get(&[condition])).await.unwrap().body, "1");
        search.set_drill(Level::Full);
        assert_eq!((origin.calls(), kept.len()), (calls, 1));
    }
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
