//! What layers report: one small event type, one trait that receives it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

mod circuit;
mod event;
mod healing;
mod idempotency;
mod outbox;
mod workflow;
pub use circuit::{CallResult, CircuitCause, CircuitState};
pub use event::{Event, Severity};
pub use healing::{HealResult, HealState, Health, PageKind};
pub use idempotency::IdempotencyResult;
pub use outbox::Outbox;
pub use workflow::{RunChange, StepResult};

#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "metrics")]
pub use metrics::Metrics;

#[cfg(feature = "tracing")]
mod tracing;
#[cfg(feature = "tracing")]
pub use tracing::Tracing;

/// Receives every event of a layer.
///
/// It is called on the task of the call that caused the event, outside of all locks; it must not block. A panic in it
/// is caught and forgotten.
pub trait Observe: Send + Sync {
    /// `service` is the name that the layer was given.
    fn event(&self, service: &str, event: &Event);
}

/// The place where a layer keeps its observer. Silence costs nothing.
#[derive(Default)]
pub struct Observer(OnceLock<Arc<dyn Observe>>);

impl Observer {
    /// Reports to this observer from now on. The first one stays; a `Vec` of several is one.
    pub fn set(&self, observer: Arc<dyn Observe>) {
        let _ = self.0.set(observer);
    }

    /// Whether anybody listens.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    /// Reports an event if anybody listens. `event` is made only then.
    #[inline]
    pub fn emit(&self, service: &str, event: impl FnOnce() -> Event) {
        if let Some(observer) = self.0.get() {
            guarded(observer.as_ref(), service, &event());
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "Observer(set)" } else { "Observer(silent)" })
    }
}

impl From<Arc<dyn Observe>> for Observer {
    fn from(observer: Arc<dyn Observe>) -> Self {
        Self(OnceLock::from(observer))
    }
}

/// Reports to each of these in turn.
impl Observe for Vec<Arc<dyn Observe>> {
    fn event(&self, service: &str, event: &Event) {
        for observer in self {
            guarded(observer.as_ref(), service, event);
        }
    }
}

/// An observer from a closure.
///
/// ```
/// let observer = buttress_core::observe_fn(|service, event| eprintln!("{service}: {event:?}"));
/// # let _: std::sync::Arc<dyn buttress_core::Observe> = observer;
/// ```
pub fn observe_fn(f: impl Fn(&str, &Event) + Send + Sync + 'static) -> Arc<dyn Observe> {
    struct ObserveFn<F>(F);
    impl<F: Fn(&str, &Event) + Send + Sync> Observe for ObserveFn<F> {
        fn event(&self, service: &str, event: &Event) {
            (self.0)(service, event);
        }
    }
    Arc::new(ObserveFn(f))
}

fn guarded(observer: &dyn Observe, service: &str, event: &Event) {
    // The observer's own state may be torn by its panic; that is its affair, and nothing of ours is in its hands.
    let _ = catch_unwind(AssertUnwindSafe(|| observer.event(service, event)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_panicking_observer_harms_nobody_and_the_next_one_is_told() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let both: Vec<Arc<dyn Observe>> = vec![
            observe_fn(|_, _| panic!("an observer's own fault")),
            observe_fn(move |service, event| {
                record.lock().unwrap().push((service.to_owned(), event.clone()))
            }),
        ];
        let observer = Observer::default();
        observer.set(Arc::new(both));
        observer.emit("datadog", || Event::WouldRefuse);
        assert_eq!(*seen.lock().unwrap(), [("datadog".to_owned(), Event::WouldRefuse)]);
    }

    #[test]
    fn silence_makes_no_event() {
        Observer::default().emit("datadog", || unreachable!("nobody listens"));
    }
}
