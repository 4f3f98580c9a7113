//! A tower layer that refuses calls at once while a dependency is ill, probes it, and recovers.
//!
//! A circuit is *closed* (calls flow), *open* (calls are refused with [`Refused`]), *half-open* (a few calls probe), or
//! *isolated* (an operator has opened it). A closed circuit takes no lock, allocates nothing and, unless a rule needs
//! the time, reads no clock.
//!
//! # When to use it, and when not
//!
//! Use it in front of every dependency that can be down for longer than a retry waits: it answers at once instead of
//! after a time-out, and lets the dependency recover. Use [`KeyedCircuitBreakerLayer`] where one client talks to many
//! hosts or serves many tenants. It is no rate limiter and no concurrency limit; those are in `tower`. Inside a retry it
//! counts attempts, outside of one whole calls; inside is the usual place.
//!
//! Under HTTP it needs to know HTTP: `.policy(Http::new())` from `buttress-http`, or a 503 is a response like any
//! other. The first page of `buttress` shows it.
//!
//! # The rule
//!
//! The circuit opens when any configured [`Trip`] rule is met, judged after every recorded call. It refuses for the open
//! time ([`Config::open_for`], [`Config::open_backoff`], longer where the server asked for it), after which the next call
//! probes. [`Config::recovery`] says what the probes decide. Each probe holds a lease, so that none can block the
//! circuit for ever.
//!
//! Rejected requests (the caller's fault, such as HTTP 404) count as successes, and so do conflicts
//! ([`Kind::Conflict`](buttress_core::Kind::Conflict)): they were answered. What layers below refused
//! ([`Kind::Refused`](buttress_core::Kind::Refused)), or a protocol gave back
//! ([`Kind::Unprocessed`](buttress_core::Kind::Unprocessed)), says nothing about the dependency and does not count: a server that
//! closes its connections in good order, to be replaced, opens no circuit.
//!
//! # Cancellation and panics
//!
//! A call whose future is dropped is *abandoned*: its slot is free at once, it is never a success, and whether it counts
//! as a failure is [`Config::abandoned`]'s choice. A panic counts as a failure and passes on. Results of calls that
//! began before the circuit last changed its state are counted ([`Metrics::stale`]) but do not vote.
//!
//! # Examples
//!
//! The standard circuit:
//!
//! ```
//! use buttress_circuit_breaker::{CircuitBreakerLayer, CircuitState};
//! use buttress_core::{Refused, find};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let layer = CircuitBreakerLayer::standard("datadog");
//! let service = layer.layer(service_fn(|_: ()| async { Err::<(), _>("HTTP 503") }));
//! for _ in 0..5 {
//!     service.clone().oneshot(()).await.unwrap_err();
//! }
//! assert_eq!(layer.handle().state(), CircuitState::Open);
//! let error = service.oneshot(()).await.unwrap_err();
//! assert!(find::<Refused>(&*error).unwrap().retry_after().is_some());
//! # }
//! ```
//!
//! A failure rate or slow calls, growing open times, three probes:
//!
//! ```
//! use std::time::Duration;
//! use buttress_circuit_breaker::{CircuitBreakerLayer, Config, Ratio, Trip, Window};
//! use buttress_core::Backoff;
//!
//! # fn main() -> Result<(), buttress_core::ConfigError> {
//! let window = Window::Time(Duration::from_secs(10));
//! let config = Config::only(Trip::FailureRate { window, at_least: Ratio::percent(50), minimum_calls: 20 })
//!     .trip(Trip::SlowCalls {
//!         slower_than: Duration::from_secs(2),
//!         window,
//!         at_least: Ratio::percent(80),
//!         minimum_calls: 20,
//!     })
//!     .open_backoff(Backoff::exponential(Duration::from_secs(5), 2.0, Duration::from_secs(120))?)
//!     .probes(3)
//!     .success_threshold(3);
//! let layer = CircuitBreakerLayer::new("datadog", config)?;
//! # Ok(())
//! # }
//! ```

mod config;
mod error;
mod future;
mod handle;
mod keyed;
mod layer;
mod permit;
mod probing;
mod ratio;
mod registry;
mod service;
mod shared;
mod snapshot;
mod state;
mod trip;
mod window;

pub use buttress_core::observe::{CircuitCause, CircuitState};
pub use buttress_core::{Mode, Reason, Refused};
pub use config::{Abandoned, Config, ProbeExpiry, Recovery};
pub use error::InvalidTransition;
pub use future::ResponseFuture;
pub use handle::{CircuitBreakerHandle, Control, Metrics};
pub use keyed::{KeyedCircuitBreaker, KeyedCircuitBreakerHandle, KeyedCircuitBreakerLayer};
pub use layer::CircuitBreakerLayer;
pub use permit::Permit;
pub use ratio::Ratio;
pub use service::CircuitBreaker;
pub use snapshot::{Snapshot, SnapshotState};
pub use trip::{Trip, Window};
