//! A service of axum's whose handlers call another service. When that one is down, its own callers get a 503 that says
//! when to come back, and what does not depend on it goes on.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use buttress::circuit_breaker::{Config, Trip};
use buttress::http::ReplayBody;
use buttress::{BoxError, HttpService, Problem};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use loopback::{Do, Server, status};
use tower::{Layer, ServiceExt};

/// A client with its stack. Clones share one circuit and one retry budget.
type Billing = HttpService<Client<HttpConnector, ReplayBody<Full<Bytes>>>>;

#[derive(Clone)]
struct App {
    billing: Billing,
    url: String,
}

async fn ask(app: App, request: http::request::Builder) -> Result<String, Problem> {
    let request = request.body(Full::default()).map_err(BoxError::from)?;
    // The errors of the stack become problem details by themselves.
    let response = app.billing.oneshot(request).await?;
    let body = response.into_body().collect().await.map_err(BoxError::from)?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

async fn invoice(State(app): State<App>, Path(number): Path<u32>) -> Result<String, Problem> {
    let url = format!("{}/invoices/{number}", app.url);
    ask(app, Request::get(url)).await
}

async fn refund(State(app): State<App>, Path(number): Path<u32>) -> Result<String, Problem> {
    let url = format!("{}/refunds/{number}", app.url);
    ask(app, Request::post(url)).await
}

const OPEN: Duration = Duration::from_secs(30);

fn router(billing: &Server) -> Result<Router, BoxError> {
    let breaker = Config::only(Trip::ConsecutiveFailures(3)).open_for(OPEN);
    let stack = buttress::http("billing").circuit_breaker(breaker).map_retry(|retry| retry.max_retries(0));
    let client = stack.build()?.layer(Client::builder(TokioExecutor::new()).build_http());
    Ok(Router::new()
        .route("/invoices/{number}", get(invoice))
        .route("/refunds/{number}", post(refund))
        .route("/health", get(|| async { "fine" }))
        .with_state(App { billing: client, url: billing.url().to_owned() }))
}

/// Three answers, then nothing but lost ones.
async fn billing() -> Server {
    Server::start_then([status(200).body("42 EUR")], Do::Reset).await
}

async fn send(app: &Router, method: &str, path: &str) -> Result<(StatusCode, String, String), BoxError> {
    let request = Request::builder().method(method).uri(path).body(Body::empty())?;
    let response = app.clone().oneshot(request).await?;
    let after = response.headers().get("retry-after").map_or("", |after| after.to_str().unwrap_or("?"));
    let (after, status) = (after.to_owned(), response.status());
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, after, String::from_utf8_lossy(&body).into_owned()))
}

const CALLS: [(&str, &str); 7] = [
    ("GET", "/invoices/1"),
    ("GET", "/invoices/2"),
    ("POST", "/refunds/2"),
    ("GET", "/invoices/3"),
    ("GET", "/invoices/4"),
    ("POST", "/refunds/4"),
    ("GET", "/health"),
];

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let billing = billing().await;
    let app = router(&billing)?;
    for (method, path) in CALLS {
        let (status, after, body) = send(&app, method, path).await?;
        println!("{method} {path}: HTTP {status}, retry-after `{after}`: {body}");
    }
    println!("billing saw {} requests", billing.calls());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_routes_share_one_circuit_and_refusals_become_problem_details() {
        let billing = billing().await;
        let app = router(&billing).unwrap();
        let mut seen = Vec::new();
        for (method, path) in CALLS {
            seen.push(send(&app, method, path).await.unwrap());
        }
        let statuses: Vec<u16> = seen.iter().map(|answer| answer.0.as_u16()).collect();
        assert_eq!(statuses, [200, 502, 502, 502, 503, 503, 200]);
        assert_eq!(billing.calls(), 4, "failures of both routes opened it, and it refuses both");
        for (_, after, body) in &seen[4..6] {
            assert_eq!(after, "30");
            let expected =
                r#"{"detail":"`billing`: the circuit is open","status":503,"title":"Service Unavailable"}"#;
            assert_eq!(body, expected);
        }
    }

    #[tokio::test]
    async fn it_serves_real_connections() {
        let billing = billing().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/invoices/1", listener.local_addr().unwrap());
        let app = router(&billing).unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, app).await });
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(Request::get(url).body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "42 EUR");
        serving.abort();
    }
}
