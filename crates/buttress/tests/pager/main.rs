//! Pagers over real sockets, and over a paused clock where it takes minutes.
#![cfg(feature = "pager")]

mod supervised;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::core::observe::Health;
use buttress::heal::{Incident, Pager, Symptom};
use buttress::pager::{PagerDuty, Webhook};
use buttress::{BoxError, Reason, Refused, find};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use loopback::{Do, Server, status};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;
use tower::service_fn;

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn pagerduty(server: &Server) -> PagerDuty {
    PagerDuty::new(KEY).unwrap().url(&server.at("/v2/enqueue")).unwrap()
}

fn incident() -> Incident {
    Incident::new("search-1", "search", Health::Unhealthy).with_symptom(
        "ping",
        Symptom::Connectivity,
        "connection refused",
    )
}

fn events(server: &Server) -> Vec<Value> {
    server.seen().iter().map(|seen| serde_json::from_slice(&seen.body).unwrap()).collect()
}

fn all(error: &BoxError) -> String {
    buttress::chain(&**error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[tokio::test]
async fn a_trigger_an_update_and_a_resolve_are_one_event_each_with_the_key_of_the_incident() {
    let server = Server::start_then([], status(202).body(r#"{"status":"success"}"#)).await;
    let pager = pagerduty(&server).source("web-7");
    pager.trigger(&incident()).await.unwrap();
    let worse = Incident::new("search-1", "search", Health::Critical);
    pager.update(&worse).await.unwrap();
    pager.resolve(&incident().ended(Duration::from_secs(4))).await.unwrap();
    let events = events(&server);
    let actions =
        events.iter().map(|event| (&event["event_action"], &event["dedup_key"], &event["routing_key"]));
    assert!(actions.eq([
        (&json!("trigger"), &json!("search-1"), &json!(KEY)),
        (&json!("trigger"), &json!("search-1"), &json!(KEY)),
        (&json!("resolve"), &json!("search-1"), &json!(KEY)),
    ]));
    let payload = &events[0]["payload"];
    assert_eq!(payload["summary"], "search is unhealthy: ping: connection refused");
    assert_eq!((&payload["severity"], &payload["source"]), (&json!("error"), &json!("web-7")));
    assert_eq!(payload["custom_details"]["symptoms"]["ping"]["evidence"], "connection refused");
    let report = payload["custom_details"]["incident"].as_str().unwrap();
    assert!(report.contains("search-1") && report.contains("connection refused"), "{report}");
    let date = payload["timestamp"].as_str().unwrap();
    assert!(date.len() == 24 && date.starts_with("20") && date.ends_with('Z'), "{date}");
    assert_eq!(events[1]["payload"]["severity"], "critical");
    assert_eq!(server.seen()[0].header("content-type"), "application/json");
    assert_eq!(server.connections(), 1, "the connection is used again");
}

#[tokio::test]
async fn an_event_whose_answer_is_lost_is_sent_again_as_it_was() {
    let server = Server::start_then([Do::Reset, status(503), Do::Reset], status(202)).await;
    pagerduty(&server).trigger(&incident()).await.unwrap();
    let events = events(&server);
    assert_eq!(events.len(), 4);
    assert!(events.iter().all(|event| *event == events[0]), "PagerDuty knows it by its key");
}

#[tokio::test]
async fn an_event_that_is_refused_is_not_sent_again_and_the_error_says_why_without_the_key() {
    let answer = format!(r#"{{"errors":["no integration {KEY}"]}}"#);
    let server = Server::start_then([], status(400).body(answer)).await;
    let error = pagerduty(&server).trigger(&incident()).await.unwrap_err();
    assert_eq!(
        all(&error),
        r#"the pagerduty pager did not get a trigger through: it answered HTTP 400 Bad Request: {"errors":["no integration [not shown]"]}"#
    );
    assert_eq!(server.calls(), 1);
}

/// A client that is told to come back after so many seconds, and then is heard, and the times of its calls.
fn throttled(seconds: &'static str) -> (impl ScriptedClient, Arc<Mutex<Vec<Instant>>>) {
    let calls: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let at = Arc::clone(&calls);
    let client = service_fn(move |_: Request<_>| {
        let mut at = at.lock().unwrap();
        at.push(Instant::now());
        let answer = Response::builder();
        let answer = if at.len() == 1 {
            answer.status(429).header("retry-after", seconds)
        } else {
            answer.status(202)
        };
        std::future::ready(answer.body(Full::<Bytes>::default()).map_err(BoxError::from))
    });
    (client, calls)
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_the_server_asks_for_is_kept_by_all_incidents() {
    let (client, calls) = throttled("1");
    let pager = PagerDuty::over(client, KEY).unwrap();
    let (start, incident, other) =
        (Instant::now(), incident(), Incident::new("other", "other", Health::Healthy));
    let (first, second) = tokio::join!(pager.trigger(&incident), async {
        // The answer has come.
        tokio::time::sleep(Duration::from_millis(1)).await;
        pager.clone().resolve(&other).await
    });
    first.and(second).unwrap();
    let calls = calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 3);
    assert!(calls[1..].iter().all(|call| *call - start >= Duration::from_secs(1)), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn while_a_long_pause_lasts_nothing_is_sent() {
    let (client, calls) = throttled("60");
    let pager = PagerDuty::over(client, KEY).unwrap();
    let start = Instant::now();
    let error = pager.trigger(&incident()).await.unwrap_err();
    assert!(all(&error).contains("HTTP 429"), "{}", all(&error));
    let error = pager.trigger(&incident()).await.unwrap_err();
    let refused = find::<Refused>(&*error).unwrap_or_else(|| panic!("{}", all(&error)));
    assert_eq!(refused.reason(), Reason::RateLimited);
    assert_eq!((start.elapsed(), calls.lock().unwrap().len()), (Duration::ZERO, 1));
}

#[tokio::test]
async fn when_the_pager_is_back_the_page_arrives_once() {
    // A port that nobody listens on for now, and that nobody else can have.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let pager = PagerDuty::new(KEY).unwrap().url(&format!("http://{address}/")).unwrap();
    for _ in 0..2 {
        let error = pager.trigger(&incident()).await.unwrap_err();
        assert!(all(&error).contains("Connection refused"), "{}", all(&error));
    }
    let server = Server::on(socket.listen(16).unwrap(), [], status(202));
    pager.trigger(&incident()).await.unwrap();
    assert_eq!(events(&server).len(), 1);
}

/// A client that never answers, or with these, and the times of its calls.
fn scripted(answers: &[u16]) -> (impl ScriptedClient, Arc<Mutex<Vec<Instant>>>) {
    let calls: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (at, answers) = (Arc::clone(&calls), answers.to_vec());
    let client = service_fn(move |_: Request<_>| {
        let call = {
            let mut at = at.lock().unwrap();
            at.push(Instant::now());
            at.len() - 1
        };
        let answer = answers.get(call).copied();
        async move {
            match answer {
                Some(status) => {
                    Ok::<_, BoxError>(Response::builder().status(status).body(Full::<Bytes>::default())?)
                }
                None => std::future::pending().await,
            }
        }
    });
    (client, calls)
}

type Asked = Request<buttress::http::ReplayBody<Full<Bytes>>>;

trait ScriptedClient:
    tower::Service<Asked, Response = Response<Full<Bytes>>, Error = BoxError, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<T> ScriptedClient for T where
    T: tower::Service<Asked, Response = Response<Full<Bytes>>, Error = BoxError, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

#[tokio::test(start_paused = true)]
async fn a_pager_that_hangs_is_given_up_before_the_supervisor_loses_patience() {
    let (client, calls) = scripted(&[]);
    let start = Instant::now();
    let error = PagerDuty::over(client, KEY).unwrap().trigger(&incident()).await.unwrap_err();
    assert!(find::<buttress::Elapsed>(&*error).is_some(), "{}", all(&error));
    assert!(start.elapsed() <= Duration::from_secs(9), "{:?}", start.elapsed());
    assert!(calls.lock().unwrap().len() >= 2, "and tried again meanwhile");
}

#[tokio::test(start_paused = true)]
async fn retries_are_spread_so_that_a_fleet_does_not_call_in_step() {
    let mut waits = std::collections::HashSet::new();
    for _ in 0..50 {
        let (client, calls) = scripted(&[503, 202]);
        PagerDuty::over(client, KEY).unwrap().trigger(&incident()).await.unwrap();
        let calls = calls.lock().unwrap().clone();
        assert_eq!(calls.len(), 2);
        let wait = calls[1] - calls[0];
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        waits.insert(wait);
    }
    assert!(waits.len() > 40, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn while_its_circuit_is_open_the_pager_is_left_alone() {
    let (client, calls) = scripted(&[503; 1000]);
    let pager = PagerDuty::over(client, KEY).unwrap();
    // An outage of ten minutes: tried again each second.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(600) {
        pager.trigger(&incident()).await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let calls = calls.lock().unwrap().len();
    assert!((40..=100).contains(&calls), "{calls}: a probe in 15 s");
}

#[tokio::test]
async fn a_webhook_gets_the_incident_as_json_and_knows_a_repetition_by_its_header() {
    let server = Server::start([Do::Reset]).await;
    let webhook = Webhook::new(&server.at("/hook?token=secret")).unwrap();
    let webhook = webhook.header(header::AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
    assert!(!format!("{webhook:?}").contains("secret"));
    webhook.trigger(&incident()).await.unwrap();
    webhook.resolve(&incident().ended(Duration::from_millis(2500))).await.unwrap();
    let (seen, events) = (server.seen(), events(&server));
    assert_eq!(events.len(), 3);
    assert_eq!(events[0], events[1]);
    let keys: Vec<_> = seen.iter().map(|seen| seen.header("idempotency-key")).collect();
    assert_eq!(
        keys,
        [
            r#""trigger unhealthy search-1""#,
            r#""trigger unhealthy search-1""#,
            r#""resolve unhealthy search-1""#
        ]
    );
    assert_eq!(seen[0].header("authorization"), "Bearer secret");
    let [trigger, .., resolve] = &*events else { panic!() };
    assert_eq!(
        (&trigger["event"], &trigger["key"], &trigger["health"]),
        (&json!("trigger"), &json!("search-1"), &json!("unhealthy"))
    );
    assert_eq!(
        trigger["symptoms"]["ping"],
        json!({ "symptom": "connectivity", "evidence": "connection refused" })
    );
    assert_eq!((&resolve["event"], &resolve["recovered_after_seconds"]), (&json!("resolve"), &json!(2.5)));
}

#[tokio::test]
async fn an_error_of_a_webhook_does_not_show_its_url() {
    let webhook = Webhook::new("http://127.0.0.1:1/secret?token=secret").unwrap();
    let error = webhook.trigger(&incident()).await.unwrap_err();
    assert!(!all(&error).contains("secret"), "{}", all(&error));
    assert!(all(&error).starts_with("the webhook pager did not get a trigger through: "), "{}", all(&error));
}

#[tokio::test]
async fn an_https_url_is_called_over_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 3];
        stream.read_exact(&mut hello).await.unwrap();
        hello
    });
    let pager = PagerDuty::new(KEY).unwrap().url(&url).unwrap();
    pager.trigger(&incident()).await.unwrap_err();
    // A handshake record, TLS 1.0 or later (RFC 8446 § 5.1).
    assert_eq!(server.await.unwrap()[..2], [22, 3]);
}

#[tokio::test]
async fn what_pagerduty_would_refuse_is_not_sent() {
    let server = Server::start([]).await;
    let pager = pagerduty(&server);
    assert!(!format!("{pager:?}").contains(KEY));
    for key in [String::new(), "k".repeat(256)] {
        let error = pager.resolve(&Incident::new(key, "search", Health::Healthy)).await.unwrap_err();
        assert!(error.to_string().starts_with("PagerDuty takes keys of 1 to 255 characters"), "{error}");
    }
    let long = incident().with_symptom("x", Symptom::Queue, "ä".repeat(3000));
    pager.trigger(&long).await.unwrap();
    let summary = events(&server)[0]["payload"]["summary"].as_str().unwrap().to_owned();
    assert_eq!((summary.chars().count(), server.calls()), (1024, 1));
    for key in ["", "a b", "schlüssel"] {
        let error = PagerDuty::new(key).unwrap_err().to_string();
        assert!(error.starts_with("`routing_key` is [not shown], but must be"), "{error}");
    }
}
