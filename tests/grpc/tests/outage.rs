//! A server that goes away and comes back, under call sites that know nothing of it.

mod common;

use std::time::Duration;

use buttress::circuit_breaker::{CircuitState, Config};
use buttress::grpc::GrpcStack;
use buttress::{GrpcLayer, Reason, Refused, find};
use grpc_tests::{Do, Server};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

/// How long the circuit stays open.
const OPEN: Duration = Duration::from_secs(2);

/// The call site: the same whatever the client stands on.
async fn check<T>(client: &mut HealthClient<T>) -> Result<ServingStatus, Status>
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<buttress::BoxError>,
    T::ResponseBody: tonic::codegen::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<buttress::BoxError> + Send,
{
    let request = HealthCheckRequest { service: "echo.v1.Echo".into() };
    Ok(client.check(request).await?.into_inner().status())
}

fn stack(open_for: Duration) -> GrpcLayer {
    let breaker = Config::standard().open_for(open_for).success_threshold(1);
    let builder = buttress::grpc("health").repeatable("grpc.health.v1.Health/Check");
    builder
        .stream("grpc.health.v1.Health/Watch")
        .retry(common::quick())
        .circuit_breaker(breaker)
        .build()
        .unwrap()
}

#[tokio::test]
async fn an_outage_is_refused_at_once_and_over_when_it_is_over() {
    let mut server = Server::start([]).await;
    let mut plain = HealthClient::new(server.channel());
    assert_eq!(check(&mut plain).await.unwrap(), ServingStatus::Serving);

    let layer = stack(OPEN);
    let mut client: HealthClient<GrpcStack> = HealthClient::new(layer.over(server.channel()));
    let handle = layer.circuit_breaker().handle();
    assert_eq!(check(&mut client).await.unwrap(), ServingStatus::Serving);

    server.kill();
    let mut opened = Instant::now();
    while handle.state() == CircuitState::Closed {
        opened = Instant::now();
        assert_eq!(check(&mut client).await.unwrap_err().code(), Code::Unavailable);
    }
    let calls = server.calls();
    let refused = check(&mut client).await.unwrap_err();
    // Unless the machine was so busy that it was time to try again.
    if opened.elapsed() < OPEN {
        assert_eq!((refused.code(), server.calls()), (Code::Unavailable, calls), "not sent");
        assert_eq!(find::<Refused>(&refused).unwrap().reason(), Reason::CircuitOpen);
        let wait = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(wait <= OPEN, "{wait:?}");
    }

    server.revive().await;
    let recovered = async {
        while check(&mut client).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), recovered).await.expect("it recovers");
    assert_eq!(handle.state(), CircuitState::Closed);
    assert_eq!(check(&mut client).await.unwrap(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_short_one_is_not_even_noticed() {
    let server = Server::start([Do::Http(503), Do::Trailers(Code::Unavailable, &[])]).await;
    let mut client = HealthClient::new(stack(Duration::from_secs(60)).over(server.channel()));
    assert_eq!(check(&mut client).await.unwrap(), ServingStatus::Serving);
    assert_eq!(server.calls(), 3);
}

/// Bridges § 4: the permit of a half-open circuit lives in the body. A stream that never ends must not hold it for ever.
#[tokio::test]
async fn a_watch_that_goes_on_closes_the_circuit_with_its_head() {
    let server = Server::start([]).await;
    let layer = stack(Duration::from_secs(60));
    let mut client = HealthClient::new(layer.over(server.channel()));
    let handle = layer.circuit_breaker().handle();
    handle.open_for(Duration::from_secs(60));
    assert_eq!(check(&mut client).await.unwrap_err().code(), Code::Unavailable);
    handle.half_open().unwrap();
    let watch = HealthCheckRequest { service: "echo.v1.Echo".into() };
    let mut statuses = client.watch(watch).await.unwrap().into_inner();
    assert_eq!(handle.state(), CircuitState::Closed, "it may be quiet from here on");
    assert_eq!(statuses.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(check(&mut client).await.unwrap(), ServingStatus::Serving, "while the stream goes on");
}

/// Bridges § 9: an error of readiness is UNKNOWN to a generated client, and the end of others.
#[tokio::test]
async fn a_transport_that_cannot_become_ready_says_so_in_the_call() {
    #[derive(Clone)]
    struct Closed;
    impl tower::Service<http::Request<tonic::body::Body>> for Closed {
        type Response = http::Response<tonic::body::Body>;
        type Error = std::io::Error;
        type Future = std::future::Ready<Result<Self::Response, std::io::Error>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), std::io::Error>> {
            std::task::Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()))
        }

        fn call(&mut self, _: http::Request<tonic::body::Body>) -> Self::Future {
            std::future::ready(Ok(http::Response::default()))
        }
    }
    let layer = stack(Duration::from_secs(60));
    let mut client = HealthClient::new(layer.over(Closed));
    for _ in 0..5 {
        assert_eq!(check(&mut client).await.unwrap_err().code(), Code::Unavailable);
    }
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Open);
    assert!(find::<Refused>(&check(&mut client).await.unwrap_err()).is_some());
}
