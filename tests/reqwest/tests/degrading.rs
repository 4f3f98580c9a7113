//! A chain of fallbacks above a whole stack over reqwest, both ways that `docs/degrade.md` names.

mod common;

use std::time::Duration;

use buttress::circuit_breaker::Trip;
use buttress::degrade::{Chain, DegradeLayer, HttpRules, LastGood, Level};
use buttress::http::{Answer, StoredResponse};
use buttress_reqwest::{ReqwestService, StackMiddleware};
use bytes::Bytes;
use common::until;
use http::{Request, Response};
use http_body_util::Full;
use loopback::{Do, Server};
use reqwest_middleware::ClientBuilder;
use tower::{Layer, ServiceExt};

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:1/?q=x";
const MINIMAL: &str = "3; components=\"search\"";

type Given = Response<Answer<reqwest::Body>>;

#[tokio::test]
async fn a_client_with_middlewares_answers_by_its_chain() {
    let chain = Chain::<Request<reqwest::Body>, Given>::new()
        .finally(Level::Minimal, "static", |_| StoredResponse::from(Response::new("{}")));
    let degrade = DegradeLayer::new("search", chain).unwrap();
    let degrade = degrade.last_good(LastGood::new(HttpRules::private())).unwrap();
    let layer = buttress::http("search").build_degrading(degrade).unwrap();
    let client = ClientBuilder::new(reqwest::Client::new()).with(StackMiddleware::new(layer)).build();
    let answer = client.get(NOWHERE).send().await.unwrap();
    assert_eq!(answer.headers()["buttress-degradation"], MINIMAL);
}

/// An attempt goes back to the call that it belongs to, which ends with its caller.
#[tokio::test]
async fn one_who_goes_away_takes_his_attempt_along_and_another_makes_it_again_for_all() {
    let server = Server::start([Do::Hang]).await;
    let degrade = DegradeLayer::new("search", Chain::<Request<reqwest::Body>, Given>::new()).unwrap();
    let degrade = degrade.last_good(LastGood::new(HttpRules::private())).unwrap();
    // The first failure would open the circuit.
    let stack = buttress::http("search").total(Duration::from_secs(120)).attempt(Duration::from_secs(60));
    let stack = stack.map_circuit_breaker(|breaker| breaker.trip(Trip::ConsecutiveFailures(1)));
    let layer = stack.build_degrading(degrade).unwrap();
    let client = ClientBuilder::new(reqwest::Client::new()).with(StackMiddleware::new(layer)).build();
    let ask = || tokio::spawn(client.get(server.url()).send());
    let first = ask();
    until(|| server.calls() == 1).await;
    let others: Vec<_> = (0..10).map(|_| ask()).collect();
    // Each asks when it is polled first.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    first.abort();
    for other in others {
        assert_eq!(other.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(server.calls(), 2);
}

#[tokio::test]
async fn a_service_over_a_client_answers_by_its_chain() {
    let chain = Chain::<Request<Full<Bytes>>, Given>::new()
        .finally(Level::Minimal, "static", |_| StoredResponse::from(Response::new("{}")));
    let degrade = DegradeLayer::new("search", chain).unwrap();
    let layer = buttress::http("search").build_degrading(degrade).unwrap();
    let client = layer.layer(ReqwestService::new(reqwest::Client::new()));
    let Ok(answer) = client.oneshot(Request::get(NOWHERE).body(Full::default()).unwrap()).await;
    assert_eq!(answer.headers()["buttress-degradation"], MINIMAL);
}
