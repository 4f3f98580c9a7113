use std::time::Duration;

use buttress_deadline::DeadlineLayer;
use layered::{Execute, Service as _, Stack};
use seatbelt::ResilienceContext;
use seatbelt::timeout::Timeout;
use tick::Clock;
use tower::Layer;
use tower::timeout::TimeoutLayer;
use tower_resilience::timelimiter::TimeLimiterLayer;

use crate::leaf::{Down, Leaf, PENDING, READY, calls, futures};
use crate::measure::{Case, Side};

const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn ready() -> Vec<Case> {
    cases("deadline, ready at once", READY)
}

pub(super) fn pending() -> Vec<Case> {
    cases("deadline, pending once", PENDING)
}

fn cases(group: &'static str, leaf: Leaf) -> Vec<Case> {
    let ours = DeadlineLayer::attempt("bench", LIMIT).unwrap().layer(leaf);
    let resilience = TimeLimiterLayer::builder().timeout_duration(LIMIT).build().layer(leaf);
    let context = ResilienceContext::new(Clock::new_tokio());
    let pipeline = (
        Timeout::layer("bench", &context).timeout(LIMIT).timeout_error(|_| Down),
        Execute::new(move |n: u64| tower::Service::call(&mut leaf.clone(), n)),
    )
        .into_service();
    let seatbelt = futures(
        move |n| {
            let pipeline = pipeline.clone();
            async move { pipeline.execute(n).await }
        },
        true,
    );
    vec![
        Case::new(group, Side::Floor, "bare service", calls(leaf, |n| n, true)),
        Case::new(group, Side::Buttress, "nothing carried", calls(ours, |n| n, true)),
        Case::new(
            group,
            Side::Peer,
            "tower::timeout",
            calls(TimeoutLayer::new(LIMIT).layer(leaf), |n| n, true),
        ),
        Case::new(group, Side::Peer, "tower-resilience", calls(resilience, |n| n, true)),
        Case::new(group, Side::Peer, "seatbelt", seatbelt),
    ]
}
