//! The facade's stack for gRPC, over a transport that is no more than a function.
#![cfg(feature = "grpc")]

use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::circuit_breaker::{CircuitState, Config};
use buttress::grpc::ServiceConfig;
use buttress::http::ReplayBody;
use buttress::{BoxError, GrpcBuilder, Mode, Refused, RequestExt, ResponseExt, Stop, find};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::Instant;
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt};

type Ask = Request<ReplayBody<Full<Bytes>>>;
type Transport = BoxCloneService<Ask, Response<Full<Bytes>>, Infallible>;

/// Answers with these codes in turn, the last of them for ever; and how often it was asked.
fn transport(codes: &'static [u16]) -> (Transport, Arc<Mutex<usize>>) {
    let calls = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&calls);
    let transport = tower::service_fn(move |_: Ask| {
        let mut calls = counted.lock().unwrap();
        let code = codes[(*calls).min(codes.len() - 1)];
        *calls += 1;
        ready(Ok(Response::builder().header("grpc-status", code).body(Full::default()).unwrap()))
    });
    (BoxCloneService::new(transport), calls)
}

/// One call through this stack: its code and its attempts, or the error; and how often the transport was asked.
async fn call(
    builder: GrpcBuilder,
    codes: &'static [u16],
    path: &str,
) -> (Result<(String, u32), BoxError>, usize) {
    let (transport, calls) = transport(codes);
    let service = builder.build().unwrap().layer(transport);
    let request = Request::post(format!("http://greeter{path}")).body(Full::<Bytes>::from("ask")).unwrap();
    let outcome = service.oneshot(request).await.map(|response| {
        (response.headers()["grpc-status"].to_str().unwrap().to_owned(), response.attempts())
    });
    let calls = *calls.lock().unwrap();
    (outcome, calls)
}

const HELLO: &str = "/helloworld.Greeter/SayHello";

#[tokio::test(start_paused = true)]
async fn only_what_is_named_is_repeated() {
    let named = || buttress::grpc("greeter").repeatable("helloworld.Greeter/SayHello");
    let (outcome, calls) = call(named(), &[14, 0], HELLO).await;
    assert_eq!((outcome.unwrap(), calls), (("0".into(), 2), 2));
    let (outcome, calls) = call(named(), &[14, 0], "/helloworld.Greeter/Order").await;
    assert_eq!((outcome.unwrap(), calls), (("14".into(), 1), 1));
    let (outcome, calls) = call(named(), &[3, 0], HELLO).await;
    assert_eq!((outcome.unwrap(), calls), (("3".into(), 1), 1), "the caller's fault");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_asked_for_again_says_why() {
    for (path, stop) in [(HELLO, Stop::MaxRetries), ("/helloworld.Greeter/Order", Stop::NotIdempotent)] {
        let layer = buttress::grpc("greeter").repeatable("helloworld.Greeter/SayHello").background();
        let request = Request::post(format!("http://greeter{path}")).body(Full::<Bytes>::default()).unwrap();
        let response = layer.build().unwrap().layer(transport(&[14]).0).oneshot(request).await.unwrap();
        assert_eq!(
            (&response.headers()["grpc-status"], response.gave_up()),
            (&"14".parse().unwrap(), Some(stop))
        );
    }
}

#[test]
fn a_stack_says_what_it_does_in_its_order() {
    let layer = buttress::grpc("greeter").repeatable("helloworld.Greeter").build().unwrap();
    let layers: Vec<_> = layer.explain().layers().iter().map(|(name, _)| *name).collect();
    let order = ["call", "deadline (total)", "retry", "circuit breaker", "deadline (attempt)", "attempt"];
    assert_eq!((layers, layer.explain().warnings()), (order.to_vec(), &[][..]));
    let text = layer.explain().to_string();
    assert!(
        text.contains("may be repeated: 1 name") && text.contains("exactly when the server asks"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_config_brings_its_policies_and_its_throttle() {
    let config = ServiceConfig::from_json(
        r#"{ "methodConfig": [{ "name": [{ "service": "helloworld.Greeter" }], "retryPolicy": {
                "maxAttempts": 5, "initialBackoff": "1s", "maxBackoff": "4s", "backoffMultiplier": 2,
                "retryableStatusCodes": ["ABORTED"] } }],
             "retryThrottling": { "maxTokens": 100, "tokenRatio": 0.1 } }"#,
    );
    let builder =
        || buttress::grpc("greeter").service_config(config.clone().unwrap()).total(Duration::from_secs(60));
    assert_eq!(builder().build().unwrap().retry().budget().tokens(), 100.0);
    let started = Instant::now();
    let (outcome, calls) = call(builder(), &[10], HELLO).await;
    assert_eq!((outcome.unwrap(), calls), (("10".into(), 5), 5));
    // 1 + 2 + 4 + 4 s, ± 20 %.
    let took = started.elapsed().as_secs_f64();
    assert!((11.0 * 0.8..11.0 * 1.2).contains(&took), "{took}");
    assert_eq!(call(builder(), &[14], HELLO).await.1, 1, "not on the list");
}

