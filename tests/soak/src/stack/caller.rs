use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use buttress::http::{BodyDeadline, ReplayBody};
use buttress::{Elapsed, Exhausted, HttpService, Refused, RequestExt, find};
use bytes::Bytes;
use http::Request;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Channel, Empty, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

use crate::draw::Draw;

pub(super) type Body = BoxBody<Bytes, io::Error>;
pub(super) type Api = BodyDeadline<HttpService<Client<HttpConnector, ReplayBody<Body>>>>;

/// How calls ended; each is counted once.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) started: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) failed_answers: AtomicU64,
    pub(super) exhausted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) elapsed: AtomicU64,
    pub(super) abandoned: AtomicU64,
    /// Bodies that failed or took too long, after their head had come.
    pub(super) broken_bodies: AtomicU64,
    /// Nothing of the above; none is expected.
    pub(super) other: AtomicU64,
}

impl Ends {
    pub(super) fn sum(&self) -> u64 {
        let ends = [
            &self.answered,
            &self.failed_answers,
            &self.exhausted,
            &self.refused,
            &self.elapsed,
            &self.abandoned,
            &self.broken_bodies,
            &self.other,
        ];
        ends.iter().map(|end| end.load(Relaxed)).sum()
    }

    fn count(&self, end: &AtomicU64) {
        end.fetch_add(1, Relaxed);
    }
}

/// One call after the other until this moment.
pub(super) async fn call_until(end: Instant, api: Api, url: &str, ends: &Ends, mut draw: Draw) {
    while Instant::now() < end {
        ends.count(&ends.started);
        // Some callers lose patience, at any moment.
        let patience = if draw.one_in(8) { draw.between(0, 150) } else { 60_000 };
        let request = any_request(&mut draw, url);
        let keeps_reading = !draw.one_in(10);
        let call = call(api.clone(), request, keeps_reading, ends);
        match timeout(Duration::from_millis(patience), call).await {
            Ok(end) => {
                ends.count(end);
                if std::ptr::eq(end, &ends.refused) {
                    sleep(Duration::from_millis(2)).await;
                }
            }
            Err(_) => ends.count(&ends.abandoned),
        }
        if draw.one_in(4) {
            sleep(Duration::from_millis(draw.between(0, 10))).await;
        }
    }
}

async fn call(api: Api, request: Request<Body>, keeps_reading: bool, ends: &Ends) -> &AtomicU64 {
    let error = match api.oneshot(request).await {
        Ok(response) => {
            let failed = !response.status().is_success();
            if response.status() == 400 {
                return &ends.other;
            }
            if !keeps_reading {
                return &ends.abandoned;
            }
            return match response.into_body().collect().await {
                Err(_) => &ends.broken_bodies,
                Ok(_) if failed => &ends.failed_answers,
                Ok(_) => &ends.answered,
            };
        }
        Err(error) => error,
    };
    if find::<Refused>(&*error).is_some() {
        &ends.refused
    } else if find::<Exhausted>(&*error).is_some() {
        &ends.exhausted
    } else if find::<Elapsed>(&*error).is_some() {
        &ends.elapsed
    } else {
        eprintln!("an error that was not expected: {error}");
        &ends.other
    }
}

fn any_request(draw: &mut Draw, url: &str) -> Request<Body> {
    let length = draw.below(5000);
    let whole = Full::from(vec![b'.'; length]).map_err(|never| match never {}).boxed();
    match draw.below(6) {
        0 => Request::put(url).body(whole),
        1 => Request::post(url).body(whole).map(|request| request.with_idempotency_key("key")),
        2 => Request::post(url).body(whole),
        3 => Request::put(url).body(streamed(draw.below(6))),
        _ => Request::get(url).body(empty()),
    }
    .expect("a request")
}

/// Pieces that come one by one.
fn streamed(pieces: usize) -> Body {
    let (mut sender, body) = Channel::<Bytes, io::Error>::new(1);
    tokio::spawn(async move {
        for _ in 0..pieces {
            if sender.send_data(Bytes::from_static(&[b'.'; 500])).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    });
    body.boxed()
}

pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}
