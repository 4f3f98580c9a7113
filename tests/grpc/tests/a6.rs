//! gRPC's own rules for retries (gRFC A6): policies, pushback, throttling, what is committed, what a server is told.

mod common;

use std::time::Duration;

use buttress::grpc::{CallExt, attempts, parse_timeout};
use buttress::{Exhausted, GrpcLayer, Stop, find};
use common::{a6, ask, client, policy};
use grpc_tests::echo::Ask;
use grpc_tests::{Do, Server};
use tonic::{Code, Request};

const GONE: Do = Do::TrailersOnly(Code::Unavailable, &[]);
const UNAVAILABLE: &str = r#""UNAVAILABLE""#;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// An answer that asks for so many milliseconds, in headers.
fn pushed(code: Code, headers: &'static [(&'static str, &'static str)]) -> Do {
    Do::TrailersOnly(code, headers)
}

fn tokens(layer: &GrpcLayer) -> f64 {
    layer.retry().budget().tokens()
}

/// A tonic server that has been told of the deadline may be the first to end the call, and calls that cancelled.
fn is_late(status: &tonic::Status) -> bool {
    status.code() == Code::DeadlineExceeded
        || status.code() == Code::Cancelled && status.message() == "Timeout expired"
}

#[tokio::test]
async fn a_listed_code_is_retried_and_the_server_is_told_how_often() {
    let server = Server::start([GONE, GONE]).await;
    let answer = ask(&mut client(&a6(&policy(4, UNAVAILABLE), ""), &server)).await.unwrap();
    assert_eq!(attempts(&answer), 3);
    let previous: Vec<_> =
        server.seen().iter().map(|seen| seen.header("grpc-previous-rpc-attempts").to_owned()).collect();
    assert_eq!(previous, ["", "1", "2"]);
}

#[tokio::test]
async fn max_attempts_counts_the_first_and_is_five_at_most() {
    for (max_attempts, calls) in [(2, 2), (3, 3), (5, 5), (100, 5)] {
        let server = Server::start_then([], GONE).await;
        let status =
            ask(&mut client(&a6(&policy(max_attempts, UNAVAILABLE), ""), &server)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "as scripted"), "the last answer");
        assert_eq!(server.calls(), calls, "{max_attempts}");
    }
}

