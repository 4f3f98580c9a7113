//! What is measured.

mod breaker;
mod deadline;
mod keyed;
mod retry;
mod stack;

use crate::leaf::{Boxed, PENDING, READY, calls};
use crate::measure::{Case, Side};

pub(crate) use keyed::keyed;

/// All cases on one thread, but those of many keys.
pub(crate) fn all() -> Vec<Case> {
    let bare = |group, leaf| Case::new(group, Side::Floor, "bare service", calls(leaf, |n| n, true));
    let mut cases = vec![
        bare("bare", READY),
        Case::new("bare", Side::Floor, "bare service, its future boxed", calls(Boxed(READY), |n| n, true)),
        bare("bare, pending once", PENDING),
    ];
    cases.extend(breaker::closed());
    cases.extend(breaker::open());
    cases.extend(retry::number());
    cases.extend(retry::http());
    cases.extend(deadline::ready());
    cases.extend(deadline::pending());
    cases.extend(stack::ready());
    cases.extend(stack::pending());
    cases.extend(breaker::metric());
    cases
}

/// What does not change from run to run; bytes, unless it says otherwise.
pub(crate) fn sizes() -> Vec<(&'static str, f64)> {
    vec![
        ("future of the four-layer stack", stack::future_bytes() as f64),
        ("a key of 41 characters, of a million", keyed::bytes_per_key()),
        ("a clock read, ns", clock_read()),
    ]
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures the machine's time")]
fn clock_read() -> f64 {
    const READS: u32 = 100_000;
    let round = || {
        let start = std::time::Instant::now();
        (0..READS).for_each(|_| {
            std::hint::black_box(tokio::time::Instant::now());
        });
        start.elapsed().as_secs_f64() * 1e9 / f64::from(READS)
    };
    (0..20).map(|_| round()).fold(f64::INFINITY, f64::min)
}
