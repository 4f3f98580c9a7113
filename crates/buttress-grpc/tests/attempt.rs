//! What each attempt is given and what is seen of its response, frame by frame, on a clock of the test's own.

use std::convert::Infallible;
use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use buttress_core::{BoxError, Carried, Carry, Classify, Elapsed, Kind, Replay, Verdict, find};
use buttress_grpc::{
    AttemptLayer, ByMethod, CallLayer, Code, Grpc, PeekedBody, RetryPolicy, ServiceConfig, Truncated,
};
use buttress_http::{HttpReplay, ReplayBody};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt, service_fn};

type Ask = Request<ReplayBody<Full<Bytes>>>;
type Answer = Response<PeekedBody<Channel<Bytes, BoxError>>>;
type Calling = Pin<Box<dyn Future<Output = Result<Answer, BoxError>>>>;

const TRANSIENT: Verdict = Verdict::failure(Kind::Transient);

fn ask(change: impl FnOnce(&mut Carried)) -> Ask {
    let mut request = Request::post("http://echo/echo.v1.Echo/Unary").body(Full::from("ask")).unwrap();
    Grpc::new().carry(&mut request, change);
    HttpReplay::new().save(request).0
}

fn repeatable() -> Ask {
    ask(|carried| carried.repeatable = true)
}

/// A call through this layer, and who sends the body of its response.
fn call(layer: &AttemptLayer, ask: Ask) -> (Sender<Bytes, BoxError>, Calling) {
    let (sender, body) = Channel::new(8);
    let body = Mutex::new(Some(body));
    let service = service_fn(move |_: Ask| {
        ready(Ok::<_, Infallible>(Response::new(body.lock().unwrap().take().unwrap())))
    });
    (sender, Box::pin(layer.layer(service).oneshot(ask)))
}

async fn is_pending(calling: &mut Calling) -> bool {
    poll_fn(|cx| Poll::Ready(calling.as_mut().poll(cx).is_pending())).await
}

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(code))])
}

fn verdict(answer: &Answer) -> Verdict {
    Grpc::new().classify(Ok(answer))
}

async fn rest(answer: Answer) -> (Bytes, Option<HeaderMap>) {
    let collected = answer.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    (collected.to_bytes(), trailers)
}

#[tokio::test(start_paused = true)]
async fn what_was_looked_at_is_given_back_as_it_came() {
    let data = |text: &'static str| Bytes::from_static(text.as_bytes());
    for (pieces, code) in
        [(vec![], "14"), (vec!["one"], "14"), (vec!["one"], "0"), (vec!["one", "two", "three"], "14")]
    {
        let (mut sender, calling) = call(&AttemptLayer::new(), repeatable());
        for piece in &pieces {
            sender.send_data(data(piece)).await.unwrap();
        }
        sender.send_trailers(status(code)).await.unwrap();
        let answer = calling.await.unwrap();
        let seen = code == "14" && pieces.len() < 2;
        assert_eq!(verdict(&answer), if seen { TRANSIENT } else { Verdict::Success }, "{pieces:?} {code}");
        assert!(!answer.body().is_end_stream());
        assert_eq!(answer.extensions().is_empty(), !seen, "nothing is noted of what is good");
        assert_eq!(
            rest(answer).await,
            (Bytes::from(pieces.concat()), Some(status(code))),
            "{pieces:?} {code}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_not_held_up_for_what_follows() {
    let (mut sender, mut calling) = call(&AttemptLayer::new(), repeatable());
    assert!(is_pending(&mut calling).await, "it may be a failure");
    sender.send_data(Bytes::from_static(b"one")).await.unwrap();
    let answer = calling.await.unwrap();
    assert_eq!(verdict(&answer), Verdict::Success);
    assert_eq!(answer.body().size_hint().lower(), 3);
    sender.send_trailers(status("14")).await.unwrap();
    assert_eq!(rest(answer).await.1, Some(status("14")));
}

#[tokio::test(start_paused = true)]
async fn a_head_is_held_up_for_so_long_and_no_longer() {
    let layer = AttemptLayer::new().peek(Duration::from_millis(300));
    let (mut sender, calling) = call(&layer, repeatable());
    let started = Instant::now();
    let answer = calling.await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_millis(300));
    assert_eq!(verdict(&answer), Verdict::Success);
    sender.send_data(Bytes::from_static(b"late")).await.unwrap();
    sender.send_trailers(status("0")).await.unwrap();
    assert_eq!(rest(answer).await.0, "late");

    // Nor does the look make a head late that came in time.
    let soon = Instant::now() + Duration::from_millis(100);
    let (_sender, calling) =
        call(&layer, ask(|carried| (carried.repeatable, carried.deadline) = (true, Some(soon))));
    calling.await.unwrap();
    assert_eq!(Instant::now(), soon);
}

/// Of a head that comes 400 ms after the call, 200 ms are left for a look.
#[tokio::test(start_paused = true)]
async fn a_look_ends_before_its_attempt_although_no_deadline_travels() {
    let started = Instant::now();
    let (_sender, body) = Channel::<Bytes, BoxError>::new(8);
    let body = std::sync::Mutex::new(Some(body));
    let layer = AttemptLayer::new().deadline_above(|| Some(Duration::from_millis(600)));
    let service = layer.layer(service_fn(move |_: Ask| {
        let body = body.lock().unwrap().take().unwrap();
        async move {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Ok::<_, Infallible>(Response::new(body))
        }
    }));
    service.oneshot(repeatable()).await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_millis(600));
}

