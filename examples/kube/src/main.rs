//! kube's client over a stack: its calls are what they are without one.
//!
//! The API server here loses answers, is down for a while and ends a watch early. The client has to survive that: one
//! error from a service's `poll_ready` would end it for good, which is why a breaker refuses in `call`.

use std::time::Duration;

use buttress::circuit_breaker::{Config, Trip};
use buttress::core::Backoff;
use buttress::{BoxError, Refused, find};
use futures_util::TryStreamExt;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::client::middleware::BaseUriLayer;
use loopback::{Do, Server, status};
use serde_json::{Value, json};
use tower::ServiceBuilder;

const OPEN: Duration = Duration::from_secs(2);

/// Five lines to a client with a stack; a real one also has the cluster's TLS and token.
fn client(url: &str) -> Result<kube::Client, BoxError> {
    let breaker = Config::only(Trip::ConsecutiveFailures(3)).open_for(OPEN).success_threshold(1);
    let backoff = Backoff::constant(Duration::from_millis(20));
    let stack = buttress::http("kubernetes").background().circuit_breaker(breaker);
    let stack =
        stack.map_retry(|retry| retry.backoff(backoff).max_retries(2).retry_refused(false)).build()?;
    let http = HyperClient::builder(TokioExecutor::new()).build_http();
    let service = ServiceBuilder::new().layer(BaseUriLayer::new(url.parse()?)).layer(stack).service(http);
    Ok(kube::Client::new(service, "default"))
}

/// A call site.
async fn names(pods: &Api<Pod>) -> kube::Result<Vec<String>> {
    Ok(pods.list(&ListParams::default()).await?.into_iter().filter_map(|pod| pod.metadata.name).collect())
}

/// Another: watches until the server ends it, and says what it saw and from where to go on.
async fn watch(pods: &Api<Pod>, from: &str) -> kube::Result<(Vec<String>, String)> {
    let (mut seen, mut version) = (Vec::new(), from.to_owned());
    let events = pods.watch(&WatchParams::default(), from).await?;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event {
            version = pod.metadata.resource_version.unwrap_or(version);
            seen.extend(pod.metadata.name);
        }
    }
    Ok((seen, version))
}

fn pod(name: &str, version: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "resourceVersion": version.to_string() },
    })
}

fn answer(body: &str) -> Do {
    status(200).header("content-type", "application/json").body(body.to_owned())
}

fn list() -> Do {
    let metadata = json!({ "resourceVersion": "7" });
    let items = [pod("web-1", 3), pod("web-2", 7)];
    answer(
        &json!({ "apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": items }).to_string(),
    )
}

fn events(pods: &[Value]) -> Do {
    let lines = pods.iter().map(|pod| format!("{}\n", json!({ "type": "ADDED", "object": pod })));
    answer(&lines.collect::<String>())
}

/// Busy at first; then down for three requests; then watches that end early.
async fn server() -> Server {
    let script = [
        status(503),
        Do::Reset,
        list(),
        Do::Reset,
        Do::Reset,
        Do::Reset,
        list(),
        events(&[pod("web-3", 8), pod("web-4", 9)]),
        status(429).header("retry-after", "0"),
        events(&[pod("web-5", 10)]),
    ];
    Server::start(script).await
}

async fn run(server: &Server) -> Result<Vec<String>, BoxError> {
    let pods: Api<Pod> = Api::default_namespaced(client(server.url())?);
    let mut lines = Vec::new();
    lines.push(format!("listed: {:?}", names(&pods).await?));
    for _ in 0..2 {
        lines.push(match names(&pods).await {
            Ok(names) => format!("listed: {names:?}"),
            Err(error) if find::<Refused>(&error).is_some() => format!("not sent: {error}"),
            Err(error) => format!("failed: {error}"),
        });
    }
    tokio::time::sleep(OPEN).await;
    lines.push(format!("listed again: {:?}", names(&pods).await?));
    let mut from = String::from("7");
    for _ in 0..2 {
        let (seen, version) = watch(&pods, &from).await?;
        lines.push(format!("watched from {from}: {seen:?}"));
        from = version;
    }
    Ok(lines)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server().await;
    run(&server).await?.iter().for_each(|line| println!("{line}"));
    println!("the API server saw {} requests", server.calls());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_client_lists_and_watches_through_an_outage_and_survives_refusals() {
        let server = server().await;
        let lines = run(&server).await.unwrap();
        let starts = [
            r#"listed: ["web-1", "web-2"]"#,
            "failed: ",
            "not sent: ",
            r#"listed again: ["web-1", "web-2"]"#,
            r#"watched from 7: ["web-3", "web-4"]"#,
            r#"watched from 9: ["web-5"]"#,
        ];
        assert_eq!(lines.len(), starts.len());
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
        assert_eq!(server.calls(), 10, "a refused call reaches nobody");
    }
}
