use super::*;

use std::convert::Infallible;

use buttress_core::Mode;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};

/// IA-1
pub async fn the_second_call_gets_the_answer_of_the_first<St: ClaimStore>(store: St) {
    let (one, other) = (Rig::open(&store), Rig::open(&store));
    let first = one.post("k1", "100").await;
    let mut second = other.post("k1", "100").await;
    assert_eq!((first.seen(), second.seen()), ((201, false), (201, true)));
    assert_eq!((one.handler.calls(), other.handler.calls()), (1, 0));
    second.headers.remove("idempotent-replayed");
    assert_eq!(first, second, "but for the marker");
    assert_eq!((one.log.take(), other.log.take()), (vec![Is::Executed], vec![Is::Replayed]));
    assert_eq!(one.post("k2", "100").await.seen(), (201, false), "another key is another call");
}

/// IA-5
pub async fn a_key_is_good_for_one_request<St: ClaimStore>(store: St) {
    let rig = Rig::open(&store);
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
    for status in [StatusCode::BAD_REQUEST, StatusCode::CONFLICT] {
        let keys = HttpKeys::stripe_v1().mismatch(status);
        let chosen = Rig::new(&store, Config::new(), keys, Handler::open());
        assert_eq!(chosen.post("k1", "101").await.seen(), (status.as_u16(), false));
    }
}

/// IA-5: also while the first is under way, in this process and in another.
pub async fn a_call_under_way_has_its_key_for_itself<St: ClaimStore>(store: St) {
    let waiting = Config::new().in_flight(InFlight::Wait(Duration::from_secs(60)));
    let (rig, other) = (Rig::shut(&store, waiting.clone()), Rig::shut(&store, waiting));
    let first = rig.spawn(post("k1", "100"));
    rig.handler.called(1).await;
    assert_eq!(rig.post("k1", "101").await.seen(), (422, false));
    assert_eq!(other.post("k1", "101").await.seen(), (422, false));
    rig.handler.release();
    assert_eq!(first.await.unwrap().seen(), (201, false));
    assert_eq!(other.handler.calls(), 0);
}

