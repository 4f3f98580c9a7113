//! What is measured.

mod breaker;
mod checkpoint;
mod claims;
mod deadline;
mod keyed;
mod machine;
mod retry;
mod stack;

use crate::leaf::{Boxed, PENDING, READY, calls};
use crate::measure::{Case, Side};

pub(crate) use checkpoint::OUTSIDE;
pub(crate) use keyed::keyed;

/// All cases on one thread, but those of many keys.
pub(crate) fn all() -> Vec<Case> {
    let bare = |group, leaf| Case::new(group, Side::Floor, "bare service", calls(leaf, |n| n, true));
    let mut cases = machine::all();
    cases.extend([
        bare("bare", READY),
        Case::new("bare", Side::Floor, "bare service, its future boxed", calls(Boxed(READY), |n| n, true)),
        bare("bare, pending once", PENDING),
    ]);
    cases.extend(breaker::closed());
    cases.extend(breaker::open());
    cases.extend(retry::number());
    cases.extend(retry::http());
    cases.extend(deadline::ready());
    cases.extend(deadline::pending());
    cases.extend(stack::ready());
    cases.extend(stack::pending());
    cases.extend(breaker::metric());
    cases.extend(claims::memory());
    cases.extend(checkpoint::outside());
    cases
}

/// What does not change from run to run; bytes, unless it says otherwise.
pub(crate) fn sizes() -> Vec<(&'static str, f64)> {
    vec![
        ("future of the four-layer stack", stack::future_bytes() as f64),
        ("a key of 41 characters, of a million", keyed::bytes_per_key()),
    ]
}
