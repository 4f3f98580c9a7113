//! Buttress under reqwest: a tower leaf over its client, and a tower stack as a reqwest-middleware.
//!
//! # When to use it, and when not
//!
//! * **Your code, or a library, takes a `reqwest_middleware::ClientWithMiddleware`** (Datadog's client does): feature
//!   `middleware`, [`StackMiddleware`]. Call sites stay as they are.
//! * **Your code takes a bare `reqwest::Client`**: there is no place in it for a stack, since nothing lies between its request builder
//!   and its connections. Make the field a `ClientWithMiddleware`, which has the same `get(..).send()`; the error type
//!   is another.
//! * **You make `http::Request`s yourself**: [`ReqwestService`] is the innermost service of your stack.
//!
//! Leave reqwest's own retries (`ClientBuilder::retry`) as they are by default; a second set of retries beneath the stack
//! multiplies its attempts. reqwest's time-outs bound an *attempt* here, its body included, since they lie beneath the
//! stack; the stack's total deadline bounds the call.
//!
//! # What an error of reqwest means to the stack
//!
//! | error | verdict |
//! |---|---|
//! | `is_connect` | transient, not sent |
//! | `is_timeout` | timeout |
//! | `is_redirect` (too many, or not permitted) | permanent |
//! | `is_builder` (no URL, a scheme that is not supported) | ignored: says nothing about the server |
//! | others | transient, unless an HTTP/2 server said that it was not processed |
//!
//! # Cancellation and panics
//!
//! Dropping a call drops the exchange under way. Nothing is spawned. A panic beneath the stack passes through it, counts
//! as a failure, and passes on.
//!
//! # Examples
//!
#![cfg_attr(feature = "middleware", doc = "```")]
#![cfg_attr(not(feature = "middleware"), doc = "```text")]
//! use buttress::{Exhausted, Refused, find};
//! use buttress_reqwest::StackMiddleware;
//! use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
//!
//! async fn validate(client: &ClientWithMiddleware) -> reqwest_middleware::Result<u16> {
//!     Ok(client.get("http://127.0.0.1:8126/api/v1/validate").send().await?.status().as_u16())
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! // The one place that changes.
//! let stack = buttress::http("datadog").datadog().build()?;
//! let client = ClientBuilder::new(reqwest::Client::new()).with(StackMiddleware::in_place(&stack)).build();
//!
//! match validate(&client).await {
//!     Ok(status) => println!("HTTP {status}, circuit {:?}", stack.circuit_breaker().handle().state()),
//!     Err(error) => {
//!         if let Some(refused) = find::<Refused>(&error) {
//!             println!("not sent; try again in {:?}", refused.retry_after());
//!         } else if let Some(exhausted) = find::<Exhausted>(&error) {
//!             println!("{} attempts; safe to send again: {}", exhausted.attempts, exhausted.safe_to_retry);
//!         } else if let Some(error) = find::<reqwest::Error>(&error) {
//!             println!("connect error: {}", error.is_connect());
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod body;
mod error;
mod future;
#[cfg(feature = "middleware")]
mod middleware;
mod service;

pub use future::ResponseFuture;
#[cfg(feature = "middleware")]
pub use middleware::{
    Detached, InPlaceBody, InPlaceFuture, InPlaceService, NextFuture, NextService, RequestBuilderExt,
    StackError, StackMiddleware, attempts, gave_up,
};
pub use service::ReqwestService;
