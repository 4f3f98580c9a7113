//! The outbox under every interleaving of its callers: `cargo xtask loom`.

use std::sync::{Arc, OnceLock};

use super::Outbox;
use crate::observe::{Event, Observer, observe_fn};
use crate::sync::{Mutex, model, thread};

/// What a layer has: a lock that orders its events, the outbox, and an observer that takes its time.
#[derive(Default)]
struct Layer {
    next: Mutex<u64>,
    outbox: Outbox,
    observer: Observer,
    seen: Arc<Mutex<Vec<u64>>>,
}

impl Layer {
    /// One whose observer does this about the number that it hears of, before it is done.
    fn new(about: impl Fn(u64) + Send + Sync + 'static) -> Arc<Self> {
        let layer = Self::default();
        let seen = Arc::clone(&layer.seen);
        layer.observer.set(observe_fn(move |_, event| {
            let Event::Lost(number) = *event else { return };
            // Others get their turn while the observer is at work.
            thread::yield_now();
            seen.lock().unwrap().push(number);
            about(number);
        }));
        Arc::new(layer)
    }

    /// Does something that is reported by its number.
    fn act(&self) {
        let mut next = self.next.lock().unwrap();
        self.outbox.push(Event::Lost(*next));
        *next += 1;
        drop(next);
        self.outbox.deliver(&self.observer, "x");
    }

    fn assert_told_of(&self, count: u64) {
        let seen = self.seen.lock().unwrap();
        assert_eq!(*seen, (0..count).collect::<Vec<_>>(), "each once, in order, and none left");
    }
}

#[test]
fn two_callers_deliver_each_event_once_and_in_order_and_strand_none() {
    model(|| {
        let layer = Layer::new(|_| ());
        let other = Arc::clone(&layer);
        let other = thread::spawn(move || (0..2).for_each(|_| other.act()));
        (0..2).for_each(|_| layer.act());
        other.join().unwrap();
        layer.assert_told_of(4);
    });
}

#[test]
fn three_callers_deliver_each_event_once_and_in_order_and_strand_none() {
    model(|| {
        let layer = Layer::new(|_| ());
        let others = [(); 2].map(|()| {
            let other = Arc::clone(&layer);
            thread::spawn(move || other.act())
        });
        layer.act();
        others.into_iter().for_each(|other| other.join().unwrap());
        layer.assert_told_of(3);
    });
}

#[test]
fn an_observer_that_causes_an_event_leaves_it_to_whoever_delivers() {
    model(|| {
        let itself = Arc::new(OnceLock::<std::sync::Weak<Layer>>::new());
        let reentrant = Arc::clone(&itself);
        let layer = Layer::new(move |number| {
            if number == 0 {
                reentrant.get().and_then(std::sync::Weak::upgrade).unwrap().act();
            }
        });
        itself.set(Arc::downgrade(&layer)).unwrap();
        let other = Arc::clone(&layer);
        let other = thread::spawn(move || other.act());
        layer.act();
        other.join().unwrap();
        layer.assert_told_of(3);
    });
}
