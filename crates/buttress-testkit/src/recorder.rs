use std::sync::{Arc, Mutex};

use buttress_core::{Event, Observe, observe_fn};

/// An observer that keeps every event, and where it keeps them.
///
/// ```
/// use buttress_core::Event;
///
/// let (observer, events) = buttress_testkit::recorder();
/// observer.event("datadog", &Event::WouldRefuse);
/// assert_eq!(*events.lock().unwrap(), [Event::WouldRefuse]);
/// ```
pub fn recorder() -> (Arc<dyn Observe>, Arc<Mutex<Vec<Event>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&events);
    (observe_fn(move |_, event| record.lock().unwrap().push(event.clone())), events)
}
