use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use buttress::core::{Carried, Classify, Hint, Replay};
use buttress::grpc::{
    AttemptLayer, CallLayer, Grpc, ServiceConfig, Truncated, format_timeout, parse_timeout,
};
use buttress::http::{HttpReplay, ReplayBody};
use buttress::{Verdict, find};
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use tower::{Layer, Service};

use super::body::{Broken, Got, RUNTIME, any_source};
use crate::draw::Draw;

/// What is written of any time is read again, and is never longer; what is read at all is written no longer than it was.
pub(super) fn timeouts(draw: &mut Draw) {
    let left = Duration::from_nanos(draw.number());
    let written = format_timeout(left);
    let read = parse_timeout(&written).expect("what it has written");
    assert!(
        read <= left.max(Duration::from_nanos(1)) && left - read.min(left) <= left / 90_000,
        "{left:?}: {written:?}"
    );

    let text = format!("{}{}", draw.number(), draw.pick(&["H", "M", "S", "m", "u", "n", "s", "", " S"]));
    let odd = if draw.one_in(4) { draw.bytes(12) } else { draw.mutated(&text, "99999999H") };
    for bytes in [text.into_bytes(), odd] {
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { continue };
        if let Some(read) = parse_timeout(&value) {
            let again = parse_timeout(&format_timeout(read)).expect("what it has written");
            assert!(bytes.len() <= 9 && again <= read.max(Duration::from_nanos(1)), "{value:?}");
        }
    }
}

const CONFIG: &str = r#"{"methodConfig":[{"name":[{"service":"a.B","method":"C"},{"service":"a.D"},{}],
"timeout":"1.5s","waitForReady":true,"retryPolicy":{"maxAttempts":4,"initialBackoff":"0.1s","maxBackoff":"1s",
"backoffMultiplier":2.5,"retryableStatusCodes":["UNAVAILABLE",8]}}],"retryThrottling":{"maxTokens":10,"tokenRatio":0.1}}"#;

/// No configuration panics, and one that is taken keeps the rules of gRPC A6.
pub(super) fn configs(draw: &mut Draw) {
    let values =
        ["-1", "0", "1", "2", "1e9", "null", "[]", "{}", r#""1s""#, r#""-1s""#, r#""OK""#, "17", "0.5"];
    let mut json = CONFIG.to_owned();
    for _ in 0..draw.below(4) {
        let old = draw.pick(&[
            "true",
            "4",
            r#""0.1s""#,
            r#""1s""#,
            "2.5",
            "8",
            "10",
            "0.1}",
            r#""1.5s""#,
            r#"{"service":"a.D"}"#,
        ]);
        json = json.replacen(old, draw.pick(&values), 1);
    }
    let bytes = if draw.one_in(2) { draw.mutated(&json, CONFIG) } else { json.into_bytes() };
    let Ok(config) = ServiceConfig::from_json(&String::from_utf8_lossy(&bytes)) else { return };
    if let Some((max_tokens, ratio)) = config.throttle() {
        assert!((1..=1000).contains(&max_tokens) && ratio >= 0.001, "{max_tokens} {ratio}");
    }
    buttress::grpc("fuzz").service_config(config).silent().build().expect("what was read is valid");
}

/// Whatever a head says, it has a verdict; it is good only if it says so.
pub(super) fn heads(draw: &mut Draw) {
    let mut response = Response::builder().status(draw.between(100, 999) as u16);
    let names = ["grpc-status", "grpc-retry-pushback-ms", "retry-after"];
    for _ in 0..draw.below(4) {
        let text = draw.pick(&["0", "1", "4", "8", "14", "16", "17", "-1", "250", "2147483648"]);
        let value = if draw.one_in(3) { draw.mutated(text, "14") } else { text.as_bytes().to_vec() };
        let Ok(value) = HeaderValue::from_bytes(&value) else { continue };
        response = response.header(draw.pick(&names), value);
    }
    let response = response.body(()).expect("a response");
    let verdict = Grpc::new().classify(Ok(&response));
    let status = response.headers().get("grpc-status");
    let good = status.map_or(response.status() == 200, |status| status == "0");
    assert_eq!(verdict == Verdict::Success, good, "{response:?}");
    assert!(matches!(verdict.hint(), Hint::None | Hint::DoNotRetry) || verdict.is_failure());
    if let Hint::RetryAfter(wait) = verdict.hint() {
        assert!(wait <= Duration::from_secs(86_400), "{response:?}");
    }
}

/// A response that is looked into comes as it was sent, with an error at its end if that is not a status.
pub(super) fn peeks(draw: &mut Draw) {
    let _inside = RUNTIME.enter();
    let (source, facts) = any_source(draw);
    let mut request =
        Request::post("http://x/a.B/C").body(Full::<bytes::Bytes>::from("ask")).expect("a request");
    let mut carried = Carried::default();
    carried.repeatable = !draw.one_in(4);
    request.extensions_mut().insert(carried);
    let (request, _saved) = HttpReplay::new().save(request);
    let mut response = Some(Response::new(source));
    let answer = tower::service_fn(move |_: Request<ReplayBody<Full<bytes::Bytes>>>| {
        ready(Ok::<_, Infallible>(response.take().expect("called once")))
    });
    let methods = ServiceConfig::new();
    let methods = if draw.one_in(3) { methods.unary("a.B") } else { methods };
    let mut service = CallLayer::new(methods).layer(AttemptLayer::new().layer(answer));
    let mut future = pin!(service.call(request));
    let outcome =
        (0..100).find_map(|_| match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        });
    let mut body = match outcome.expect("an end") {
        Ok(response) => response.into_body(),
        Err(error) => {
            return assert!(facts.fails && facts.data.is_empty() && find::<Broken>(&*error).is_some());
        }
    };
    let mut got = Got::default();
    // Trailers without a status are not gRPC's.
    let told = facts.trailers.as_ref().is_some_and(|trailers| trailers.contains_key("grpc-status"));
    match got.finish(&mut body, &facts) {
        None => assert!(!facts.conforming || told && got.is_all(&facts), "{facts:?}"),
        Some(error) if find::<Truncated>(&*error).is_some() => {
            let whole = got.data == facts.data.len() && !got.trailers;
            assert!(!facts.conforming || !told && !facts.fails && whole, "{facts:?}");
        }
        Some(error) => assert!(facts.fails && find::<Broken>(&*error).is_some(), "{error}"),
    }
}