#[tokio::test(start_paused = true)]
async fn in_the_background_an_open_circuit_is_waited_for() {
    for background in [true, false] {
        let builder = buttress::grpc("greeter").repeatable("helloworld.Greeter");
        let builder = if background { builder.background() } else { builder.user_facing() };
        let builder = builder.circuit_breaker(Config::standard().open_for(Duration::from_secs(1)));
        let layer = builder.build().unwrap();
        let handle = layer.circuit_breaker().handle();
        handle.open_for(Duration::from_secs(1));
        let (transport, calls) = transport(&[0]);
        let request = Request::post(format!("http://greeter{HELLO}")).body(Full::<Bytes>::default()).unwrap();
        let outcome = layer.layer(transport).oneshot(request).await;
        if background {
            assert_eq!((outcome.unwrap().attempts() > 1, *calls.lock().unwrap()), (true, 1));
        } else {
            assert!(find::<Refused>(&*outcome.unwrap_err()).is_some());
            assert_eq!((*calls.lock().unwrap(), handle.state()), (0, CircuitState::Open));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_that_a_short_total_cuts_off_open_the_circuit() {
    let layer = buttress::grpc("greeter").total(Duration::from_secs(2)).build().unwrap();
    let hangs =
        || tower::service_fn(|_: Ask| std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>());
    for _ in 0..5 {
        let request = Request::post(format!("http://greeter{HELLO}")).body(Full::<Bytes>::default()).unwrap();
        layer.layer(hangs()).oneshot(request).await.unwrap_err();
    }
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn its_mode_is_that_of_all_its_layers() {
    let layer = buttress::grpc("greeter").repeatable("helloworld.Greeter").build().unwrap();
    layer.set_mode(Mode::Observe);
    let (transport, calls) = transport(&[14]);
    for _ in 0..20 {
        let request = Request::post(format!("http://greeter{HELLO}")).body(Full::<Bytes>::default()).unwrap();
        layer.layer(transport.clone()).oneshot(request).await.unwrap();
    }
    assert_eq!(*calls.lock().unwrap(), 20, "neither retried nor refused");
}

#[test]
fn whoever_says_how_long_all_of_it_may_take_is_not_told_otherwise_by_a_preset() {
    let (total, change) =
        (std::time::Duration::from_secs(30), |retry: buttress::retry::Config| retry.max_retries(3));
    for (stack, limited) in [
        (buttress::grpc("x").map_retry(change), true),
        (buttress::grpc("x").total(total).map_retry(change), false),
        (buttress::grpc("x").map_retry(change).total(total), false),
        (buttress::grpc("x").total(total).map_retry(|retry| retry.max_total_wait(total / 3)), true),
    ] {
        let explained = stack.silent().build().unwrap().explain().to_string();
        assert_eq!(explained.contains("none starts later than 10 s"), limited, "{explained}");
    }
}

#[test]
fn what_is_wrong_is_an_error_when_it_is_built() {
    assert_eq!(buttress::grpc("").build().unwrap_err().field(), "name");
    assert_eq!(buttress::grpc("x").total(Duration::ZERO).build().unwrap_err().field(), "limit");
    assert_eq!(buttress::grpc("x").attempt(Duration::ZERO).build().unwrap_err().field(), "limit");
}

#[tokio::test(start_paused = true)]
async fn a_layer_per_attempt_is_asked_for_each_of_them_and_stands_above_the_circuit() {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let given = Arc::clone(&tokens);
    let token = tower::util::MapRequestLayer::new(move |mut request: Ask| {
        let mut given = given.lock().unwrap();
        let token = format!("Bearer {}", given.len());
        request.headers_mut().insert("authorization", token.parse().unwrap());
        given
            .push(request.extensions().get::<buttress::core::Carried>().map_or(0, |carried| carried.attempt));
        request
    });
    let builder = buttress::grpc("greeter").background().repeatable("helloworld.Greeter/SayHello");
    let limit = tower::limit::ConcurrencyLimitLayer::new(1);
    let layer = builder.per_attempt(limit).per_attempt(token).build().unwrap();
    let transport = tower::service_fn(|request: Ask| {
        let code = if request.headers()["authorization"] == "Bearer 2" { 0 } else { 14 };
        ready(Ok::<_, Infallible>(
            Response::builder().header("grpc-status", code).body(Full::<Bytes>::default()).unwrap(),
        ))
    });
    let ask = || Request::post(format!("http://greeter{HELLO}")).body(Full::<Bytes>::from("ask")).unwrap();
    let service = layer.layer(transport);
    let response = service.clone().oneshot(ask()).await.unwrap();
    assert_eq!((&response.headers()["grpc-status"], response.attempts()), (&"0".parse().unwrap(), 3));
    layer.circuit_breaker().handle().isolate();
    service.oneshot(ask().with_max_retries(0)).await.unwrap_err();
    assert_eq!(*tokens.lock().unwrap(), [0, 2, 3, 0], "a refusal of the circuit was an attempt, too");
    let explanation = layer.explain();
    let layers = explanation.layers();
    assert_eq!(layers[3], ("per attempt", "ConcurrencyLimitLayer, then MapRequestLayer".into()));
    assert_eq!(layers[4].0, "circuit breaker");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_ill_opens_no_circuit_but_its_own() {
    let layer = buttress::grpc("shards").build_per_host().unwrap();
    let service = layer.layer(tower::service_fn(|request: Ask| {
        let code = if request.uri().host() == Some("shard-1") { 14 } else { 0 };
        ready(Ok::<_, Infallible>(
            Response::builder().header("grpc-status", code).body(Full::<Bytes>::default()).unwrap(),
        ))
    }));
    let ask = |host: &str| {
        let request =
            Request::post(format!("http://{host}{HELLO}")).body(Full::<Bytes>::from("ask")).unwrap();
        service.clone().oneshot(request)
    };
    for _ in 0..5 {
        ask("shard-1").await.unwrap();
        ask("shard-2").await.unwrap();
    }
    let state = |host| layer.circuit_breaker().get(host).unwrap().state();
    assert_eq!((state("shard-1"), state("shard-2")), (CircuitState::Open, CircuitState::Closed));
    assert!(find::<Refused>(&*ask("shard-1").await.unwrap_err()).is_some());
    ask("shard-2").await.unwrap();
    layer.set_mode(Mode::Off);
    ask("shard-1").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leaked_stack_knows_its_methods_and_shares_its_circuit() {
    let layer = buttress::grpc("greeter").repeatable("helloworld.Greeter/SayHello").build().unwrap();
    let (transport, calls) = transport(&[14, 0]);
    let service = layer.clone().leaked().layer(transport);
    let ask = |path: &str| Request::post(format!("http://greeter{path}")).body(Full::<Bytes>::from("ask"));
    let again = service.clone().oneshot(ask(HELLO).unwrap()).await.unwrap();
    assert_eq!((again.headers()["grpc-status"].to_str().unwrap(), again.attempts()), ("0", 2));
    assert_eq!(*calls.lock().unwrap(), 2);
    layer.circuit_breaker().handle().isolate();
    drop(layer);
    let refused = service.oneshot(ask(HELLO).unwrap()).await.unwrap_err();
    assert!(find::<Refused>(&*refused).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_look_ends_before_the_total_deadline_where_attempts_are_not_bounded() {
    for mode in [Mode::Off, Mode::Observe, Mode::Enforce] {
        let layer = buttress::grpc("greeter").repeatable("helloworld.Greeter");
        let layer = layer.total(Duration::from_millis(300)).build().unwrap();
        layer.attempt().set_mode(mode);
        // A head, and no message for now.
        let slow = tower::service_fn(async |_: Ask| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let (sender, body) = http_body_util::Channel::<Bytes>::new(1);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                drop(sender);
            });
            Ok::<_, Infallible>(Response::new(body))
        });
        let request = Request::post(format!("http://greeter{HELLO}")).body(Full::<Bytes>::default()).unwrap();
        let answered = layer.layer(slow).oneshot(request).await;
        assert_eq!(answered.expect("the head is given out in time").status(), 200, "{mode:?}");
    }
}
