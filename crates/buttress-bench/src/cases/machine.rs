//! What this machine takes for the things that layers are made of.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::measure::{Case, Side};

pub(super) fn all() -> Vec<Case> {
    const GROUP: &str = "the machine";
    let floor = |name, mut once: Box<dyn FnMut()>| {
        Case::new(GROUP, Side::Floor, name, move |times| (0..times).for_each(|_| once()))
    };
    let (count, shared) = (AtomicU64::new(0), Arc::new(0_u64));
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let counter = metrics::with_local_recorder(&recorder, || metrics::counter!("bench"));
    vec![
        floor(
            "an atomic addition",
            Box::new(move || {
                black_box(count.fetch_add(1, Relaxed));
            }),
        ),
        floor("an Arc cloned and dropped", Box::new(move || drop(black_box(Arc::clone(&shared))))),
        floor("64 bytes allocated and freed", Box::new(|| drop(black_box(Box::new([0_u8; 64]))))),
        floor(
            "a clock read",
            Box::new(|| {
                black_box(tokio::time::Instant::now());
            }),
        ),
        floor("a registered counter, Prometheus recorder", Box::new(move || counter.increment(1))),
    ]
}
