use super::*;

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use buttress_core::Mode;
use buttress_idempotency::{Claim, Hash, Idempotency, Ran, RequestBody};
use buttress_store::ScopedKey;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Channel, Full};
use tower::{Layer, ServiceExt, service_fn};

use crate::faulty::{Faulty, Switch};

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
        let chosen = Rig::new(&store, config(), keys, Handler::open());
        assert_eq!(chosen.post("k1", "101").await.seen(), (status.as_u16(), false));
    }
}

/// IA-5: also while the first is under way, in this process and in another.
pub async fn a_call_under_way_has_its_key_for_itself<St: ClaimStore>(store: St) {
    let waiting = config().in_flight(InFlight::Wait(Duration::from_secs(60)));
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
    let rig = Rig::new(&store, config(), keys, Handler::open());
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
    let required = Rig::new(&store, config(), HttpKeys::default().required(), Handler::open());
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
    let rig = Rig::new(&store, config(), keys, Handler::open());
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

/// IA-34: what guards charges and what guards refunds may share a store, and a client may use one key for both.
pub async fn two_that_share_a_store_do_not_share_keys<St: ClaimStore>(store: St) {
    let of = |name: &str| Idempotency::new(name, store.clone(), config()).unwrap();
    let (charges, refunds) = (of("charges"), of("refunds"));
    let key = |scope: &str| ScopedKey::try_new(scope, "order-42").unwrap();
    let fingerprint = Hash::new().part("100 EUR").fingerprint();
    let charge = async |_| Ok::<_, io::Error>(String::from("charged"));
    let refund = async |claim: Claim| Ok::<_, io::Error>(format!("refunded with {}", claim.derive("bank")));
    let charged = charges.run(key("acme"), fingerprint, charge).await.unwrap();
    assert_eq!(charged, Ran::Executed("charged".into()));
    let refunded = refunds.run(key("acme"), fingerprint, refund).await.unwrap();
    assert!(matches!(&refunded, Ran::Executed(said) if said.starts_with("refunded")), "{refunded:?}");
    let again = charges.run(key("acme"), Hash::new().part("100 EUR").fingerprint(), charge).await.unwrap();
    assert_eq!(again, Ran::Replayed("charged".into()));
    // No name and scope look like others, however they are put together, or long.
    let long = "s".repeat(512);
    let hashed = format!("blake3:{}", blake3::hash(long.as_bytes()).to_hex());
    for (name, scope) in
        [("a", "bc"), ("ab", "c"), ("", "abc"), ("a", &long), ("as", &long[1..]), ("a", &hashed)]
    {
        let ran = of(name).run(key(scope), fingerprint, charge).await.unwrap();
        assert_eq!(ran, Ran::Executed("charged".into()), "{name} {}", scope.len());
    }
}

/// IA-5: a router that strips its own part of the path leaves the same request to two of them, unless what is compared says
/// otherwise.
pub async fn a_stripped_path_can_be_compared_as_it_came<St: ClaimStore>(store: St) {
    use axum::extract::OriginalUri;
    let keys = HttpKeys::default().fingerprint(|parts, body, hash| {
        let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |uri| &uri.0);
        hash.part(parts.method.as_str()).part(uri.to_string()).part(body)
    });
    let idempotency = Idempotency::new("charges", store, config()).unwrap();
    let charges = || {
        let charge = axum::routing::post(async || (StatusCode::CREATED, "charged"));
        axum::Router::new().route("/charges", charge).layer(idempotency.layer(keys.clone()))
    };
    let app = axum::Router::new().nest("/v1", charges()).nest("/v2", charges());
    let send = async |path: &str| {
        let request = Request::post(path).header("idempotency-key", "k1");
        let answer = app.clone().oneshot(request.body(axum::body::Body::from("100")).unwrap()).await.unwrap();
        Got::of(answer).await.seen()
    };
    assert_eq!(send("/v1/charges").await, (201, false));
    assert_eq!(send("/v1/charges").await, (201, true));
    assert_eq!(send("/v2/charges").await, (422, false));
}

