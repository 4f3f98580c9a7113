//! A server that fails in every way, under the whole stack, for minutes: nothing grows, and nothing is left behind.

mod caller;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use buttress::circuit_breaker::{CircuitState, Config};
use buttress::core::{Backoff, Event, observe_fn};
use buttress::http::{BodyDeadlineLayer, HttpReplay};
use buttress::retry::{self, Budget, HintRule};
use buttress::{BoxError, HttpLayer};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, ServiceExt};

use caller::{Api, Ends, call_until};
use server::Server;

use crate::draw::Draw;
use crate::table::Table;

/// So many callers at once.
const CALLERS: u64 = 16;

/// Resident memory may be so much larger at the end than after the warm-up. A leak of a hundred bytes for each call is more
/// after 42,000 calls, which take less than two minutes; what an allocator keeps of a burst is less.
const GROWTH: u64 = 4 * 1024 * 1024;

/// A caller has at most one connection in use; one that was abandoned may not be closed yet.
const CONNECTIONS: u64 = 3 * CALLERS;

/// What the stack reports.
#[derive(Debug, Default)]
struct Seen {
    attempts: AtomicU64,
    retries: AtomicU64,
    held: AtomicU64,
    through_breaker: AtomicU64,
    transitions: AtomicU64,
}

/// Runs for so long and prints one table.
///
/// # Errors
///
/// If something has grown or was left behind.
pub fn run(time: Duration) -> Result<(), BoxError> {
    let servers = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let server = servers.block_on(Server::start())?;
    let callers = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut table = Table::new("the stack under failures");
    callers.block_on(soak(time, &server, &mut table))?;
    // What a dropped client leaves to its tasks is done soon.
    table.at_most("tasks left, callers", settled(&callers, 0), 0);
    table.at_most("tasks left, server (one accepts)", settled(&servers, 1), 1);
    table.at_most("connections left", server.open() as u64, 0);
    table.finish()
}

async fn soak(time: Duration, server: &Server, table: &mut Table) -> Result<(), BoxError> {
    let (seen, ends) = (Arc::new(Seen::default()), Arc::new(Ends::default()));
    let replay = HttpReplay::new().limits(REPLAY_EACH, REPLAY_ALL);
    let layer = stack(&seen, replay.clone())?;
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(8).build_http();
    let api = BodyDeadlineLayer::new("soak", Duration::from_millis(500))?.layer(layer.layer(client));

    let start = Instant::now();
    let calls: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (api, url, ends) = (api.clone(), Arc::clone(&server.url), Arc::clone(&ends));
            tokio::spawn(async move {
                call_until(start + time, api, &url, &ends, Draw::new(11, caller)).await;
            })
        })
        .collect();
    let warm_up = (time / 4).min(Duration::from_secs(60));
    sleep(warm_up).await;
    let warm = (resident(), server.most_open());
    for call in calls {
        call.await?;
    }
    let (memory, connections) = (resident(), server.most_open());
    figures(table, start.elapsed(), server, &seen, &ends);
    table.at_most("other ends than those, and wrong bodies", ends.other.load(Relaxed), 0);
    table.exactly("calls accounted for", ends.sum(), ends.started.load(Relaxed));
    table.figure("most connections, warm-up", warm.1 as u64);
    table.at_most("most connections, after it", connections as u64, CONNECTIONS);
    if let (Some(warm), Some(memory)) = (warm.0, memory) {
        table.figure("resident memory after warm-up, KiB", warm / 1024);
        table.at_most("resident memory at the end, KiB", memory / 1024, (warm + GROWTH) / 1024);
    }
    server.recover();
    recovery(table, &layer, &api, server, &seen, &replay).await
}

fn stack(seen: &Arc<Seen>, replay: HttpReplay) -> Result<HttpLayer, BoxError> {
    let backoff = Backoff::exponential(Duration::from_millis(1), 2.0, Duration::from_millis(20))?;
    let retry = retry::Config::background().max_retries(4).backoff(backoff).rate_gate(true);
    let budget = Budget::adaptive(0.2, Duration::from_secs(1), AT_LEAST)?;
    let retry = retry.budget(budget).hints(HintRule::Floor { cap: Duration::from_secs(2) });
    let record = Arc::clone(seen);
    let observer = observe_fn(move |_, event| {
        let count = match event {
            Event::Attempt { .. } => &record.attempts,
            Event::Backoff { .. } => &record.retries,
            Event::Held { .. } => &record.held,
            Event::Call(_) => &record.through_breaker,
            Event::Circuit { .. } => &record.transitions,
            _ => return,
        };
        count.fetch_add(1, Relaxed);
    });
    let builder =
        buttress::http("soak").total(Duration::from_millis(1500)).attempt(Duration::from_millis(100));
    let breaker = Config::standard().open_for(Duration::from_millis(200));
    Ok(builder.retry(retry).circuit_breaker(breaker).replay(replay).observe(observer).silent().build()?)
}

