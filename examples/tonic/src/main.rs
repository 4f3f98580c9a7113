//! A client that tonic generates, through an outage. The call site is written for a client, and does not know of a stack.
//!
//! ```sh
//! cargo run -p tonic-example
//! ```

use std::time::Duration;

use buttress::circuit_breaker::{Config, Trip};
use buttress::core::Backoff;
use buttress::grpc::{GrpcStack, attempts};
use buttress::retry::Budget;
use buttress::{BoxError, Exhausted, GrpcLayer, Refused, find};
use grpc_tests::echo::Ask;
use grpc_tests::echo::echo_client::EchoClient;
use grpc_tests::{Do, Server};
use tonic::client::GrpcService;
use tonic::codegen::{Body, Bytes};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The call site.
async fn greet<T>(client: &mut EchoClient<T>, name: &str) -> Result<String, Status>
where
    T: GrpcService<tonic::body::Body, Error: Into<BoxError>>,
    T::ResponseBody: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    let answer = client.unary(Ask { text: format!("hello, {name}") }).await?;
    let attempts = attempts(&answer);
    Ok(format!("{:?} after {attempts} attempts", answer.into_inner().text))
}

const OPEN: Duration = Duration::from_secs(2);

/// Times as an example has them; leave them out, and the stack has figures for production.
fn stack() -> Result<GrpcLayer, BoxError> {
    let breaker = Config::only(Trip::ConsecutiveFailures(3)).open_for(OPEN).success_threshold(1);
    let backoff = Backoff::constant(Duration::from_millis(20));
    // A process that has just begun has earned no retries yet: it gets a few on credit.
    let budget = Budget::adaptive(0.1, Duration::from_millis(500), 10)?;
    let stack = buttress::grpc("echo").repeatable("echo.v1.Echo/Unary").circuit_breaker(breaker);
    Ok(stack.map_retry(|retry| retry.backoff(backoff).budget(budget)).build()?)
}

async fn run(server: &Server) -> Result<Vec<String>, BoxError> {
    let mut bare = EchoClient::new(server.channel());
    let mut client: EchoClient<GrpcStack> = EchoClient::new(stack()?.over(server.channel()));

    let mut lines = Vec::new();
    let mut tell = |who, outcome: Result<String, Status>| {
        lines.push(match outcome {
            Ok(answer) => format!("{who}: {answer}"),
            Err(status) if find::<Refused>(&status).is_some_and(|_| find::<Exhausted>(&status).is_none()) => {
                let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
                format!(
                    "{who}: not sent, {:?}, come back {}",
                    status.code(),
                    if wait.is_some() { "later" } else { "?" }
                )
            }
            Err(status) => format!("{who}: {:?}, {}", status.code(), status.message()),
        });
    };
    tell("without a stack", greet(&mut bare, "Ada").await);
    tell("with it", greet(&mut client, "Ada").await);
    tell("in the outage", greet(&mut client, "Grace").await);
    tell("after it has been seen", greet(&mut client, "Grace").await);
    tokio::time::sleep(OPEN).await;
    tell("once it is over", greet(&mut client, "Grace").await);
    Ok(lines)
}

/// Fails in each of the ways of gRPC, and later is down for three calls.
async fn server() -> Server {
    let trailers = Do::Trailers(Code::Unavailable, &[]);
    let outage = [Do::Http(503), Do::TrailersOnly(Code::Unavailable, &[]), trailers.clone()];
    Server::start(
        [trailers, Do::Http(502), Do::TrailersOnly(Code::Unavailable, &[]), Do::Pass]
            .into_iter()
            .chain(outage),
    )
    .await
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server().await;
    println!("{}\n", stack()?.explain());
    run(&server).await?.iter().for_each(|line| println!("{line}"));
    println!("the server saw {} calls", server.calls());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failures_of_any_shape_are_retried_and_an_outage_is_not_hammered() {
        let server = server().await;
        let lines = run(&server).await.unwrap();
        let expected = [
            ("without a stack: ", "Unavailable"),
            ("with it: ", "\"hello, Ada\" after 3 attempts"),
            ("in the outage: ", "Unavailable"),
            ("after it has been seen: not sent", "Unavailable, come back later"),
            ("once it is over: ", "\"hello, Grace\" after 1 attempts"),
        ];
        for (line, (who, what)) in lines.iter().zip(expected) {
            assert!(line.starts_with(who) && line.contains(what), "{line}");
        }
        assert_eq!((lines.len(), server.calls()), (5, 1 + 3 + 3 + 1));
    }
}
