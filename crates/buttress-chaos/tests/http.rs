//! Faults of HTTP and gRPC.
#![cfg(feature = "http")]

use std::convert::Infallible;
use std::time::Duration;

use buttress_chaos::{
    Answer, ChaosBody, ChaosLayer, Config, Cut, FaultKind, Field, Http, Injected, Numbering, Rule,
};
use buttress_core::{BoxError, find};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Channel, Full};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

async fn call(
    layer: &ChaosLayer<Http>,
    request: Request<()>,
) -> Result<Response<ChaosBody<Full<Bytes>>>, BoxError> {
    let server = service_fn(|_: Request<()>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"0123456789")))))
    });
    layer.layer(server).oneshot(request).await
}

fn layer(rules: impl IntoIterator<Item = Rule>) -> ChaosLayer<Http> {
    ChaosLayer::http("api", Config::seeded(7).rules(rules).allow_in_release()).unwrap()
}

fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

async fn text(response: Response<ChaosBody<Full<Bytes>>>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_status_comes_with_its_headers_and_its_body() {
    let answer =
        Answer::status(503).header("retry-after", "7").header("x-a", "1").header("x-a", "2").body("down");
    let layer = layer([Rule::respond(answer).first(1)]);
    let response = call(&layer, get("/")).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (503, &"7".parse().unwrap())
    );
    assert_eq!(response.headers().get_all("x-a").iter().count(), 2);
    assert_eq!(response.body().size_hint().exact(), Some(4));
    assert_eq!(text(response).await, "down");
    let response = call(&layer, get("/")).await.unwrap();
    assert_eq!(response.body().size_hint().exact(), Some(10));
    assert_eq!((response.status().as_u16(), text(response).await), (200, "0123456789".to_owned()));
    assert_eq!(layer.handle().injected(FaultKind::Status), 1);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_code_is_a_trailers_only_response() {
    let response = call(&layer([Rule::grpc(14, "50 % lost\n€")]), get("/")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.body().is_end_stream());
    let header = |name| response.headers()[name].to_str().unwrap();
    assert_eq!((header("content-type"), header("grpc-status")), ("application/grpc", "14"));
    assert_eq!(header("grpc-message"), "50 %25 lost%0A%E2%82%AC");
}

#[tokio::test(start_paused = true)]
async fn a_body_is_cut_off_to_the_byte_with_an_error_or_in_silence() {
    for (after, expected) in [(0, ""), (4, "0123"), (10, "0123456789"), (11, "0123456789")] {
        for end in [Cut::Error, Cut::Silent] {
            let mut body = call(&layer([Rule::truncate(after, end)]), get("/")).await.unwrap().into_body();
            let (mut read, mut error) = (Vec::new(), None);
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => read.extend_from_slice(&frame.into_data().unwrap()),
                    Err(failed) => error = Some(failed),
                }
            }
            assert_eq!(read, expected.as_bytes());
            assert_eq!(error.is_some(), after < 10 && end == Cut::Error, "{after} {end:?}");
            if let Some(error) = error {
                let injected = find::<Injected>(&*error).unwrap();
                assert_eq!((injected.name(), injected.kind()), ("api", FaultKind::Truncate));
            }
            assert!(body.is_end_stream());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_are_lost_with_the_end_and_pass_otherwise() {
    for (after, cut) in [(10, true), (11, false)] {
        let (mut sender, body) = Channel::<Bytes>::new(4);
        sender.send_data(Bytes::from_static(b"0123456789")).await.unwrap();
        if !cut {
            sender.send_data(Bytes::from_static(b"x")).await.unwrap();
        }
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        sender.send_trailers(trailers).await.unwrap();
        drop(sender);
        let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
        let server = service_fn(move |_: Request<()>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(body.lock().unwrap().take().unwrap())))
        });
        let rules = [Rule::truncate(if cut { after } else { 100 }, Cut::Silent)];
        let response = layer(rules).layer(server).oneshot(get("/")).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().is_none(), cut);
        assert_eq!(collected.to_bytes().len() as u64, after);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_trickles() {
    let rule = Rule::slow_body(4, Duration::from_secs(1));
    let start = Instant::now();
    let response = call(&layer([rule]), get("/")).await.unwrap();
    assert_eq!(response.body().size_hint().exact(), Some(10));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(text(response).await, "0123456789");
    assert_eq!(start.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn rules_look_at_method_path_authority_and_headers() {
    let layer = layer([
        Rule::status(501).when(Field::Method, "POST"),
        Rule::status(502).when_begins(Field::Path, "/v2/"),
        Rule::status(503).when(Field::Authority, "api.example.com"),
        Rule::status(504).when(Field::Header("x-chaos".into()), "yes"),
        Rule::status(505).when(Field::Key, "host.example.com"),
    ]);
    let status = async |request: http::request::Builder| {
        call(&layer, request.body(()).unwrap()).await.unwrap().status().as_u16()
    };
    assert_eq!(status(Request::post("/v2/x")).await, 501);
    assert_eq!(status(Request::get("/v2/x?y")).await, 502);
    assert_eq!(status(Request::get("/v3")).await, 200);
    assert_eq!(status(Request::get("http://api.example.com/")).await, 503);
    assert_eq!(status(Request::get("/").header("x-chaos", "yes")).await, 504);
    assert_eq!(status(Request::get("/").header("x-chaos", "no")).await, 200);
    assert_eq!(status(Request::get("/").header("host", "host.example.com")).await, 505);
}

#[tokio::test(start_paused = true)]
async fn by_authority_each_host_has_its_own_numbers() {
    let layer = layer([Rule::status(503).numbered(Numbering::PerKey).skip(1).first(1)]);
    let mut seen = Vec::new();
    for host in ["a", "b", "a", "a", "b"] {
        seen.push(call(&layer, get(&format!("http://{host}/"))).await.unwrap().status().as_u16());
    }
    assert_eq!(seen, [200, 200, 503, 200, 503]);
}

#[test]
fn an_answer_that_is_not_http_is_refused_when_the_layer_is_built() {
    let field = |answer| {
        ChaosLayer::http("api", Config::seeded(7).rule(Rule::respond(answer)).allow_in_release())
            .unwrap_err()
            .field()
    };
    assert_eq!(field(Answer::status(99)), "status");
    assert_eq!(field(Answer::status(600)), "status");
    assert_eq!(field(Answer::status(200).header("a b", "c")), "headers");
    assert_eq!(field(Answer::status(200).header("a", "b\n")), "headers");
}