/// IA-7
pub async fn json_in_another_order_and_other_headers_are_the_same_request<St: ClaimStore>(store: St) {
    let keys = HttpKeys::default().canonical_json();
    let rig = Rig::new(&store, Config::new(), keys, Handler::open());
    rig.post("k1", r#"{"amount":100,"to":"alice"}"#).await;
    let mut retry = post("k1", r#"{ "to": "alice", "amount": 100 }"#);
    retry.headers_mut().insert("traceparent", HeaderValue::from_static("00-1-2-01"));
    assert_eq!(rig.send(retry).await.seen(), (201, true));
    assert_eq!(rig.post("k1", r#"{"amount":101,"to":"alice"}"#).await.seen(), (422, false));
    assert_eq!(rig.post("k2", "no json").await.seen(), (201, false));
    assert_eq!(rig.post("k2", "no json").await.seen(), (201, true));
}

/// A string of RFC 8941, or bare.
pub async fn a_quoted_key_is_the_same_as_a_bare_one<St: ClaimStore>(store: St) {
    let rig = Rig::open(&store);
    rig.post("\"k1\"", "100").await;
    assert_eq!(rig.post("k1", "100").await.seen(), (201, true));
}

/// With 400, before anything is claimed.
pub async fn what_is_no_key_is_refused_and_a_missing_one_where_it_is_required<St: ClaimStore>(store: St) {
    let rig = Rig::open(&store);
    let long = "k".repeat(256);
    for bad in ["", "\"\"", &long, "a\tb", "\"open"] {
        let refused = rig.post(bad, "100").await;
        assert_eq!((refused.status, rig.handler.calls()), (StatusCode::BAD_REQUEST, 0), "{bad:?}");
    }
    let mut two = post("k1", "100");
    two.headers_mut().append("idempotency-key", HeaderValue::from_static("k2"));
    assert_eq!(rig.send(two).await.status, 400);
    assert!(rig.log.take().iter().all(|result| *result == Is::Invalid));

    let keyless = || Request::post("/charges").body(Full::from("100")).unwrap();
    assert_eq!(rig.send(keyless()).await.seen(), (201, false));
    assert_eq!(rig.send(keyless()).await.seen(), (201, false));
    let required = Rig::new(&store, Config::new(), HttpKeys::default().required(), Handler::open());
    let refused = required.send(keyless()).await;
    assert_eq!((refused.status, required.handler.calls()), (StatusCode::BAD_REQUEST, 0));
    let get = Request::get("/charges").body(Full::default()).unwrap();
    assert_eq!(required.send(get).await.status, 201, "what is idempotent by itself is not guarded");
}

/// IA-32
pub async fn headers_are_replayed_but_for_those_of_the_connection_and_the_date<St: ClaimStore>(store: St) {
    let rig = Rig::open(&store);
    let service = || {
        rig.layer.layer(service_fn(|_: Request<_>| async {
            let latin = HeaderValue::from_bytes(b"caf\xe9").unwrap();
            let response = Response::builder().header("set-cookie", "a").header("set-cookie", "b");
            let response =
                response.header("x-latin", latin).header("date", "now").header("connection", "close");
            Ok::<_, Infallible>(response.body(Full::<Bytes>::from("x")).unwrap())
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
pub async fn tenants_do_not_see_each_others_keys<St: ClaimStore>(store: St) {
    #[derive(Clone)]
    struct Tenant(&'static str);
    let keys = HttpKeys::default()
        .scope(|parts| parts.extensions.get::<Tenant>().map_or("", |tenant| tenant.0).into());
    let rig = Rig::new(&store, Config::new(), keys, Handler::open());
    let of = |tenant, body| {
        let mut request = post("k1", body);
        request.extensions_mut().insert(Tenant(tenant));
        request
    };
    assert_eq!(rig.send(of("a", "100")).await.seen(), (201, false));
    assert_eq!(rig.send(of("b", "100")).await.seen(), (201, false));
    assert_eq!(rig.send(of("c", "101")).await.seen(), (201, false), "nor what was sent with them");
    assert_eq!(rig.send(of("a", "100")).await.seen(), (201, true));
    let claims = rig.handler.claims();
    assert_ne!(claims[0].derive("charge"), claims[1].derive("charge"));
}

/// IA-24: the request.
pub async fn a_request_over_the_cap_is_refused_or_passes_with_and_without_a_length<St: ClaimStore>(
    store: St,
) {
    let declared = |key| {
        let mut request = post(key, "four");
        request.headers_mut().insert("content-length", HeaderValue::from_static("4"));
        request
    };
    let keys = HttpKeys::default().request_cap(3);
    let rig = Rig::new(&store, Config::new(), keys.clone(), Handler::open());
    for large in [post("k1", "four"), declared("k1")] {
        let refused = rig.send(large).await;
        assert_eq!((refused.status, rig.handler.calls()), (StatusCode::PAYLOAD_TOO_LARGE, 0));
    }
    assert_eq!(rig.log.take(), [Is::Invalid, Is::Invalid]);
    assert_eq!(rig.post("k1", "100").await.status, 201, "nothing was claimed");
    let keyless = Request::post("/charges").body(Full::from("four")).unwrap();
    assert_eq!(rig.send(keyless).await.status, 201, "what is not guarded passes");

    let rig = Rig::new(&store, Config::new(), keys.pass_larger(), Handler::open());
    for (number, large) in [post("k2", "four"), declared("k2"), post("k2", "four")].into_iter().enumerate() {
        let passed = rig.send(large).await;
        assert_eq!((passed.seen(), rig.handler.calls()), ((201, false), number + 1));
        assert_eq!(passed.headers["idempotent-unprotected"], "true");
    }
    assert_eq!(rig.log.take(), [Is::Unprotected; 3]);
    assert_eq!(rig.post("k2", "100").await.seen(), (201, false), "what is small enough is guarded");
    assert_eq!(rig.post("k2", "100").await.seen(), (201, true));
}

/// IA-24: a request that passes is sent on as a whole.
pub async fn nothing_of_a_request_that_passes_is_lost<St: ClaimStore>(store: St) {
    let keys = HttpKeys::default().request_cap(3).pass_larger();
    let rig = Rig::new(&store, Config::new(), keys, Handler::open());
    let echo = rig.layer.layer(service_fn(async |request: Request<_>| {
        let got = Got::of(Response::new(request.into_body())).await;
        Ok::<_, Infallible>(Response::new(Full::new(got.body)))
    }));
    let passed = Got::of(echo.oneshot(post("k1", "four")).await.unwrap()).await;
    assert_eq!(passed.body, "four");
}

/// IA-24: the response.
pub async fn an_answer_over_the_cap_is_delivered_and_never_made_again<St: ClaimStore>(store: St) {
    let keys = HttpKeys::default().response_cap(3);
    let rig = Rig::new(&store, Config::new(), keys, Handler::open());
    let first = rig.post("k1", "100").await;
    assert_eq!((first.status, &first.body[..]), (StatusCode::CREATED, &b"answer 1"[..]));
    for _ in 0..2 {
        let second = rig.post("k1", "100").await;
        assert_eq!((second.status, second.retry_after()), (StatusCode::CONFLICT, None));
    }
    assert_eq!(rig.handler.calls(), 1);
    assert_eq!(rig.log.take(), [Is::TooLarge, Is::Replayed, Is::Replayed]);
}

/// The handler is shown a claim all the same: it may need a key for what lies below.
pub async fn observing_carries_everything_out_and_counts_the_duplicates<St: ClaimStore>(store: St) {
    let rig = Rig::open(&store);
    rig.idempotency.set_mode(Mode::Observe);
    for body in ["100", "100", "101"] {
        assert_eq!(rig.post("k1", body).await.seen(), (201, false));
    }
    assert_eq!(rig.post("", "100").await.seen(), (201, false));
    assert_eq!(rig.log.take(), [Is::Executed, Is::WouldReplay, Is::WouldRefuse, Is::WouldRefuse]);
    let claims: Vec<_> =
        rig.handler.claims().iter().map(|claim| (claim.epoch(), claim.derive("charge"))).collect();
    let derived = || claims[0].1.clone();
    assert_eq!(claims, [(1, derived()), (0, derived()), (0, derived())]);
    rig.idempotency.set_mode(Mode::Off);
    assert_eq!((rig.post("k1", "100").await.seen(), rig.log.take()), ((201, false), vec![]));
    rig.idempotency.set_mode(Mode::Enforce);
    assert_eq!(rig.post("k1", "100").await.seen(), (201, true));
}
