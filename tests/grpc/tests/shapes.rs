//! Each way in which gRPC fails on the wire, in each of the four ways to call.

mod common;

use std::time::Duration;

use buttress::circuit_breaker::CircuitState;
use buttress::core::observe::CallResult::{Failure, Success};
use buttress::grpc::{AttemptLayer, CallExt, Truncated, attempts, parse_timeout};
use buttress::{Exhausted, Refused, find};
use common::{ask, asks, client, heard, stack};
use grpc_tests::echo::Ask;
use grpc_tests::{Do, Server};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tonic::{Code, Request};

const SECOND: Duration = Duration::from_secs(1);

fn failures() -> [(&'static str, Do); 6] {
    [
        ("trailers-only", Do::TrailersOnly(Code::Unavailable, &[])),
        ("headers and trailers", Do::Trailers(Code::Unavailable, &[])),
        ("a proxy's 503", Do::Http(503)),
        ("a proxy's 429", Do::Http(429)),
        ("a message and no trailers", Do::Truncated),
        ("a message and a reset", Do::Reset(Duration::ZERO)),
    ]
}

#[tokio::test]
async fn every_kind_of_call_passes_a_stack_that_has_nothing_to_do() {
    let server = Server::start([]).await;
    let (layer, heard) = heard(|builder| builder);
    let mut client = client(&layer, &server);
    let answer = ask(&mut client).await.unwrap();
    assert_eq!((answer.get_ref().text.as_str(), attempts(&answer)), ("hello", 1));
    assert_eq!(client.collect(asks(&["a", "b", "c"])).await.unwrap().into_inner().text, "abc");
    let letters = client.expand(Ask { text: "xyz".into() }).await.unwrap().into_inner();
    let letters: Vec<_> = letters.map(|answer| answer.unwrap().text).collect().await;
    assert_eq!(letters, ["x", "y", "z"]);
    let chat = client.chat(asks(&["1", "2"])).await.unwrap().into_inner();
    assert_eq!(chat.map(|answer| answer.unwrap().text).collect::<Vec<_>>().await, ["1", "2"]);
    assert_eq!((heard.count(Success), server.calls()), (4, 4));
}

/// Bridges § 4, the table: a classifier that sees headers only misses what comes in trailers.
#[tokio::test]
async fn a_failed_attempt_is_retried_whatever_its_shape() {
    for (shape, failure) in failures().into_iter().filter(|(shape, _)| !shape.starts_with("a message")) {
        let server = Server::start([failure.clone(), failure]).await;
        let mut client = client(&stack(|builder| builder), &server);
        let answer = ask(&mut client).await.unwrap_or_else(|status| panic!("{shape}: {status}"));
        assert_eq!((answer.get_ref().text.as_str(), attempts(&answer)), ("hello", 3), "{shape}");
        assert_eq!(server.calls(), 3, "{shape}");
    }
}

/// Of a method that answers with one message, the status is waited for: nothing of it could be used before.
#[tokio::test]
async fn every_failure_of_a_unary_method_is_retried() {
    let later = ("a message and trailers", Do::MessageThenTrailers(Code::Unavailable));
    let slow = ("a message and a late reset", Do::Reset(SECOND / 5));
    for (shape, failure) in failures().into_iter().chain([later, slow]) {
        let server = Server::start([failure.clone(), failure]).await;
        let (layer, heard) = heard(|builder| builder.unary("echo.v1.Echo/Unary"));
        let answer =
            ask(&mut client(&layer, &server)).await.unwrap_or_else(|status| panic!("{shape}: {status}"));
        assert_eq!((answer.get_ref().text.as_str(), attempts(&answer)), ("hello", 3), "{shape}");
        assert_eq!((heard.count(Failure), heard.count(Success)), (2, 1), "{shape}");
    }
}

#[tokio::test]
async fn a_unary_answer_that_never_ends_is_given_up_in_time_and_the_server_is_told_of_it() {
    let server = Server::start([Do::HeadersThenWait(SECOND * 600)]).await;
    let unary = |builder: buttress::GrpcBuilder| builder.unary("echo.v1.Echo/Unary").attempt(SECOND * 2);
    let answer = ask(&mut client(&stack(unary), &server)).await.unwrap();
    assert_eq!(attempts(&answer), 2);
    for seen in server.seen() {
        assert!(parse_timeout(&seen.headers["grpc-timeout"]).unwrap() <= SECOND * 2);
    }
}

/// tonic's own time-outs end with the head.
#[tokio::test]
async fn a_calls_own_time_ends_its_stream_too() {
    let server = Server::start([]).await;
    let (layer, heard) = heard(|builder| builder);
    let mut request = Request::new(Ask { text: "a".repeat(1200) });
    request.set_timeout(SECOND * 3);
    let mut letters = client(&layer, &server).expand(request).await.unwrap().into_inner();
    let status = loop {
        match letters.next().await.expect("a minute of letters") {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), server.calls()), (Code::DeadlineExceeded, 1));
    assert!(find::<buttress::Elapsed>(&status).unwrap().name().ends_with("/Expand"), "{status:?}");
    // Nothing, if it is this reader who was late for what was there.
    assert!(heard.count(Failure) <= 1 && heard.count(Success) == 0);
}

