//! Whose answers a store keeps, and how long.
#![cfg(feature = "http")]

#[path = "support/origin.rs"]
mod origin;
mod support;

use buttress_degrade::{HttpRules, LastGood};
use http::{HeaderValue, Method};
use origin::{Asked, Origin, body, get, layer, response, seen, store};

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
