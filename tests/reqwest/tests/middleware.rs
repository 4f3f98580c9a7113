//! A stack among reqwest's middlewares, at the point where generated clients (Datadog's, for instance) take theirs: a
//! `ClientWithMiddleware`.

pub(crate) mod common;

use std::time::Duration;

use buttress::circuit_breaker::{CircuitState, Config};
use buttress::http::{Http, HttpReplay};
use buttress::retry::RetryLayer;
use buttress::{Elapsed, Exhausted, Refused, Stop, find};
use buttress_reqwest::{RequestBuilderExt, StackError, StackMiddleware, attempts, gave_up};
use common::{client, fast, stack};
use loopback::{Do, Server, status};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error};
use tower::ServiceBuilder;
use tower::timeout::TimeoutLayer;

/// A call site that knows nothing of the stack.
async fn create(client: &ClientWithMiddleware, url: &str) -> reqwest_middleware::Result<String> {
    let request = client.put(url).header("dd-api-key", "k").body(r#"{"title":"deploy"}"#);
    request.send().await?.error_for_status()?.text().await.map_err(Into::into)
}

#[tokio::test]
async fn failures_pass_on_one_connection_and_the_body_arrives_unchanged_each_time() {
    let busy = status(503).body(vec![b'.'; 10_000]);
    let server = Server::start([busy.clone(), busy, status(202).body("created")]).await;
    let (client, _) = client(&stack());
    assert_eq!(create(&client, &server.at("/api/v1/events")).await.unwrap(), "created");
    let seen = server.seen();
    assert_eq!((seen.len(), server.connections()), (3, 1));
    for request in seen {
        assert_eq!(&request.body[..], br#"{"title":"deploy"}"#);
        assert_eq!((request.header("content-length"), request.header("transfer-encoding")), ("18", ""));
        assert_eq!(request.header("dd-api-key"), "k");
    }
}

#[tokio::test]
async fn an_open_circuit_refuses_without_a_request_and_every_way_to_look_finds_the_refusal() {
    let server = Server::start_then([], status(500)).await;
    let builder = stack().circuit_breaker(Config::critical());
    let (client, layer) = client(&builder);
    client.get(server.url()).send().await.unwrap_err();
    assert_eq!((server.calls(), layer.circuit_breaker().handle().state()), (3, CircuitState::Open));

    let error = client.get(server.url()).send().await.unwrap_err();
    assert_eq!(server.calls(), 3);
    let refused = find::<Refused>(&error).unwrap();
    assert!(refused.retry_after().is_some());
    assert!(error.to_string().contains("the circuit is open"), "{error}");
    let Error::Middleware(error) = error else { panic!("{error:?}") };
    assert!(error.is::<StackError>());
    assert!(error.chain().any(<dyn std::error::Error>::is::<Refused>));
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_dropped_with_its_exchange_and_the_next_one_succeeds() {
    let server = Server::start([Do::Hang]).await;
    let (client, _) = client(&stack());
    let response = client.get(server.url()).send().await.unwrap();
    assert_eq!((response.status().as_u16(), attempts(&response)), (200, 2));
    common::until(|| server.abandoned() == 1).await;
}

#[tokio::test]
async fn a_dropped_call_drops_the_exchange_and_leaves_nothing_behind() {
    let server = Server::start([Do::Hang]).await;
    let (client, layer) =
        client(&stack().attempt(Duration::from_secs(60)).circuit_breaker(Config::critical()));
    tokio::select! {
        sent = client.get(server.url()).send() => panic!("the server hangs: {sent:?}"),
        () = common::until(|| server.calls() == 1) => {}
    }
    common::until(|| server.abandoned() == 1).await;
    let metrics = layer.circuit_breaker().handle().metrics();
    assert_eq!(metrics.consecutive_failures, 0, "it was given up too soon to say anything");
    assert_eq!(client.get(server.url()).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_refused_connection_comes_back_as_the_error_that_it_was() {
    let breaker = buttress::circuit_breaker::CircuitBreakerLayer::standard("api").policy(Http::new());
    let bare = ClientBuilder::new(reqwest::Client::new()).with(StackMiddleware::new(&breaker)).build();
    let error = bare.get("http://127.0.0.1:9/").send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(breaker.handle().metrics().consecutive_failures, 1);

    let (client, _) = client(&stack());
    let error = client.post("http://127.0.0.1:9/").with_max_retries(2).send().await.unwrap_err();
    let exhausted = find::<Exhausted>(&error).unwrap();
    assert!(
        exhausted.safe_to_retry && exhausted.attempts == 3,
        "it was not sent, so that even a POST may be: {error}"
    );
    assert!(find::<reqwest::Error>(&error).unwrap().is_connect());
}

#[tokio::test]
async fn a_time_out_of_reqwests_own_bounds_an_attempt_and_counts_as_one() {
    let server = Server::start([Do::Hang]).await;
    let (client, layer) = client(&stack().attempt(Duration::from_secs(60)));
    let request = || client.get(server.url()).timeout(Duration::from_secs(2));
    let response = request().send().await.unwrap();
    assert_eq!((response.status().as_u16(), attempts(&response)), (200, 2));
    layer.retry().set_mode(buttress::Mode::Off);

    let hanging = Server::start_then([], Do::Hang).await;
    let error = client.get(hanging.url()).timeout(Duration::from_millis(100)).send().await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
}

#[tokio::test]
async fn the_total_deadline_bounds_the_call() {
    let server = Server::start_then([], Do::Hang).await;
    let (client, _) = client(&stack().total(Duration::from_millis(2500)).attempt(Duration::from_secs(2)));
    let error = client.get(server.url()).send().await.unwrap_err();
    assert_eq!(find::<Elapsed>(&error).unwrap().name(), "api");
}

#[tokio::test]
async fn limits_of_a_request_s_own_reach_the_stack() {
    let server = Server::start_then([], status(503)).await;
    let (client, _) = client(&stack());
    let response = client.get(server.url()).with_max_retries(0).send().await.unwrap();
    assert_eq!((response.status().as_u16(), attempts(&response), server.calls()), (503, 1, 1));
    assert_eq!(gave_up(&response), Some(Stop::MaxRetries));

    let server = Server::start([Do::Reset]).await;
    let error = client.post(server.url()).send().await.unwrap_err();
    assert!(!find::<Exhausted>(&error).unwrap().safe_to_retry);
    let server = Server::start([Do::Reset]).await;
    let response = client.post(server.url()).with_idempotency_key("incident-42").send().await.unwrap();
    assert_eq!(attempts(&response), 2);
}

#[tokio::test]
async fn bodies_in_pieces_and_forms_are_sent_again_too() {
    let (client, _) = client(&stack());
    let server = Server::start([status(503)]).await;
    let pieces = ["one ", "two ", "three"].map(Ok::<_, std::io::Error>);
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let response = client.put(server.url()).body(body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let bodies: Vec<_> = server.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, ["one two three"; 2]);

    let server = Server::start([status(503)]).await;
    let form = reqwest::multipart::Form::new().text("name", "value").text("other", "another");
    let response = client.put(server.url()).multipart(form).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let [first, second] = &server.seen()[..] else { panic!("two attempts") };
    assert_eq!(
        (&first.body, first.header("content-length")),
        (&second.body, second.header("content-length"))
    );
    assert_eq!(first.header("content-length"), first.body.len().to_string());
}

#[tokio::test]
async fn a_request_that_cannot_be_made_says_nothing_about_the_server() {
    let (client, layer) = client(&stack().circuit_breaker(Config::critical()));
    for _ in 0..5 {
        let error = client.get("ftp://127.0.0.1/").send().await.unwrap_err();
        assert!(error.is_builder(), "{error:?}");
    }
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Closed);
}

#[tokio::test]
async fn calls_from_spawned_tasks_share_one_circuit() {
    let server = Server::start_then([], status(500)).await;
    let (client, layer) = client(&stack().circuit_breaker(Config::critical()));
    let calls = (0..5).map(|_| {
        let (client, url) = (client.clone(), server.at("/x"));
        tokio::spawn(async move { client.get(url).send().await })
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Open);
}

#[tokio::test]
async fn layers_of_one_s_own_choice_stack_too() {
    let server = Server::start([Do::Hang, status(503)]).await;
    let layers = ServiceBuilder::new()
        .layer(RetryLayer::new("api", fast()).unwrap().policy(Http::new()).replay(HttpReplay::new()))
        .layer(TimeoutLayer::new(Duration::from_secs(2)))
        .into_inner();
    let client = ClientBuilder::new(reqwest::Client::new()).with(StackMiddleware::new(layers)).build();
    let response = client.get(server.url()).send().await.unwrap();
    assert_eq!((response.status().as_u16(), attempts(&response)), (200, 3));
}
