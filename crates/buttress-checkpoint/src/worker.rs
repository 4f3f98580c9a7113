//! Takes hold of runs, and runs them until it is told to stop.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use buttress_core::Event;
use buttress_core::observe::RunChange;
use buttress_store::{
    Acquired, Appended, Fault, Flow, JournalStore, Next, Owner, Query, RunId, StatusKind, StoreError, Wanted,
};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::config::Config;
use crate::drive::{Driver, Unrenewed, drive};
use crate::workflows::{Registered, Shared, Workflows};

/// A run that this process runs: how to stop that, and when it has ended.
pub(crate) struct Driven {
    epoch: u64,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// Lives as long as a run is run.
struct Alive<S> {
    shared: Arc<Shared<S>>,
    id: RunId,
    epoch: u64,
    /// Resolves the other half when it is dropped.
    _ended: oneshot::Sender<()>,
}

impl<S> Drop for Alive<S> {
    fn drop(&mut self) {
        let mut driven = self.shared.driven();
        if driven.get(&self.id).is_some_and(|driven| driven.epoch == self.epoch) {
            driven.remove(&self.id);
        }
    }
}

impl<S: JournalStore> Workflows<S> {
    /// Runs runs until `shutdown` resolves: those that are begun here or elsewhere, those that wake, and those that other
    /// workers abandoned. Then it begins nothing new, waits for the steps that are under way
    /// ([`Config::drain`]), and gives every run back, so that other workers go on with them at once.
    ///
    /// Failures of the store are waited out, those that will not pass too; each is reported to the
    /// [observer](Config::observe) ([`Event::StoreFailed`]), and a worker without one says nothing. Several of these can run at once, in any number of processes. When this future
    /// is dropped, what it runs is dropped with it, and others take over when the leases end.
    pub async fn run_until(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let (stop, stopped) = watch::channel(false);
        let mut runs = JoinSet::new();
        let mut delays = self.shared.config.retries.delays();
        self.warn_of_unknown().await;
        loop {
            let free =
                self.shared.config.max_runs.saturating_sub(u32::try_from(runs.len()).unwrap_or(u32::MAX));
            let mut pause = self.shared.config.poll;
            if free > 0 {
                let asked = Instant::now();
                let mut acquiring = pin!(self.acquire(free));
                let acquired = tokio::select! {
                    biased;
                    acquired = &mut acquiring => acquired,
                    () = &mut shutdown => {
                        let _ = stop.send(true);
                        let _ = timeout(self.shared.config.drain, self.give_back(acquiring)).await;
                        break;
                    }
                };
                match acquired {
                    Ok(acquired) => {
                        delays = self.shared.config.retries.delays();
                        for run in acquired {
                            self.spawn(&mut runs, run, asked, &stopped);
                        }
                    }
                    Err(error) => {
                        pause = delays.next().unwrap_or(pause);
                        let Config { worker, observer, .. } = &self.shared.config;
                        observer.emit(worker, || {
                            let lasts = !error.is_transient() && error.fault() != Fault::Full;
                            Event::StoreFailed { error: error.to_string().into(), lasts }
                        });
                    }
                }
            }
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = runs.join_next() => {}
                () = self.shared.nudge.notified(), if free > 0 => {}
                () = sleep(pause) => {}
            }
        }
        let _ = stop.send(true);
        while runs.join_next().await.is_some() {}
        let _ = timeout(self.shared.config.drain, self.return_unrenewed()).await;
    }

    async fn acquire(&self, max: u32) -> Result<Vec<Acquired>, StoreError> {
        self.return_unrenewed().await?;
        let Config { worker, lease, .. } = &self.shared.config;
        let flow = |it: &Registered| Flow { name: it.name.clone(), versions: it.versions.0.clone() };
        let flows: Vec<Flow> = self.shared.registered().iter().map(flow).collect();
        if flows.is_empty() {
            return Ok(Vec::new());
        }
        let (owner, worker, lease) = (Owner::random(), worker.clone(), *lease);
        self.shared.store.acquire(&Wanted { flows, id: None, owner, worker, lease, max }).await
    }

    /// Whatever was taken hold of while the shutdown came.
    async fn give_back(&self, acquiring: impl Future<Output = Result<Vec<Acquired>, StoreError>>) {
        for Acquired { hold, info } in acquiring.await.unwrap_or_default() {
            let _ = self.shared.store.append(&hold, info.entries, &[], &Next::Yield).await;
        }
    }

    /// Gives back what this process lost while the store did not answer, before it takes anything: a run that it takes over from
    /// itself is not one that crashed its worker.
    async fn return_unrenewed(&self) -> Result<(), StoreError> {
        loop {
            let Some(Unrenewed { hold, seq }) = self.shared.unrenewed().last().cloned() else {
                return Ok(());
            };
            let next = match self.shared.store.append(&hold, seq, &[], &Next::Yield).await {
                Ok(Appended::Conflict { next }) => Some(next),
                Err(error) if error.is_transient() || error.fault() == Fault::Full => return Err(error),
                Ok(Appended::Applied { .. } | Appended::Fenced) | Err(_) => None,
            };
            let mut unrenewed = self.shared.unrenewed();
            match next {
                Some(next) => unrenewed.iter_mut().filter(|it| it.hold == hold).for_each(|it| it.seq = next),
                None => unrenewed.retain(|it| it.hold != hold),
            }
        }
    }

    fn spawn(&self, runs: &mut JoinSet<()>, run: Acquired, asked: Instant, stopped: &watch::Receiver<bool>) {
        let code = self.shared.registered().iter().find_map(|it| {
            (it.name == run.info.name && it.versions.0.contains(&run.info.version)).then(|| it.code.clone())
        });
        // The store gave what was asked for.
        let Some(code) = code else { return };
        let Shared { store, config, .. } = &*self.shared;
        let (store, config, shutdown) = (store.clone(), config.clone(), stopped.clone());
        let (hold, name) = (run.hold.clone(), run.info.name.clone());
        let (stop, superseded) = oneshot::channel();
        let (alive, ended) = oneshot::channel();
        let (shared, id, epoch) = (Arc::clone(&self.shared), run.info.id.clone(), run.hold.epoch);
        let earlier = shared.driven().insert(id.clone(), Driven { epoch, stop, ended });
        let driver = Driver { store, config, shutdown, hold, name, seq: 0 };
        let alive = Alive { shared, id, epoch, _ended: alive };
        runs.spawn(async move {
            if let Some(earlier) = earlier {
                // The store's clock may run ahead of ours, and has given us a run that we still run.
                let _ = earlier.stop.send(());
                let _ = earlier.ended.await;
            }
            let unrenewed = drive(driver, run, code, asked, superseded).await;
            alive.shared.unrenewed().extend(unrenewed);
            alive.shared.tell(&alive.id);
        });
    }

    /// Tells the observer of open runs that this worker does not have the code of, a hundred at most.
    async fn warn_of_unknown(&self) {
        let observer = &self.shared.config.observer;
        if !observer.is_set() {
            return;
        }
        let statuses = vec![StatusKind::Running, StatusKind::Sleeping];
        let Ok(page) = self.shared.store.list(&Query { statuses, ..Query::default() }).await else { return };
        for info in page.runs {
            let known = |it: &Registered| it.name == info.name && it.versions.0.contains(&info.version);
            if !self.shared.registered().iter().any(known) {
                let run = info.id.as_str().into();
                observer.emit(&info.name, || Event::Run { run, change: RunChange::Unknown });
            }
        }
    }
}
