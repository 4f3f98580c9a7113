//! A tower layer that retries with jittered backoff, obeys the server's hints and stays within a budget.
//!
//! # When to use it, and when not
//!
//! Use it where a failure may pass by itself and the request may be sent again. Use *one* retry per path: two that are
//! stacked multiply their attempts (an SDK that retries by itself is one). It does not bound the time of an attempt, nor
//! does it stop asking a dependency that is down: put a deadline and a circuit breaker inside.
//!
//! Under HTTP it needs to know HTTP: `.policy(Http::new())` and `.replay(HttpReplay::new())` from `buttress-http`, or a 503 is a response like any
//! other and a POST is repeated. The first page of `buttress` shows it.
//!
//! # The rule
//!
//! After an attempt, the policy's verdict decides:
//!
//! | verdict | retried? |
//! |---|---|
//! | success, rejected (HTTP 404), ignored | no |
//! | failure: transient, throttled, conflict, timeout | yes |
//! | failure: unprocessed (the protocol gave it back) | yes; the first time in a call at once, without being counted or paid for |
//! | failure: refused (by a layer below, such as an open circuit) | only with [`Config::retry_refused`] |
//! | failure: permanent, or the server said not to | no |
//!
//! [`RetryLayer::retry_if`] says otherwise by a closure.
//!
//! A failure whose effect is unknown is retried only if the request may be repeated
//! ([`Replay::is_repeatable`](buttress_core::Replay::is_repeatable): for HTTP an idempotent method, RFC 9110 § 9.2.2, or
//! an idempotency key). No retry starts that could not start before the request's deadline,
//! none beyond [`Config::max_retries`] and [`Config::max_total_wait`], none that the [`Budget`] does not pay for. A wait
//! that the server asks for is treated as [`HintRule`] says.
//!
//! What is [unprocessed](buttress_core::Kind::Unprocessed) has had no effect, and is sent again by every retry that makes any: gRPC
//! A6 calls it a transparent retry. Once, since a server may give everything back; from the second time on it is a failure
//! like others.
//!
//! When retries end, the caller gets the last real answer: a response as it came (with the number of attempts and why there
//! was no other [carried](buttress_core::Carried) on it), an error inside [`Exhausted`], which says why, how many attempts, how long, when to try again, and whether that
//! is safe. An error that is not of a retryable kind comes out as it is.
//!
//! # Cancellation and panics
//!
//! Dropping the future ends the attempt that is under way, or the wait before the next, for which the budget then gets back what
//! was paid. A panic is not retried; it passes
//! on. Readiness is that of the service inside; each further attempt drives a fresh clone of it ready.
//!
//! # Examples
//!
//! The default, as a layer:
//!
//! ```
//! use buttress_retry::{Config, RetryLayer};
//! # fn main() -> Result<(), buttress_core::ConfigError> {
//! let layer = RetryLayer::new("datadog", Config::user_facing())?;
//! # tower::ServiceBuilder::new().layer(layer);
//! # Ok(())
//! # }
//! ```
//!
//! With other delays, a shared budget and the server's pauses obeyed by all clones:
//!
//! ```
//! use std::time::Duration;
//! use buttress_core::{Backoff, Exhausted, Jitter, Stop, find};
//! use buttress_retry::{Budget, Config, RetryLayer};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress_core::BoxError> {
//! let backoff = Backoff::exponential(Duration::from_millis(50), 2.0, Duration::from_secs(1))?.jitter(Jitter::Equal);
//! let config = Config::user_facing().max_retries(5).backoff(backoff).budget(Budget::ratio(0.2, 2)?).rate_gate(true);
//! let retry = RetryLayer::new("datadog", config)?;
//! let error = retry.run(|| async { Err::<(), _>("HTTP 503") }).await.unwrap_err();
//! let exhausted = find::<Exhausted>(&*error).unwrap();
//! assert_eq!((exhausted.stop, exhausted.attempts), (Stop::Budget, 3));
//! # Ok(())
//! # }
//! ```

mod budget;
mod config;
mod future;
mod gate;
mod layer;
mod pause;
mod retry_if;
mod service;
mod session;
mod shared;

pub use budget::Budget;
pub use buttress_core::{Exhausted, Stop};
pub use config::{Config, HintRule};
pub use future::ResponseFuture;
pub use layer::RetryLayer;
pub use retry_if::RetryIf;
pub use service::Retry;
