//! Whose answers a store keeps, and how long.
#![cfg(feature = "http")]

#[path = "support/origin.rs"]
mod origin;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use buttress_degrade::{HttpRules, LastGood, Recall};
use buttress_testkit::clock::settle;
use bytes::Bytes;
use http::{HeaderValue, Method, Response};
use http_body_util::{BodyExt, Full};
use origin::{Asked, Body, Origin, body, get, layer, response, seen, store};
use support::secs;
use tokio::time::advance;
use tower::{Layer, ServiceExt};

const KEEPS: (&str, &str) = ("cache-control", "max-age=60");

fn put(headers: &[(&str, &str)]) -> Asked {
    let mut request = get(headers);
    *request.method_mut() = Method::PUT;
    request
}

/// A proxy writes its backend into the URI, and leaves `Host` as it was.
#[tokio::test(start_paused = true)]
async fn what_another_host_was_told_is_not_for_this_one() {
    let store = store(HttpRules::private());
    let layer = layer(&store);
    let origin = Origin::new(|request| {
        let host = request.headers().get("host").map_or("none", |host| host.to_str().unwrap());
        Ok(response(200, &[KEEPS], host))
    });
    for host in ["tenant-a", "tenant-b", "tenant-a"] {
        assert_eq!(body(&layer, &origin, &[("host", host)]).await, host);
    }
    assert_eq!((body(&layer, &origin, &[]).await.as_str(), origin.calls(), store.len()), ("none", 3, 3));
    // It says no more than the URI does.
    assert_eq!(body(&layer, &origin, &[("host", "Search.example")]).await, "none");
    seen(&layer, &origin, put(&[("host", "tenant-a")])).await.unwrap();
    assert_eq!(body(&layer, &origin, &[("host", "tenant-b")]).await, "tenant-b");
    assert_eq!((store.len(), origin.calls()), (2, 4), "a write is of its host, too");
}

