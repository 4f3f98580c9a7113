//! SQS's client over a stack. Its call sites know nothing of it.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::send_message::{SendMessageError, SendMessageOutput};
use aws_smithy_types::timeout::TimeoutConfig;
use buttress::circuit_breaker::{CircuitState, Config};
use buttress::core::Carried;
use buttress::deadline::DeadlineLayer;
use buttress::{Elapsed, Exhausted, Mode, Refused, find};
use buttress_aws::{ConnectorService, StackHttpClient};
use common::{bare, beneath, client, error, off, on, retrying, sent, sqs, until};
use loopback::{Do, Server, status};
use tower::layer::layer_fn;

/// A call site that knows nothing of the stack.
async fn send(client: &aws_sdk_sqs::Client) -> Result<SendMessageOutput, SdkError<SendMessageError>> {
    client.send_message().queue_url("http://queue").message_body("the message").send().await
}

#[tokio::test]
async fn a_stack_retries_in_place_of_the_sdk_with_the_same_request_on_one_connection() {
    let server = Server::start_then([status(503), status(503)], sent()).await;
    let sqs = sqs(&server, client(retrying()), off());
    assert_eq!(send(&sqs).await.unwrap().message_id(), Some("m-1"));
    let seen = server.seen();
    assert_eq!((seen.len(), server.connections()), (3, 1));
    for request in &seen {
        assert_eq!(request.body, seen[0].body);
        assert_eq!(request.header("content-length"), request.body.len().to_string());
        assert_eq!(request.header("authorization"), seen[0].header("authorization"), "signed once");
    }
}

#[tokio::test]
async fn beneath_the_sdk_s_retries_each_attempt_is_signed_and_numbered() {
    let server = Server::start_then([status(503), status(503)], sent()).await;
    let http_client = client(beneath());
    let sqs = sqs(&server, http_client.clone(), on(3));
    send(&sqs).await.unwrap();
    let numbers: Vec<_> =
        server.seen().iter().map(|seen| seen.header("amz-sdk-request").to_owned()).collect();
    let numbers: Vec<_> = numbers.iter().map(|number| number.split(';').next().unwrap()).collect();
    assert_eq!(numbers, ["attempt=1", "attempt=2", "attempt=3"]);
    assert_eq!(http_client.explain().warnings(), []);
}

#[tokio::test]
async fn the_sdk_does_not_retry_what_an_open_circuit_refuses() {
    let server = Server::start_then([], status(500)).await;
    let http_client = client(beneath().circuit_breaker(Config::critical()));
    let sqs = sqs(&server, http_client.clone(), on(10));
    let error = send(&sqs).await.unwrap_err();
    assert_eq!(server.calls(), 3, "of ten attempts");
    assert!(matches!(&error, SdkError::DispatchFailure(failure) if failure.is_other()), "{error:?}");
    let refused = find::<Refused>(&error).unwrap();
    assert!(refused.retry_after().is_some());
    send(&sqs).await.unwrap_err();
    assert_eq!(server.calls(), 3);
    assert_eq!(http_client.layer().circuit_breaker().handle().state(), CircuitState::Open);
}

#[tokio::test]
async fn where_both_retry_the_attempts_multiply_and_the_explanation_says_so() {
    let server = Server::start_then([], status(503)).await;
    let http_client = client(retrying().circuit_breaker(Config::high_traffic()));
    assert_eq!(http_client.explain().warnings()[0].code, "B008", "the SDK's default is known");
    let both = sqs(&server, http_client.clone(), on(3));
    send(&both).await.unwrap_err();
    assert_eq!(server.calls(), 9);
    let explanation = http_client.explain();
    assert!(
        explanation.to_string().contains("warning B008: AWS's SDK makes up to 3 attempts"),
        "{explanation}"
    );
    assert!(explanation.to_string().contains("9 in all"), "{explanation}");

    let one = sqs(&server, http_client.clone(), off());
    assert_eq!(http_client.explain().warnings(), []);
    let four = one.send_message().queue_url("http://queue").message_body("x").customize();
    let four = four.config_override(aws_sdk_sqs::Config::builder().retry_config(on(4)));
    four.send().await.unwrap_err();
    assert!(http_client.explain().to_string().contains("12 in all"), "an operation's own retries count too");
}

#[tokio::test]
async fn what_the_stack_s_own_retry_gave_up_the_sdk_does_not_start_again() {
    let server = Server::start_then([], Do::Reset).await;
    let sqs = sqs(&server, client(retrying()), on(3));
    let error = send(&sqs).await.unwrap_err();
    assert_eq!(find::<Exhausted>(&error).unwrap().attempts, 3);
    assert_eq!(server.calls(), 3, "and not nine");
}

#[tokio::test]
async fn what_a_stack_without_retries_sees_fail_the_sdk_retries() {
    let server = Server::start_then([Do::Reset, Do::Hang, status(500)], sent()).await;
    let http_client = client(beneath());
    let sqs = sqs(&server, http_client.clone(), on(4));
    send(&sqs).await.unwrap();
    assert_eq!(server.calls(), 4, "a reset, a time-out of the stack's, an answer");
    let metrics = http_client.layer().circuit_breaker().handle().metrics();
    assert_eq!(metrics.consecutive_failures, 0, "the last one was good");
}

