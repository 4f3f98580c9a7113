//! What is the same call, and what it is answered with.

mod support;

use std::time::Duration;

use buttress_core::{IdempotencyResult as Is, Mode};
use buttress_idempotency::{Config, HttpKeys, InFlight, Outcome};
use buttress_store::Memory;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use support::{Got, Handler, Rig, post, rig};
use tower::{Layer, ServiceExt, service_fn};

/// IA-1
#[tokio::test(start_paused = true)]
async fn the_second_call_gets_the_answer_of_the_first() {
    let rig = rig();
    let first = rig.post("k1", "100").await;
    let mut second = rig.post("k1", "100").await;
    assert_eq!((first.seen(), second.seen(), rig.handler.calls()), ((201, false), (201, true), 1));
    second.headers.remove("idempotent-replayed");
    assert_eq!(first, second);
    assert_eq!(rig.log.take(), [Is::Executed, Is::Replayed]);
    assert_eq!(rig.post("k2", "100").await.seen(), (201, false), "another key is another call");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_forgotten_after_its_time_to_live() {
    let rig = rig();
    rig.post("k1", "100").await;
    tokio::time::advance(Duration::from_secs(86_401)).await;
    assert_eq!(rig.post("k1", "100").await.seen(), (201, false));
}

/// IA-5
#[tokio::test(start_paused = true)]
async fn a_key_is_good_for_one_request() {
    let rig = rig();
    rig.post("k1", "100").await;
    let request = |method, path: &str| {
        let request = Request::builder().method(method).uri(path).header("idempotency-key", "k1");
        request.body(Full::from("100")).unwrap()
    };
    let others = [
        post("k1", "101"),
        request(Method::POST, "/refunds"),
        request(Method::POST, "/charges?x=1"),
        request(Method::PATCH, "/charges"),
    ];
    for other in others {
        let refused = rig.send(other).await;
        assert_eq!(refused.seen(), (422, false));
        assert_eq!(refused.headers["content-type"], "application/problem+json");
    }
    assert_eq!((rig.handler.calls(), rig.post("k1", "100").await.seen()), (1, (201, true)));
    let stripe = Rig::new(
        Memory::new(),
        Config::new(),
        HttpKeys::stripe_v1().mismatch(StatusCode::BAD_REQUEST),
        Handler::open(),
    );
    stripe.post("k1", "100").await;
    assert_eq!(stripe.post("k1", "101").await.seen(), (400, false));
}

/// IA-5: also while the first is under way.
#[tokio::test(start_paused = true)]
async fn a_call_under_way_has_its_key_for_itself() {
    let config = Config::new().in_flight(InFlight::Wait(Duration::from_secs(60)));
    let rig = Rig::new(Memory::new(), config, HttpKeys::default(), Handler::shut());
    let first = tokio::spawn(rig.start(post("k1", "100")));
    buttress_testkit::clock::settle().await;
    assert_eq!(rig.post("k1", "101").await.seen(), (422, false));
    rig.handler.release();
    first.await.unwrap().unwrap();
}

/// IA-7
#[tokio::test(start_paused = true)]
async fn json_in_another_order_and_other_headers_are_the_same_request() {
    let keys = HttpKeys::default().canonical_json();
    let rig = Rig::new(Memory::new(), Config::new(), keys, Handler::open());
    rig.post("k1", r#"{"amount":100,"to":"alice"}"#).await;
    let mut retry = post("k1", r#"{ "to": "alice", "amount": 100 }"#);
    retry.headers_mut().insert("traceparent", "00-1-2-01".parse().unwrap());
    assert_eq!(rig.send(retry).await.seen(), (201, true));
    assert_eq!(rig.post("k1", r#"{"amount":101,"to":"alice"}"#).await.seen(), (422, false));
    assert_eq!(rig.post("k2", "no json").await.seen(), (201, false));
    assert_eq!(rig.post("k2", "no json").await.seen(), (201, true));
}

#[tokio::test(start_paused = true)]
async fn a_quoted_key_is_the_same_as_a_bare_one() {
    let rig = rig();
    rig.post("\"k1\"", "100").await;
    assert_eq!(rig.post("k1", "100").await.seen(), (201, true));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_key_is_refused_and_a_missing_one_only_where_it_is_required() {
    let rig = rig();
    let long = "k".repeat(256);
    for bad in ["", "\"\"", &long, "a\tb", "\"open"] {
        let refused = rig.post(bad, "100").await;
        assert_eq!((refused.status, rig.handler.calls()), (StatusCode::BAD_REQUEST, 0), "{bad:?}");
    }
    let mut two = post("k1", "100");
    two.headers_mut().append("idempotency-key", "k2".parse().unwrap());
    assert_eq!(rig.send(two).await.status, 400);
    assert!(rig.log.take().iter().all(|result| *result == Is::Invalid));

    let keyless = || Request::post("/charges").body(Full::from("100")).unwrap();
    assert_eq!(rig.send(keyless()).await.seen(), (201, false));
    assert_eq!(rig.send(keyless()).await.seen(), (201, false));
    let required = Rig::new(Memory::new(), Config::new(), HttpKeys::default().required(), Handler::open());
    assert_eq!(
        (required.send(keyless()).await.status, required.handler.calls()),
        (StatusCode::BAD_REQUEST, 0)
    );
    let get = Request::get("/charges").body(Full::default()).unwrap();
    assert_eq!(required.send(get).await.status, 201, "what is idempotent by itself is not guarded");
}

/// IA-32
#[tokio::test(start_paused = true)]
async fn headers_are_replayed_but_for_those_of_the_connection_and_the_date() {
    let rig = rig();
    let service = || {
        rig.layer.layer(service_fn(|_: Request<_>| async {
            let latin = http::HeaderValue::from_bytes(b"caf\xe9").unwrap();
            let response = Response::builder().header("set-cookie", "a").header("set-cookie", "b");
            let response =
                response.header("x-latin", latin).header("date", "now").header("connection", "close");
            Ok::<_, std::convert::Infallible>(response.body(Full::<Bytes>::from("x")).unwrap())
        }))
    };
    let first = Got::of(service().oneshot(post("k1", "")).await.unwrap()).await;
    assert!(first.headers.contains_key("date") && first.headers.contains_key("connection"));
    let second = Got::of(service().oneshot(post("k1", "")).await.unwrap()).await;
    let cookies: Vec<_> = second.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a", "b"]);
    assert_eq!(second.headers["x-latin"].as_bytes(), b"caf\xe9");
    assert!(!second.headers.contains_key("date") && !second.headers.contains_key("connection"));
}

/// IA-34
#[tokio::test(start_paused = true)]
async fn tenants_do_not_see_each_others_keys() {
    #[derive(Clone)]
    struct Tenant(&'static str);
    let keys = HttpKeys::default()
        .scope(|parts| parts.extensions.get::<Tenant>().map_or("", |tenant| tenant.0).into());
    let rig = Rig::new(Memory::new(), Config::new(), keys, Handler::open());
    let of = |tenant| {
        let mut request = post("k1", "100");
        request.extensions_mut().insert(Tenant(tenant));
        request
    };
    assert_eq!(rig.send(of("a")).await.seen(), (201, false));
    assert_eq!(rig.send(of("b")).await.seen(), (201, false));
    assert_eq!(rig.send(of("a")).await.seen(), (201, true));
    let claims = rig.handler.claims.lock().unwrap();
    assert_ne!(claims[0].derive("charge"), claims[1].derive("charge"));
}

/// IA-30: what the second call sees, for each status of the first.
#[tokio::test(start_paused = true)]
async fn each_preset_stores_what_its_table_says() {
    const KEPT: (usize, bool) = (1, true);
    const FREE: (usize, bool) = (2, false);
    const HELD: (usize, bool) = (1, false);
    type Table = &'static [(u16, (usize, bool))];
    let presets: [(fn() -> HttpKeys, Table); 3] = [
        (
            HttpKeys::http_default,
            &[
                (200, KEPT),
                (302, KEPT),
                (400, KEPT),
                (402, KEPT),
                (404, KEPT),
                (408, FREE),
                (409, FREE),
                (425, FREE),
                (429, FREE),
                (500, KEPT),
                (501, KEPT),
                (502, HELD),
                (503, HELD),
                (504, HELD),
            ],
        ),
        (
            HttpKeys::stripe_v1,
            &[(201, KEPT), (402, KEPT), (409, KEPT), (429, KEPT), (500, KEPT), (503, KEPT)],
        ),
        (
            HttpKeys::success_only,
            &[(201, KEPT), (302, KEPT), (402, FREE), (409, FREE), (500, FREE), (503, FREE)],
        ),
    ];
    for (preset, table) in presets {
        for (status, expected) in table {
            let handler = Handler::answering([*status]);
            let rig = Rig::new(Memory::new(), Config::new(), preset(), handler);
            assert_eq!(rig.post("k1", "100").await.seen(), (*status, false));
            let second = rig.post("k1", "100").await;
            assert_eq!((rig.handler.calls(), second.is_replayed()), *expected, "{status} {second:?}");
            if *expected == HELD {
                assert_eq!(second.status, 409);
                tokio::time::advance(Duration::from_secs(31)).await;
                assert_eq!(rig.post("k1", "100").await.seen(), (201, false), "rerun once the lease is over");
            }
        }
    }
}

/// IA-30: a 409 that *was* the answer.
#[tokio::test(start_paused = true)]
async fn a_closure_decides_where_the_preset_is_wrong() {
    let keys = HttpKeys::default()
        .judge(|status, _| (status == StatusCode::CONFLICT).then_some(Outcome::Definitive));
    let rig = Rig::new(Memory::new(), Config::new(), keys, Handler::answering([409]));
    rig.post("k1", "100").await;
    assert_eq!(rig.post("k1", "100").await.seen(), (409, true));
}

/// IA-24: the request.
#[tokio::test(start_paused = true)]
async fn a_request_over_the_cap_is_refused_with_and_without_a_length() {
    let keys = HttpKeys::default().request_cap(3);
    let rig = Rig::new(Memory::new(), Config::new(), keys, Handler::open());
    assert_eq!(rig.post("k1", "four").await.status, 413);
    let mut declared = post("k1", "");
    declared.headers_mut().insert("content-length", "4".parse().unwrap());
    assert_eq!((rig.send(declared).await.status, rig.handler.calls()), (StatusCode::PAYLOAD_TOO_LARGE, 0));
    assert_eq!(rig.post("k1", "100").await.status, 201);
    let keyless = Request::post("/charges").body(Full::from("four")).unwrap();
    assert_eq!(rig.send(keyless).await.status, 201, "what is not guarded passes");
}

/// IA-24: the response.
#[tokio::test(start_paused = true)]
async fn an_answer_over_the_cap_is_delivered_and_never_made_again() {
    let keys = HttpKeys::default().response_cap(3);
    let rig = Rig::new(Memory::new(), Config::new(), keys, Handler::open());
    let first = rig.post("k1", "100").await;
    assert_eq!((first.status, &first.body[..]), (StatusCode::CREATED, &b"answer 1"[..]));
    let second = rig.post("k1", "100").await;
    assert_eq!((second.status, second.retry_after(), rig.handler.calls()), (StatusCode::CONFLICT, None, 1));
    assert_eq!(rig.log.take(), [Is::TooLarge, Is::Replayed]);
}

#[tokio::test(start_paused = true)]
async fn observing_carries_everything_out_and_counts_the_duplicates() {
    let rig = rig();
    rig.idempotency.set_mode(Mode::Observe);
    for body in ["100", "100", "101"] {
        assert_eq!(rig.post("k1", body).await.seen(), (201, false));
    }
    assert_eq!(rig.post("", "100").await.seen(), (201, false));
    assert_eq!(rig.log.take(), [Is::Executed, Is::WouldReplay, Is::WouldRefuse, Is::WouldRefuse]);
    rig.idempotency.set_mode(Mode::Off);
    assert_eq!((rig.post("k1", "100").await.seen(), rig.log.take()), ((201, false), vec![]));
    rig.idempotency.set_mode(Mode::Enforce);
    assert_eq!(rig.post("k1", "100").await.seen(), (201, true));
}
