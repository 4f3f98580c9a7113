//! What a breaker makes of bodies that are not read to their end.
#![cfg(feature = "grpc")]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreakerLayer, CircuitState, Config, Ratio, Trip, Window};
use buttress::core::BoxError;
use buttress::http::{Http, HttpWatch, ReplayBody};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use tokio::time::{advance, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

type Streaming = Channel<Bytes, BoxError>;

/// A message every so often, for ever.
fn ticking(every: Duration) -> Streaming {
    let (mut sender, body) = Channel::new(4);
    tokio::spawn(async move {
        loop {
            sleep(every).await;
            if sender.send_data(Bytes::from_static(b"\0\0\0\0\x01x")).await.is_err() {
                break;
            }
        }
    });
    body
}

fn watched(config: Config) -> CircuitBreakerLayer<Http, HttpWatch> {
    CircuitBreakerLayer::new("x", config).unwrap().policy(Http::new()).watch(HttpWatch)
}

/// Every hundredth call fails.
fn one_in_a_hundred(count: &AtomicU32) -> bool {
    count.fetch_add(1, Relaxed) % 100 == 99
}

#[tokio::test(start_paused = true)]
async fn bodies_that_nobody_reads_are_good_calls_and_close_a_circuit() {
    let breaker = watched(Config::standard());
    let count = AtomicU32::new(0);
    let service = breaker.layer(service_fn(|_: Request<()>| {
        let status = if one_in_a_hundred(&count) { 503 } else { 200 };
        async move {
            sleep(Duration::from_millis(5)).await;
            let body = Full::new(Bytes::from_static(b"hello"));
            Ok::<_, BoxError>(Response::builder().status(status).body(body).unwrap())
        }
    }));
    for _ in 0..1000 {
        service.clone().oneshot(Request::new(())).await.unwrap();
    }
    breaker.handle().open_for(secs(1));
    advance(secs(1)).await;
    for _ in 0..2 {
        service.clone().oneshot(Request::new(())).await.unwrap();
    }
    assert_eq!(breaker.handle().state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_flows_may_be_left_at_any_time_and_one_that_hangs_may_not() {
    let breaker = watched(Config::standard());
    let service = breaker.layer(service_fn(|every: Duration| async move {
        sleep(Duration::from_millis(5)).await;
        Ok::<_, BoxError>(Response::new(ticking(every)))
    }));
    // A reader who has had enough of it, and one that goes away while it waits.
    for wait in [secs(0), secs(5)] {
        for _ in 0..5 {
            let mut response = service.clone().oneshot(secs(8)).await.unwrap();
            for _ in 0..5 {
                response.body_mut().frame().await.unwrap().unwrap();
            }
            let _ = timeout(wait, response.body_mut().frame()).await;
        }
        assert_eq!(breaker.handle().state(), CircuitState::Closed);
    }
    for _ in 0..5 {
        let mut response = service.clone().oneshot(secs(60)).await.unwrap();
        timeout(secs(15), response.body_mut().frame()).await.unwrap_err();
    }
    assert_eq!(breaker.handle().state(), CircuitState::Open, "these have waited in vain");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_hangs_is_slow_while_it_hangs_and_a_long_one_that_flows_is_not() {
    let (window, at_least) = (Window::Calls(5), Ratio::percent(50));
    let rule = Trip::SlowCalls { slower_than: secs(2), window, at_least, minimum_calls: 5 };
    let breaker = watched(Config::only(rule));
    let service = breaker.layer(service_fn(|every: Duration| async move {
        sleep(Duration::from_millis(5)).await;
        Ok::<_, BoxError>(Response::new(ticking(every)))
    }));
    let read = |every: Duration, frames: usize| {
        let call = service.clone().oneshot(every);
        async move {
            let mut response = call.await.unwrap();
            for _ in 0..frames {
                response.body_mut().frame().await.unwrap().unwrap();
            }
        }
    };
    for _ in 0..5 {
        read(secs(1), 60).await;
    }
    assert_eq!(breaker.handle().state(), CircuitState::Closed);
    let hang = || read(secs(3600), 1);
    timeout(secs(3), async { tokio::join!(hang(), hang(), hang(), hang(), hang()) }).await.unwrap_err();
    assert_eq!(breaker.handle().state(), CircuitState::Open);
}

fn grpc_request() -> Request<Full<Bytes>> {
    Request::post("http://a/p.S/Watch").body(Full::default()).unwrap()
}

fn grpc_response(body: Streaming) -> Response<Streaming> {
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn quiet_streams_that_are_left_say_nothing_against_their_server() {
    let layer = buttress::grpc("x").silent().stream("p.S/Watch").build().unwrap();
    let mut service = layer.layer(service_fn(|_: Request<ReplayBody<Full<Bytes>>>| async {
        sleep(Duration::from_millis(5)).await;
        Ok::<_, BoxError>(grpc_response(ticking(secs(3600))))
    }));
    for _ in 0..5 {
        let mut response = service.ready().await.unwrap().call(grpc_request()).await.unwrap();
        let _ = timeout(secs(15), response.body_mut().frame()).await;
    }
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn messages_that_flowed_make_a_good_call_and_close_a_circuit() {
    let layer = buttress::grpc("x").silent().build().unwrap();
    let count = AtomicU32::new(0);
    let service = layer.layer(service_fn(|_: Request<ReplayBody<Full<Bytes>>>| {
        let unavailable = one_in_a_hundred(&count);
        async move {
            sleep(Duration::from_millis(5)).await;
            let mut response = grpc_response(ticking(Duration::from_millis(10)));
            if unavailable {
                response.headers_mut().insert("grpc-status", "14".parse().unwrap());
            }
            Ok::<_, BoxError>(response)
        }
    }));
    let call = || async {
        let mut response = service.clone().oneshot(grpc_request()).await.unwrap();
        for _ in 0..10 {
            response.body_mut().frame().await.unwrap().unwrap();
        }
    };
    for _ in 0..1000 {
        call().await;
    }
    let breaker = layer.circuit_breaker().handle();
    breaker.open_for(secs(1));
    advance(secs(1)).await;
    for _ in 0..2 {
        call().await;
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
}
