//! PagerDuty's Events API v2 as a small typed client over any HTTP client, and a PagerDuty that loses its answers: nobody
//! is paged twice.

use std::time::Duration;

use buttress::core::Backoff;
use buttress::{BoxError, RequestExt};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use loopback::{Do, Server, status};
use serde::Serialize;
use tower::{Layer, Service, ServiceExt};

/// A client of the Events API v2.
///
/// An event is recognised by its `dedup_key` (255 characters at most), so that it may be sent any number of times; the
/// request says so to the stack beneath by carrying the same key.
#[derive(Clone, Debug)]
struct PagerDuty<S> {
    client: S,
    url: String,
    routing_key: String,
}

/// What a page says.
#[derive(Clone, Debug, Serialize)]
struct Payload {
    summary: String,
    source: String,
    /// `critical`, `error`, `warning` or `info`.
    severity: &'static str,
}

#[derive(Serialize)]
struct Event<'a> {
    routing_key: &'a str,
    event_action: &'static str,
    dedup_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a Payload>,
}

impl<S> PagerDuty<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<Incoming>, Error: Into<BoxError>> + Clone,
{
    /// Opens an incident, or adds to the one that this key has opened.
    async fn trigger(&self, dedup_key: &str, payload: &Payload) -> Result<(), BoxError> {
        self.send("trigger", dedup_key, Some(payload)).await
    }

    /// Closes the incident of this key.
    async fn resolve(&self, dedup_key: &str) -> Result<(), BoxError> {
        self.send("resolve", dedup_key, None).await
    }

    async fn send(
        &self,
        event_action: &'static str,
        dedup_key: &str,
        payload: Option<&Payload>,
    ) -> Result<(), BoxError> {
        if dedup_key.is_empty() || dedup_key.chars().count() > 255 {
            return Err(format!("a dedup_key has 1 to 255 characters: `{dedup_key}`").into());
        }
        let event = Event { routing_key: &self.routing_key, event_action, dedup_key, payload };
        let request = Request::post(&self.url).header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::from(serde_json::to_vec(&event)?))?;
        // Another event of the same incident is another request.
        let request = request.with_idempotency_key(format!("{event_action} {dedup_key}"));
        let response = self.client.clone().oneshot(request).await.map_err(Into::into)?;
        match response.status() {
            StatusCode::ACCEPTED => Ok(()),
            status => {
                let body = response.into_body().collect().await?.to_bytes();
                let body = String::from_utf8_lossy(&body);
                Err(format!("PagerDuty refused `{event_action}` of `{dedup_key}`: HTTP {status} {body}")
                    .into())
            }
        }
    }
}

async fn run(server: &Server) -> Result<(), BoxError> {
    // Shorter waits than in production, for an example.
    let backoff = Backoff::constant(Duration::from_millis(20));
    let stack = buttress::http("pagerduty").pagerduty().map_retry(|retry| retry.backoff(backoff)).build()?;
    let client = stack.layer(Client::builder(TokioExecutor::new()).build_http());
    let pagerduty = PagerDuty { client, url: server.at("/v2/enqueue"), routing_key: "R0UT1NG".into() };

    let payload = Payload {
        summary: "checkout answers nothing".into(),
        source: "probe-7".into(),
        severity: "critical",
    };
    pagerduty.trigger("checkout-down", &payload).await?;
    pagerduty.resolve("checkout-down").await
}

/// Takes an event twice and loses both answers, throttles, and then answers.
async fn server() -> Server {
    let throttled = status(429).header("ratelimit-reset", "0");
    Server::start_then([Do::Reset, Do::Reset, throttled], status(202).body("{}")).await
}

/// What PagerDuty makes of what it has seen: the keys of its incidents, each once.
fn incidents(server: &Server) -> Vec<String> {
    let events = server.seen().into_iter().filter_map(|seen| serde_json::from_slice(&seen.body).ok());
    let keys = events.map(|event: serde_json::Value| event["dedup_key"].as_str().unwrap_or("?").to_owned());
    let mut keys: Vec<String> = keys.collect();
    keys.sort();
    keys.dedup();
    keys
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server().await;
    run(&server).await?;
    println!("PagerDuty saw {} requests and has the incidents {:?}", server.calls(), incidents(&server));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_page_whose_answers_are_lost_arrives_and_opens_one_incident() {
        let server = server().await;
        run(&server).await.unwrap();
        assert_eq!(incidents(&server), ["checkout-down"]);
        let seen = server.seen();
        assert_eq!(seen.len(), 3 + 1 + 1);
        assert!(
            seen[..4].iter().all(|event| event.body == seen[0].body),
            "the same event, whatever became of it"
        );
    }

    #[tokio::test]
    async fn a_refused_event_is_not_sent_again() {
        let server = Server::start_then([], status(400).body("bad routing key")).await;
        let error = run(&server).await.unwrap_err().to_string();
        assert!(error.contains("bad routing key"), "{error}");
        assert_eq!(server.calls(), 1);
    }

    #[tokio::test]
    async fn an_event_needs_a_key() {
        let server = Server::start([]).await;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let pagerduty = PagerDuty { client, url: server.at("/"), routing_key: String::new() };
        assert!(pagerduty.resolve("").await.is_err());
        assert!(pagerduty.resolve(&"k".repeat(256)).await.is_err());
        assert_eq!(server.calls(), 0);
    }
}
