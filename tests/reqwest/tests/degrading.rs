//! A chain of fallbacks above a whole stack over reqwest, both ways that `docs/degrade.md` names.

use buttress::degrade::{Chain, DegradeLayer, HttpRules, LastGood, Level};
use buttress::http::{Answer, StoredResponse};
use buttress_reqwest::{ReqwestService, StackMiddleware};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
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
