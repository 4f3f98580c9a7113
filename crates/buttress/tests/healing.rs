//! What healing does to the rest: checks over real clients, and the store of last good answers.
#![cfg(feature = "heal")]

use std::time::Duration;

use buttress::HttpCheck;
use buttress::heal::{Answer, Check, Signals, Subject, Symptom};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use loopback::{Do, Server, status};

type Body = Full<Bytes>;
type Hyper = Client<HttpConnector, Body>;

fn hyper() -> Hyper {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn answer<S>(check: &HttpCheck<Body>, service: Option<&S>, target: usize) -> Answer
where
    HttpCheck<Body>: Check<S>,
{
    let traffic = Signals::default();
    check.run(Subject { service, generation: 1, target, traffic: &traffic }).await
}

fn said(answer: Answer) -> String {
    match answer {
        Answer::Fail(evidence) => evidence.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_get_passes_below_400_and_its_connection_is_used_again() {
    let body = || Bytes::from(vec![b'x'; 100_000]);
    let script = [200, 204, 302, 404, 401, 500]
        .map(|code| status(code).body(if code == 204 { Bytes::new() } else { body() }));
    let server = Server::start(script).await;
    let (client, check) = (hyper(), HttpCheck::get(server.at("/health?key=secret")).unwrap());
    for _ in 0..3 {
        assert_eq!(answer(&check, Some(&client), 0).await, Answer::Pass);
    }
    for expected in ["HTTP 404 Not Found", "HTTP 401 Unauthorized", "HTTP 500 Internal Server Error"] {
        assert_eq!(said(answer(&check, Some(&client), 0).await), expected);
    }
    assert_eq!((server.calls(), server.connections()), (6, 1));
    assert_eq!(Check::<Hyper>::name(&check), "GET /health", "without the key");
}

#[tokio::test]
async fn an_error_is_evidence_with_its_causes() {
    let check = HttpCheck::get("http://127.0.0.1:1/health").unwrap();
    let evidence = said(answer(&check, Some(&hyper()), 0).await);
    assert!(evidence.contains("Connection refused"), "{evidence}");
    assert_eq!(said(answer::<Hyper>(&check, None, 0).await), "there is no service");
    let error = HttpCheck::<Body>::get("http://[").unwrap_err().to_string();
    assert!(error.starts_with("`uri` is [not shown], but it is no URI"), "{error}");
    assert!(HttpCheck::<Body>::of_targets([""; 0]).is_err());
}

#[tokio::test]
async fn each_target_is_asked_for_what_is_its_own_and_with_the_headers() {
    let (one, two) = (Server::start([]).await, Server::start([status(503)]).await);
    let check = HttpCheck::of_targets([one.at("/a"), two.at("/b")]).unwrap();
    let check =
        check.header(AUTHORIZATION, HeaderValue::from_static("Bearer x")).symptom(Symptom::Credentials);
    let client = hyper();
    assert_eq!(answer(&check, Some(&client), 0).await, Answer::Pass);
    assert_eq!(said(answer(&check, Some(&client), 1).await), "HTTP 503 Service Unavailable");
    assert_eq!(answer(&check, Some(&client), 2).await, Answer::Skipped);
    assert_eq!((one.seen()[0].header("authorization"), two.calls()), ("Bearer x", 1));
    assert_eq!(Check::<Hyper>::symptom(&check), Symptom::Credentials);
}

#[tokio::test]
async fn through_a_whole_stack_a_refusal_is_evidence() {
    let server = Server::start_then([], Do::Reset).await;
    let stack = buttress::http("search").build().unwrap();
    let client: Client<HttpConnector, buttress::http::ReplayBody<Body>> =
        Client::builder(TokioExecutor::new()).build_http();
    let client = tower::Layer::layer(&stack, client);
    stack.circuit_breaker().handle().isolate();
    let check = HttpCheck::get(server.at("/health")).unwrap();
    let evidence = said(answer(&check, Some(&client), 0).await);
    assert!(evidence.contains("isolated by an operator"), "{evidence}");
    assert_eq!(server.calls(), 0);
}

/// The order of a stack: what is supervised stands next to the transport.
#[tokio::test]
async fn beneath_a_whole_stack_the_client_is_checked_and_calls_are_answered() {
    use buttress::heal::{Build, Monitor, Supervisor};
    use buttress::http::{Http, ReplayBody};
    use tower::{Layer, ServiceExt};

    type Asked = ReplayBody<Body>;
    let server = Server::start([status(200), status(503)]).await;
    let check =
        Monitor::new(HttpCheck::<Asked>::get(server.at("/health")).unwrap()).every(Duration::from_millis(50));
    let (client, handle) = Supervisor::new("search", |_: Build| async {
        Ok::<Client<HttpConnector, Asked>, std::io::Error>(Client::builder(TokioExecutor::new()).build_http())
    })
    .check(check)
    .spawn()
    .unwrap();
    let client = buttress::http("search").build().unwrap().layer(client.policy(Http::new()));
    let request = Request::get(server.at("/?q=umbrella")).body(Body::default()).unwrap();
    let answer = client.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let asked_for = |path: &str| server.seen().iter().filter(|seen| seen.uri.path() == path).count();
    while asked_for("/health") < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(asked_for("/") >= 1 && handle.incident().is_none());
}

/// Real processes that are ill, and what mends them.
#[cfg(unix)]
mod processes {
    use super::*;
    use buttress::heal::{Build, ChildProcess, Happened, Heal, Monitor, Rung, Supervisor, SupervisorHandle};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use rustix::process::{Pid, Signal, kill_process};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::process::Command;
    use tokio::time::{Instant, sleep, timeout};
    use tower::ServiceExt;

    #[tokio::test]
    #[ignore = "run by the tests below, as a process of its own"]
    async fn a_server() {
        let port = std::env::var("BUTTRESS_PORT").unwrap();
        let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await.unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = service_fn(|_| async { Ok::<_, std::io::Error>(Response::new(Body::from("well"))) });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer),
            );
        }
    }

    struct Backend {
        process: ChildProcess,
        url: String,
        client: Heal<Hyper>,
        handle: SupervisorHandle,
    }

    impl Backend {
        async fn start() -> Self {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
            let address = format!("127.0.0.1:{free}");
            let process = ChildProcess::new("backend", move || {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command
                    .args(["processes::a_server", "--exact", "--ignored"])
                    .env("BUTTRESS_PORT", free.to_string());
                command.stdout(std::process::Stdio::null());
                command
            });
            let process = process.ready_when(move || {
                let address = address.clone();
                async move { TcpStream::connect(address).await.is_ok() }
            });
            process.start().await.unwrap();
            let url = format!("http://127.0.0.1:{free}/");
            // A machine that is busy is slow, and not ill.
            let check = Monitor::new(HttpCheck::get(&url).unwrap()).every(Duration::from_secs(1));
            let check = check.timeout(Duration::from_secs(4));
            let supervisor =
                Supervisor::new("backend", |_: Build| async { Ok::<_, std::io::Error>(hyper()) });
            let supervisor = supervisor
                .check(check)
                .check(Monitor::new(process.clone()).every(Duration::from_secs(1)))
                .rung(Rung::new(process.clone()).as_restart());
            let (client, handle) = supervisor.spawn().unwrap();
            let backend = Self { process, url, client, handle };
            backend.until_it_answers().await;
            backend
        }

        /// And waits until it is felt.
        async fn signal(&self, signal: Signal) {
            let (pid, starts) = (self.process.pid().unwrap(), self.process.starts());
            kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
            while self.ask().await && self.process.starts() == starts {
                sleep(Duration::from_millis(1)).await;
            }
        }

        async fn ask(&self) -> bool {
            let request = Request::get(&self.url).body(Body::default()).unwrap();
            let answer = timeout(Duration::from_millis(500), self.client.clone().oneshot(request)).await;
            matches!(answer, Ok(Ok(answer)) if answer.status() == 200)
        }

        /// With a call each 10 ms, as traffic; how long it took.
        async fn until_it_answers(&self) -> Duration {
            let start = Instant::now();
            while !self.ask().await {
                assert!(
                    start.elapsed() < Duration::from_secs(300),
                    "{:?}",
                    self.handle.incident().map(|incident| incident.to_string())
                );
                sleep(Duration::from_millis(10)).await;
            }
            start.elapsed()
        }

        fn evidence(&self) -> Vec<String> {
            let incident = self.handle.incident().or(self.handle.incidents().pop()).unwrap();
            let fell = incident.timeline().iter().filter_map(|(_, happened)| match happened {
                Happened::Fell { check, evidence } => Some(format!("{check}: {evidence}")),
                _ => None,
            });
            fell.collect()
        }
    }

    #[tokio::test]
    async fn a_process_that_was_killed_is_started_again_and_answers() {
        let backend = Backend::start().await;
        backend.signal(Signal::KILL).await;
        let took = backend.until_it_answers().await;
        println!("answers after {took:?}");
        assert_eq!(backend.process.starts(), 2);
        let evidence = backend.evidence();
        let known = ["backend: it has ended: signal: 9 (SIGKILL)", "backend: it is being started", "GET /: "];
        assert!(
            evidence.iter().all(|evidence| known.iter().any(|known| evidence.starts_with(known))),
            "{evidence:?}"
        );
        assert!(!backend.handle.incidents()[0].is_escalated());
    }

    /// The port of a process that is stopped still takes connections: it is the request that is not answered.
    #[tokio::test]
    async fn a_process_that_was_stopped_is_found_by_its_silence_and_started_again() {
        let backend = Backend::start().await;
        backend.signal(Signal::STOP).await;
        let took = backend.until_it_answers().await;
        println!("answers after {took:?}");
        assert_eq!(backend.process.starts(), 2);
        let evidence = backend.evidence();
        assert!(evidence.iter().any(|evidence| evidence.starts_with("GET /: ")), "{evidence:?}");
        assert!(backend.handle.shutdown(Duration::from_secs(60)).await);
    }
}

