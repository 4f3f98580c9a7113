//! What each store must make possible.

/// Several at once.
pub mod contention;
/// Callers and servers that go away.
pub mod going_away;
/// Requests of any type.
pub mod keyed;
/// Leases, and times to live.
pub mod leases;
/// What becomes of an answer.
pub mod outcomes;
/// What is the same call, and what it is answered with.
pub mod replay;
/// A store that fails.
pub mod store_failures;

use std::time::Duration;

use buttress_core::IdempotencyResult as Is;
use buttress_idempotency::{Config, HttpKeys, InFlight};
use buttress_store::ClaimStore;

use crate::rig::{Got, Handler, Rig, post, until};

/// A lease that is waited for.
const SHORT: Duration = Duration::from_secs(1);

/// For ever, on any clock.
const HOUR: Duration = Duration::from_secs(3600);

/// The defaults, on a machine whose store may be slow.
fn config() -> Config {
    Config::new().store_timeout(Duration::from_secs(60))
}

/// Nobody renews it, and whoever comes waits until it is over.
fn short() -> Config {
    heir().lease(SHORT).ceiling(SHORT)
}

/// Whoever takes over waits until it can, and keeps what it has got.
fn heir() -> Config {
    config().in_flight(InFlight::Wait(HOUR))
}