/// tonic's servers say so when the time is over that they were told of.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_cancelled_at_its_deadline_has_timed_out() {
    for (waits, expected) in [(4000, Verdict::Ignored), (5000, Verdict::failure(Kind::Timeout))] {
        for in_head in [true, false] {
            let mut timed = repeatable();
            timed.headers_mut().insert("grpc-timeout", HeaderValue::from_static("5S"));
            let service = AttemptLayer::new().layer(service_fn(|_: Ask| async move {
                tokio::time::sleep(Duration::from_millis(waits)).await;
                let (mut sender, body) = Channel::<Bytes, BoxError>::new(8);
                let mut response = Response::new(body);
                if in_head {
                    response.headers_mut().extend(status("1"));
                } else {
                    sender.send_trailers(status("1")).await.unwrap();
                }
                Ok::<_, Infallible>(response)
            }));
            let answer = service.oneshot(known(ServiceConfig::new(), timed).await).await.unwrap();
            assert_eq!(verdict(&answer), expected, "{waits} {in_head}");
            let trailers = answer.headers().get("grpc-status").cloned();
            let told =
                trailers.or(rest(answer).await.1.and_then(|trailers| trailers.get("grpc-status").cloned()));
            assert_eq!(told.unwrap(), "1", "the caller hears what the server says");
        }
    }
}

