use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use buttress_heal::{Build, Heal, Supervisor};
use tower::reconnect::Reconnect;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_resilience::healthcheck::{HealthCheckWrapper, HealthChecker, HealthStatus};
use tower_resilience::reconnect::{ReconnectConfig, ReconnectLayer};

use crate::leaf::{AtomicCheck, Down, Leaf, PENDING, READY, calls, futures};
use crate::measure::{Case, Side};

pub(super) fn healthy() -> Vec<Case> {
    let mut cases = supervised_by("heal, healthy", READY);
    cases.extend(supervised_by("heal, healthy, pending once", PENDING));
    cases
}

fn supervised_by(group: &'static str, leaf: Leaf) -> Vec<Case> {
    let by_hand = AtomicCheck { inner: leaf, failures: Arc::default() };
    let make = move || service_fn(move |()| ready(Ok::<_, Infallible>(leaf)));
    let make_or_fail = service_fn(move |()| ready(Ok::<_, Down>(leaf)));
    let resilience = ReconnectLayer::new(ReconnectConfig::default()).layer(make_or_fail);
    let checked = checked(leaf);
    let checked = futures(
        move |n| {
            let checked = Arc::clone(&checked);
            async move {
                let mut service = checked.get_healthy().await.ok_or(Down)?;
                service.call(n).await
            }
        },
        true,
    );
    let case = |side, name, run| Case::new(group, side, name, run);
    vec![
        case(Side::Floor, "bare service", Box::new(calls(leaf, |n: u64| n, true)) as Box<dyn FnMut(u64)>),
        case(Side::Floor, "atomic check behind an Arc, by hand", Box::new(calls(by_hand, |n| n, true))),
        case(Side::Buttress, "supervised", Box::new(calls(supervised(leaf), |n| n, true))),
        case(Side::Peer, "tower, Reconnect", Box::new(calls(Reconnect::new(make(), ()), |n| n, true))),
        case(Side::Peer, "tower-resilience, reconnect", Box::new(calls(resilience, |n: u64| n, true))),
        case(Side::Peer, "tower-resilience, healthcheck", Box::new(checked)),
    ]
}

/// As its supervisor's task has left it, which is gone: there is nothing to do while all is well.
pub(crate) fn supervised(leaf: Leaf) -> Heal<Leaf> {
    let factory = move |_: Build| ready(Ok::<_, Down>(leaf));
    super::degrade::run(async {
        let (mut service, _) = Supervisor::new("bench", factory).spawn().unwrap();
        ServiceExt::<u64>::ready(&mut service).await.unwrap();
        service.clone()
    })
}

struct Passes;

impl HealthChecker<Leaf> for Passes {
    async fn check(&self, _: &Leaf) -> HealthStatus {
        HealthStatus::Healthy
    }
}

fn checked(leaf: Leaf) -> Arc<HealthCheckWrapper<Leaf, Passes>> {
    super::degrade::run(async {
        let wrapper = HealthCheckWrapper::builder().with_context(leaf, "leaf").with_checker(Passes).build();
        wrapper.start().await;
        while wrapper.get_healthy().await.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Arc::new(wrapper)
    })
}

/// The loop over one supervised service, for each thread.
pub(crate) fn shared_supervised() -> Arc<dyn Fn() -> Box<dyn FnMut(u64)> + Send + Sync> {
    let service = supervised(READY);
    Arc::new(move || Box::new(calls(service.clone(), |n: u64| n, true)))
}

/// What each of ten thousand supervised clients takes with its task, checked by a ping, and how many threads they need.
pub(super) fn ten_thousand() -> (f64, f64) {
    const CLIENTS: usize = 10_000;
    let threads = || std::fs::read_dir("/proc/self/task").map_or(f64::NAN, |tasks| tasks.count() as f64);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let supervise = || {
        let factory = |_: Build| ready(Ok::<_, Down>(READY));
        let ping = |_: Leaf| ready(Ok::<_, Down>(()));
        Supervisor::new("bench", factory).ping(ping).spawn().unwrap()
    };
    runtime.block_on(async {
        // What is made once, and is not a client's.
        let first = supervise();
        let (before, mut clients) = (threads(), Vec::with_capacity(CLIENTS));
        let started = async {
            clients.extend((0..CLIENTS).map(|_| supervise()));
            for (service, _) in &mut clients {
                ServiceExt::<u64>::ready(service).await.unwrap().call(0).await.unwrap();
            }
            // Each is checked at least once.
            tokio::time::sleep(std::time::Duration::from_secs(6)).await;
        };
        let bytes = crate::measure::counted_while(started).await;
        drop(first);
        (bytes as f64 / CLIENTS as f64, threads() - before)
    })
}
