//! A generation that ends while calls are made, under every interleaving: `cargo xtask loom`.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Wake};

use buttress_core::sync::{model, thread};
use buttress_core::{Settle, Verdict};

use super::*;
use crate::permit::Permit;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

struct Generation {
    signals: Arc<Signals>,
    lanes: Lanes,
}

impl Generation {
    fn new() -> Arc<Self> {
        Arc::new(Self { signals: Arc::new(Signals::new(1, &Arc::default(), false)), lanes: Lanes::new() })
    }

    fn enter(&self) -> Option<Permit> {
        self.lanes.enter(&self.signals).map(|lane| Permit::new(lane, None, false))
    }

    fn drain(&self) {
        self.lanes.drain(&self.signals);
    }

    fn is_drained(&self) -> bool {
        let woken = Waker::from(Arc::new(Woken::default()));
        std::pin::pin!(self.signals.drained()).poll(&mut Context::from_waker(&woken)).is_ready()
    }
}

#[test]
fn a_call_that_waits_while_its_generation_is_closed_is_cut_off_or_woken() {
    model(|| {
        let generation = Generation::new();
        let mut permit = generation.enter().expect("it takes calls");
        let closing = Arc::clone(&generation);
        let closing = thread::spawn(move || closing.signals.close());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let is_cut_off = permit.wait(&mut Context::from_waker(&waker)).is_ready();
        closing.join().unwrap();
        assert!(is_cut_off || woken.0.load(SeqCst) == 1, "it waits, and nobody will ever wake it");
    });
}

#[test]
fn a_call_that_ends_while_its_generation_is_closed_leaves_no_waker_behind() {
    model(|| {
        let generation = Generation::new();
        let mut permit = generation.enter().expect("it takes calls");
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(permit.wait(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        let closing = Arc::clone(&generation);
        let closing = thread::spawn(move || closing.signals.close());
        permit.settle(Verdict::Success);
        closing.join().unwrap();
        assert_eq!(Arc::strong_count(&woken), 1);
        assert_eq!(generation.signals.outcomes().succeeded, 1);
    });
}

#[test]
fn whoever_enters_while_a_generation_drains_is_waited_for_or_is_not_let_in() {
    model(|| {
        let generation = Generation::new();
        let calling = Arc::clone(&generation);
        let calling = thread::spawn(move || calling.enter());
        generation.drain();
        let permit = calling.join().unwrap();
        assert_eq!(generation.is_drained(), permit.is_none(), "all calls are waited for, and nothing else");
        drop(permit);
        assert!(generation.is_drained());
        assert!(generation.enter().is_none());
    });
}
