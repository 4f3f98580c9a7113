//! Time, allocations and bytes of a case.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Who a case belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// What the others are compared with: nothing, or what somebody would write by hand.
    Floor,
    Buttress,
    Peer,
}

/// Something to be done many times.
pub(crate) struct Case {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    pub(crate) side: Side,
    /// Does it so many times.
    pub(crate) run: Box<dyn FnMut(u64)>,
}

impl Case {
    pub(crate) fn new(group: &'static str, side: Side, name: &str, run: impl FnMut(u64) + 'static) -> Self {
        Self { group, name: name.to_owned(), side, run: Box::new(run) }
    }
}

/// What one call of a case costs.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    pub(crate) best: f64,
    pub(crate) median: f64,
    pub(crate) allocations: f64,
}

pub(crate) const ROUNDS: usize = 7;

/// Runs the cases in turn, round after round, so that a slow moment of the machine hits all of them.
pub(crate) fn measure(cases: &mut [Case], slice: Duration) -> Vec<Cost> {
    let slices: Vec<u64> = cases.iter_mut().map(|case| calibrate(case, slice)).collect();
    let mut times = vec![Vec::with_capacity(ROUNDS); cases.len()];
    for _ in 0..ROUNDS {
        for ((case, &calls), times) in cases.iter_mut().zip(&slices).zip(&mut times) {
            // The best of several slices: the others were interrupted.
            let slices = (0..5).map(|_| time(case, calls / 5).as_secs_f64() * 1e9 / (calls / 5) as f64);
            times.push(slices.fold(f64::INFINITY, f64::min));
        }
    }
    let cost = |(case, mut times): (&mut Case, Vec<f64>)| {
        times.sort_by(f64::total_cmp);
        Cost { best: times[0], median: times[ROUNDS / 2], allocations: allocations(case) }
    };
    cases.iter_mut().zip(times).map(cost).collect()
}

/// How many calls take about this long.
fn calibrate(case: &mut Case, slice: Duration) -> u64 {
    let mut calls = 100;
    loop {
        let time = time(case, calls);
        if time * 4 > slice {
            return ((calls as f64 * slice.as_secs_f64() / time.as_secs_f64()) as u64).max(5);
        }
        calls *= 2;
    }
}

/// What callgrind counts: it is told to look at this function only.
#[inline(never)]
pub(crate) fn collected(case: &mut Case, calls: u64) {
    (case.run)(calls);
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures the machine's time")]
fn time(case: &mut Case, calls: u64) -> Duration {
    let start = std::time::Instant::now();
    (case.run)(calls);
    start.elapsed()
}

fn allocations(case: &mut Case) -> f64 {
    const CALLS: u64 = 1000;
    let (count, _) = counted(|| (case.run)(CALLS));
    count as f64 / CALLS as f64
}

/// How often something allocates on this thread's behalf, and how many more bytes are allocated after it than before.
pub(crate) fn counted<R>(f: impl FnOnce() -> R) -> (u64, i64) {
    let before = (COUNT.load(Relaxed), BYTES.load(Relaxed));
    ON.store(true, Relaxed);
    let result = f();
    ON.store(false, Relaxed);
    let difference = (COUNT.load(Relaxed) - before.0, BYTES.load(Relaxed) - before.1);
    drop(result);
    difference
}

/// How many more bytes are allocated after this than before.
pub(crate) async fn counted_while(work: impl Future<Output = ()>) -> i64 {
    let before = BYTES.load(Relaxed);
    ON.store(true, Relaxed);
    work.await;
    ON.store(false, Relaxed);
    BYTES.load(Relaxed) - before
}

static ON: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicI64 = AtomicI64::new(0);

/// The system's allocator, counted while that is asked for.
pub(crate) struct Counting;

// SAFETY: passes every call on to the system's allocator, unchanged.
#[expect(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if ON.load(Relaxed) {
            COUNT.fetch_add(1, Relaxed);
            BYTES.fetch_add(layout.size() as i64, Relaxed);
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if ON.load(Relaxed) {
            BYTES.fetch_sub(layout.size() as i64, Relaxed);
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if ON.load(Relaxed) {
            COUNT.fetch_add(1, Relaxed);
            BYTES.fetch_add(size as i64 - layout.size() as i64, Relaxed);
        }
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
