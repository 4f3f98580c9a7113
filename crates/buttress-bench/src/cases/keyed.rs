use std::borrow::Cow;

use buttress_circuit_breaker::{Config, KeyedCircuitBreaker, KeyedCircuitBreakerLayer};
use buttress_core::{KeyBy, Plain, key_by};
use tower::Layer;

use crate::leaf::{Leaf, READY, calls};
use crate::measure::{Case, Side, counted};

/// A request that names its host.
struct ToHost(&'static str);

type ByHost = KeyBy<Plain, fn(&ToHost) -> Option<Cow<'_, str>>>;

fn service(keys: usize) -> KeyedCircuitBreaker<Leaf, ByHost> {
    let key: fn(&ToHost) -> Option<Cow<'_, str>> = |request| Some(Cow::Borrowed(request.0));
    let policy: ByHost = key_by(Plain::default(), key);
    let layer = KeyedCircuitBreakerLayer::new("bench", Config::standard(), policy).unwrap();
    layer.max_keys(keys.try_into().unwrap()).layer(READY)
}

/// Host names of 41 characters, as those of cloud providers are; they live as long as the process.
fn hosts(keys: usize) -> &'static [String] {
    let host = |n| format!("ip-10-{n:08}.eu-west-1.compute.internal.a");
    Vec::leak((0..keys).map(host).collect())
}

/// One host after the other, far apart in memory.
fn host(hosts: &'static [String], n: u64) -> &'static str {
    let spread = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    &hosts[(spread as usize * hosts.len()) >> 32]
}

/// The breaker per key, with so many keys; and what looking at the key alone costs.
pub(crate) fn keyed(group: &'static str, keys: usize) -> Vec<Case> {
    let hosts = hosts(keys);
    let mut run = calls(service(keys), move |n| ToHost(host(hosts, n)), true);
    run(keys as u64 * 8);
    vec![
        Case::new(group, Side::Floor, "bare service", calls(READY, move |n| ToHost(host(hosts, n)), true)),
        Case::new(group, Side::Buttress, "breaker per key", run),
    ]
}

/// What a million keys take, each.
pub(super) fn bytes_per_key() -> f64 {
    const KEYS: usize = 1_000_000;
    let hosts = hosts(KEYS);
    let service = service(KEYS);
    let mut next = hosts.iter();
    let mut run = calls(service.clone(), move |_| ToHost(next.next().unwrap()), true);
    let (_, bytes) = counted(|| run(KEYS as u64));
    drop(service);
    bytes as f64 / KEYS as f64
}