#[tokio::test]
async fn a_time_out_of_the_stack_is_one_to_the_sdk() {
    let server = Server::start_then([Do::Hang], sent()).await;
    let deadline = DeadlineLayer::attempt("sqs", common::ATTEMPT).unwrap();
    let timed = StackHttpClient::new(bare(), deadline);
    send(&sqs(&server, timed, on(2))).await.unwrap();
    assert_eq!(server.calls(), 2);

    let server = Server::start_then([], Do::Hang).await;
    let error = send(&sqs(&server, client(beneath()), off())).await.unwrap_err();
    assert!(matches!(&error, SdkError::DispatchFailure(failure) if failure.is_timeout()), "{error:?}");
    assert_eq!(find::<Elapsed>(&error).unwrap().limit(), common::ATTEMPT);
}

#[tokio::test]
async fn throttling_that_is_named_in_the_body_of_a_400_is_throttling() {
    let server = Server::start_then([error("ThrottlingException")], sent()).await;
    let http_client = client(retrying());
    send(&sqs(&server, http_client, off())).await.unwrap();
    assert_eq!(server.calls(), 2);

    let http_client = client(beneath().circuit_breaker(Config::critical()));
    let server = Server::start_then([], error("RequestThrottled")).await;
    send(&sqs(&server, http_client.clone(), on(3))).await.unwrap_err();
    assert_eq!(http_client.layer().circuit_breaker().handle().state(), CircuitState::Open);
}

#[tokio::test]
async fn an_error_of_the_caller_s_is_none_of_the_server_s_and_reaches_the_sdk_as_it_was() {
    let server = Server::start_then([], error("QueueDoesNotExist")).await;
    let http_client = client(retrying().circuit_breaker(Config::critical()));
    let sqs = sqs(&server, http_client.clone(), off());
    for _ in 0..4 {
        let error = send(&sqs).await.unwrap_err();
        let response = error.raw_response().unwrap();
        assert!(response.headers().get("x-amzn-errortype").is_none());
        assert_eq!(
            response.body().bytes(),
            Some(&br#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"no"}"#[..])
        );
        assert_eq!(error.into_service_error().code(), Some("QueueDoesNotExist"));
    }
    assert_eq!(server.calls(), 4, "none was retried");
    assert_eq!(http_client.layer().circuit_breaker().handle().state(), CircuitState::Closed);
}

#[tokio::test]
async fn a_stack_is_built_once_for_each_pair_of_time_outs_and_its_state_is_shared() {
    let server = Server::start_then([], status(500)).await;
    let stack = beneath().circuit_breaker(Config::critical()).build().unwrap();
    let built = Arc::new(AtomicUsize::new(0));
    let (counted, layer) = (Arc::clone(&built), stack.clone());
    let counting = layer_fn(move |service: ConnectorService| {
        counted.fetch_add(1, Ordering::Relaxed);
        tower::Layer::layer(&layer, service)
    });
    let http_client = StackHttpClient::new(bare(), counting);
    let sqs = sqs(&server, http_client, on(2));
    send(&sqs).await.unwrap_err();
    assert_eq!((server.calls(), built.load(Ordering::Relaxed)), (2, 1));

    let other = TimeoutConfig::builder().read_timeout(Duration::from_secs(7)).build();
    let other = || aws_sdk_sqs::Config::builder().timeout_config(other.clone());
    let call = || sqs.send_message().queue_url("http://queue").message_body("x").customize();
    call().config_override(other()).send().await.unwrap_err();
    call().config_override(other()).send().await.unwrap_err();
    assert_eq!(
        (server.calls(), built.load(Ordering::Relaxed)),
        (3, 2),
        "the third failure opened the circuit"
    );
    assert_eq!(stack.circuit_breaker().handle().state(), CircuitState::Open);
}

#[tokio::test]
async fn what_travels_with_a_request_reaches_the_stack() {
    let server = Server::start_then([], status(503)).await;
    let sqs = sqs(&server, client(retrying()), off());
    let call = sqs.send_message().queue_url("http://queue").message_body("x").customize();
    let once = call.mutate_request(|request| {
        let mut carried = Carried::default();
        carried.max_retries = Some(0);
        request.add_extension(carried);
    });
    once.send().await.unwrap_err();
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_dropped_operation_drops_the_exchange() {
    let server = Server::start_then([Do::Hang], sent()).await;
    let http_client = client(beneath().attempt(Duration::from_secs(300)));
    let sqs = sqs(&server, http_client.clone(), on(3));
    tokio::select! {
        sent = send(&sqs) => panic!("the server hangs: {sent:?}"),
        () = until(|| server.calls() == 1) => {}
    }
    until(|| server.abandoned() == 1).await;
    send(&sqs).await.unwrap();
    assert_eq!(http_client.layer().circuit_breaker().handle().metrics().consecutive_failures, 0);
}

#[tokio::test]
async fn a_switched_off_stack_changes_nothing() {
    let server = Server::start_then([status(503)], sent()).await;
    let http_client = client(retrying());
    http_client.layer().set_mode(Mode::Off);
    let sqs = sqs(&server, http_client.clone(), on(2));
    send(&sqs).await.unwrap();
    assert_eq!(server.calls(), 2);

    let server = Server::start_then([], Do::Reset).await;
    let error = |error: SdkError<_>| format!("{:?}", error.into_service_error());
    let through = error(send(&common::sqs(&server, http_client, on(2))).await.unwrap_err());
    assert_eq!(server.calls(), 2);
    assert_eq!(through, error(send(&common::sqs(&server, bare(), on(2))).await.unwrap_err()));
}
