//! A customer, whose client makes a key for each payment and retries with it.

use std::time::Duration;

use buttress_core::{Backoff, BoxError};
use buttress_http::{Http, HttpReplay};
use buttress_idempotency::IdempotencyKeyLayer;
use buttress_retry::{Budget, Config, RetryLayer};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{ServiceBuilder, ServiceExt};

/// The key of the one payment here, so that it can be asked for once more.
pub(crate) const KEY: &str = "order-42";

pub(crate) async fn pay(shop: String) -> Result<String, BoxError> {
    pay_with_key(shop, KEY).await
}

pub(crate) async fn pay_with_key(shop: String, key: &'static str) -> Result<String, BoxError> {
    let backoff = Backoff::constant(Duration::from_millis(250));
    let config = Config::background().max_retries(60).backoff(backoff).budget(Budget::unlimited());
    // A conflict means that the first attempt is still under way, or that its server died a moment ago.
    let busy = buttress_core::Verdict::failure(buttress_core::Kind::Transient);
    let http = Http::new().status(StatusCode::CONFLICT, busy);
    let client = Client::builder(TokioExecutor::new()).build_http();
    let stack = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::http().made_by(|| key.to_owned()))
        .layer(RetryLayer::new("shop", config)?.policy(http).replay(HttpReplay::new()))
        .service(client);
    let request = Request::post(format!("{shop}/charges"))
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(r#"{"amount":"100 EUR"}"#))?;
    let response = stack.oneshot(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
    }
    Ok(String::from_utf8(body.to_vec())?)
}
