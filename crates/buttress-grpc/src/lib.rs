//! What Buttress's layers need to know about gRPC.
//!
//! * [`Grpc`] judges responses and errors by gRPC's codes, and carries deadlines and attempt numbers as for HTTP. It is
//!   the `policy` of a breaker or a retry and the `carry` of a deadline. Requests are kept by [`GrpcReplay`].
//! * [`GrpcWatch`] lets a breaker learn from trailers.
//! * [`ServiceConfig`] says what may be repeated, and reads the JSON of gRPC's service configs (gRPC A6); [`CallLayer`] tells
//!   the layers below, and [`ByMethod`] is the policy of a retry that listens.
//! * [`AttemptLayer`] writes what each attempt has to say in its headers, and looks for a status in trailers.
//! * With the feature `tonic`: `StatusLayer` makes `tonic::Status` of errors, `GrpcStack` is a stack with a short name,
//!   `CallExt` gives a call limits of its own.
//!
//! # When to use it, and when not
//!
//! Use it to stack single layers around a gRPC transport. The facade, `buttress::grpc`, does so for you, in this order:
//! `StatusLayer`, `CallLayer`, total deadline, retry, circuit breaker, attempt deadline, `AttemptLayer`. It neither balances nor
//! hedges, and resolves no names: those are the transport's.
//!
//! # The rule
//!
//! The tables of [`Grpc`] and of [`ServiceConfig`]. In short: a call that may have been applied is sent again only if somebody said
//! that its method may be repeated, by a retry policy or by name; a call that certainly was not sent is sent again in any case.
//!
//! What differs from gRPC's own clients (A6): a status in trailers is retried, too, as long as nothing has been given to the
//! application; jitter does not exceed the maximum; what is retried because it was not sent counts as an attempt and takes a
//! token; and a call is credited to the throttle once its response has been given out, which is its end only if that was
//! seen by then.
//!
//! # Cancellation and panics
//!
//! Nothing here spawns a task. A response that is dropped ends its stream; a call whose response was dropped before its first
//! message is abandoned, after it good. Nothing that a server sends makes it panic.
//!
//! # Examples
//!
//! ```
//! use buttress_core::{Classify, Kind, Verdict};
//! use buttress_grpc::Grpc;
//!
//! // In headers, since there is no message: "trailers-only".
//! let busy = http::Response::builder().header("grpc-status", "8").header("grpc-retry-pushback-ms", "250");
//! let verdict = Grpc::new().classify(Ok(&busy.body(()).unwrap()));
//! assert!(matches!(verdict, Verdict::Failure { kind: Kind::Throttled, .. }));
//! ```
//!
//! What is known of a service's methods:
//!
//! ```
//! use buttress_grpc::{CallLayer, ServiceConfig};
//!
//! let config = ServiceConfig::new()
//!     .unary("billing.Invoices")
//!     .repeatable("billing.Invoices/Get")
//!     .stream("billing.Invoices/Follow");
//! let layer = CallLayer::new(config);
//! # tower::ServiceBuilder::new().layer(layer);
//! ```

mod attempt;
mod by_method;
mod call;
mod code;
mod grpc;
mod json;
mod peeked_body;
mod replay;
mod service_config;
#[cfg(feature = "tonic")]
mod stack;
#[cfg(feature = "tonic")]
mod status;
mod timeout;
mod watch;

pub use attempt::{Attempt, AttemptLayer, ResponseFuture};
pub use by_method::ByMethod;
pub use call::{Call, CallLayer};
pub use code::Code;
pub use grpc::{Grpc, error_verdict};
pub use peeked_body::{PeekedBody, Truncated};
pub use replay::{GrpcReplay, SavedCall};
pub use service_config::{RetryPolicy, ServiceConfig};
#[cfg(feature = "tonic")]
pub use stack::{CallExt, GrpcStack, TonicBody, TonicBodyLayer, attempts};
#[cfg(feature = "tonic")]
pub use status::{StatusFuture, StatusLayer, StatusService, to_status};
pub use timeout::{format_timeout, parse_timeout};
pub use watch::{GrpcWatch, WatchBody};
