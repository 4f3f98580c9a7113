//! The swap by itself, without a supervisor's task. What a supervisor does with it is in `tests/`.

mod cancellation;
mod contract;
mod drain;
mod readiness;
mod signals;
mod slow_start;
mod support;
mod swap;
mod waiting;
