//! What is measured.

mod breaker;
mod checkpoint;
mod claims;
mod deadline;
mod degrade;
mod heal;
mod keyed;
mod machine;
mod retry;
mod stack;

use crate::leaf::{Boxed, PENDING, READY, calls};
use crate::measure::{Case, Side};

pub(crate) use checkpoint::OUTSIDE;
pub(crate) use degrade::{shared_bodies, shared_hits};
pub(crate) use heal::shared_supervised;
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
    cases.extend(degrade());
    cases.extend(heal());
    cases
}

/// Chains that are not fallen down, and stores of last good answers.
pub(crate) fn degrade() -> Vec<Case> {
    let mut cases = degrade::untriggered();
    cases.extend(degrade::hits());
    cases
}

/// Supervised services of which nothing is wrong.
pub(crate) fn heal() -> Vec<Case> {
    heal::healthy()
}

/// What supervision takes.
pub(crate) fn heal_sizes() -> Vec<(&'static str, f64)> {
    let (bytes, threads) = heal::ten_thousand();
    vec![
        ("a supervised client of 10,000, with its task, bytes", bytes),
        ("threads that 10,000 supervised clients need", threads),
    ]
}

/// What a store takes; bytes.
pub(crate) fn degrade_sizes() -> Vec<(&'static str, f64)> {
    let (own, allocated) = degrade::bounded();
    vec![
        ("a store of 1 MiB after 10,000 answers of 1 KiB, by its own count", own),
        ("the same, by the allocator's", allocated),
    ]
}

/// What does not change from run to run; bytes, unless it says otherwise.
pub(crate) fn sizes() -> Vec<(&'static str, f64)> {
    vec![
        ("future of the four-layer stack", stack::future_bytes() as f64),
        ("a key of 41 characters, of a million", keyed::bytes_per_key()),
    ]
}
