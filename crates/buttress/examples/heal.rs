//! A client that mends itself: its backend, a process of its own, is killed, then stopped, and at last cannot be started
//! any more, so that a human is called, who mends it.
//!
//! `cargo run -p buttress --example heal --features pager`

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use buttress::core::clock::Seconds;
use buttress::heal::{Build, ChildProcess, Heal, Monitor, PageBudget, Rung, Supervisor, SupervisorHandle};
use buttress::http::Http;
use buttress::pager::PagerDuty;
use buttress::{BoxError, HttpCheck, chain};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use loopback::{Server, status};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

type Body = Full<Bytes>;
type Hyper = Client<HttpConnector, Body>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    if let [_, mode, port] = &*std::env::args().collect::<Vec<_>>() {
        assert_eq!(mode, "backend");
        return backend(port).await;
    }
    let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    let is_broken = Arc::new(AtomicBool::new(false));
    let process = process(port, &is_broken);
    let process =
        process.ready_when(move || async move { TcpStream::connect(("127.0.0.1", port)).await.is_ok() });
    process.start().await?;
    let pagerduty = Server::start_then([], status(202)).await;
    let pager = PagerDuty::new("0123456789abcdef0123456789abcdef")?.url(&pagerduty.at("/v2/enqueue"))?;

    // Shorter than in production, for an example.
    let check = Monitor::new(HttpCheck::get(format!("http://127.0.0.1:{port}/health"))?);
    let check = check.every(Duration::from_millis(500)).timeout(Duration::from_millis(300));
    let restart = Rung::new(process.clone()).as_restart();
    let (client, handle) = Supervisor::new("backend", |_: Build| async {
        Ok::<Hyper, BoxError>(Client::builder(TokioExecutor::new()).build_http())
    })
    .check(check)
    .rung(restart.cooldown(Duration::from_secs(1)).verify(Duration::from_secs(2)).max_attempts(2))
    .stable_for(Duration::from_secs(2))
    .patience(Duration::from_secs(5))
    .pager(PageBudget::new(pager))
    .spawn()?;
    let client = client.policy(Http::new());
    let traffic = tokio::spawn(traffic(client, port, Instant::now()));

    sleep(Duration::from_secs(1)).await;
    for signal in ["KILL", "STOP"] {
        println!("\n{signal}");
        kill(signal, process.pid()?).await?;
        until(|| handle.incident().is_some()).await;
        over(&handle).await;
    }
    println!("\nKILL, and it cannot be started any more");
    is_broken.store(true, Ordering::Relaxed);
    kill("KILL", process.pid()?).await?;
    until(|| pagerduty.calls() == 1).await;
    println!("PagerDuty is told:\n{}", told(&pagerduty));

    println!("\nA human mends it");
    is_broken.store(false, Ordering::Relaxed);
    handle.force("restart process").await?;
    over(&handle).await;
    until(|| pagerduty.calls() == 2).await;
    println!("PagerDuty is told:\n{}", told(&pagerduty));
    traffic.abort();
    handle.shutdown(Duration::from_secs(2)).await;
    process.stop().await
}

/// This program once more, as a server; while it is broken, one that ends at once.
fn process(port: u16, is_broken: &Arc<AtomicBool>) -> ChildProcess {
    let is_broken = Arc::clone(is_broken);
    ChildProcess::new("backend", move || {
        let port = if is_broken.load(Ordering::Relaxed) { "none".to_owned() } else { port.to_string() };
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.args(["backend", &port]).stderr(std::process::Stdio::null());
        command
    })
}

async fn backend(port: &str) -> Result<(), BoxError> {
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let answer = service_fn(|_| async { Ok::<_, BoxError>(Response::new(Body::from("well"))) });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

/// A call each 20 ms, and a line whenever they begin to be answered or not to be.
async fn traffic(client: Heal<Hyper, Http>, port: u16, start: Instant) {
    let mut last = None;
    loop {
        let request = Request::get(format!("http://127.0.0.1:{port}/")).body(Body::default()).expect("a URI");
        let call = tokio::time::timeout(Duration::from_millis(200), client.clone().oneshot(request));
        let said = match call.await {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => Ok(()),
            Ok(Ok(answer)) => Err(answer.status().to_string()),
            Ok(Err(error)) => Err(causes(&*error)),
            Err(elapsed) => Err(elapsed.to_string()),
        };
        let is_well = said.is_ok();
        if last != Some(is_well) {
            let said = said.err().unwrap_or_else(|| "calls are answered".to_owned());
            println!("{:>8}  {said}", Seconds(start.elapsed()).to_string());
            last = Some(is_well);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn causes(error: &(dyn Error + 'static)) -> String {
    chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn kill(signal: &str, pid: u32) -> Result<(), BoxError> {
    let killed = Command::new("kill").args(["-s", signal, &pid.to_string()]).status().await?;
    if killed.success() { Ok(()) } else { Err(format!("kill: {killed}").into()) }
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        sleep(Duration::from_millis(20)).await;
    }
}

async fn over(handle: &SupervisorHandle) {
    until(|| handle.incident().is_none()).await;
    if let Some(incident) = handle.incidents().last() {
        println!("{incident}");
    }
}

/// What PagerDuty got last.
fn told(pagerduty: &Server) -> String {
    let seen = pagerduty.seen();
    let event = seen.last().and_then(|seen| serde_json::from_slice::<serde_json::Value>(&seen.body).ok());
    let event = event.unwrap_or_default();
    format!("{} {} {}", event["event_action"], event["dedup_key"], event["payload"]["summary"])
}
