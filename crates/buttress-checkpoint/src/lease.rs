//! Keeps a run held, and says when it no longer is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use buttress_store::{Hold, JournalStore, Renewed};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::run::{Core, Gate};

/// A lease that a task of its own renews, so that code that does not yield for a while does not lose its run. Ends when dropped.
pub(crate) struct Lease {
    until: watch::Receiver<Instant>,
    pub(crate) signal: Arc<Signal>,
    task: JoinHandle<()>,
}

/// How a renewal tells the run that it is to be cancelled.
#[derive(Default)]
pub(crate) struct Signal {
    cancel: AtomicBool,
    core: OnceLock<Arc<Core>>,
}

impl Signal {
    pub(crate) fn cancel(&self) {
        self.cancel.store(true, Ordering::SeqCst);
        if let Some(core) = self.core.get() {
            core.close(Gate::Cancel);
        }
    }

    pub(crate) fn attach(&self, core: &Arc<Core>) {
        let _ = self.core.set(Arc::clone(core));
        if self.cancel.load(Ordering::SeqCst) {
            core.close(Gate::Cancel);
        }
    }
}

impl Lease {
    /// `asked` is from before the lease was asked for, so that it counts as over before it is.
    pub(crate) fn keep<S: JournalStore>(
        store: S,
        hold: Hold,
        asked: Instant,
        lease: Duration,
        margin: Duration,
    ) -> Self {
        let usable = lease - margin;
        let (sender, until) = watch::channel(asked + usable);
        let signal = Arc::<Signal>::default();
        let told = Arc::clone(&signal);
        let task = tokio::spawn(async move {
            let mut pause = lease / 3;
            loop {
                sleep(pause).await;
                let asked = Instant::now();
                pause = match store.renew(&hold, lease).await {
                    Ok(Renewed::Held { cancel_requested }) => {
                        if cancel_requested {
                            told.cancel();
                        }
                        if sender.send(asked + usable).is_err() {
                            return;
                        }
                        lease / 3
                    }
                    Ok(Renewed::Fenced) => return,
                    Err(_) => lease / 20,
                };
            }
        });
        Self { until, signal, task }
    }

    /// Returns once the run must no longer be touched.
    pub(crate) async fn lost(&self) {
        let mut until = self.until.clone();
        loop {
            let end = *until.borrow_and_update();
            tokio::select! {
                biased;
                changed = until.changed() => if changed.is_err() { return },
                () = sleep_until(end) => return,
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}
