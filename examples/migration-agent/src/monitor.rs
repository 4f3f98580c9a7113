//! Tells StatsD and an HTTP endpoint what happens. Neither may be there, or answer in time: no migration waits for them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buttress::degrade::{Component, Level};
use buttress::http::ReplayBody;
use buttress::{BoxError, HttpLayer};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tower::{ServiceBuilder, ServiceExt};

use crate::problem::Problem;

/// What has happened.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Notice {
    pub(crate) event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) migration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

/// Where notices go. What there is no room for is counted, and lost.
#[derive(Debug)]
pub(crate) struct Monitor {
    queues: Mutex<Vec<mpsc::Sender<Notice>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    lost: AtomicU64,
}

/// How many notices wait for each of the two.
const ROOM: usize = 256;

/// How long an end waits for what is still to be told.
const FAREWELL: Duration = Duration::from_secs(1);

impl Notice {
    pub(crate) fn new(event: &'static str) -> Self {
        Self { event, migration: None, run: None, ms: None, detail: None }
    }
}

impl Monitor {
    /// Starts to tell both, as far as there are any. `component` hears how well that goes.
    pub(crate) fn start(
        statsd: Option<&str>,
        notify: Option<&str>,
        component: &Component,
    ) -> Result<Self, Problem> {
        let counts = Arc::new(Counts::default());
        let (mut queues, mut tasks) = (Vec::new(), Vec::new());
        if let Some(address) = statsd {
            let (queue, notices) = mpsc::channel(ROOM);
            tasks.push(tokio::spawn(to_statsd(
                address.to_owned(),
                notices,
                counts.clone(),
                component.clone(),
            )));
            queues.push(queue);
        }
        if let Some(url) = notify {
            let wrong = |why: String| Problem::input(format!("--notify {url}: {why}"));
            let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
            if !matches!(uri.scheme_str(), Some("http" | "https")) {
                return Err(wrong("is no HTTP URL".to_owned()));
            }
            let builder =
                buttress::http("monitoring").total(Duration::from_secs(2)).attempt(Duration::from_secs(1));
            let layer = builder.build().map_err(|error| wrong(error.to_string()))?;
            let (queue, notices) = mpsc::channel(ROOM);
            tasks.push(tokio::spawn(to_http(layer, uri, notices, counts.clone(), component.clone())));
            queues.push(queue);
        }
        Ok(Self { queues: Mutex::new(queues), tasks: Mutex::new(tasks), counts })
    }

    /// Tells of something, and waits for nobody.
    pub(crate) fn tell(&self, notice: &Notice) {
        for queue in lock(&self.queues).iter() {
            if queue.try_send(notice.clone()).is_err() {
                self.counts.lost.fetch_add(1, Relaxed);
            }
        }
    }

    /// Waits a second at most for what is still to be told, and says how many notices were sent and lost.
    pub(crate) async fn end(&self) -> (u64, u64) {
        lock(&self.queues).clear();
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let all = async {
            for task in tasks {
                let _ = task.await;
            }
        };
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
        (self.counts.sent.load(Relaxed), self.counts.lost.load(Relaxed))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counts {
    fn count(&self, sent: &Result<(), BoxError>, component: &Component) {
        let (counter, level) = match sent {
            Ok(()) => (&self.sent, Level::Full),
            Err(_) => (&self.lost, Level::Slight),
        };
        counter.fetch_add(1, Relaxed);
        component.report(level);
    }
}

async fn to_statsd(
    address: String,
    mut notices: mpsc::Receiver<Notice>,
    counts: Arc<Counts>,
    component: Component,
) {
    let socket = async {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect(&address).await?;
        Ok::<_, std::io::Error>(socket)
    };
    let socket = socket.await.map_err(|error| error.to_string());
    while let Some(notice) = notices.recv().await {
        let event = notice.event;
        let mut lines = format!("migration_agent.{event}:1|c");
        if let Some(ms) = notice.ms {
            lines.push_str(&format!("\nmigration_agent.{event}_time:{ms}|ms"));
        }
        let sent = match &socket {
            Ok(socket) => socket.send(lines.as_bytes()).await.map(drop).map_err(Into::into),
            Err(error) => Err(error.clone().into()),
        };
        counts.count(&sent, &component);
    }
}

async fn to_http(
    layer: HttpLayer,
    uri: Uri,
    mut notices: mpsc::Receiver<Notice>,
    counts: Arc<Counts>,
    component: Component,
) {
    let client: Client<_, ReplayBody<Full<Bytes>>> = Client::builder(TokioExecutor::new()).build(connector());
    let client = ServiceBuilder::new().layer(layer).service(client);
    while let Some(notice) = notices.recv().await {
        let sent = async {
            let body = Full::new(Bytes::from(serde_json::to_vec(&notice)?));
            let request =
                Request::post(uri.clone()).header(header::CONTENT_TYPE, "application/json").body(body)?;
            let response = client.clone().oneshot(request).await?;
            let status = response.status();
            if status.is_success() { Ok(()) } else { Err(BoxError::from(status.to_string())) }
        };
        counts.count(&sent.await, &component);
    }
}

/// Rustls with Mozilla's roots, and plain HTTP.
fn connector() -> HttpsConnector<HttpConnector> {
    let provider = rustls::crypto::ring::default_provider();
    let builder = HttpsConnectorBuilder::new().with_provider_and_webpki_roots(provider);
    builder.expect("ring has the suites of TLS 1.2 and 1.3").https_or_http().enable_http1().build()
}
