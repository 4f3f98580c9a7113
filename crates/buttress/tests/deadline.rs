//! What the total deadline of a stack means to its other layers, and what travels with requests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::core::Backoff;
use buttress::core::observe::Event;
use buttress::core::{Carried, observe_fn};
use buttress::retry::{Budget, Config};
use buttress::{BoxError, Elapsed, Exhausted, HttpBuilder, Mode, RequestExt, Stop, find};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A retry every four seconds, and a total of ten.
fn stack() -> HttpBuilder {
    let retry = Config::background().backoff(Backoff::constant(secs(4))).budget(Budget::unlimited());
    buttress::http("api").total(secs(10)).attempt(secs(9)).retry(retry)
}

fn get() -> Request<Full<Bytes>> {
    Request::get("http://api/").body(Full::default()).unwrap()
}

/// What each attempt brought along, and how the call ended; every attempt is answered with 503, after this time.
async fn attempts(
    layer: &buttress::HttpLayer,
    request: Request<Full<Bytes>>,
    time: Duration,
) -> (Vec<Option<Carried>>, Result<Response<Full<Bytes>>, BoxError>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let client = service_fn({
        let seen = Arc::clone(&seen);
        move |request: Request<buttress::http::ReplayBody<Full<Bytes>>>| {
            seen.lock().unwrap().push(request.extensions().get::<Carried>().cloned());
            async move {
                tokio::time::sleep(time).await;
                Response::builder().status(503).body(Full::<Bytes>::default())
            }
        }
    });
    let outcome = layer.layer(client).oneshot(request).await;
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (seen, outcome)
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_carries_nothing_and_the_next_ones_the_deadline() {
    let (layer, start) = (stack().build().unwrap(), Instant::now());
    let (seen, outcome) = attempts(&layer, get(), secs(1)).await;
    // At 0 and 5 s. One at 10 s would be in vain, so the last real answer stays one, and comes at once.
    assert_eq!(outcome.unwrap().status(), 503);
    assert_eq!((seen.len(), start.elapsed()), (2, secs(6)));
    assert_eq!(seen[0], None);
    let second = seen[1].as_ref().unwrap();
    assert_eq!((second.attempt, second.deadline), (2, Some(start + secs(10))));
}

#[tokio::test(start_paused = true)]
async fn the_retry_that_is_not_made_for_want_of_time_says_so() {
    let stopped = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&stopped);
    let observer = observe_fn(move |_, event| {
        if let Event::GaveUp { stop, .. } = event {
            seen.lock().unwrap().push(*stop);
        }
    });
    let layer = stack().observe(observer).build().unwrap();
    let _ = attempts(&layer, get(), secs(1)).await;
    assert_eq!(*stopped.lock().unwrap(), [Stop::Deadline]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_lasts_beyond_the_total_is_cut_off_there() {
    let (layer, start) = (stack().build().unwrap(), Instant::now());
    let (seen, outcome) = attempts(&layer, get(), secs(5)).await;
    // At 0 and at 9 s, and that one is given a second.
    let error = outcome.unwrap_err();
    assert_eq!((seen.len(), start.elapsed()), (2, secs(10)));
    assert!(find::<Elapsed>(&*error).is_some(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_s_own_limit_counts_in_place_of_the_layers_and_travels() {
    let (layer, start) = (stack().build().unwrap(), Instant::now());
    let (seen, outcome) = attempts(&layer, get().with_time_limit(secs(18)), secs(1)).await;
    assert_eq!(outcome.unwrap().status(), 503);
    // At 0, 5, 10 and 15 s.
    assert_eq!((seen.len(), start.elapsed()), (4, secs(16)));
    // An attempt sees its own deadline where that is the earlier one.
    let deadlines: Vec<_> =
        seen.into_iter().map(|carried| carried.unwrap().deadline.unwrap() - start).collect();
    assert_eq!(deadlines, [secs(9), secs(14), secs(18), secs(18)]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_told_to_travel_does_from_the_start() {
    let (layer, start) = (stack().deadline_travels().build().unwrap(), Instant::now());
    let (seen, _) = attempts(&layer, get(), secs(1)).await;
    let deadlines: Vec<_> =
        seen.into_iter().map(|carried| carried.unwrap().deadline.unwrap() - start).collect();
    assert_eq!(deadlines, [secs(9), secs(10)]);
    assert!(layer.explain().to_string().contains("; travels with the request"));
}

#[tokio::test(start_paused = true)]
async fn a_total_that_is_only_observed_stops_no_retry() {
    let layer = stack().build().unwrap();
    layer.total().set_mode(Mode::Observe);
    layer.circuit_breaker().handle().set_mode(Mode::Off);
    let (seen, outcome) = attempts(&layer, get(), secs(1)).await;
    assert_eq!((seen.len(), outcome.unwrap().status().as_u16()), (6, 503));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_s_time_is_never_longer_than_the_total() {
    let layer = stack().total(secs(3)).build().unwrap();
    let (seen, outcome) = attempts(&layer, get(), secs(60)).await;
    let error = outcome.unwrap_err();
    assert_eq!(seen.len(), 1);
    // The attempt's own deadline speaks, so that the circuit hears of a time-out and not of an abandoned call.
    assert_eq!(find::<Elapsed>(&*error).unwrap().limit(), secs(3));
    assert_eq!(find::<Exhausted>(&*error).unwrap().stop, Stop::Deadline);
    assert_eq!(layer.circuit_breaker().handle().metrics().consecutive_failures, 1);
}
