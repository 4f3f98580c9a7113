//! Datadog's own client, unmodified, over a stack, and a Datadog on loopback.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use buttress::circuit_breaker::CircuitState;
use buttress::core::Backoff;
use buttress::retry::{Budget, Config};
use buttress::{Exhausted, HttpBuilder, HttpLayer, Refused, RequestExt, find};
use buttress_reqwest::StackMiddleware;
use datadog_api_client::datadog::{self, APIKey, Configuration};
use datadog_api_client::datadogV1::api_authentication::AuthenticationAPI;
use datadog_api_client::datadogV1::api_events::EventsAPI;
use datadog_api_client::datadogV1::model::EventCreateRequest;
use datadog_api_client::datadogV2::api_logs::{LogsAPI, SubmitLogOptionalParams};
use datadog_api_client::datadogV2::model::{ContentEncoding, HTTPLogItem};
use loopback::{Do, Server, status};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tower::ServiceBuilder;

/// A Datadog on loopback; to the client it is another site.
fn configuration(server: &Server) -> Configuration {
    let mut configuration = Configuration::new();
    let host = server.url().trim_start_matches("http://").to_owned();
    configuration.server_index = 1;
    configuration.server_variables =
        HashMap::from([("protocol".to_owned(), "http".to_owned()), ("name".to_owned(), host)]);
    configuration.server_operation_index.insert("v2.submit_log".to_owned(), 1);
    configuration.set_auth_key("apiKeyAuth", APIKey { key: "the-api-key".to_owned(), prefix: String::new() });
    configuration
}

/// Datadog's preset, without its waits and its thrift.
fn stack() -> HttpBuilder {
    let backoff = Backoff::constant(Duration::from_millis(20));
    let retry = Config::user_facing().backoff(backoff).budget(Budget::unlimited());
    buttress::http("datadog").datadog().attempt(Duration::from_millis(400)).retry(retry)
}

fn client(builder: HttpBuilder) -> (ClientWithMiddleware, HttpLayer) {
    let layer = builder.build().unwrap();
    (ClientBuilder::new(reqwest::Client::new()).with(StackMiddleware::new(&layer)).build(), layer)
}

fn valid() -> Do {
    status(200).body(r#"{"valid":true}"#)
}

fn created() -> Do {
    status(202).body(r#"{"status":"ok","event":{"title":"deploy"}}"#)
}

fn deploy() -> EventCreateRequest {
    EventCreateRequest::new("payments 1.2.3".to_owned(), "deploy".to_owned())
}

#[tokio::test]
async fn a_brownout_passes_on_one_connection() {
    let server = Server::start_then([status(503), status(502)], valid()).await;
    let (client, _) = client(stack());
    let api = AuthenticationAPI::with_client_and_config(configuration(&server), client);
    assert_eq!(api.validate().await.unwrap().valid, Some(true));
    let seen = server.seen();
    assert_eq!((seen.len(), server.connections()), (3, 1));
    assert!(
        seen.iter().all(|seen| seen.uri == "/api/v1/validate" && seen.header("dd-api-key") == "the-api-key")
    );
}

#[tokio::test]
async fn an_open_circuit_refuses_at_once_for_every_part_of_the_api() {
    let server = Server::start_then([], status(500)).await;
    let (client, layer) = client(stack());
    let authentication = AuthenticationAPI::with_client_and_config(configuration(&server), client.clone());
    for _ in 0..2 {
        authentication.validate().await.unwrap_err();
    }
    assert_eq!((server.calls(), layer.circuit_breaker().handle().state()), (5, CircuitState::Open));

    let events = EventsAPI::with_client_and_config(configuration(&server), client);
    let error = events.create_event(deploy()).await.unwrap_err();
    assert!(matches!(error, datadog::Error::ReqwestMiddleware(_)), "{error:?}");
    assert!(find::<Refused>(&error).unwrap().retry_after().is_some());
    assert!(error.to_string().contains("the circuit is open"), "{error}");
    assert!(!format!("{error:?}").contains("the-api-key"));
    assert_eq!(server.calls(), 5);
}

#[tokio::test]
async fn a_hanging_datadog_costs_an_attempt_s_time() {
    let server = Server::start_then([Do::Hang], valid()).await;
    let (client, _) = client(stack());
    let api = AuthenticationAPI::with_client_and_config(configuration(&server), client);
    api.validate().await.unwrap();
    assert_eq!(server.calls(), 2);
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_even_with_a_post() {
    let limited = status(429).header("x-ratelimit-reset", "1").header("x-ratelimit-remaining", "0");
    let server = Server::start_then([limited], created()).await;
    let (client, _) = client(stack());
    let api = EventsAPI::with_client_and_config(configuration(&server), client);
    let begun = Instant::now();
    let response = api.create_event(deploy()).await.unwrap();
    assert_eq!(response.status.as_deref(), Some("ok"));
    assert!(begun.elapsed() >= Duration::from_secs(1), "never earlier than the server asks");
    let seen = server.seen();
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!(seen[1].header("content-length"), seen[1].body.len().to_string());
}

#[tokio::test]
async fn an_event_that_may_have_been_posted_is_not_posted_twice_unless_one_says_that_it_may() {
    let server = Server::start_then([status(503)], created()).await;
    let (client, layer) = client(stack());
    let api = EventsAPI::with_client_and_config(configuration(&server), client);
    let error = api.create_event(deploy()).await.unwrap_err();
    let datadog::Error::ResponseError(content) = &error else { panic!("{error:?}") };
    assert_eq!((content.status.as_u16(), server.calls()), (503, 1), "the answer as it came");
    assert!(find::<Exhausted>(&error).is_none());

    let server = Server::start_then([status(503)], created()).await;
    let events_twice = tower::util::MapRequestLayer::new(|request: http::Request<reqwest::Body>| {
        if request.uri().path() == "/api/v1/events" { request.repeatable() } else { request }
    });
    let layers = ServiceBuilder::new().layer(events_twice).layer(layer).into_inner();
    let client = ClientBuilder::new(reqwest::Client::new()).with(StackMiddleware::new(layers)).build();
    let api = EventsAPI::with_client_and_config(configuration(&server), client);
    api.create_event(deploy()).await.unwrap();
    assert_eq!(server.calls(), 2);
}

#[tokio::test]
async fn compressed_logs_are_sent_again_byte_by_byte() {
    let server = Server::start_then([status(429), status(429)], status(202).body("{}")).await;
    let (client, _) = client(stack());
    let api = LogsAPI::with_client_and_config(configuration(&server), client);
    let logs = vec![HTTPLogItem::new("disk full ".repeat(500))];
    let gzip = SubmitLogOptionalParams::default().content_encoding(ContentEncoding::GZIP);
    api.submit_log(logs, gzip).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    for request in &seen {
        assert_eq!((request.header("content-encoding"), &request.body[..2]), ("gzip", &[0x1f, 0x8b][..]));
        assert_eq!(request.body, seen[0].body);
    }
}
