use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buttress_core::within;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// What goes on in the background, until it is shut down.
#[derive(Debug)]
pub(crate) struct Tasks(Mutex<Option<JoinSet<()>>>);

impl Default for Tasks {
    fn default() -> Self {
        Self(Mutex::new(Some(JoinSet::new())))
    }
}

impl Tasks {
    /// Not without a runtime, nor after a shutdown.
    pub(crate) fn can_spawn(&self) -> bool {
        Handle::try_current().is_ok() && self.lock().is_some()
    }

    /// Makes a task of this, or drops it where that is not possible.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_among(usize::MAX, work);
    }

    /// The same, and drops it where so many are under way.
    pub(crate) fn spawn_among(&self, at_most: usize, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut tasks = self.lock();
        let Some(running) = tasks.as_mut() else { return };
        while running.try_join_next().is_some() {}
        if running.len() < at_most {
            running.spawn_on(work, &runtime);
        }
    }

    /// Waits for them, for so long at most, and drops what is left; how many those were.
    pub(crate) async fn shutdown(&self, bound: Duration) -> usize {
        let Some(mut tasks) = self.lock().take() else { return 0 };
        let all = async { while tasks.join_next().await.is_some() {} };
        if within(bound, all).await.is_some() { 0 } else { tasks.len() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
