use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::{ErrorsAreFailures, Level};
use buttress_degrade::{ByKey, Chain, DegradeLayer, Degraded, Kept, LastGood, Rung};
use buttress_http::{Answer, Http, StoredResponse};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use layered::{Execute, Service as _, Stack};
use seatbelt::ResilienceContext;
use seatbelt::fallback::Fallback;
use tick::Clock;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_resilience::cache::CacheLayer;
use tower_resilience::fallback::FallbackLayer;

use crate::leaf::{Down, HttpLeaf, Leaf, Mapped, PENDING, READY, calls, futures};
use crate::measure::{Case, Side, counted};

pub(super) fn untriggered() -> Vec<Case> {
    let mut cases = chains("degrade, not triggered", READY);
    cases.extend(chains("degrade, not triggered, pending once", PENDING));
    cases.extend(http());
    cases
}

/// Over answers as services give them.
fn http() -> Vec<Case> {
    const GROUP: &str = "degrade, not triggered, HTTP answer with 10 headers";
    type Body = Full<Bytes>;
    let leaf = HttpLeaf(READY);
    let make = |_| Request::new(());
    let chain = Chain::<Request<()>, Response<Answer<Body>>>::new()
        .finally(Level::Minimal, "static", |_| StoredResponse::from(Response::new("sorry")));
    let layer = DegradeLayer::new("bench", chain).unwrap().policy(Http::new());
    let resilience =
        FallbackLayer::<Request<()>, Response<Body>, Down>::value(Response::new(Body::default()));
    vec![
        Case::new(GROUP, Side::Floor, "bare service", calls(leaf, make, true)),
        Case::new(
            GROUP,
            Side::Buttress,
            "closed chain, leaked",
            calls(layer.clone().leaked().layer(leaf), make, true),
        ),
        Case::new(GROUP, Side::Buttress, "closed chain, counted", calls(layer.layer(leaf), make, true)),
        Case::new(GROUP, Side::Peer, "tower-resilience, value", calls(resilience.layer(leaf), make, true)),
    ]
}

fn chains(group: &'static str, leaf: Leaf) -> Vec<Case> {
    let chain = || Chain::<u64, Degraded<u64>>::new().finally(Level::Minimal, "static", |_| 0);
    let layer = || DegradeLayer::new("bench", chain()).unwrap();
    let replica = Rung::alternate("replica", READY, ErrorsAreFailures);
    let keeps = Chain::<u64, Degraded<u64>>::new().rung(replica).finally(Level::Minimal, "static", |_| 0);
    let keeps = DegradeLayer::new("bench", keeps).unwrap().leaked();
    let mapped = Mapped(leaf, |answer: Option<u64>| Degraded::full(answer.unwrap_or(0)));
    let resilience = FallbackLayer::<u64, u64, Down>::value(0).layer(leaf);
    let context = ResilienceContext::new(Clock::new_tokio());
    let pipeline = (
        Fallback::layer("bench", &context)
            .should_fallback(|outcome: &Result<u64, Down>| outcome.is_err())
            .fallback(|_: Result<u64, Down>, _| Ok(0)),
        Execute::new(move |n: u64| tower::Service::call(&mut leaf.clone(), n)),
    )
        .into_service();
    let seatbelt = futures(
        move |n| {
            let pipeline = pipeline.clone();
            async move { pipeline.execute(n).await }
        },
        true,
    );
    let ours = |name, service| Case::new(group, Side::Buttress, name, service);
    vec![
        Case::new(group, Side::Floor, "bare service", calls(leaf, |n| n, true)),
        Case::new(group, Side::Floor, "a map of the outcome, by hand", calls(mapped, |n| n, true)),
        ours(
            "closed chain, leaked",
            Box::new(calls(layer().leaked().layer(leaf), |n| n, true)) as Box<dyn FnMut(u64)>,
        ),
        ours("closed chain, counted", Box::new(calls(layer().layer(leaf), |n| n, true))),
        ours("chain that keeps the request, leaked", Box::new(calls(keeps.layer(leaf), |n| n, true))),
        Case::new(group, Side::Peer, "tower-resilience, value", calls(resilience, |n| n, true)),
        Case::new(group, Side::Peer, "seatbelt", seatbelt),
    ]
}

/// A query by its key.
#[derive(Clone, Copy)]
pub(crate) struct Query(&'static str);

type Origin = tower::util::BoxCloneSyncService<Query, Bytes, Down>;

const KEYS: usize = 1024;

/// As UUIDs are; they live as long as the process.
fn keys(count: usize) -> &'static [String] {
    Vec::leak((0..count).map(|n| format!("{n:08x}-9dad-11d1-80b4-00c04fd430c8")).collect())
}

fn query(keys: &'static [String], n: u64) -> Query {
    Query(&keys[at(n, keys.len())])
}

/// One of so many, in an order that jumps.
fn at(n: u64, count: usize) -> usize {
    let spread = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    (spread as usize * count) >> 32
}

fn answer() -> Bytes {
    Bytes::from(vec![b'.'; 1024])
}