/// What follows a message may come too late to be looked at; the breaker hears of it all the same.
#[tokio::test]
async fn what_fails_after_a_message_is_retried_if_it_is_there_and_is_counted_in_any_case() {
    let later = ("a message and trailers", Do::MessageThenTrailers(Code::Unavailable));
    for (shape, failure) in
        failures().into_iter().chain([later]).filter(|(shape, _)| shape.starts_with("a message"))
    {
        let server = Server::start([failure.clone()]).await;
        let (layer, heard) = heard(|builder| builder);
        let mut client = client(&layer, &server);
        let outcome = ask(&mut client).await;
        let calls = server.calls();
        assert!(outcome.is_ok() == (calls == 2), "{shape}: {calls} calls, {outcome:?}");
        assert_eq!((heard.count(Failure), heard.count(Success)), (1, calls - 1), "{shape}");
    }
}

#[tokio::test]
async fn without_a_peek_only_headers_are_seen_by_the_retry_and_all_by_the_breaker() {
    for (shape, failure) in failures() {
        let server = Server::start([failure]).await;
        let (layer, heard) = heard(|builder| builder.attempts(AttemptLayer::new().peek(None)));
        let mut client = client(&layer, &server);
        let outcome = ask(&mut client).await;
        let in_head = matches!(shape, "trailers-only" | "a proxy's 503" | "a proxy's 429");
        assert_eq!((outcome.is_ok(), server.calls()), (in_head, 1 + usize::from(in_head)), "{shape}");
        assert_eq!(heard.count(Failure), 1, "{shape}");
    }
}

/// tonic takes what came for all there is.
#[tokio::test]
async fn an_answer_without_a_status_is_an_error_and_not_half_an_answer() {
    let server = Server::start_then([], Do::Truncated).await;
    let layer = stack(|builder| builder);
    let status = ask(&mut client(&layer, &server)).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(find::<Truncated>(&status).is_some(), "{status:?}");
    let mut alone = grpc_tests::echo::echo_client::EchoClient::new(server.channel());
    assert_eq!(alone.unary(Ask { text: "hello".into() }).await.unwrap().into_inner().text, "half");
}

/// tonic alone panics.
#[tokio::test]
async fn details_that_cannot_be_decoded_do_no_harm() {
    const BROKEN: &[(&str, &str)] = &[("grpc-status-details-bin", "%%%")];
    for failure in [Do::TrailersOnly(Code::NotFound, BROKEN), Do::Trailers(Code::NotFound, BROKEN)] {
        let server = Server::start_then([], failure).await;
        let status = ask(&mut client(&stack(|builder| builder), &server)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, "as scripted"));
        let mut alone = grpc_tests::echo::echo_client::EchoClient::new(server.channel());
        let alone = tokio::spawn(async move { alone.unary(Ask::default()).await });
        assert!(alone.await.unwrap_err().is_panic(), "when this fails, tonic has learnt it");
    }
}

#[tokio::test]
async fn five_failures_of_any_shape_open_the_circuit() {
    for (shape, failure) in failures() {
        let server = Server::start_then([], failure).await;
        let layer = stack(|builder| builder.map_retry(|retry| retry.max_retries(0)));
        let mut client = client(&layer, &server);
        for _ in 0..5 {
            assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Closed, "{shape}");
            ask(&mut client).await.unwrap_err();
        }
        assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Open, "{shape}");
        let refused = ask(&mut client).await.unwrap_err();
        assert_eq!((refused.code(), server.calls()), (Code::Unavailable, 5), "{shape}");
        assert!(find::<Refused>(&refused).is_some());
    }
}

