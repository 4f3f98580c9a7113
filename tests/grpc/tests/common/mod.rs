//! What the tests have in common.
#![allow(dead_code, unreachable_pub, reason = "not every test uses everything")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::core::observe::CallResult;
use buttress::core::{Backoff, Event, Jitter, observe_fn};
use buttress::grpc::{GrpcStack, ServiceConfig};
use buttress::retry::{Budget, Config, HintRule};
use buttress::{GrpcBuilder, GrpcLayer};
use grpc_tests::Server;
use grpc_tests::echo::echo_client::EchoClient;
use grpc_tests::echo::{Answer, Ask};
use tonic::{Response, Status};

pub type Client = EchoClient<GrpcStack>;

/// Two quick retries of whatever is repeatable, from no budget.
pub fn quick() -> Config {
    let backoff = Backoff::constant(Duration::from_millis(5)).jitter(Jitter::None);
    let hints = HintRule::Exact { cap: Duration::from_secs(300) };
    Config::user_facing().backoff(backoff).hints(hints).budget(Budget::unlimited())
}

/// A stack under which all methods may be repeated.
pub fn stack(change: impl FnOnce(GrpcBuilder) -> GrpcBuilder) -> GrpcLayer {
    change(buttress::grpc("echo").repeatable("echo.v1.Echo").retry(quick())).build().unwrap()
}

/// What a breaker has heard: how the calls ended.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Mutex<Vec<CallResult>>>);

impl Heard {
    pub fn count(&self, result: CallResult) -> usize {
        self.0.lock().unwrap().iter().filter(|of| **of == result).count()
    }
}

/// As [`stack`], and what its breaker hears.
pub fn heard(change: impl FnOnce(GrpcBuilder) -> GrpcBuilder) -> (GrpcLayer, Heard) {
    let heard = Heard::default();
    let record = heard.clone();
    let observer = observe_fn(move |_, event| {
        if let Event::Call(result) = event {
            record.0.lock().unwrap().push(*result);
        }
    });
    (stack(|builder| change(builder.observe(observer))), heard)
}

/// A stack with this `retryPolicy`, for the method `Unary`, and this `retryThrottling`.
pub fn a6(policy: &str, throttling: &str) -> GrpcLayer {
    let json = format!(
        r#"{{ "methodConfig": [{{ "name": [{{ "service": "echo.v1.Echo", "method": "Unary" }}], {policy} }}]{throttling} }}"#
    );
    let config = ServiceConfig::from_json(&json).unwrap();
    // Its own tests are elsewhere.
    let breaker = buttress::circuit_breaker::Config::standard().mode(buttress::Mode::Off);
    buttress::grpc("echo").service_config(config).circuit_breaker(breaker).build().unwrap()
}

/// Quick attempts, so many, for these codes.
pub fn policy(max_attempts: u32, codes: &str) -> String {
    format!(
        r#""retryPolicy": {{ "maxAttempts": {max_attempts}, "initialBackoff": "0.005s", "maxBackoff": "0.01s",
           "backoffMultiplier": 2, "retryableStatusCodes": [{codes}] }}"#
    )
}

pub fn client(stack: &GrpcLayer, server: &Server) -> Client {
    EchoClient::new(stack.over(server.channel()))
}

pub async fn ask(client: &mut Client) -> Result<Response<Answer>, Status> {
    client.unary(Ask { text: "hello".into() }).await
}

pub fn asks(texts: &[&str]) -> impl tokio_stream::Stream<Item = Ask> + Send + 'static + use<> {
    tokio_stream::iter(texts.iter().map(|text| Ask { text: (*text).to_owned() }).collect::<Vec<_>>())
}
