//! What it takes to test a tower layer: services that follow a script, a probe for readiness, a check of the contract
//! that every layer has to keep, and helpers for the paused clock.
//!
//! # When to use it, and when not
//!
//! Use it in the tests of a layer, together with `tokio_test` and `tower_test::mock`: a mock where the test answers each
//! request itself, a [`Scripted`] service where it only cares about what comes out. It is for tests alone: it panics.
//!
//! # Examples
//!
//! A layer of one's own, checked:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! buttress_testkit::contract::check(tower::layer::util::Identity::new).await;
//! # }
//! ```
//!
//! A script:
//!
//! ```
//! use buttress_testkit::{Scripted, err, ok};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let service = Scripted::new([err("reset"), ok(200)]);
//! assert!(service.clone().oneshot("GET /").await.is_err());
//! assert_eq!(service.clone().oneshot("GET /").await, Ok(200));
//! assert_eq!(service.calls(), 2);
//! # }
//! ```

pub mod clock;
pub mod contract;
mod probe;
mod recorder;
mod script;
mod settled;

pub use probe::ReadinessProbe;
pub use recorder::recorder;
pub use script::{Counts, ScriptError, Scripted, ScriptedFuture, Step, err, hang, ok, panics};
pub use settled::{Permit, Settled};