#[tokio::test]
async fn a_server_stream_fails_over_before_its_first_message_and_not_after_it() {
    let server = Server::start([Do::Trailers(Code::Unavailable, &[])]).await;
    let mut stub = client(&stack(|builder| builder), &server);
    let letters = stub.expand(Ask { text: "ab".into() }).await.unwrap().into_inner();
    assert_eq!(letters.map(|answer| answer.unwrap().text).collect::<Vec<_>>().await, ["a", "b"]);
    assert_eq!(server.calls(), 2);

    let server = Server::start([Do::Reset(SECOND / 5)]).await;
    let (layer, heard) = heard(|builder| builder);
    let mut letters = client(&layer, &server).expand(Ask { text: "ab".into() }).await.unwrap().into_inner();
    assert_eq!(letters.next().await.unwrap().unwrap().text, "half");
    letters.next().await.unwrap().unwrap_err();
    assert_eq!(server.calls(), 1, "a message was given out: committed");
    assert_eq!((heard.count(Failure), heard.count(Success)), (1, 0));
}

/// Bridges § 4: waiting for trailers stalled a stream's first message.
#[tokio::test]
async fn a_streams_messages_are_not_held_up() {
    let server = Server::start([]).await;
    let mut client = client(&stack(|builder| builder), &server);
    let mut letters = client.expand(Ask { text: "a".repeat(100) }).await.unwrap().into_inner();
    letters.next().await.unwrap().unwrap();
    let first = Instant::now();
    assert_eq!(letters.fold(0, |count, answer| count + usize::from(answer.is_ok())).await, 99);
    assert!(
        first.elapsed() > SECOND,
        "the first came when it was sent, and not with the last: {:?}",
        first.elapsed()
    );
}

/// A head is given out as long as nothing follows it: at once if the method is called a stream, else when the look ends.
#[tokio::test]
async fn a_quiet_streams_head_is_not_held_up() {
    const QUIET: Duration = Duration::from_secs(8);
    let server = Server::start_then([], Do::HeadersThenWait(QUIET)).await;
    let named = stack(|builder| {
        builder.stream("echo.v1.Echo/Expand").attempts(AttemptLayer::new().peek(SECOND * 60))
    });
    let bounded = stack(|builder| builder.attempts(AttemptLayer::new().peek(SECOND / 5)));
    for layer in [named, bounded] {
        let started = Instant::now();
        let letters = client(&layer, &server).expand(Ask { text: "a".into() }).await.unwrap().into_inner();
        assert!(started.elapsed() < QUIET, "{:?}", started.elapsed());
        assert_eq!(letters.map(|answer| answer.unwrap().text).collect::<Vec<_>>().await, ["a"]);
    }
}

#[tokio::test]
async fn client_and_bidirectional_streams_are_sent_again_from_their_start() {
    let server =
        Server::start([Do::TrailersOnly(Code::Unavailable, &[]), Do::Trailers(Code::Unavailable, &[])]).await;
    let mut client = client(&stack(|builder| builder), &server);
    let answer = client.collect(asks(&["a", "b", "c"])).await.unwrap();
    assert_eq!((answer.get_ref().text.as_str(), attempts(&answer)), ("abc", 3));

    server.script([Do::TrailersOnly(Code::Unavailable, &[])], Do::Pass);
    let chat = client.chat(asks(&["1", "2"])).await.unwrap().into_inner();
    assert_eq!(chat.map(|answer| answer.unwrap().text).collect::<Vec<_>>().await, ["1", "2"]);
    assert_eq!(server.calls(), 5);
}

/// Bridges § 4: never where the request is still under way, or both sides wait for each other.
#[tokio::test]
async fn a_conversation_is_not_looked_into() {
    let server = Server::start([]).await;
    let stack = stack(|builder| builder.attempts(AttemptLayer::new().peek(SECOND * 60)));
    let mut client = client(&stack, &server);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut chat = client.chat(stream).await.unwrap().into_inner();
    for text in ["first", "second"] {
        sender.send(Ask { text: text.into() }).await.unwrap();
        assert_eq!(chat.next().await.unwrap().unwrap().text, text);
    }
    drop(sender);
    assert!(chat.next().await.is_none());
}

