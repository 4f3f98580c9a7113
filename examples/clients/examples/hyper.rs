//! A hyper client through an outage. The call site is written for a client, and does not know of a stack.

use std::time::Duration;

use buttress::circuit_breaker::{Config, Trip};
use buttress::core::Backoff;
use buttress::retry::Budget;
use buttress::{BoxError, HttpLayer, Refused, ResponseExt, find};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use loopback::{Do, Server, status};
use tower::{Layer, Service, ServiceExt};

/// The call site.
async fn invoice<S>(client: &S, server: &Server, number: u32) -> Result<String, BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<Incoming>, Error: Into<BoxError>> + Clone,
{
    let request = Request::get(server.at(&format!("/invoices/{number}"))).body(Full::default())?;
    let response = client.clone().oneshot(request).await.map_err(Into::into)?;
    let (status, attempts) = (response.status(), response.attempts());
    let body = response.into_body().collect().await?.to_bytes();
    Ok(format!("HTTP {status} {:?} after {attempts} attempts", String::from_utf8_lossy(&body)))
}

const OPEN: Duration = Duration::from_secs(2);

/// Times as an example has them; leave them out, and the stack has figures for production.
fn stack() -> Result<HttpLayer, BoxError> {
    let breaker = Config::only(Trip::ConsecutiveFailures(3)).open_for(OPEN).success_threshold(1);
    let backoff = Backoff::constant(Duration::from_millis(20));
    // A process that has just begun has earned no retries yet: it gets a few on credit.
    let budget = Budget::adaptive(0.1, Duration::from_millis(500), 10)?;
    let stack = buttress::http("billing").circuit_breaker(breaker);
    Ok(stack.map_retry(|retry| retry.backoff(backoff).budget(budget)).build()?)
}

async fn run(server: &Server) -> Result<Vec<String>, BoxError> {
    let bare = Client::builder(TokioExecutor::new()).build_http();
    let client = stack()?.layer(Client::builder(TokioExecutor::new()).build_http());

    let mut lines = Vec::new();
    let mut tell = |who, outcome: Result<String, BoxError>| {
        lines.push(match outcome {
            Ok(answer) => format!("{who}: {answer}"),
            Err(error) if find::<Refused>(&*error).is_some() => format!("{who}: not sent, {error}"),
            Err(error) => format!("{who}: {error}"),
        });
    };
    tell("without a stack", invoice(&bare, server, 1).await);
    tell("with it", invoice(&client, server, 2).await);
    tell("in the outage", invoice(&client, server, 3).await);
    tell("after it has been seen", invoice(&client, server, 4).await);
    tokio::time::sleep(OPEN).await;
    tell("once it is over", invoice(&client, server, 5).await);
    Ok(lines)
}

/// Loses an answer, is busy for a moment, and later is down for three requests.
async fn server() -> Server {
    let lost = || Do::Reset;
    let outage = [lost(), lost(), lost()];
    Server::start_then(
        [lost(), lost(), status(503), status(200).body("42 EUR")].into_iter().chain(outage),
        status(200).body("42 EUR"),
    )
    .await
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server().await;
    run(&server).await?.iter().for_each(|line| println!("{line}"));
    println!("the server saw {} requests", server.calls());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lost_answer_and_a_busy_server_are_retried_and_an_outage_is_not_hammered() {
        let server = server().await;
        let lines = run(&server).await.unwrap();
        let expected = [
            ("without a stack: ", "client error"),
            ("with it: ", "HTTP 200 OK \"42 EUR\" after 3 attempts"),
            ("in the outage: ", "failed after 3 attempts"),
            ("after it has been seen: not sent", "the circuit is open"),
            ("once it is over: ", "HTTP 200 OK \"42 EUR\" after 1 attempts"),
        ];
        for (line, (who, what)) in lines.iter().zip(expected) {
            assert!(line.starts_with(who) && line.contains(what), "{line}");
        }
        assert_eq!((lines.len(), server.calls()), (5, 1 + 3 + 3 + 1));
    }
}
