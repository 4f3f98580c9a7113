//! Chains of numbers.

use buttress_degrade::{Chain, Degraded, Rung};

pub(crate) type Answer = Degraded<u32>;
pub(crate) type Open = Chain<u64, Answer>;

pub(crate) fn fixed(value: u32) -> Rung<u64, Answer> {
    Rung::answer("fixed", move |_| Some(value))
}
