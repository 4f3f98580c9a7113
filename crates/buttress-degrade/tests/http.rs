//! Chains and stores under HTTP.
#![cfg(feature = "http")]

#[path = "support/origin.rs"]
mod origin;
mod support;

use buttress_core::Level;
use buttress_degrade::{DegradationRegistry, HttpRules, Need};
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use origin::{Origin, Seen, body, get, layer, response, seen, store};
use support::secs;
use tokio::time::advance;
use tower::{Layer, ServiceExt};

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
