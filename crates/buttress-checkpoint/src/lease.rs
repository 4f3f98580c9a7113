//! Keeps a run held, and says when it no longer is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use buttress_core::clock;
use buttress_store::{Hold, JournalStore, Renewed};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::run::{Core, Gate};

/// A lease that a task of its own renews, so that code that does not yield for a while does not lose its run. Ends when dropped.
pub(crate) struct Lease {
    until: watch::Receiver<Usable>,
    wall: fn() -> SystemTime,
    pub(crate) signal: Arc<Signal>,
    task: JoinHandle<()>,
}

/// Until when a run may be touched.
#[derive(Clone, Copy)]
struct Usable {
    /// On both clocks of this machine: the monotonic one stands still while the machine sleeps, and a store's need not.
    end: Instant,
    wall_end: SystemTime,
    /// Since when a renewal is asked for.
    asked: Option<Instant>,
}

/// Why a run must no longer be touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// A renewal that was asked for in time was not had, or the wall clock has stepped: nobody else has it, as far as is known,
    /// and it is no fault of the run.
    Unrenewed,
    /// It is somebody else's, or this process came to no renewal in time.
    Other,
}

/// So often the wall clock is looked at.
const TICK: Duration = Duration::from_secs(1);

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
        Self::with(store, hold, asked, (lease, margin), clock::wall)
    }

    fn with<S: JournalStore>(
        store: S,
        hold: Hold,
        asked: Instant,
        (lease, margin): (Duration, Duration),
        wall: fn() -> SystemTime,
    ) -> Self {
        let usable = move |asked: Instant| {
            let left = (lease - margin).saturating_sub(asked.elapsed());
            let wall_end = wall().checked_add(left).unwrap_or(SystemTime::UNIX_EPOCH);
            Usable { end: clock::after(asked, lease - margin), wall_end, asked: None }
        };
        let (sender, until) = watch::channel(usable(asked));
        let signal = Arc::<Signal>::default();
        let told = Arc::clone(&signal);
        let task = tokio::spawn(async move {
            let mut pause = lease / 3;
            loop {
                sleep(pause).await;
                let asked = Instant::now();
                sender.send_if_modified(|usable| {
                    usable.asked.get_or_insert(asked);
                    false
                });
                pause = match store.renew(&hold, lease).await {
                    Ok(Renewed::Held { cancel_requested }) => {
                        if cancel_requested {
                            told.cancel();
                        }
                        if sender.send(usable(asked)).is_err() {
                            return;
                        }
                        lease / 3
                    }
                    Ok(Renewed::Fenced) => return,
                    Err(_) => lease / 20,
                };
            }
        });
        Self { until, wall, signal, task }
    }

    /// Returns once the run must no longer be touched.
    pub(crate) async fn lost(&self) -> Loss {
        let mut until = self.until.clone();
        loop {
            let Usable { end, wall_end, asked } = *until.borrow_and_update();
            let now = Instant::now();
            if now >= end {
                return if asked.is_some_and(|asked| asked < end) { Loss::Unrenewed } else { Loss::Other };
            }
            if (self.wall)() >= wall_end {
                return Loss::Unrenewed;
            }
            tokio::select! {
                biased;
                changed = until.changed() => if changed.is_err() { return Loss::Other },
                () = sleep_until(end.min(clock::after(now, TICK))) => {}
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use buttress_store::{Memory, Owner, RunId};

    use super::*;

    static AHEAD: AtomicU64 = AtomicU64::new(0);

    fn wall() -> SystemTime {
        clock::wall() + Duration::from_secs(AHEAD.load(Ordering::SeqCst))
    }

    /// As after the machine has slept.
    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_steps_ahead_of_the_lease_ends_it() {
        let hold = Hold { id: RunId::try_new("run").unwrap(), owner: Owner::random(), epoch: 1 };
        let times = (Duration::from_secs(3600), Duration::from_secs(600));
        let lease = Lease::with(Memory::new(), hold, Instant::now(), times, wall);
        let began = Instant::now();
        let lost = tokio::time::timeout(Duration::from_secs(60), lease.lost()).await;
        assert!(lost.is_err(), "it is held");
        AHEAD.store(3001, Ordering::SeqCst);
        assert_eq!(lease.lost().await, Loss::Unrenewed);
        assert!(began.elapsed() < Duration::from_secs(62), "{:?}", began.elapsed());
    }
}
