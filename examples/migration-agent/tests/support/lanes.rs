//! Many independent histories, some at once: most of their time they wait for a lease to end.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

/// Runs this for each number below `count`, eight at a time, and says how long it took.
pub(crate) fn run(what: &str, count: u64, history: impl Fn(u64) + Sync) {
    let (next, began) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= count {
                        return;
                    }
                    history(number);
                }
            });
        }
    });
    println!("{what}: {count} histories in {:.0?}, failures 0", began.elapsed());
}

/// How many, by an environment variable, or by default.
pub(crate) fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}
