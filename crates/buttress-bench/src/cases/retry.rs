use buttress_core::Plain;
use buttress_retry::{Budget, Config, RetryLayer};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use layered::{Execute, Service as _, Stack};
use seatbelt::retry::Retry;
use seatbelt::{RecoveryInfo, ResilienceContext};
use tick::Clock;
use tower::Layer;

use crate::leaf::{Down, READY, calls, futures};
use crate::measure::{Case, Side};

/// A policy of tower's that retries errors, up to two times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Twice(pub(super) u32);

impl<Req: Clone, Res, E> tower::retry::Policy<Req, Res, E> for Twice {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _: &mut Req, outcome: &mut Result<Res, E>) -> Option<Self::Future> {
        let again = outcome.is_err() && self.0 > 0;
        self.0 -= u32::from(again);
        again.then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

fn cases<Req, F>(group: &'static str, request: F) -> Vec<Case>
where
    Req: Clone + Send + Sync + 'static,
    F: FnMut(u64) -> Req + Clone + 'static,
{
    let ours = |config| RetryLayer::new("bench", config).unwrap().layer(READY);
    let policy: Plain = Plain::default();
    let unlimited = Config::user_facing().budget(Budget::unlimited());
    let resilience = tower_resilience::retry::RetryLayer::<Req, Req, Down>::builder().max_attempts(3).build();
    let context = ResilienceContext::new(Clock::new_tokio());
    let pipeline = (
        Retry::layer("bench", &context).clone_input().recovery_with(|outcome: &Result<Req, Down>, _| {
            match outcome {
                Ok(_) => RecoveryInfo::never(),
                Err(_) => RecoveryInfo::retry(),
            }
        }),
        Execute::new(async |request: Req| Ok::<_, Down>(request)),
    )
        .into_service();
    let mut make = request.clone();
    let seatbelt = futures(
        move |n| {
            let (pipeline, request) = (pipeline.clone(), make(n));
            async move { pipeline.execute(request).await }
        },
        true,
    );
    let tower = tower::retry::RetryLayer::new(Twice(2)).layer(READY);
    let _ = policy;
    vec![
        Case::new(group, Side::Floor, "bare service", calls(READY, request.clone(), true)),
        Case::new(
            group,
            Side::Buttress,
            "default budget",
            calls(ours(Config::user_facing()), request.clone(), true),
        ),
        Case::new(group, Side::Buttress, "without a budget", calls(ours(unlimited), request.clone(), true)),
        Case::new(group, Side::Peer, "tower::retry", calls(tower, request.clone(), true)),
        Case::new(group, Side::Peer, "tower-resilience", calls(resilience.layer(READY), request, true)),
        Case::new(group, Side::Peer, "seatbelt", seatbelt),
    ]
}

pub(super) fn number() -> Vec<Case> {
    cases("retry, not taken, u64", |n| n)
}

pub(super) fn http() -> Vec<Case> {
    cases("retry, not taken, HTTP request with 10 headers", |_| request())
}

fn request() -> Request<Full<Bytes>> {
    Request::post("http://127.0.0.1:8126/api/v2/logs/events/search")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip")
        .header("content-type", "application/json")
        .header("dd-api-key", "0123456789abcdef0123456789abcdef")
        .header("dd-application-key", "0123456789abcdef0123456789abcdef01234567")
        .header("host", "127.0.0.1:8126")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("tracestate", "dd=s:1")
        .header("user-agent", "bench/1.0")
        .header("x-request-id", "6f1c2a9e")
        .body(Full::new(Bytes::from_static(b"{\"filter\":{\"query\":\"service:checkout\"}}")))
        .unwrap()
}
