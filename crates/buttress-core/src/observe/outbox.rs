use std::collections::VecDeque;
use std::sync::PoisonError;

use super::{Event, Observer};
use crate::sync::{Mutex, MutexGuard};

/// No more than this many events wait for a slow observer; the oldest go first.
const CAPACITY: usize = 1024;

/// Events on their way to an observer: queued under the lock that orders them, delivered outside of it, in order.
///
/// Whoever changes state [`push`](Outbox::push)es while holding its own lock, lets go of it, and calls
/// [`deliver`](Outbox::deliver). One caller at a time delivers; the others leave their events to it.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    lost: u64,
    delivering: bool,
}

impl Outbox {
    /// Queues an event. Call it while holding the lock that orders the events.
    pub fn push(&self, event: Event) {
        let mut queue = self.lock();
        if queue.events.len() == CAPACITY {
            queue.events.pop_front();
            queue.lost += 1;
        }
        queue.events.push_back(event);
    }

    /// Delivers what is queued, unless somebody is at it already. Call it without any lock.
    pub fn deliver(&self, observer: &Observer, service: &str) {
        let mut queue = self.lock();
        if queue.delivering {
            return;
        }
        queue.delivering = true;
        while let Some(event) = queue.next() {
            drop(queue);
            observer.emit(service, || event);
            queue = self.lock();
        }
        queue.delivering = false;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn next(&mut self) -> Option<Event> {
        match std::mem::take(&mut self.lost) {
            0 => self.events.pop_front(),
            lost => Some(Event::Lost(lost)),
        }
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_models;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::observe_fn;
    use std::sync::Arc;

    fn recorder() -> (Observer, Arc<Mutex<Vec<Event>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        (observe_fn(move |_, event| record.lock().unwrap().push(event.clone())).into(), seen)
    }

    #[test]
    fn events_come_in_order_and_each_once() {
        let (observer, seen) = recorder();
        let outbox = Outbox::default();
        outbox.push(Event::Lost(1));
        outbox.push(Event::WouldRefuse);
        outbox.deliver(&observer, "x");
        outbox.deliver(&observer, "x");
        assert_eq!(*seen.lock().unwrap(), [Event::Lost(1), Event::WouldRefuse]);
    }

    #[test]
    fn an_observer_that_causes_events_gets_them_after_its_own() {
        let (record, seen) = recorder();
        let outbox = Arc::new(Outbox::default());
        let reentrant = Arc::clone(&outbox);
        let observer: Observer = observe_fn(move |service, event| {
            if *event == Event::WouldRefuse {
                reentrant.push(Event::Lost(7));
                reentrant.deliver(&Observer::default(), service);
            }
            record.emit(service, || event.clone());
        })
        .into();
        outbox.push(Event::WouldRefuse);
        outbox.deliver(&observer, "x");
        assert_eq!(*seen.lock().unwrap(), [Event::WouldRefuse, Event::Lost(7)]);
    }

    #[test]
    fn a_slow_observer_costs_bounded_memory_and_is_told_what_it_missed() {
        let (observer, seen) = recorder();
        let outbox = Outbox::default();
        (0..CAPACITY + 10).for_each(|_| outbox.push(Event::WouldRefuse));
        outbox.deliver(&observer, "x");
        let seen = seen.lock().unwrap();
        assert_eq!((&seen[0], seen.len()), (&Event::Lost(10), CAPACITY + 1));
    }
}
