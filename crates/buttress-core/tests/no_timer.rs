//! A runtime without a timer, seen by the process's panic hook: there is but one, so this test stands alone.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use buttress_core::Timer;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

static PANICS: AtomicUsize = AtomicUsize::new(0);

fn has_timer(runtime: &Runtime) -> bool {
    runtime.block_on(async {
        let here = Timer::at(Instant::now()).is_ok();
        let elsewhere = tokio::spawn(async { Timer::at(Instant::now()).is_ok() }).await.unwrap();
        assert_eq!(elsewhere, here);
        here
    })
}

#[test]
fn that_a_runtime_has_no_timer_is_found_out_once_and_not_at_every_call() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_some_and(|location| location.file() == file!()) {
            return others(panic);
        }
        PANICS.fetch_add(1, Relaxed);
    }));
    let build = |mut builder: Builder| builder.worker_threads(2).build().unwrap();
    let without = [Builder::new_current_thread(), Builder::new_multi_thread()].map(build);
    for _ in 0..3 {
        assert!(without.iter().all(|runtime| !has_timer(runtime)));
    }
    assert_eq!(PANICS.load(Relaxed), 2, "one for each runtime");

    // What is remembered is bounded, and says nothing of other runtimes.
    for _ in 0..200 {
        assert!(!has_timer(&build(Builder::new_current_thread())));
    }
    let with = Builder::new_current_thread().enable_time().build().unwrap();
    assert!(has_timer(&with) && !has_timer(&without[0]) && has_timer(&with));
    with.block_on(async { Timer::at(Instant::now() + Duration::from_millis(1)).unwrap().await });
    assert!(PANICS.load(Relaxed) <= 203, "{}", PANICS.load(Relaxed));
}