#[tokio::test]
async fn a_request_that_is_too_large_to_be_kept_is_sent_once() {
    let server = Server::start([Do::TrailersOnly(Code::Unavailable, &[])]).await;
    let mut client = client(&stack(|builder| builder), &server);
    let large = "x".repeat(50_000);
    let status = client.collect(asks(&[&large, &large, &large])).await.unwrap_err();
    assert_eq!((status.code(), server.calls()), (Code::Unavailable, 1));
    let answer = client.collect(asks(&[&large, &large, &large])).await.unwrap();
    assert_eq!(answer.into_inner().text.len(), 150_000, "and as it is");
}

#[tokio::test]
async fn without_anybodys_word_only_what_was_not_sent_is_sent_again() {
    let mut server = Server::start_then([], Do::TrailersOnly(Code::Unavailable, &[])).await;
    let breaker = buttress::circuit_breaker::Config::standard().mode(buttress::Mode::Off);
    let layer = buttress::grpc("echo").retry(common::quick()).circuit_breaker(breaker).build().unwrap();
    let mut client = client(&layer, &server);
    assert_eq!(ask(&mut client).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.calls(), 1, "it may have been applied");
    let repeatable = Request::new(Ask { text: "hello".into() }).repeatable().with_max_retries(3);
    client.unary(repeatable).await.unwrap_err();
    assert_eq!(server.calls(), 5, "this call may be repeated");
    let once = Request::new(Ask { text: "hello".into() }).with_idempotency_key("k").with_max_retries(0);
    client.unary(once).await.unwrap_err();
    assert_eq!(server.calls(), 6);

    server.kill();
    let mut refused = grpc_tests::echo::echo_client::EchoClient::new(layer.over(server.channel()));
    let status = refused.unary(Ask { text: "hello".into() }).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let exhausted = find::<Exhausted>(&status).unwrap();
    assert_eq!((exhausted.attempts, exhausted.safe_to_retry), (3, true), "nobody listens: not sent");
}

#[tokio::test]
async fn what_the_caller_did_wrong_is_neither_retried_nor_held_against_the_server() {
    for code in [Code::InvalidArgument, Code::NotFound, Code::Unauthenticated, Code::Unimplemented] {
        let server = Server::start_then([], Do::TrailersOnly(code, &[])).await;
        let layer = stack(|builder| builder);
        let mut client = client(&layer, &server);
        for _ in 0..6 {
            assert_eq!(ask(&mut client).await.unwrap_err().code(), code);
        }
        assert_eq!((server.calls(), layer.circuit_breaker().handle().state()), (6, CircuitState::Closed));
    }
}

#[tokio::test]
async fn an_attempt_that_hangs_is_given_up_and_repeated() {
    let server = Server::start([Do::Hang]).await;
    let layer = stack(|builder| builder.attempt(SECOND * 2).total(SECOND * 60));
    let answer = ask(&mut client(&layer, &server)).await.unwrap();
    assert_eq!(attempts(&answer), 2);

    let server = Server::start_then([], Do::Hang).await;
    let layer = stack(|builder| builder.attempt(SECOND / 10).total(SECOND / 2));
    let status = ask(&mut client(&layer, &server)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(find::<buttress::Elapsed>(&status).is_some());
}

/// Bridges § 9: some body types are not "general enough" inside of a spawned task.
#[tokio::test]
async fn both_stacks_can_be_named_and_spawned() {
    struct Holder {
        boxed: common::Client,
        unboxed: grpc_tests::echo::echo_client::EchoClient<buttress::GrpcService<tonic::transport::Channel>>,
    }
    let server = Server::start([Do::TrailersOnly(Code::Unavailable, &[])]).await;
    let layer = stack(|builder| builder);
    let mut holder = Holder {
        boxed: client(&layer, &server),
        unboxed: grpc_tests::echo::echo_client::EchoClient::new(layer.service(server.channel())),
    };
    let answers = tokio::spawn(async move {
        let boxed = holder.boxed.clone().unary(Ask { text: "1".into() }).await?.into_inner();
        let unboxed = holder.unboxed.unary(Ask { text: "2".into() }).await?.into_inner();
        holder.boxed.unary(Ask { text: "3".into() }).await?;
        Ok::<_, tonic::Status>(boxed.text + &unboxed.text)
    });
    assert_eq!(answers.await.unwrap().unwrap(), "12");
}