#[tokio::test]
async fn the_list_of_codes_decides() {
    let listed = policy(4, r#""ABORTED", 13, "NOT_FOUND""#);
    for (code, calls) in [
        (Code::Aborted, 2),
        (Code::Internal, 2),
        (Code::NotFound, 2),
        (Code::Unavailable, 1),
        (Code::ResourceExhausted, 1),
        (Code::InvalidArgument, 1),
        (Code::Cancelled, 1),
    ] {
        for failure in [Do::TrailersOnly(code, &[]), Do::Trailers(code, &[])] {
            let server = Server::start([failure]).await;
            let outcome = ask(&mut client(&a6(&listed, ""), &server)).await;
            assert_eq!((server.calls(), outcome.is_ok()), (calls, calls == 2), "{code:?}");
        }
    }
    let server = Server::start([Do::Http(503)]).await;
    ask(&mut client(&a6(&listed, ""), &server)).await.unwrap_err();
    ask(&mut client(&a6(&policy(4, UNAVAILABLE), ""), &server)).await.unwrap();
    assert_eq!(server.calls(), 2, "an HTTP 503 is UNAVAILABLE");
}

/// A reset is UNAVAILABLE, and may have been applied.
#[tokio::test]
async fn a_lost_connection_is_retried_only_if_unavailable_is_listed() {
    for (codes, retried) in [(UNAVAILABLE, true), (r#""ABORTED""#, false)] {
        let mut server = Server::start([Do::Hang]).await;
        let layer = a6(&policy(5, codes).replace("0.005s", "1.5s").replace("0.01s", "1.5s"), "");
        let mut client = client(&layer, &server);
        let call = tokio::spawn(async move { ask(&mut client).await });
        while server.calls() == 0 {
            tokio::time::sleep(millis(5)).await;
        }
        server.kill();
        server.revive().await;
        let outcome = call.await.unwrap();
        assert_eq!(outcome.is_ok(), retried, "{codes}: {outcome:?}");
        assert_eq!(server.calls(), 1 + usize::from(retried));
        if let Err(status) = outcome {
            assert_eq!(status.code(), Code::Unavailable, "and not UNKNOWN or CANCELLED: {status:?}");
        }
    }
}

#[tokio::test]
async fn a_method_without_a_policy_is_sent_once() {
    let server = Server::start_then([], GONE).await;
    let mut client = client(&a6(&policy(4, UNAVAILABLE), ""), &server);
    client.expand(Ask { text: "x".into() }).await.unwrap_err();
    assert_eq!(server.calls(), 1);
}

/// R-12: exactly what the server says, in headers and in trailers.
#[tokio::test]
async fn pushback_sets_the_delay() {
    // Without pushback, a minute: more than the test waits.
    let slow = policy(4, UNAVAILABLE).replace("0.005s", "60s").replace("0.01s", "60s");
    const AFTER_300: &[(&str, &str)] = &[("grpc-retry-pushback-ms", "300")];
    const AT_ONCE: &[(&str, &str)] = &[("grpc-retry-pushback-ms", "0")];
    let server = Server::start([
        pushed(Code::Unavailable, AFTER_300),
        Do::Trailers(Code::Unavailable, AFTER_300),
        pushed(Code::Unavailable, AT_ONCE),
    ])
    .await;
    let request = Request::new(Ask { text: "hello".into() }).with_time_limit(Duration::from_secs(30));
    let answer = client(&a6(&slow, ""), &server).unary(request).await.unwrap();
    assert_eq!(attempts(&answer), 4);
    let seen = server.seen();
    assert!(seen[1].at - seen[0].at >= millis(300) && seen[2].at - seen[1].at >= millis(300));
    assert!(seen[3].at - seen[0].at < Duration::from_secs(30));
}

#[tokio::test]
async fn pushback_that_says_no_ends_it() {
    const NO: &[&[(&str, &str)]] = &[
        &[("grpc-retry-pushback-ms", "-1")],
        &[("grpc-retry-pushback-ms", "soon")],
        &[("grpc-retry-pushback-ms", "")],
        &[("grpc-retry-pushback-ms", "2147483648")],
        &[("grpc-retry-pushback-ms", "5"), ("grpc-retry-pushback-ms", "5")],
    ];
    for headers in NO {
        for failure in [pushed(Code::Unavailable, headers), Do::Trailers(Code::Unavailable, headers)] {
            let server = Server::start([failure]).await;
            let layer =
                a6(&policy(4, UNAVAILABLE), r#", "retryThrottling": { "maxTokens": 10, "tokenRatio": 0.1 }"#);
            let status = ask(&mut client(&layer, &server)).await.unwrap_err();
            assert_eq!(
                (status.code(), server.calls(), tokens(&layer)),
                (Code::Unavailable, 1, 9.0),
                "{headers:?}"
            );
        }
    }
}

#[tokio::test]
async fn pushback_after_the_last_attempt_means_nothing() {
    const AT_ONCE: &[(&str, &str)] = &[("grpc-retry-pushback-ms", "0")];
    let server = Server::start_then([], pushed(Code::Unavailable, AT_ONCE)).await;
    ask(&mut client(&a6(&policy(3, UNAVAILABLE), ""), &server)).await.unwrap_err();
    assert_eq!(server.calls(), 3);
}

/// Tokens: less one for each failure with a listed code, more by the ratio for each OK; a retry needs more than half.
#[tokio::test]
async fn the_throttle_counts_as_specified() {
    let server = Server::start_then([], GONE).await;
    let layer = a6(&policy(5, UNAVAILABLE), r#", "retryThrottling": { "maxTokens": 10, "tokenRatio": 0.5 }"#);
    let mut client = client(&layer, &server);

    ask(&mut client).await.unwrap_err();
    assert_eq!((server.calls(), tokens(&layer)), (5, 5.0), "five attempts, the last with five tokens left");
    ask(&mut client).await.unwrap_err();
    assert_eq!((server.calls(), tokens(&layer)), (6, 4.0), "no more than half: no retry, and no waiting");

    server.script([], Do::Pass);
    for _ in 0..3 {
        ask(&mut client).await.unwrap();
    }
    assert_eq!(tokens(&layer), 5.5);
    server.script([GONE], Do::Pass);
    ask(&mut client).await.unwrap_err();
    assert_eq!((server.calls(), tokens(&layer)), (10, 4.5), "it is counted before it is asked");

    // What is neither OK nor listed changes nothing, unless the server forbids a retry.
    server.script([], Do::TrailersOnly(Code::InvalidArgument, &[]));
    ask(&mut client).await.unwrap_err();
    assert_eq!(tokens(&layer), 4.5);
    server.script([], Do::TrailersOnly(Code::Internal, &[]));
    ask(&mut client).await.unwrap_err();
    assert_eq!(tokens(&layer), 4.5);
    const NO: &[(&str, &str)] = &[("grpc-retry-pushback-ms", "-1")];
    server.script([], pushed(Code::InvalidArgument, NO));
    ask(&mut client).await.unwrap_err();
    assert_eq!(tokens(&layer), 3.5);

    server.script([], Do::Pass);
    for _ in 0..20 {
        ask(&mut client).await.unwrap();
    }
    assert_eq!(tokens(&layer), 10.0, "never more than it holds");
    server.script([GONE], Do::Pass);
    assert_eq!(attempts(&ask(&mut client).await.unwrap()), 2);
    assert_eq!(tokens(&layer), 9.5);
}

#[tokio::test]
async fn the_throttle_is_one_for_all_clients_of_a_layer() {
    let server = Server::start_then([], GONE).await;
    let layer = a6(&policy(5, UNAVAILABLE), r#", "retryThrottling": { "maxTokens": 4, "tokenRatio": 0.1 }"#);
    ask(&mut client(&layer, &server)).await.unwrap_err();
    assert_eq!((server.calls(), tokens(&layer)), (2, 2.0));
    ask(&mut client(&layer, &server)).await.unwrap_err();
    assert_eq!(server.calls(), 3);
}

/// Bridges § 4: the same `grpc-timeout` went out with every attempt.
#[tokio::test]
async fn the_server_is_told_of_the_time_that_is_left() {
    let slow = policy(3, UNAVAILABLE).replace("0.005s", "0.2s").replace("0.01s", "0.2s");
    let server = Server::start([GONE, GONE]).await;
    let mut request = Request::new(Ask { text: "hello".into() });
    request.set_timeout(Duration::from_secs(60));
    client(&a6(&slow, ""), &server).unary(request).await.unwrap();
    let seen = server.seen();
    let left: Vec<_> =
        seen.iter().map(|seen| parse_timeout(&seen.headers["grpc-timeout"]).unwrap()).collect();
    assert!(left[0] <= Duration::from_secs(60) && left[0] > Duration::from_secs(30), "{left:?}");
    // 0.2 s, less a fifth for jitter.
    assert!(left[0] - left[1] >= millis(160) && left[1] - left[2] >= millis(160), "{left:?}");

    let server = Server::start([]).await;
    ask(&mut client(&a6(&slow, ""), &server)).await.unwrap();
    assert_eq!(server.seen()[0].header("grpc-timeout"), "", "of a stack's own deadline it is not told");
}

#[tokio::test]
async fn a_methods_timeout_and_the_callers_end_the_whole_call() {
    let timed = format!(r#""timeout": "2s", {}"#, policy(3, UNAVAILABLE));
    let server = Server::start_then([], Do::Hang).await;
    let status = ask(&mut client(&a6(&timed, ""), &server)).await.unwrap_err();
    assert_eq!((is_late(&status), server.calls()), (true, 1), "{status:?}");
    assert!(parse_timeout(&server.seen()[0].headers["grpc-timeout"]).unwrap() <= millis(2000));

    let mut request = Request::new(Ask { text: "hello".into() });
    request.set_timeout(millis(2000));
    let status = client(&a6(&policy(3, UNAVAILABLE), ""), &server).unary(request).await.unwrap_err();
    assert_eq!((is_late(&status), server.calls()), (true, 2), "{status:?}");

    // No retry that would begin too late.
    let server = Server::start_then([], GONE).await;
    let late = policy(5, UNAVAILABLE).replace("0.005s", "20s").replace("0.01s", "20s");
    let status =
        ask(&mut client(&a6(&format!(r#""timeout": "10s", {late}"#), ""), &server)).await.unwrap_err();
    assert_eq!((status.code(), server.calls()), (Code::Unavailable, 1));
}

#[tokio::test]
async fn what_a_request_asks_for_itself_counts_first() {
    let server = Server::start_then([], GONE).await;
    let mut client = client(&a6(&policy(4, UNAVAILABLE), ""), &server);
    client.unary(Request::new(Ask::default()).with_max_retries(0)).await.unwrap_err();
    assert_eq!(server.calls(), 1);
    client.unary(Request::new(Ask::default()).with_max_retries(1)).await.unwrap_err();
    assert_eq!(server.calls(), 3);
}

#[tokio::test]
async fn an_error_out_of_it_says_what_was_tried() {
    let mut server = Server::start([]).await;
    let layer = a6(&policy(3, UNAVAILABLE), "");
    let mut client = client(&layer, &server);
    server.kill();
    let status = ask(&mut client).await.unwrap_err();
    let exhausted = find::<Exhausted>(&status).unwrap();
    assert_eq!((exhausted.attempts, exhausted.stop, status.code()), (3, Stop::MaxRetries, Code::Unavailable));
    assert!(status.message().contains("3 attempts"), "{status}");
}
