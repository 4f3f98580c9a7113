//! What every layer keeps to.

use buttress_core::Replay;
use buttress_grpc::{AttemptLayer, CallLayer, ServiceConfig};
use buttress_http::{HttpReplay, ReplayBody};
use buttress_testkit::contract;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use tower::ServiceBuilder;

type Ask = Request<ReplayBody<Full<Bytes>>>;

fn ask(number: u64) -> Ask {
    let mut request = Request::post("http://echo/echo.v1.Echo/Unary").body(Full::default()).unwrap();
    request.extensions_mut().insert(number);
    HttpReplay::new().save(request).0
}

fn number(request: &Ask) -> u64 {
    *request.extensions().get().unwrap()
}

fn answer(number: u64) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    response.headers_mut().insert("grpc-status", http::HeaderValue::from_static("0"));
    response.extensions_mut().insert(number);
    response
}

#[tokio::test(start_paused = true)]
async fn calls_and_attempts_keep_the_contract() {
    contract::check(|| {
        ServiceBuilder::new()
            .map_request(ask)
            .map_response(|response: Response<_>| *response.extensions().get::<u64>().unwrap())
            .layer(CallLayer::new(ServiceConfig::new().repeatable("echo.v1.Echo")))
            .layer(AttemptLayer::new())
            .map_request(|request: Ask| number(&request))
            .map_response(answer)
    })
    .await;
}

#[cfg(feature = "tonic")]
#[tokio::test(start_paused = true)]
async fn statuses_keep_the_contract() {
    contract::check(|| buttress_grpc::StatusLayer).await;
}
