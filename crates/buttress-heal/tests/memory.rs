//! What ten thousand supervised clients of which nothing is wrong take.
#![cfg(target_pointer_width = "64")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use buttress_heal::Supervisor;
use tokio::time::{Duration, sleep};
use tower::service_fn;

/// Counts what is asked of the system's allocator, and not what that takes for itself.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "the only way to count")]
// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Relaxed);
        // SAFETY: as this was called.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as this was called.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CLIENTS: usize = 10_000;

/// With its name, its task, its timer and one check, which has passed four times; before its first call.
#[tokio::test(start_paused = true)]
async fn a_supervised_client_of_which_nothing_is_wrong_takes_two_kib() {
    let client = || service_fn(|(): ()| async { Ok::<_, std::io::Error>(()) });
    let mut kept = Vec::with_capacity(CLIENTS);
    let mut spawn = || {
        let factory = move |_| async move { Ok::<_, std::io::Error>(client()) };
        let supervisor = Supervisor::new("a client", factory);
        let supervisor = supervisor.ping(|_| async { Ok::<_, std::io::Error>(()) });
        kept.push(supervisor.spawn().unwrap());
    };
    // What is made once, and is not a client's.
    spawn();
    sleep(Duration::from_secs(20)).await;
    let before = BYTES.load(Relaxed);
    (1..CLIENTS).for_each(|_| spawn());
    sleep(Duration::from_secs(20)).await;
    let each = (BYTES.load(Relaxed) - before) / (CLIENTS - 1);
    assert!(kept.iter().all(|(_, handle)| handle.status().generation == 1));
    println!("{each} bytes each");
    assert!(each <= 2048, "{each} bytes each");
}