/// IA-24: a request that breaks off is refused; where nothing is refused, its handler sees it break off, too.
pub async fn a_request_that_breaks_off_is_never_taken_for_a_whole_one<St: ClaimStore>(store: St) {
    let rig = Rig::open(&store);
    let seen: Arc<Mutex<Vec<bool>>> = Arc::default();
    let whole = Arc::clone(&seen);
    let service =
        rig.layer.layer(service_fn(move |request: Request<RequestBody<Channel<Bytes, io::Error>>>| {
            let whole = Arc::clone(&whole);
            async move {
                let body = request.into_body().collect().await;
                whole.lock().unwrap().push(body.is_ok());
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        }));
    let broken = || {
        let (sender, body) = Channel::<Bytes, io::Error>::new(4);
        let request = Request::post("/").header("idempotency-key", "k1").body(body).unwrap();
        (sender, request)
    };
    for (mode, status) in [(Mode::Enforce, 400), (Mode::Observe, 200), (Mode::Off, 200)] {
        rig.idempotency.set_mode(mode);
        let (mut sender, request) = broken();
        sender.send_data(Bytes::from_static(b"pay alice\n")).await.unwrap();
        sender.abort(io::Error::other("the client is gone"));
        assert_eq!(service.clone().oneshot(request).await.unwrap().status(), status, "{mode:?}");
    }
    assert_eq!(*seen.lock().unwrap(), [false, false]);
}

/// Functions obey the mode as well: nothing is asked of the store, whatever state that is in.
pub async fn switched_off_a_function_runs_each_time<St: ClaimStore>(store: St) {
    let store = Faulty::new(store);
    Switch::set(&store.switch.claims_fail, true);
    let idempotency = Idempotency::new("charges", store.clone(), config()).unwrap();
    let key = || ScopedKey::try_new("", "k1").unwrap();
    let fingerprint = Hash::new().fingerprint();
    let effect = async |claim: Claim| Ok::<_, io::Error>((claim.epoch(), claim.derive("bank")));
    idempotency.run(key(), fingerprint, effect).await.unwrap_err();
    idempotency.set_mode(Mode::Off);
    let ran = idempotency.run(key(), fingerprint, effect).await.unwrap();
    let Ran::Executed((0, derived)) = ran else { panic!("{ran:?}") };
    let inline = idempotency.run_inline(key(), fingerprint, effect).await.unwrap();
    assert_eq!(inline, Ran::Executed((0, derived.clone())));
    Switch::set(&store.switch.claims_fail, false);
    idempotency.set_mode(Mode::Enforce);
    assert_eq!(idempotency.run(key(), fingerprint, effect).await.unwrap(), Ran::Executed((1, derived)));
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
    let keys = HttpKeys::default().max_request_body(3);
    let rig = Rig::new(&store, config(), keys.clone(), Handler::open());
    for large in [post("k1", "four"), declared("k1")] {
        let refused = rig.send(large).await;
        assert_eq!((refused.status, rig.handler.calls()), (StatusCode::PAYLOAD_TOO_LARGE, 0));
    }
    assert_eq!(rig.log.take(), [Is::Invalid, Is::Invalid]);
    assert_eq!(rig.post("k1", "100").await.status, 201, "nothing was claimed");
    let keyless = Request::post("/charges").body(Full::from("four")).unwrap();
    assert_eq!(rig.send(keyless).await.status, 201, "what is not guarded passes");

    let rig = Rig::new(&store, config(), keys.pass_larger(), Handler::open());
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
    let keys = HttpKeys::default().max_request_body(3).pass_larger();
    let rig = Rig::new(&store, config(), keys, Handler::open());
    let echo = rig.layer.layer(service_fn(async |request: Request<_>| {
        let got = Got::of(Response::new(request.into_body())).await;
        Ok::<_, Infallible>(Response::new(Full::new(got.body)))
    }));
    let passed = Got::of(echo.oneshot(post("k1", "four")).await.unwrap()).await;
    assert_eq!(passed.body, "four");
}

/// IA-24: the response.
pub async fn an_answer_over_the_cap_is_delivered_and_never_made_again<St: ClaimStore>(store: St) {
    let keys = HttpKeys::default().max_response_body(3);
    let rig = Rig::new(&store, config(), keys, Handler::open());
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
