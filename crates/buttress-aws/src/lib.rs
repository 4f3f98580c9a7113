//! Buttress beneath the AWS SDK: a tower stack as its HTTP client.
//!
//! # When to use it, and when not
//!
//! Use it where a client of the AWS SDK for Rust is configured: `.http_client(..)` takes the stack, and call sites stay as
//! they are. Every operation then has a circuit breaker and a time limit for each attempt beneath the SDK's own retries.
//! Where you call AWS without its SDK, `buttress::http(..).aws()` is all you need.
//!
//! # Who retries
//!
//! The SDK does: it signs each attempt anew, knows the service's error codes, and has a token bucket.
//! `buttress::http(..).aws_sdk()` is a stack that does not retry, for this place. The SDK is told of the outcome so that it
//! does the right thing:
//!
//! | the stack's error | for the SDK | which then |
//! |---|---|---|
//! | `Refused`: the circuit is open | `ConnectorError::other` without a kind | stops |
//! | `Exhausted`: the stack's own retry gave up | the same | stops |
//! | `Elapsed`: an attempt took too long | `ConnectorError::timeout` | retries |
//! | the client's own error | as it came | as always |
//! | any other layer's | `ConnectorError::other` without a kind | stops |
//!
//! A stack that retries (`.aws()`) wants an SDK that does not: `RetryConfig::disabled()`. If both do, their attempts
//! multiply, as *answers* such as a 503 pass unchanged; [`StackHttpClient::explain`] warns of it (`B008`). Attempts beneath
//! the SDK carry one signature and one `amz-sdk-request` header: keep the total well under the five minutes for which a
//! signature is good. What pays is a body that the SDK cannot send twice, a stream that it reads once: the stack
//! replays it up to 64 KiB.
//!
//! # What the classifier sees
//!
//! AWS names errors in the body as often as in a header: a `ThrottlingException` arrives as a 400. [`ConnectorService`]
//! reads the body of an error (up to 64 KiB, JSON or XML) and shows the code to the layers as the `x-amzn-errortype`
//! header, which `buttress::http::Vendor::Aws` understands. The SDK gets the response as it was. Errors in the body of a
//! 200 (some of S3's copies) are the SDK's to find.
//!
//! # Cancellation and panics
//!
//! Dropping an operation drops the exchange under way. Nothing is spawned. A panic beneath the stack passes through it,
//! counts as a failure, and passes on.
//!
//! # Examples
//!
//! ```
//! use aws_smithy_runtime_api::client::http::HttpClient;
//! use buttress_aws::StackHttpClient;
//!
//! # fn build(client: impl HttpClient + 'static) -> Result<(), buttress::ConfigError> {
//! // `client` is what the SDK had: `aws_smithy_http_client::Builder::new().tls_provider(..).build_https()`.
//! let stack = buttress::http("sqs").aws_sdk().build()?;
//! let http_client = StackHttpClient::new(client, stack.clone());
//! // aws_sdk_sqs::Config::builder().http_client(http_client.clone()) ...
//! println!("{}", http_client.explain());
//! println!("{:?}", stack.circuit_breaker().handle().state());
//! # Ok(())
//! # }
//! ```
//!
//! Any other layer over [`ConnectorService`], with state of its own, goes as well:
//!
//! ```
//! use std::time::Duration;
//! use aws_smithy_runtime_api::client::http::HttpClient;
//! use buttress::circuit_breaker::CircuitBreakerLayer;
//! use buttress::deadline::DeadlineLayer;
//! use buttress::http::{Http, Vendor};
//! use buttress_aws::StackHttpClient;
//!
//! # fn build(client: impl HttpClient + 'static) -> Result<(), buttress::ConfigError> {
//! let layers = (
//!     CircuitBreakerLayer::standard("s3").policy(Http::new().vendor(Vendor::Aws)),
//!     DeadlineLayer::attempt("s3", Duration::from_secs(20))?,
//! );
//! let http_client = StackHttpClient::new(client, layers);
//! # Ok(())
//! # }
//! ```

mod body;
mod client;
mod code;
mod connector;
mod error;
mod future;
mod service;

pub use client::StackHttpClient;
pub use error::to_connector_error;
pub use future::ResponseFuture;
pub use service::ConnectorService;