/// A store that holds an answer of 1 KiB for each key, and queries for them.
pub(crate) fn filled() -> (impl Hits, &'static [String]) {
    let keys = keys(KEYS);
    let (service, _) = fill(keys, 64 * 1024 * 1024);
    (service, keys)
}

/// Services with a store, by whatever function it takes the keys.
pub(crate) trait Hits: Service<Query, Future: Send, Error: Debug> + Clone + Send + 'static {}

impl<S: Service<Query, Future: Send, Error: Debug> + Clone + Send + 'static> Hits for S {}

fn fill(keys: &'static [String], max_bytes: usize) -> (impl Hits, LastGood<impl Kept>) {
    let rules = ByKey::new(|query: &Query| Some(Cow::Borrowed(query.0))).weighing(Bytes::len);
    let store = LastGood::new(rules).ttl(Duration::from_secs(86_400));
    let store = store.max_bytes(max_bytes);
    let origin = Origin::new(service_fn(async |_: Query| Ok(answer())));
    let chain = Chain::<Query, Degraded<Bytes>>::new();
    let layer = DegradeLayer::new("bench", chain).unwrap().last_good(store.clone()).unwrap();
    let service = layer.leaked().layer(origin);
    run(async {
        for key in keys {
            service.clone().oneshot(Query(key)).await.unwrap();
        }
        while store.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
    });
    (service, store)
}

pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

pub(super) fn hits() -> Vec<Case> {
    const GROUP: &str = "degrade, store hit, 1,024 keys of 36 characters, 1 KiB";
    let (service, keys) = filled();
    let make = move |n| query(keys, n);
    let leaf = service_fn(|_: Query| std::future::ready(Ok::<Bytes, Down>(Bytes::new())));
    let owned = || CacheLayer::builder().max_size(KEYS * 2).key_extractor(|query: &Query| query.0.to_owned());
    let borrowed = CacheLayer::builder().max_size(KEYS * 2).key_extractor(|query: &Query| query.0);
    let origin = || service_fn(|_: Query| std::future::ready(Ok::<Bytes, Down>(answer())));
    // As the store does, it then looks how old each answer is.
    let aged = owned().ttl(Duration::from_secs(86_400)).build().unwrap().layer(origin());
    let (owned, borrowed) =
        (owned().build().unwrap().layer(origin()), borrowed.build().unwrap().layer(origin()));
    let (mut owned, mut aged) = (calls(owned, make, true), calls(aged, make, true));
    let mut borrowed = calls(borrowed, make, true);
    owned(KEYS as u64 * 16);
    aged(KEYS as u64 * 16);
    borrowed(KEYS as u64 * 16);
    let moka = moka::sync::Cache::<String, Bytes>::new(KEYS as u64 * 2);
    keys.iter().for_each(|key| moka.insert(key.clone(), answer()));
    let moka = move |calls| {
        (0..calls).for_each(|n| assert!(std::hint::black_box(moka.get(make(n).0)).is_some()));
    };
    vec![
        Case::new(GROUP, Side::Floor, "bare service", calls(leaf, make, true)),
        Case::new(GROUP, Side::Buttress, "last good answer", calls(service, make, true)),
        Case::new(GROUP, Side::Peer, "tower-resilience cache, String key", owned),
        Case::new(GROUP, Side::Peer, "tower-resilience cache with a ttl, String key", aged),
        Case::new(GROUP, Side::Peer, "tower-resilience cache, &'static str key", borrowed),
        Case::new(GROUP, Side::Peer, "moka, a raw get", moka),
    ]
}

/// The loop over one shared store, for each thread.
pub(crate) fn shared_hits() -> Arc<dyn Fn() -> Box<dyn FnMut(u64)> + Send + Sync> {
    let (service, keys) = filled();
    // A service in which anything is not `Sync` is cloned under a lock.
    let service = std::sync::Mutex::new(service);
    Arc::new(move || {
        let service = service.lock().unwrap().clone();
        Box::new(calls(service, move |n| query(keys, n), true))
    })
}

/// The bodies alone, in the order in which hits have them: what their counts take, which all threads write.
pub(crate) fn shared_bodies() -> Arc<dyn Fn() -> Box<dyn FnMut(u64)> + Send + Sync> {
    let bodies: Arc<[Bytes]> = (0..KEYS).map(|_| answer()).collect();
    // From the second copy on there is a count.
    bodies.iter().for_each(|body| drop(body.clone()));
    Arc::new(move || {
        let bodies = Arc::clone(&bodies);
        Box::new(move |calls| {
            (0..calls).for_each(|n| drop(std::hint::black_box(bodies[at(n, KEYS)].clone())))
        })
    })
}

/// What a store of 1 MiB holds after 10,000 answers of 1 KiB, by its own count and by the allocator's.
pub(super) fn bounded() -> (f64, f64) {
    let keys = keys(10_000);
    // What is made once, and is not the store's.
    fill(&keys[..1], 1024 * 1024);
    let mut store = None;
    let (_, allocated) = counted(|| store = Some(fill(keys, 1024 * 1024)));
    let (_, store) = store.unwrap();
    (store.bytes() as f64, allocated as f64)
}
