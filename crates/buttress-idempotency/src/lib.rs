//! Carries out each call once: the same key gets the same answer.
//!
//! An [`Idempotency`] claims the key of a call in a store before the call is carried out, and stores its answer after it. It
//! comes as a tower layer for HTTP servers ([`HttpKeys`]) and for services of any type ([`Keyed`]), and as a function
//! ([`Idempotency::run`]). [`IdempotencyKeyLayer`] gives the calls of a client their keys.
//!
//! # When to use it, and when not
//!
//! Use it around effects that must not happen twice although their callers retry: charges, orders, messages. Not around
//! reads, and not as a cache: what is stored is what the first call was told. The effect itself is carried out at least
//! once and, while its owner lives, at most once; after a crash in the middle it is repeated, unless
//! [`OnUnknown`] says otherwise. It is exactly once where what lies below knows keys in turn ([`Claim::derive`]), or where
//! it commits together with the claim (PostgreSQL, feature `postgres`).
//!
//! # The rule
//!
//! 1. The key, within its scope, is claimed with a lease, unless the same call is under way (wait or refuse), done (its
//!    answer is given) or was another one (refused).
//! 2. The call is carried out while the lease is renewed, up to a ceiling.
//! 3. Its answer is judged: [`Outcome::Definitive`] is stored, [`Outcome::NotExecuted`] frees the key,
//!    [`Outcome::Unknown`] leaves it to the lease. Whoever lost the lease cannot store, and its caller gets the answer of the
//!    new owner.
//!
//! # Cancellation and panics
//!
//! A call that is dropped before its effect has begun gives its key back. One that is dropped later is carried on in a task
//! of its own, so that its answer is there for whoever asks again; [`Idempotency::shutdown`] waits for those. [`Inline`] and
//! [`Idempotency::run_inline`] have no such task, nor its bounds: there a call that is dropped is abandoned, and its key lapses. Waiting for
//! another call can be dropped at any time. A panic passes through and is never stored; its key lapses or is freed
//! ([`OnPanic`]). If the store fails after the call, its caller gets the true answer, and it is stored later.
//!
//! # Examples
//!
//! A server:
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use buttress_idempotency::{Config, HttpKeys, Idempotency};
//! use buttress_store::Memory;
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), buttress_core::BoxError> {
//! let idempotency = Idempotency::new("charges", Memory::new(), Config::new())?;
//! let server = ServiceBuilder::new()
//!     .layer(idempotency.layer(HttpKeys::http_default().required()))
//!     .service(service_fn(|_: Request<_>| async {
//!         Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("charged")))
//!     }));
//! for replayed in [false, true] {
//!     let request = Request::post("/charges").header("idempotency-key", "order-42");
//!     let response = server.clone().oneshot(request.body(Full::<Bytes>::from("100 EUR"))?).await?;
//!     assert_eq!(response.headers().contains_key("idempotent-replayed"), replayed);
//!     # use http_body_util::BodyExt;
//!     assert_eq!(response.into_body().collect().await?.to_bytes(), "charged");
//! }
//! # Ok(())
//! # }
//! # main().unwrap();
//! # }
//! ```
//!
//! Callers wait for each other, and what a crash left unknown is never repeated:
//!
//! ```
//! use std::time::Duration;
//! use buttress_idempotency::{Config, Idempotency, InFlight, OnUnknown};
//! use buttress_store::Memory;
//! # fn main() -> Result<(), buttress_core::ConfigError> {
//! let config = Config::new()
//!     .in_flight(InFlight::Wait(Duration::from_secs(10)))
//!     .on_unknown(OnUnknown::Reject)
//!     .ttl(Duration::from_secs(7 * 86_400));
//! let idempotency = Idempotency::new("transfers", Memory::new(), config)?;
//! # let _ = idempotency;
//! # Ok(())
//! # }
//! ```

mod client;
mod config;
mod engine;
mod error;
mod flights;
mod future;
mod handle;
mod held;
#[cfg(feature = "http")]
mod http;
mod inline;
mod key;
mod layer;
mod outcome;
mod protocol;
mod returns;
mod service;
mod tasks;
#[cfg(feature = "postgres")]
mod transaction;
mod value;

pub use client::{IdempotencyKey, IdempotencyKeyLayer, KeyFuture, KeyTooOld, Stamp, StampFn, stamp_fn};
pub use config::{Config, InFlight};
pub use error::{Error, InvalidKey, RunError};
pub use future::ResponseFuture;
pub use handle::Idempotency;
#[cfg(feature = "http")]
pub use http::{HeaderKey, HttpKeys, Identified, Recording, RequestBody};
pub use inline::{Inline, InlineLayer};
pub use key::{Claim, Hash, MAX_KEY, new_key, parse_key};
pub use layer::IdempotencyLayer;
pub use outcome::{OnPanic, OnUnknown, Outcome, Reconciled};
pub use protocol::{Identify, Identity, Protocol};
pub use service::Idempotent;
pub use value::{Keyed, Ran, record_of};