#[cfg(feature = "degrade")]
mod stale_store {
    use super::*;
    use buttress::core::Level;
    use buttress::core::observe::Health;
    use buttress::degrade::{Chain, DegradeLayer, HttpRules, LastGood};
    use buttress::heal::{Action, Attempt, ClearCaches, Fixes, Incident, Then};
    use buttress::http::{Answer as Answered, Http, StoredResponse};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use tokio::time::advance;
    use tower::{Layer, Service, ServiceExt, service_fn};

    fn attempt(number: u32) -> Attempt {
        let incident = Incident::new("search-1", "search", Health::Unhealthy);
        let incident = incident.with_symptom("memory", Symptom::Memory, "95 % of 512 MiB");
        Attempt { incident, generation: 1, target: 0, number }
    }

    /// HD-67.
    #[tokio::test(start_paused = true)]
    async fn healing_memory_forgets_what_can_no_longer_be_served_and_only_then_what_was_not_used_for_longest()
    {
        let down = Arc::new(AtomicBool::new(false));
        let is_down = Arc::clone(&down);
        let search = service_fn(move |_: Request<Body>| {
            let down = is_down.load(Ordering::Relaxed);
            async move {
                if down {
                    Err(std::io::Error::other("down"))
                } else {
                    Ok(Response::new(Body::from(vec![b'x'; 1000])))
                }
            }
        });
        let store = LastGood::new(HttpRules::private())
            .ttl(Duration::from_secs(60))
            .if_error(Duration::from_secs(600));
        let chain =
            Chain::<Request<Body>, Response<Answered<Body>>>::new()
                .finally(Level::Minimal, "static", |_| StoredResponse::from(Response::new("nothing")));
        let layer =
            DegradeLayer::new("search", chain).unwrap().policy(Http::new()).last_good(store.clone()).unwrap();
        let mut client = layer.layer(search);
        let mut ask = async |n: u32| {
            let request = Request::get(format!("http://search/?q={n}")).body(Body::default()).unwrap();
            let Ok(answer) = client.ready().await.unwrap().call(request).await;
            // The body has to be read to its end before it is kept.
            let level = answer
                .headers()
                .get("buttress-degradation")
                .map_or("0".to_owned(), |level| level.to_str().unwrap()[..1].to_owned());
            http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
            tokio::task::yield_now().await;
            level
        };
        for n in 0..10 {
            assert_eq!(ask(n).await, "0");
        }
        advance(Duration::from_secs(300)).await;
        for n in 10..20 {
            assert_eq!(ask(n).await, "0");
        }
        assert_eq!(store.len(), 20);
        advance(Duration::from_secs(400)).await;

        let cleared = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&cleared);
        let heal = ClearCaches::new().trim(store.clone()).cache(move || {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(heal.heal(&attempt(1)).await.unwrap(), Then::Nothing);
        assert_eq!((store.len(), cleared.load(Ordering::Relaxed)), (10, 1), "the ten that are past if_error");
        // It is of use at once: the service is down.
        down.store(true, Ordering::Relaxed);
        for n in 10..20 {
            assert_eq!(ask(n).await, "2", "the last good answer");
        }
        for n in [15, 16, 17, 18, 19] {
            assert_eq!(ask(n).await, "2");
        }
        let before = store.bytes();
        heal.heal(&attempt(2)).await.unwrap();
        assert!(store.bytes() <= before / 2 && store.len() == 5, "{} of {before} bytes", store.bytes());
    }

    #[test]
    fn caches_are_cleared_for_want_of_memory_only() {
        let fixes = ClearCaches::new().fixes();
        assert!(fixes.helps(&Symptom::Memory) && fixes != Fixes::Any);
        for other in [Symptom::Connectivity, Symptom::ResponseTime, Symptom::Pool, Symptom::CircuitBreaker] {
            assert!(!fixes.helps(&other), "{other:?}");
        }
    }
}
