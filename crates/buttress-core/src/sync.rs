//! What threads share state by: std's, or loom's, under which interleavings are tried one by one.
//!
//! For the crates of this workspace only. `cargo xtask loom` says when it is which.

#[cfg(not(buttress_loom))]
pub use std::sync::{Mutex, MutexGuard, atomic};

#[cfg(buttress_loom)]
pub use loom::sync::{Mutex, MutexGuard};
#[cfg(buttress_loom)]
pub use loom::thread;

#[cfg(buttress_loom)]
pub mod atomic;

/// Runs this under every interleaving, on a clock that stands still, and says how many those were.
#[cfg(buttress_loom)]
pub fn model(f: impl Fn() + Send + Sync + 'static) {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime that is never run");
    let _inside = runtime.enter();
    let runs = std::sync::Arc::new(AtomicU64::new(0));
    let count = std::sync::Arc::clone(&runs);
    loom::model(move || {
        count.fetch_add(1, Relaxed);
        f();
    });
    println!("{}: {} interleavings", std::thread::current().name().unwrap_or_default(), runs.load(Relaxed));
}
