//! Files that come one after the other while a real client calls a real server.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use buttress::circuit_breaker::CircuitState;
use buttress::http::ReplayBody;
use buttress::{Refused, Stacks, find};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use loopback::{Server, status};
use tower::{Layer, ServiceExt};

type Body = Full<Bytes>;

fn client() -> Client<HttpConnector, ReplayBody<Body>> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn file(n: u64) -> Config {
    let window = ["100", "\"10s\"", "20", "\"1m\""][n as usize % 4];
    let text = format!(
        "[http.x]\ntotal = \"{}s\"\nattempt = \"{}s\"\n[http.x.retry]\nmax_retries = {}\nrate_gate = {}\n[http.x.breaker]\n\
         failure_rate = {{ window = {window}, at_least = \"100%\", minimum_calls = 20 }}\neager = {}\n",
        60 + n % 7,
        30 + n % 5,
        n % 3,
        n % 2 == 0,
        n % 2 == 1,
    );
    Config::parse(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_while_files_come_and_go_and_the_circuit_stays_as_it_is() {
    let server = Server::start([]).await;
    let layer = file(0).http("x").unwrap().silent().build().unwrap();
    let stacks = Stacks::new();
    stacks.add(layer.handle()).unwrap();
    let service = layer.layer(client());
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (service, over, answered) = (service.clone(), Arc::clone(&over), Arc::clone(&answered));
            let url = server.url().to_owned();
            tokio::spawn(async move {
                while !over.load(Relaxed) {
                    let request = Request::get(&url).body(Body::default()).unwrap();
                    let response = service.clone().oneshot(request).await.expect("no call is lost");
                    assert_eq!(response.status(), 200);
                    answered.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    let mut changes = 0;
    for n in 1..60 {
        changes += stacks.apply(&file(n)).unwrap().changes.len();
        // Some calls by each.
        let before = answered.load(Relaxed);
        while answered.load(Relaxed) < before + 3 {
            tokio::task::yield_now().await;
        }
    }
    over.store(true, Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(changes > 59, "{changes}");
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Closed);
    drop(server);

    let down = Server::start_then([], status(503)).await;
    // A client of its own: the other one's idle connections may lead to the same port.
    let service = layer.layer(client());
    let call = async || {
        let request = Request::get(down.url()).body(Body::default()).unwrap();
        service.clone().oneshot(request).await
    };
    stacks.apply(&Config::parse("[http.x.retry]\nmax_retries = 0").unwrap()).unwrap();
    for _ in 0..5 {
        assert_eq!(call().await.unwrap().status(), 503);
    }
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Open);
    for n in 0..20 {
        stacks.apply(&file(n)).unwrap();
        let error = call().await.unwrap_err();
        let refused = find::<Refused>(&*error).unwrap();
        // Of the sixty seconds that it opened for.
        assert!(refused.retry_after().unwrap() > Duration::from_secs(5), "{refused}");
    }
    assert_eq!(down.seen().len(), 5);
}