/// Retries in hand however little is going on.
const AT_LEAST: u32 = 5;
const REPLAY_EACH: usize = 8 * 1024;
const REPLAY_ALL: usize = 256 * 1024;

fn figures(table: &mut Table, time: Duration, server: &Server, seen: &Seen, ends: &Ends) {
    let started = ends.started.load(Relaxed);
    table.figure("seconds", time.as_secs());
    table.figure("calls", started);
    table.figure("calls a second", (started as f64 / time.as_secs_f64()) as u64);
    for (name, count) in [
        ("  answered", &ends.answered),
        ("  answered with a failure", &ends.failed_answers),
        ("  failed after retries", &ends.exhausted),
        ("  refused", &ends.refused),
        ("  out of time", &ends.elapsed),
        ("  abandoned", &ends.abandoned),
        ("  broken bodies", &ends.broken_bodies),
        ("retries", &seen.retries),
        ("held back by the gate", &seen.held),
        ("circuit transitions", &seen.transitions),
    ] {
        table.figure(name, count.load(Relaxed));
    }
    table.figure("requests at the server", server.requests());
    // Each request that the server saw was let through by the breaker, which reports each call's end.
    let through = seen.through_breaker.load(Relaxed);
    table.at_most("requests that no breaker reported", server.requests().saturating_sub(through), 0);
}

/// With the server well again: all is as it was at first.
async fn recovery(
    table: &mut Table,
    layer: &HttpLayer,
    api: &Api,
    server: &Server,
    seen: &Seen,
    replay: &HttpReplay,
) -> Result<(), BoxError> {
    let handle = layer.circuit_breaker().handle();
    // The gate holds for at most a second, the circuit for less.
    sleep(Duration::from_millis(1200)).await;
    let held = seen.held.load(Relaxed);
    let mut failed = 0;
    for _ in 0..200 {
        failed += u64::from(!succeeds(api, server).await);
    }
    table.at_most("calls that fail after recovery", failed, 0);
    table.at_most("calls held back after recovery", seen.held.load(Relaxed) - held, 0);
    table.exactly("circuit closed", u64::from(handle.state() == CircuitState::Closed), 1);
    // Every probe's slot is free: two in a row close it.
    handle.open_for(Duration::from_secs(60));
    handle.half_open()?;
    let probes = [succeeds(api, server).await, succeeds(api, server).await];
    table.exactly("probes admitted", probes.iter().filter(|admitted| **admitted).count() as u64, 2);
    table.exactly("circuit closed by them", u64::from(handle.state() == CircuitState::Closed), 1);
    let tokens = layer.retry().budget().tokens() as u64;
    table.exactly("retries in hand, of those kept", tokens.min(AT_LEAST.into()), AT_LEAST.into());
    table.exactly("replay room free, bytes", room(replay) as u64, REPLAY_ALL as u64);
    Ok(())
}

async fn succeeds(api: &Api, server: &Server) -> bool {
    let request = http::Request::get(&*server.url).body(caller::empty()).expect("a request");
    let Ok(response) = api.clone().oneshot(request).await else { return false };
    response.status() == 200 && response.into_body().collect().await.is_ok()
}

/// How much can be recorded at once.
fn room(replay: &HttpReplay) -> usize {
    use buttress::core::Replay;
    use http_body::Body;
    // What a piece costs beside its data.
    const OVERHEAD: usize = 64;
    let mut held = Vec::new();
    loop {
        let piece = bytes::Bytes::from(vec![0; REPLAY_EACH - OVERHEAD]);
        let (sender, body) = http_body_util::Channel::<bytes::Bytes, BoxError>::new(1);
        let (mut sender, request) = (sender, http::Request::put("/").body(body).expect("a request"));
        sender.try_send(http_body::Frame::data(piece)).expect("there is room for one");
        let (request, saved) = replay.save(request);
        let mut body = request.into_body();
        let frame = std::pin::Pin::new(&mut body)
            .poll_frame(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(frame.is_ready(), "it was sent");
        if !body.is_replayable() {
            return held.len() * REPLAY_EACH;
        }
        held.push((sender, body, saved));
    }
}

/// How many tasks are alive, once there are no more than `expected` or ten seconds have passed.
fn settled(runtime: &Runtime, expected: usize) -> u64 {
    let alive = |handle: &Handle| handle.metrics().num_alive_tasks();
    let wait = async {
        while alive(&Handle::current()) > expected {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = runtime.block_on(async { timeout(Duration::from_secs(10), wait).await });
    alive(runtime.handle()) as u64
}

/// Resident memory in bytes, where the system tells it.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