/// As a [`CallLayer`] with this config hands it on.
async fn known(config: ServiceConfig, ask: Ask) -> Ask {
    let as_it_arrives = CallLayer::new(config).layer(service_fn(|ask: Ask| ready(Ok::<_, Infallible>(ask))));
    as_it_arrives.oneshot(ask).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_status_of_a_single_message_is_waited_for() {
    let unary = known(ServiceConfig::new().unary("echo.v1.Echo"), ask(|_| {})).await;
    let (mut sender, mut calling) = call(&AttemptLayer::new(), unary);
    sender.send_data(Bytes::new()).await.unwrap();
    sender.send_data(Bytes::from_static(b"one")).await.unwrap();
    assert!(is_pending(&mut calling).await);
    advance(Duration::from_secs(60)).await;
    assert!(is_pending(&mut calling).await, "the deadline of the attempt lies above");
    sender.send_trailers(status("14")).await.unwrap();
    let answer = calling.await.unwrap();
    assert_eq!(verdict(&answer), TRANSIENT);
    assert_eq!(rest(answer).await, (Bytes::from_static(b"one"), Some(status("14"))));
}

#[tokio::test(start_paused = true)]
async fn a_body_is_over_when_the_time_of_its_call_is() {
    let mut timed = ask(|_| {});
    timed.headers_mut().insert("grpc-timeout", HeaderValue::from_static("5S"));
    let (mut sender, calling) = call(&AttemptLayer::new(), known(ServiceConfig::new(), timed).await);
    let started = Instant::now();
    let mut body = calling.await.unwrap().into_body();
    sender.send_data(Bytes::from_static(b"one")).await.unwrap();
    body.frame().await.unwrap().unwrap();
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    assert_eq!(find::<Elapsed>(&*error).unwrap().name(), "/echo.v1.Echo/Unary");
    assert_eq!(Classify::<Answer>::classify(&Grpc::new(), Err(&*error)), Verdict::failure(Kind::Timeout));
    assert!(sender.send_data(Bytes::new()).await.is_err(), "it is let go");
    assert!(body.frame().await.is_none());
}

/// A slow reader of a fast stream never has to wait for it.
#[tokio::test(start_paused = true)]
async fn a_body_that_never_lets_its_reader_wait_is_over_in_time_too() {
    let mut timed = ask(|_| {});
    timed.headers_mut().insert("grpc-timeout", HeaderValue::from_static("5S"));
    let (mut sender, calling) = call(&AttemptLayer::new(), known(ServiceConfig::new(), timed).await);
    let started = Instant::now();
    let mut body = calling.await.unwrap().into_body();
    let error = loop {
        sender.send_data(Bytes::from_static(b"one")).await.unwrap();
        match body.frame().await.unwrap() {
            Ok(_) => advance(Duration::from_secs(1)).await,
            Err(error) => break error,
        }
        assert!(started.elapsed() < Duration::from_secs(60), "it goes on for ever");
    };
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    assert!(find::<Elapsed>(&*error).is_some(), "{error:?}");
    let verdict = Classify::<Answer>::classify(&Grpc::new(), Err(&*error));
    assert_eq!(verdict, Verdict::Ignored, "it is the reader that was slow");
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_would_repeat_is_not_looked_into() {
    let layer = AttemptLayer::new();
    let stream = known(ServiceConfig::new().stream("echo.v1.Echo"), repeatable()).await;
    for (what, layer, ask) in [
        ("not repeatable", layer.clone(), ask(|carried| carried.max_retries = Some(3))),
        ("no peek", layer.clone().peek(None), repeatable()),
        ("a stream", layer, stream),
    ] {
        let (_sender, mut calling) = call(&layer, ask);
        assert!(!is_pending(&mut calling).await, "{what}");
    }
}

/// Bridges § 4: while the request is being sent, the response may be waiting for it.
#[tokio::test(start_paused = true)]
async fn a_response_is_not_looked_into_before_its_request_is_sent() {
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(8);
    let mut request = Request::post("http://echo/echo.v1.Echo/Chat").body(body).unwrap();
    Grpc::new().carry(&mut request, |carried| carried.repeatable = true);
    let (request, _saved) = HttpReplay::new().save(request);
    let (_answers, answers) = Channel::<Bytes, BoxError>::new(8);
    let answers = Mutex::new(Some(answers));
    let read = Arc::new(Mutex::new(None));
    let reader = Arc::clone(&read);
    let service = service_fn(move |ask: Request<ReplayBody<Channel<Bytes, BoxError>>>| {
        *reader.lock().unwrap() = Some(ask.into_body());
        ready(Ok::<_, Infallible>(Response::new(answers.lock().unwrap().take().unwrap())))
    });
    sender.send_data(Bytes::from_static(b"a beginning")).await.unwrap();
    let answer = AttemptLayer::new().layer(service).oneshot(request).await.unwrap();
    assert_eq!(Classify::classify(&Grpc::new(), Ok(&answer)), Verdict::Success);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_ends_without_a_status_fails() {
    for pieces in [vec![], vec!["half"]] {
        let (mut sender, calling) = call(&AttemptLayer::new(), repeatable());
        for piece in &pieces {
            sender.send_data(Bytes::from_static(piece.as_bytes())).await.unwrap();
        }
        drop(sender);
        let answer = calling.await.unwrap();
        assert_eq!(verdict(&answer), TRANSIENT, "{pieces:?}");
        let error = answer.into_body().collect().await.unwrap_err();
        assert!(find::<Truncated>(&*error).is_some(), "{error:?}");
    }
    // Later on, and of a call that was not looked into.
    let (mut sender, calling) = call(&AttemptLayer::new().peek(None), repeatable());
    let mut body = calling.await.unwrap().into_body();
    sender.send_data(Bytes::from_static(b"half")).await.unwrap();
    drop(sender);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(find::<Truncated>(&*error).is_some(), "{error:?}");
    assert!(body.frame().await.is_none() && body.is_end_stream());
}

/// tonic takes a response whose trailers have no status for a good one.
#[tokio::test(start_paused = true)]
async fn trailers_without_a_status_are_no_end() {
    let odd =
        HeaderMap::from_iter([(http::HeaderName::from_static("x-checksum"), HeaderValue::from_static("7"))]);
    for peek in [None, Some(Duration::from_millis(500))] {
        for pieces in [&[][..], &["half"]] {
            let (mut sender, calling) = call(&AttemptLayer::new().peek(peek), repeatable());
            for piece in pieces {
                sender.send_data(Bytes::from_static(piece.as_bytes())).await.unwrap();
            }
            sender.send_trailers(odd.clone()).await.unwrap();
            let answer = calling.await.unwrap();
            let seen = if peek.is_some() { TRANSIENT } else { Verdict::Success };
            assert_eq!(verdict(&answer), seen, "{peek:?} {pieces:?}");
            let mut body = answer.into_body();
            for piece in pieces {
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), *piece);
            }
            let error = body.frame().await.unwrap().unwrap_err();
            assert!(find::<Truncated>(&*error).is_some(), "{error:?}");
            assert!(body.frame().await.is_none() && body.is_end_stream());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_in_the_head_needs_none_at_the_end() {
    let (sender, body) = Channel::<Bytes, BoxError>::new(8);
    drop(sender);
    let mut response = Response::new(body);
    response.headers_mut().extend(status("0"));
    let response = Mutex::new(Some(response));
    let service = service_fn(|_: Ask| ready(Ok::<_, Infallible>(response.lock().unwrap().take().unwrap())));
    let answer = AttemptLayer::new().layer(service).oneshot(repeatable()).await.unwrap();
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_before_its_first_message_fails_the_call_and_after_it_itself() {
    let (sender, calling) = call(&AttemptLayer::new(), repeatable());
    sender.abort("reset".into());
    assert_eq!(calling.await.unwrap_err().to_string(), "reset");

    let (mut sender, calling) = call(&AttemptLayer::new(), repeatable());
    sender.send_data(Bytes::from_static(b"one")).await.unwrap();
    sender.abort("reset".into());
    let answer = calling.await.unwrap();
    assert_eq!(verdict(&answer), TRANSIENT);
    let mut body = answer.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "reset");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_dropped_while_it_is_looked_into_lets_its_body_go() {
    let (mut sender, mut calling) = call(&AttemptLayer::new(), repeatable());
    assert!(is_pending(&mut calling).await);
    drop(calling);
    assert!(sender.send_data(Bytes::new()).await.is_err());
}

/// The headers that an attempt goes out with.
async fn headers(layer: AttemptLayer, ask: Ask) -> HeaderMap {
    let headers = Mutex::new(HeaderMap::new());
    let service = service_fn(|ask: Ask| {
        *headers.lock().unwrap() = ask.headers().clone();
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("x"))))
    });
    layer.peek(None).layer(service).oneshot(ask).await.unwrap();
    headers.into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn headers_say_how_much_time_is_left_and_which_attempt_it_is() {
    let deadline = Instant::now() + Duration::from_secs(10);
    advance(Duration::from_secs(4)).await;
    let timed = || {
        let mut ask = ask(|carried| (carried.deadline, carried.attempt) = (Some(deadline), 3));
        ask.headers_mut().insert("grpc-timeout", HeaderValue::from_static("10S"));
        ask
    };
    let of = headers(AttemptLayer::new(), timed()).await;
    assert_eq!((&of["grpc-timeout"], &of["grpc-previous-rpc-attempts"]), (&"6S".parse().unwrap(), &2.into()));
    let untimed = || ask(|carried| carried.deadline = Some(deadline));
    assert!(headers(AttemptLayer::new(), untimed()).await.is_empty(), "nobody asked for it");
    let of = headers(AttemptLayer::new().send_deadline(true), untimed()).await;
    assert_eq!(of["grpc-timeout"], "6S");
    advance(Duration::from_secs(100)).await;
    assert_eq!(headers(AttemptLayer::new(), timed()).await["grpc-timeout"], "1n", "too late, but never zero");
}

/// The list of codes reaches the retry on every way, and the breaker on none.
#[tokio::test(start_paused = true)]
async fn a_methods_codes_are_for_the_retry_only() {
    let ms = Duration::from_millis(1);
    let policy = RetryPolicy::new(3, ms, 1.0, ms, [Code::Aborted]).unwrap();
    let config = ServiceConfig::new().retry("echo.v1.Echo/Unary", policy);
    for (code, health, retried) in [
        ("10", Verdict::Rejected, TRANSIENT),
        ("14", TRANSIENT, Verdict::failure(Kind::Permanent)),
        ("0", Verdict::Success, Verdict::Success),
    ] {
        for in_head in [true, false] {
            let service = AttemptLayer::new().layer(service_fn(|_: Ask| async move {
                let (mut sender, body) = Channel::<Bytes, BoxError>::new(8);
                let mut response = Response::new(body);
                if in_head {
                    response.headers_mut().extend(status(code));
                } else {
                    sender.send_trailers(status(code)).await.unwrap();
                }
                Ok::<_, Infallible>(response)
            }));
            let answer = CallLayer::new(config.clone()).layer(service).oneshot(repeatable()).await.unwrap();
            assert_eq!(Grpc::new().classify(Ok(&answer)), health, "{code} {in_head}");
            assert_eq!(ByMethod::default().classify(Ok(&answer)), retried, "{code} {in_head}");
        }
    }
}
