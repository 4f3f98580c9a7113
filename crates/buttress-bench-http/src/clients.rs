//! The clients that are compared: each bare, and under what makes it resilient.

use std::net::SocketAddr;
use std::time::Duration;

use buttress::BoxError;
use buttress_reqwest::StackMiddleware;
use bytes::Bytes;
use grpc_tests::echo::Ask;
use grpc_tests::echo::echo_client::EchoClient;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use reqwest_middleware::ClientBuilder;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::transport::Endpoint;
use tower::layer::util::Identity;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_resilience::circuitbreaker::CircuitBreakerLayer;
use tower_resilience::retry::RetryLayer;
use tower_resilience::timelimiter::TimeLimiterLayer;

use crate::load::Client;
use crate::server::{Addresses, HELLO};

pub(crate) const HYPER: &str = "hyper";
pub(crate) const REQWEST: &str = "reqwest";
pub(crate) const TONIC: &str = "tonic, unary";
/// What the others of a group are compared with.
pub(crate) const BARE: &str = "bare";
pub(crate) const STACK: &str = "Buttress, four layers";
pub(crate) const LEAKED: &str = "Buttress, four layers, leaked";
pub(crate) const MIDDLEWARE: &str = "reqwest-middleware, nothing in it";
pub(crate) const BRIDGE: &str = "reqwest-middleware, Buttress's bridge over nothing";

/// The type of the four layers of Buttress: total deadline, retry, circuit breaker, attempt deadline.
fn stack() -> Result<buttress::HttpLayer, BoxError> {
    // What listens is somebody else's cost.
    Ok(buttress::http("bench").silent().build()?)
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector
}

/// Makes one call after another, and reads the answers to their ends.
fn calls<S, B, E>(name: &'static str, service: S, server: SocketAddr) -> Client
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = E> + Clone + 'static,
    B: hyper::body::Body<Error: Into<BoxError>> + 'static,
    E: Into<BoxError>,
{
    let uri: http::Uri = format!("http://{server}/hello").parse().expect("an address makes a URI");
    Client::new(HYPER, name, move || {
        let (service, request) = (service.clone(), Request::get(uri.clone()).body(Full::default()));
        async move {
            let response = service.oneshot(request?).await.map_err(Into::into)?;
            response.into_body().collect().await.map_err(Into::into)?;
            Ok(())
        }
    })
}

pub(crate) fn all(servers: Addresses) -> Result<Vec<Client>, BoxError> {
    let mut clients = hyper(servers.http1)?;
    clients.extend(reqwest(servers.http1)?);
    clients.extend(tonic(servers.grpc)?);
    Ok(clients)
}

fn hyper(server: SocketAddr) -> Result<Vec<Client>, BoxError> {
    let bare: legacy::Client<_, Full<Bytes>> =
        legacy::Client::builder(TokioExecutor::new()).build(connector());
    let stacked = stack()?.layer(legacy::Client::builder(TokioExecutor::new()).build(connector()));
    let leaked = stack()?.leaked().layer(legacy::Client::builder(TokioExecutor::new()).build(connector()));
    let limit = |time| TimeLimiterLayer::builder().timeout_duration(time).build();
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(5).build()?;
    let resilience = ServiceBuilder::new()
        .layer(limit(Duration::from_secs(10)))
        .map_err(|_| Down)
        .layer(RetryLayer::builder().max_attempts(3).build())
        .map_err(|_| Down)
        .layer(breaker)
        .layer(limit(Duration::from_millis(2500)))
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector()));
    Ok(vec![
        calls(BARE, bare, server),
        calls(STACK, stacked, server),
        calls(LEAKED, leaked, server),
        calls("tower-resilience, the same four", resilience, server),
    ])
}

fn reqwest(server: SocketAddr) -> Result<Vec<Client>, BoxError> {
    let url = reqwest::Url::parse(&format!("http://{server}/hello"))?;
    let bare = reqwest::Client::builder().no_proxy().build()?;
    let plain = |name, client: reqwest_middleware::ClientWithMiddleware| {
        let url = url.clone();
        Client::new(REQWEST, name, move || {
            let request = client.get(url.clone());
            async move {
                request.send().await?.bytes().await?;
                Ok(())
            }
        })
    };
    let with = || -> Result<_, reqwest::Error> {
        Ok(ClientBuilder::new(reqwest::Client::builder().no_proxy().build()?))
    };
    let of_bare = url.clone();
    Ok(vec![
        Client::new(REQWEST, BARE, move || {
            let request = bare.get(of_bare.clone());
            async move {
                request.send().await?.bytes().await?;
                Ok(())
            }
        }),
        plain(MIDDLEWARE, with()?.build()),
        plain(BRIDGE, with()?.with(StackMiddleware::in_place(Identity::new())).build()),
        plain(
            "reqwest-middleware, the same for layers that leave the task",
            with()?.with(StackMiddleware::new(Identity::new())).build(),
        ),
        plain(STACK, with()?.with(StackMiddleware::in_place(stack()?)).build()),
    ])
}

/// Unary calls, with the client that tonic generates.
fn echo<T>(name: &'static str, transport: T) -> Client
where
    T: GrpcService<Body, ResponseBody: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send>
        + Clone
        + 'static,
    T::Error: Into<BoxError>,
{
    let client = EchoClient::new(transport);
    Client::new(TONIC, name, move || {
        let mut client = client.clone();
        async move {
            let text = String::from_utf8_lossy(HELLO).into_owned();
            client.unary(Ask { text }).await?;
            Ok(())
        }
    })
}

fn tonic(server: SocketAddr) -> Result<Vec<Client>, BoxError> {
    let channel = || Endpoint::from_shared(format!("http://{server}")).map(|to| to.connect_lazy());
    let stack = buttress::grpc("bench").silent().repeatable("echo.v1.Echo/Unary").build()?;
    Ok(vec![
        echo(BARE, channel()?),
        echo(STACK, stack.service(channel()?)),
        echo(LEAKED, stack.clone().leaked().service(channel()?)),
        echo("Buttress, four layers, boxed", stack.over(channel()?)),
    ])
}

/// An error that can be copied, as tower-resilience's layers demand.
#[derive(Clone, Debug)]
struct Down;

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("down")
    }
}

impl std::error::Error for Down {}
