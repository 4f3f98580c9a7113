//! Resilience for HTTP and gRPC clients as tower layers: circuit breakers, jittered retries, deadlines.
//!
//! Put a stack where the client is built; call sites do not change.
//!
//! ```no_run
//! use buttress::http::ReplayBody;
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use hyper_util::client::legacy::{Client, connect::HttpConnector};
//! use hyper_util::rt::TokioExecutor;
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), buttress::BoxError> {
//! let client: Client<HttpConnector, ReplayBody<Full<Bytes>>> = Client::builder(TokioExecutor::new()).build_http();
//! let client = ServiceBuilder::new().layer(buttress::http("datadog").datadog().build()?).service(client);
//!
//! let request = Request::get("http://api.datadoghq.com/api/v1/validate").body(Full::default())?;
//! let response = client.clone().oneshot(request).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # When to use it, and when not
//!
//! [`http`](fn@http) builds the whole stack in the right order, with the right classification, for one dependency, and with
//! the feature `tonic` so does `grpc` under the clients that tonic generates. For
//! anything else, a protocol of your own or another order, stack the layers of the modules below by hand: they are the
//! same ones. It is no client, no load balancer and no rate limiter.
//!
//! What has to be remembered beyond a call comes with features that are off by default: `idempotency` (the same key gets the
//! same answer), `checkpoint` (workflows that resume after a crash), and for both a store: in memory, or `sqlite`,
//! `postgres`, `redis`. Stacks that are described in a file, which is read again while they run, come with `config`. A client that is checked, rebuilt and failed over by itself comes with `heal`, and who calls a human when that
//! does not help with `pager`.
//!
//! # What the stack does
//!
//! From the outside in: a deadline for the whole call, until the response's head; a retry within it, paid from a budget, obeying the server's
//! hints; a circuit breaker, which refuses at once while the dependency is ill; a deadline for each attempt.
//! [`HttpLayer::explain`] says so with the figures. Requests are called with [`ReplayBody`](http::ReplayBody), so that
//! they can be sent again. Layers of one's own go around [each attempt](HttpBuilder::per_attempt), for a token, a signature, a
//! limit, or around [each call](HttpBuilder::per_call).
//!
//! # Errors
//!
//! When retries end, an HTTP 503 stays an HTTP 503, unless a further attempt was announced and then refused, because the
//! circuit has opened meanwhile. What comes out as an error is a [`BoxError`] in which [`find`] finds
//! what happened:
//!
//! | type | meaning | safe to send again? |
//! |---|---|---|
//! | [`Refused`] | a layer refused; the request was not sent (inside an [`Exhausted`]: its last attempt was not) | yes, after `retry_after()` |
//! | [`Elapsed`] | the time ran out; it may have been applied | if idempotent |
//! | [`Exhausted`] | retries ended; says why, how many, when to come back | `safe_to_retry` says |
//! | the client's own | as the client says | |
//!
//! Inside `tokio::spawn(async { .. })`, some body types make the compiler say that "an implementation is not general
//! enough" (so do they without Buttress): box the service, for instance with `tower::util::BoxCloneSyncService`.
//!
//! # Cancellation and panics
//!
//! Dropping the response's future drops the attempt under way and all that would have followed; the breaker hears of an
//! abandoned call. A panic in the client passes through and counts as a failure. Nothing is spawned.
//!
//! # Examples
//!
//! Errors that say what to do:
//!
//! ```
//! use buttress::{Refused, find};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress::BoxError> {
//! let layer = buttress::http("pagerduty").pagerduty().build()?;
//! let client = layer.layer(service_fn(|_: http::Request<buttress::http::ReplayBody<String>>| async {
//!     Ok::<_, std::io::Error>(http::Response::new(String::new()))
//! }));
//! layer.circuit_breaker().handle().isolate();
//! let request = http::Request::get("http://api.pagerduty.com/").body(String::new())?;
//! let error = client.oneshot(request).await.unwrap_err();
//! assert_eq!(find::<Refused>(&*error).unwrap().layer(), "circuit breaker");
//! # Ok(())
//! # }
//! ```
//!
//! Single layers, in an order of your own. Each has to be told that it stands under HTTP: without the policy a 503 is a
//! response like any other, and without [`HttpReplay`](http::HttpReplay) every request is taken to be repeatable.
//!
//! ```
//! use buttress::circuit_breaker::CircuitBreakerLayer;
//! use buttress::http::{Http, HttpReplay, ReplayBody};
//! use buttress::retry::{Config, RetryLayer};
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper_util::client::legacy::{Client, connect::HttpConnector};
//! use hyper_util::rt::TokioExecutor;
//! use tower::ServiceBuilder;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), buttress::BoxError> {
//! let client: Client<HttpConnector, ReplayBody<Full<Bytes>>> = Client::builder(TokioExecutor::new()).build_http();
//! let client = ServiceBuilder::new()
//!     .layer(RetryLayer::new("api", Config::user_facing())?.policy(Http::new()).replay(HttpReplay::new()))
//!     .layer(CircuitBreakerLayer::standard("api").policy(Http::new()))
//!     .service(client);
//! # fn takes_requests(_: impl tower::Service<http::Request<Full<Bytes>>>) {}
//! # takes_requests(client);
//! # Ok(())
//! # }
//! ```
//!
//! A server that carries out each call once, with the features `idempotency` and `sqlite`:
//!
//! ```no_run
//! # #[cfg(all(feature = "idempotency", feature = "sqlite"))]
//! # async fn server() -> Result<(), buttress::BoxError> {
//! use buttress::idempotency::{Config, HttpKeys, Idempotency};
//! use buttress::store::Sqlite;
//!
//! let idempotency = Idempotency::new("charges", Sqlite::open("claims.db").await?, Config::new())?;
//! let layer = idempotency.layer(HttpKeys::http_default().required());
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```
//!
//! Watched before it is enforced:
//!
//! ```
//! # fn main() -> Result<(), buttress::ConfigError> {
//! let layer = buttress::http("datadog").build()?;
//! layer.set_mode(buttress::Mode::Observe);
//! # tower::ServiceBuilder::new().layer(layer);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "degrade")]
mod degrading;
mod explain;
#[cfg(feature = "grpc")]
mod grpc_stack;
#[cfg(feature = "heal")]
mod http_check;
mod live;
#[cfg(feature = "pager")]
pub mod pager;
mod stack;
mod stacks;

use std::sync::Arc;

pub use buttress_core::{
    BoxError, ConfigError, Elapsed, Exhausted, Mode, NoTimer, Reason, Refused, Stop, Verdict, chain, find,
};
#[cfg(feature = "problem")]
pub use buttress_http::Problem;
pub use buttress_http::{RequestExt, ResponseExt};
#[cfg(feature = "degrade")]
pub use degrading::{HttpDegradeLayer, HttpDegradeService};
pub use explain::{Explanation, Warning};
#[cfg(feature = "tonic")]
pub use grpc_stack::GrpcService;
#[cfg(feature = "grpc")]
pub use grpc_stack::{GrpcBuilder, GrpcLayer};
#[cfg(feature = "heal")]
pub use http_check::HttpCheck;
pub use live::{Circuits, StackHandle};
pub use stack::{HttpBuilder, HttpLayer, HttpService, HttpServicePerHost};

pub use stacks::Stacks;

// Modules and not renamed crates, so that what the compiler suggests to import is there.

/// Workflows that survive `kill -9`: all of [`buttress_checkpoint`].
#[cfg(feature = "checkpoint")]
pub mod checkpoint {
    pub use buttress_checkpoint::*;
}

/// Circuit breakers: all of [`buttress_circuit_breaker`].
pub mod circuit_breaker {
    pub use buttress_circuit_breaker::*;
}

/// The nouns: all of [`buttress_core`].
pub mod core {
    pub use buttress_core::*;
}

/// Deadlines: all of [`buttress_deadline`].
pub mod deadline {
    pub use buttress_deadline::*;
}

/// Graceful degradation: all of [`buttress_degrade`].
#[cfg(feature = "degrade")]
pub mod degrade {
    pub use buttress_degrade::*;
}

/// gRPC: all of [`buttress_grpc`].
#[cfg(feature = "grpc")]
pub mod grpc {
    pub use buttress_grpc::*;
}

/// Self-healing: all of [`buttress_heal`].
#[cfg(feature = "heal")]
pub mod heal {
    pub use buttress_heal::*;
}

/// HTTP: all of [`buttress_http`].
pub mod http {
    pub use buttress_http::*;
}

/// Idempotency: all of [`buttress_idempotency`].
#[cfg(feature = "idempotency")]
pub mod idempotency {
    pub use buttress_idempotency::*;
}

/// Retry: all of [`buttress_retry`].
pub mod retry {
    pub use buttress_retry::*;
}

/// Stores: all of [`buttress_store`].
#[cfg(feature = "store")]
pub mod store {
    pub use buttress_store::*;
}

/// Starts a stack for the HTTP dependency of this name, which errors, events and metrics will show.
pub fn http(name: impl Into<Arc<str>>) -> HttpBuilder {
    HttpBuilder::new(name.into())
}

/// Starts a stack for the gRPC dependency of this name, which errors, events and metrics will show.
#[cfg(feature = "grpc")]
pub fn grpc(name: impl Into<Arc<str>>) -> GrpcBuilder {
    GrpcBuilder::new(name.into())
}

/// The README and the pages that have code are compiled and run with the tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../../README.md")]
    struct Readme;

    #[doc = include_str!("../../../docs/circuit-breaker.md")]
    struct CircuitBreaker;

    #[doc = include_str!("../../../docs/retry.md")]
    struct Retry;

    #[doc = include_str!("../../../docs/migrating.md")]
    struct Migrating;

    #[doc = include_str!("../../../docs/rollout.md")]
    struct Rollout;

    #[doc = include_str!("../../../docs/testing.md")]
    struct Testing;

    #[cfg(feature = "config")]
    #[doc = include_str!("../../../docs/configuration.md")]
    struct Configuration;

    #[cfg(feature = "degrade")]
    #[doc = include_str!("../../../docs/degrade.md")]
    struct Degradation;

    #[cfg(all(feature = "degrade", feature = "pager"))]
    #[doc = include_str!("../../../docs/heal.md")]
    struct Healing;
}
