//! A hyper client behind the whole stack and a chain of fallbacks, over real sockets and in real time: an outage, from its
//! beginning to its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use buttress::circuit_breaker::CircuitState;
use buttress::degrade::{
    Chain, DegradationRegistry, DegradeLayer, Grade, HttpRules, LastGood, Level, Need, Rung,
};
use buttress::http::{Answer, Http, ReplayBody, StoredResponse};
use buttress::retry;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

/// How long the circuit stays open.
const OPEN: Duration = Duration::from_secs(10);

type Asked = Request<Full<Bytes>>;
type Given = Response<Answer<Incoming>>;

/// What a server does now.
const WELL: u8 = 0;
const FAILING: u8 = 1;
const HANGING: u8 = 2;

#[derive(Clone, Default)]
struct Server {
    mode: Arc<AtomicU8>,
    calls: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(name: &'static str) -> (Self, String) {
        let server = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, SeqCst);
                let server = serving.clone();
                let service = service_fn(move |_: Request<Incoming>| server.clone().answer(name));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        (server, url)
    }

    async fn answer(self, name: &'static str) -> Result<Response<Full<Bytes>>, Infallible> {
        // Whoever sees that a call was counted knows how it is answered: later modes are not for it.
        let mode = self.mode.load(SeqCst);
        self.calls.fetch_add(1, SeqCst);
        let response = Response::builder().header("cache-control", "max-age=0, stale-if-error=60");
        Ok(match mode {
            WELL => response.body(Full::from(name)).unwrap(),
            FAILING => response.status(503).body(Full::from(vec![b'.'; 100_000])).unwrap(),
            _ => std::future::pending().await,
        })
    }
}

fn client() -> Client<HttpConnector, ReplayBody<Full<Bytes>>> {
    Client::builder(TokioExecutor::new()).build_http()
}

struct Stack<S> {
    service: S,
    url: String,
}

