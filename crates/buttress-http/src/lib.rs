//! What Buttress's layers need to know about HTTP.
//!
//! * [`Http`] judges responses and errors, carries deadlines and attempt numbers in extensions, drains responses that
//!   nobody sees, and keys requests by host. It is the `policy` of a breaker or a retry and the `carry` of a deadline.
//! * [`HttpReplay`] keeps requests for a retry; their bodies become [`ReplayBody`].
//! * [`HttpWatch`] lets a breaker learn from a response's body, too.
//! * [`HttpCapture`] stores responses and gives them back.
//! * [`BodyDeadlineLayer`] bounds the time until a body's end.
//! * `Problem` (feature `problem`) is what a server answers when a call of its own has failed.
//!
//! # When to use it, and when not
//!
//! Use it to stack single layers around an HTTP client. The facade, `buttress::http`, does so for you. It is no HTTP
//! client and no cache.
//!
//! # Cancellation and panics
//!
//! Nothing here spawns a task. A body that is dropped releases what it holds at once. The classification must not panic,
//! and does not; a closure of yours that does is a failed call.
//!
//! # Examples
//!
//! A retry for HTTP, over any client:
//!
//! ```
//! use buttress_http::{Http, HttpReplay};
//! use buttress_core::{Classify, Kind, Verdict};
//!
//! let http = Http::new();
//! let unavailable = http::Response::builder().status(503).body(()).unwrap();
//! assert_eq!(http.classify(Ok(&unavailable)), Verdict::failure(Kind::Transient));
//! // RetryLayer::new("api", Config::user_facing())?.policy(http).replay(HttpReplay::new())
//! # let _ = HttpReplay::new();
//! ```
//!
//! An API with habits of its own:
//!
//! ```
//! use buttress_core::{Kind, Verdict};
//! use buttress_http::{Http, Vendor};
//! use http::StatusCode;
//!
//! let http = Http::new()
//!     .vendor(Vendor::GitHub)
//!     .status(StatusCode::LOCKED, Verdict::failure(Kind::Transient))
//!     .judge(|status, headers| (status == 200 && headers.contains_key("x-partial")).then_some(Verdict::Ignored));
//! # let _ = http;
//! ```

mod body_deadline;
mod call_key;
mod capture;
mod carry;
mod discard;
mod hint;
mod kept_uri;
#[cfg(feature = "problem")]
mod problem;
mod recording;
mod replay;
mod replay_body;
mod status;
mod stored;
mod transport;
mod watch;

pub use body_deadline::{BodyDeadline, BodyDeadlineFuture, BodyDeadlineLayer, DeadlineBody};
pub use call_key::{CallKey, Origin};
pub use capture::{Answer, HttpCapture, Incomplete, Recording};
pub use carry::{RequestExt, ResponseExt};
pub use discard::Drain;
pub use hint::{grpc_pushback, hint, retry_after};
pub use kept_uri::KeptUri;
#[cfg(feature = "problem")]
pub use problem::Problem;
pub use replay::{HttpReplay, Saved};
pub use replay_body::{ReplayBody, ReplayError};
pub use status::{Http, Vendor};
pub use stored::{StoredResponse, Unreadable};
pub use transport::transport_verdict;
pub use watch::{HttpWatch, WatchBody};
