#![allow(dead_code, reason = "each test file uses its part")]

use std::time::Duration;

use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_runtime_api::client::http::{HttpClient, SharedHttpClient};
use aws_smithy_types::retry::RetryConfig;
use buttress::core::Backoff;
use buttress::retry::{Budget, Config};
use buttress::{HttpBuilder, HttpLayer};
use buttress_aws::StackHttpClient;
use loopback::{Do, Server, status};

/// How long an attempt may take: long enough for one that is answered, on a machine that is busy.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(3);

/// What the SDK would have without a stack.
pub(crate) fn bare() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_http()
}

/// Beneath an SDK that retries.
pub(crate) fn beneath() -> HttpBuilder {
    buttress::http("aws").aws_sdk().attempt(ATTEMPT)
}

/// In place of the SDK's retries: up to two, without a wait to speak of.
pub(crate) fn retrying() -> HttpBuilder {
    let backoff = Backoff::constant(Duration::from_millis(20));
    let retry = Config::aws_standard().backoff(backoff.clone()).throttled_backoff(backoff);
    buttress::http("aws").aws().attempt(ATTEMPT).retry(retry.budget(Budget::unlimited()))
}

pub(crate) fn client(builder: HttpBuilder) -> StackHttpClient<HttpLayer> {
    StackHttpClient::new(bare(), builder.build().unwrap())
}

pub(crate) fn off() -> RetryConfig {
    RetryConfig::disabled()
}

/// So many attempts, without a wait to speak of.
pub(crate) fn on(attempts: u32) -> RetryConfig {
    RetryConfig::standard().with_max_attempts(attempts).with_initial_backoff(Duration::from_millis(10))
}

fn credentials() -> Credentials {
    Credentials::new("AKIDEXAMPLE", "secret", None, None, "test")
}

pub(crate) fn sqs(
    server: &Server,
    client: impl HttpClient + 'static,
    retry: RetryConfig,
) -> aws_sdk_sqs::Client {
    let config = aws_sdk_sqs::Config::builder().behavior_version(BehaviorVersion::latest());
    let config = config.region(Region::new("us-east-1")).credentials_provider(credentials());
    let config = config.endpoint_url(server.url()).http_client(client).retry_config(retry);
    aws_sdk_sqs::Client::from_conf(config.build())
}

pub(crate) fn s3(
    server: &Server,
    client: impl HttpClient + 'static,
    retry: RetryConfig,
) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder().behavior_version(BehaviorVersion::latest());
    let config = config.region(Region::new("us-east-1")).credentials_provider(credentials());
    let config =
        config.endpoint_url(server.url()).force_path_style(true).http_client(client).retry_config(retry);
    aws_sdk_s3::Client::from_conf(config.build())
}

/// SQS has taken the message.
pub(crate) fn sent() -> Do {
    status(200).header("content-type", "application/x-amz-json-1.0").body(r#"{"MessageId":"m-1"}"#)
}

/// An error as SQS has them: a 400 whose code is in the body.
pub(crate) fn error(code: &str) -> Do {
    let body = format!(r#"{{"__type":"com.amazonaws.sqs#{code}","message":"no"}}"#);
    status(400).header("content-type", "application/x-amz-json-1.0").body(body)
}

/// Waits until the server has noticed.
pub(crate) async fn until(noticed: impl Fn() -> bool) {
    for _ in 0..6000 {
        if noticed() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it was not noticed within a minute");
}