impl<S> Stack<S>
where
    S: Service<Asked, Response = Given, Error = Infallible> + Clone,
{
    async fn get(&self, path: &str) -> (Level, String) {
        let request = Request::get(format!("{}{path}", self.url)).body(Full::default()).unwrap();
        let Ok(answer) = self.service.clone().oneshot(request).await;
        let level = answer.level();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (level, String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_falls_one_level_after_the_other_and_ends() {
    let (primary, url) = Server::start("primary").await;
    let (replica, replica_url) = Server::start("replica").await;
    let registry = DegradationRegistry::new("shop");
    let search = registry.component("search", Need::Required);
    let at_replica = buttress::http("replica").silent().retry(retry::Config::user_facing().max_retries(0));
    let at_replica = at_replica.build().unwrap().layer(client()).map_request(move |mut request: Asked| {
        let path = request.uri().path().to_owned();
        *request.uri_mut() = format!("{replica_url}{path}").parse().unwrap();
        request
    });
    let chain = Chain::<Asked, Given>::new()
        .rung(Rung::alternate("replica", at_replica, Http::new()).timeout(Duration::from_secs(2)))
        .finally(Level::Minimal, "static", |_| StoredResponse::from(Response::new("sorry")));
    let store =
        LastGood::new(HttpRules::private()).while_revalidate(Duration::ZERO).negative_ttl(Duration::ZERO);
    let degrade = DegradeLayer::new("search", chain).unwrap().report_to(search);
    let degrade = degrade.last_good(store.clone()).unwrap();
    let layer = buttress::http("search")
        .silent()
        .attempt(Duration::from_secs(2))
        .total(Duration::from_secs(4))
        .retry(retry::Config::user_facing().max_retries(0))
        .map_circuit_breaker(|breaker| breaker.open_for(OPEN).success_threshold(1))
        .build_degrading(degrade)
        .unwrap();
    let explained = layer.explain().to_string();
    assert!(explained.contains("1 `replica`, 3 `static` (always)"), "{explained}");
    let stack = Stack { service: layer.layer(client()), url };

    assert_eq!(stack.get("/a").await, (Level::Full, "primary".into()));
    assert_eq!(registry.levels().instant, Level::Full);
    // Until the answer is kept, whoever asks for the same shares it.
    while store.in_flight() > 0 {
        tokio::task::yield_now().await;
    }
    // The server is busy: the replica is as good.
    primary.mode.store(FAILING, SeqCst);
    assert_eq!(stack.get("/a").await, (Level::Slight, "replica".into()));
    // The replica fails as well: the last good answer, and for what there is none, something.
    replica.mode.store(FAILING, SeqCst);
    assert_eq!(stack.get("/a").await, (Level::Moderate, "primary".into()));
    assert_eq!(stack.get("/b").await, (Level::Minimal, "sorry".into()));
    assert_eq!(stack.get("/b").await, (Level::Minimal, "sorry".into()));
    // Both hang. From the fifth failure on the circuit is open, and nothing waits for the server any more.
    primary.mode.store(HANGING, SeqCst);
    replica.mode.store(HANGING, SeqCst);
    let circuit = layer.stack().circuit_breaker().handle();
    let (mut opens, mut calls) = (Instant::now(), 0);
    while circuit.state() != CircuitState::Open {
        opens = Instant::now();
        assert_eq!(stack.get("/a").await, (Level::Moderate, "primary".into()));
        calls += 1;
        assert!(calls <= 5, "it does not open");
    }
    let calls = primary.calls.load(SeqCst);
    assert_eq!(stack.get("/b").await, (Level::Minimal, "sorry".into()));
    // Unless the machine was so busy that it was time to try again.
    assert!(primary.calls.load(SeqCst) == calls || opens.elapsed() >= OPEN, "the circuit is open");
    assert_eq!(registry.levels().instant, Level::Minimal);
    // A hundred who ask at once, all of them are answered.
    let all: Vec<_> = (0..100)
        .map(|_| {
            let stack = Stack { service: stack.service.clone(), url: stack.url.clone() };
            tokio::spawn(async move { stack.get("/a").await.0 })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), Level::Moderate);
    }
    // It is over.
    primary.mode.store(WELL, SeqCst);
    let well = async {
        while stack.get("/b").await.0 != Level::Full {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), well).await.expect("it recovers by itself");
    // The last bad answer counts for 2.5 s.
    let all_well = async {
        while registry.levels().instant != Level::Full {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all_well).await.expect("nothing is degraded any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_real_callers_make_one_request() {
    let (primary, url) = Server::start("primary").await;
    let chain = Chain::<Asked, Given>::new()
        .finally(Level::Minimal, "static", |_| StoredResponse::from(Response::new("sorry")));
    let store = LastGood::new(HttpRules::private());
    let degrade = DegradeLayer::new("search", chain).unwrap().last_good(store.clone()).unwrap();
    // All have asked before the first attempt is over, also on a busy machine.
    let stack =
        buttress::http("search").silent().attempt(Duration::from_secs(6)).total(Duration::from_secs(60));
    let layer = stack.build_degrading(degrade).unwrap();
    let service = layer.layer(client());
    primary.mode.store(HANGING, SeqCst);
    let asking = Arc::new(AtomicUsize::new(0));
    let all: Vec<_> = (0..1000)
        .map(|_| {
            let stack = Stack { service: service.clone(), url: url.clone() };
            let asking = asking.clone();
            tokio::spawn(async move {
                asking.fetch_add(1, SeqCst);
                stack.get("/a").await
            })
        })
        .collect();
    // A caller asks in the poll in which it is counted.
    while asking.load(SeqCst) < 1000 || primary.calls.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!((primary.calls.load(SeqCst), store.in_flight()), (1, 1));
    primary.mode.store(WELL, SeqCst);
    // The attempt's own time is over, and the next one is answered.
    for one in all {
        assert_eq!(one.await.unwrap(), (Level::Full, "primary".into()));
    }
    assert_eq!(primary.calls.load(SeqCst), 2, "the attempt that hung, and its retry");
}

/// A failed response in whose place another one is given is read to its end, so that its connection serves the next call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_response_gives_its_connection_back() {
    let (primary, url) = Server::start("primary").await;
    primary.mode.store(FAILING, SeqCst);
    let chain = Chain::<Asked, Given>::new()
        .finally(Level::Minimal, "static", |_| StoredResponse::from(Response::new("sorry")));
    let degrade = DegradeLayer::new("search", chain).unwrap().policy(Http::new());
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let stack = Stack { service: degrade.layer(client), url };
    for _ in 0..4 {
        assert_eq!(stack.get("/a").await, (Level::Minimal, "sorry".into()));
        // Until it is read, also on a machine that is busy.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!((primary.calls.load(SeqCst), primary.connections.load(SeqCst)), (4, 1));
}