#[tokio::test(start_paused = true)]
async fn whatever_carries_a_credential_is_neither_kept_nor_answered_from_the_store() {
    let layer = layer(&store(HttpRules::shared()));
    let origin = Origin::of(200, &[("cache-control", "max-age=60, public")]);
    body(&layer, &origin, &[]).await;
    let known = [
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-api-key",
        "api-key",
        "dd-api-key",
        "dd-application-key",
        "x-auth-token",
        "x-amz-security-token",
        "x-csrf-token",
    ];
    for (calls, name) in known.into_iter().enumerate() {
        body(&layer, &origin, &[(name, "a")]).await;
        assert_eq!(origin.calls(), calls + 2, "{name}");
    }
    let mut secret = HeaderValue::from_static("b");
    secret.set_sensitive(true);
    let mut request = get(&[]);
    request.headers_mut().insert("x-ours", secret);
    seen(&layer, &origin, request).await.unwrap();
    assert_eq!(origin.calls(), known.len() + 2, "what is marked as sensitive");
    assert_eq!(body(&layer, &origin, &[]).await, "1");
    // A write with credentials forgets what everybody was told.
    seen(&layer, &origin, put(&[("authorization", "a")])).await.unwrap();
    assert_ne!(body(&layer, &origin, &[]).await, "1");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_parsed_forbids_to_keep() {
    let cases: [(&str, &[u8]); 6] = [
        ("cache-control", b"no-store, x=\"\xe9\""),
        ("cache-control", b"max-age=60, x=\xff"),
        ("cache-control", b"x=\"a, no-store"),
        ("cache-control", b"x=\"\\\"\", y=\"\\\"\", no-store"),
        ("vary", b"accept\xe9"),
        ("vary", b"accept language"),
    ];
    for (name, value) in cases {
        let layer = layer(&LastGood::new(HttpRules::private()));
        let origin = Origin::new(move |_| {
            let mut response = response(200, &[], "x");
            response.headers_mut().insert(name, HeaderValue::from_bytes(value).unwrap());
            Ok(response)
        });
        for _ in 0..2 {
            body(&layer, &origin, &[]).await;
        }
        assert_eq!(origin.calls(), 2, "{name}: {}", String::from_utf8_lossy(value));
    }
}

/// RFC 9111 § 4.2.4.
#[tokio::test(start_paused = true)]
async fn nothing_is_served_unasked_beyond_the_lifetime_that_it_came_with() {
    for (fields, after, ttl) in [
        (("cache-control", "max-age=60, must-revalidate"), 60, 60),
        (("cache-control", "max-age=60"), 60, 60),
        (("cache-control", "max-age=0"), 0, 60),
        (("expires", "0"), 0, 60),
        (("x-none", "1"), 0, 0),
    ] {
        for _ in 0..20 {
            let layer = layer(&LastGood::new(HttpRules::private()).ttl(secs(ttl)));
            let origin = Origin::new(move |_| Ok(response(200, &[fields], "x")));
            body(&layer, &origin, &[]).await;
            advance(secs(after)).await;
            let answer = seen(&layer, &origin, get(&[])).await.unwrap();
            assert_eq!((origin.calls(), answer.level, answer.cache), (2, 0, None), "{fields:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_fresh_is_of_level_0_also_while_it_is_refreshed() {
    let layer = layer(&LastGood::new(HttpRules::private()).refresh_jitter(50));
    let origin = Origin::of(200, &[("cache-control", "max-age=100")]);
    body(&layer, &origin, &[]).await;
    for _ in 0..200 {
        advance(secs(1)).await;
        let answer = seen(&layer, &origin, get(&[])).await.unwrap();
        assert_eq!(answer.level, 0, "{answer:?}");
    }
    assert!(origin.calls() >= 3);
}

/// What answers 304 to a condition, and else `whole`.
fn conditional(of_304: &'static [(&'static str, &'static str)]) -> Origin {
    Origin::new(move |request| {
        Ok(if request.headers().contains_key("if-none-match") {
            response(304, of_304, "")
        } else {
            let language = request.headers().get("accept-language").map_or("whole", |v| v.to_str().unwrap());
            response(200, &[("cache-control", "max-age=10"), ("etag", "\"v1\"")], language)
        })
    })
}

/// RFC 9111 § 4.3.4, RFC 9110 § 8.8.3.2.
#[tokio::test(start_paused = true)]
async fn a_304_never_reaches_a_caller_who_set_no_condition() {
    for (fields, kept) in [
        (&[("etag", "W/\"v1\"")][..], 1),
        (&[("etag", "\"v1\""), ("cache-control", "no-store")], 0),
        (&[("etag", "\"v2\"")], 0),
    ] {
        let store = store(HttpRules::private());
        let (layer, origin) = (layer(&store), conditional(fields));
        body(&layer, &origin, &[]).await;
        advance(secs(11)).await;
        let answer = seen(&layer, &origin, get(&[])).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str(), answer.level), (200, "whole", 0), "{fields:?}");
        assert_eq!(store.len(), kept, "{fields:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_degraded_304_renews_nothing() {
    let layer = layer(&store(HttpRules::private()));
    let origin = conditional(&[("etag", "\"v1\""), ("buttress-degradation", "2; components=\"db\"")]);
    body(&layer, &origin, &[]).await;
    advance(secs(11)).await;
    for calls in [2, 3] {
        let answer = seen(&layer, &origin, get(&[])).await.unwrap();
        let seen = (answer.status, answer.body.as_str(), answer.level, origin.calls());
        assert_eq!(seen, (200, "whole", 2, calls));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_304_varies_on_counts_from_then_on() {
    let layer = layer(&store(HttpRules::private()));
    let origin =
        conditional(&[("etag", "\"v1\""), ("vary", "accept-language"), ("cache-control", "max-age=9")]);
    for _ in 0..2 {
        assert_eq!(body(&layer, &origin, &[("accept-language", "de")]).await, "de");
        advance(secs(11)).await;
    }
    assert_eq!(body(&layer, &origin, &[("accept-language", "en")]).await, "en");
}

#[tokio::test(start_paused = true)]
async fn a_newer_answer_that_may_not_be_kept_takes_the_older_one_away() {
    type Fields = &'static [(&'static str, &'static str)];
    let cases: [(u16, Fields, usize); 8] = [
        (200, &[("cache-control", "no-store")], 0),
        (200, &[("cache-control", "max-age=0, must-revalidate")], 0),
        (200, &[("vary", "*")], 0),
        (200, &[("content-length", "9999999")], 0),
        (410, &[("cache-control", "no-store")], 0),
        (200, &[("cache-control", "no-store"), ("buttress-degradation", "2")], 1),
        (404, &[("cache-control", "no-store")], 1),
        (500, &[("cache-control", "no-store")], 1),
    ];
    for (status, fields, kept) in cases {
        let store = store(HttpRules::private());
        let layer = layer(&store);
        let origin = Origin::of(200, &[("cache-control", "max-age=1")]);
        body(&layer, &origin, &[]).await;
        advance(secs(2)).await;
        origin.then(move |_| Ok(response(status, fields, "newer")));
        seen(&layer, &origin, get(&[])).await.ok();
        assert_eq!(store.len(), kept, "{status} {fields:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_of_a_request_prints_none_of_its_headers() {
    let request = get(&[("authorization", "Bearer hidden"), ("x-api-key", "hidden")]);
    let rules = HttpRules::private();
    let asked = Recall::<Asked, http::Response<Body>>::asked(&rules, &request);
    assert!(!format!("{asked:?}").contains("hidden"));
}

/// RFC 9111 § 4.4: 2xx and 3xx. Else whoever is refused could empty the store.
#[tokio::test(start_paused = true)]
async fn only_a_write_that_was_done_forgets_what_was_read() {
    type Fields = &'static [(&'static str, &'static str)];
    let cases: [(u16, Fields, usize); 6] = [
        (204, &[], 0),
        (303, &[], 0),
        (200, &[("buttress-degradation", "1")], 0),
        (401, &[], 1),
        (404, &[], 1),
        (503, &[], 1),
    ];
    for (status, fields, kept) in cases {
        let store = store(HttpRules::private());
        let layer = layer(&store);
        let origin = Origin::of(200, &[KEEPS]);
        body(&layer, &origin, &[]).await;
        origin.then(move |_| Ok(response(status, fields, "")));
        seen(&layer, &origin, put(&[])).await.unwrap();
        assert_eq!(store.len(), kept, "{status} {fields:?}");
    }
}

/// RFC 9111 § 4.4: what the answer to a write names is out of date, too, unless it is somebody else's.
#[tokio::test(start_paused = true)]
async fn what_a_write_says_that_it_has_changed_is_forgotten_too() {
    const READ: &str = "http://search.example/q?x=1";
    let cases: [(u16, &str, &'static str, usize); 5] = [
        (201, "location", "/q?x=1", 0),
        (200, "content-location", READ, 0),
        (200, "content-location", "http://other.example/q?x=1", 1),
        (404, "location", READ, 1),
        (200, "link", READ, 1),
    ];
    for (status, field, says, kept) in cases {
        let store = store(HttpRules::private());
        let layer = layer(&store);
        let origin = Origin::of(200, &[KEEPS]);
        body(&layer, &origin, &[]).await;
        origin.then(move |_| Ok(response(status, &[(field, says)], "")));
        let mut write = put(&[]);
        *write.uri_mut() = "http://search.example/orders".parse().unwrap();
        seen(&layer, &origin, write).await.unwrap();
        assert_eq!(store.len(), kept, "{status} {field}: {says}");
    }
}

/// A client's body is a part of what it has read at once, and so are its header fields.
#[tokio::test(start_paused = true)]
async fn the_bound_is_that_of_the_memory_that_is_held() {
    struct Buffer(Vec<u8>, Arc<AtomicUsize>);
    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Buffer {
        fn drop(&mut self) {
            self.1.fetch_sub(self.0.len(), Relaxed);
        }
    }
    const BOUND: usize = 1024 * 1024;
    let held = Arc::new(AtomicUsize::new(0));
    let read = {
        let held = Arc::clone(&held);
        move |start: &[u8]| {
            let mut buffer = vec![b'x'; 64 * 1024];
            buffer[..start.len()].copy_from_slice(start);
            held.fetch_add(buffer.len(), Relaxed);
            Bytes::from_owner(Buffer(buffer, Arc::clone(&held))).slice(..start.len())
        }
    };
    let store = store(HttpRules::private()).max_bytes(BOUND);
    let layer = layer(&store);
    let origin = Origin::new(move |request| {
        let renewed = request.headers().contains_key("if-none-match");
        let mut response = Response::builder().status(if renewed { 304 } else { 200 });
        for (name, value) in [("cache-control", "max-age=60"), ("etag", "\"v1\""), ("x-one", "value")] {
            let value = HeaderValue::from_maybe_shared(read(value.as_bytes())).unwrap();
            response = response.header(name, value);
        }
        let body = if renewed { Bytes::new() } else { read(b"body") };
        Ok(response.body(Full::new(body)).unwrap())
    });
    for round in 0..2 {
        for n in 0..100 {
            let mut request = get(&[]);
            *request.uri_mut() = format!("http://search.example/{n}").parse().unwrap();
            assert_eq!(seen(&layer, &origin, request).await.unwrap().body, "body");
        }
        assert_eq!((store.len(), held.load(Relaxed)), (100, 0), "round {round}");
        advance(secs(61)).await;
    }
    assert_eq!(origin.calls(), 200);
}

/// RFC 6265 § 4.1: a cookie is set by whoever answers, now.
#[tokio::test(start_paused = true)]
async fn a_cookie_is_set_once_and_not_with_each_answer_from_the_store() {
    let layer = layer(&store(HttpRules::private()));
    let origin = Origin::new(|request| {
        let status = if request.headers().contains_key("if-none-match") { 304 } else { 200 };
        Ok(response(status, &[KEEPS, ("etag", "\"v1\""), ("set-cookie", "session=1")], "x"))
    });
    let service = layer.layer(origin.service());
    let mut cookies = Vec::new();
    for wait in [0, 1, 60] {
        advance(secs(wait)).await;
        let answer = service.clone().oneshot(get(&[])).await.unwrap();
        cookies.push(answer.headers().contains_key("set-cookie"));
        answer.into_body().collect().await.unwrap();
        settle().await;
    }
    assert_eq!((cookies, origin.calls()), (vec![true, false, false], 2));
}
