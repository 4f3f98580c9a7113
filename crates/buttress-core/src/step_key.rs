//! The idempotency key of the step that is being run: written by whoever runs steps, read by whoever stamps calls.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::task::futures::TaskLocalFuture;

/// The key of a step, and how many calls its body has made under it.
///
/// The key is the same in each attempt at a step, on whichever machine, so that the receiver recognises a repetition. A body
/// that makes several calls gets a key for each, by their order.
#[derive(Debug)]
pub struct StepKey {
    base: Arc<str>,
    calls: AtomicU32,
}

tokio::task_local! {
    static CURRENT: Arc<StepKey>;
}

impl StepKey {
    /// Runs one attempt at a step under its key. A task that the future spawns has no key.
    pub fn scope<F: Future>(key: Arc<str>, future: F) -> TaskLocalFuture<Arc<StepKey>, F> {
        CURRENT.scope(Arc::new(Self { base: key, calls: AtomicU32::new(0) }), future)
    }

    /// The key of the step that this task runs, if it runs one.
    pub fn current() -> Option<Arc<str>> {
        CURRENT.try_with(|step| Arc::clone(&step.base)).ok()
    }

    /// The key for the step's next call, if this task runs a step: that of the step for the first one, and one with the
    /// number of the call for each further one.
    pub fn next_call() -> Option<Arc<str>> {
        let number = |step: &Arc<Self>| match step.calls.fetch_add(1, Ordering::Relaxed) {
            0 => Arc::clone(&step.base),
            nth => format!("{}-{}", step.base, nth + 1).into(),
        };
        CURRENT.try_with(number).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_call_of_a_step_has_a_key_of_its_own_and_each_attempt_the_same_ones() {
        assert_eq!(StepKey::next_call(), None);
        for _ in 0..2 {
            let keys =
                StepKey::scope("k".into(), async { [StepKey::next_call(), StepKey::next_call()] }).await;
            assert_eq!(keys, [Some("k".into()), Some("k-2".into())]);
        }
        assert_eq!(StepKey::current(), None);
    }
}
