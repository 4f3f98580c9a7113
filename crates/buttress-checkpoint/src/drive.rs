//! Runs the code of one run, under its lease, from its journal to its end.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use buttress_core::observe::RunChange;
use buttress_core::{Backoff, Event};
use buttress_store::{Acquired, Appended, Fault, Hold, JournalStore, NewEntry, Next, Run, RunId, StoreError};
use serde_json::value::RawValue;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Sleep, sleep};

use crate::config::Config;
use crate::cx::Cx;
use crate::entry::Envelope;
use crate::error::Mismatch;
use crate::lease::{Lease, Loss};
use crate::polled::{Ended, Polled, Woken, panicked};
use crate::replay::Replay;
use crate::run::{BoxFuture, Core, Gate};

/// What the code of a workflow ends with: its result or its error, encoded; or why that cannot be encoded.
pub(crate) type Outcome = Result<Result<Box<RawValue>, Box<RawValue>>, String>;

/// The code of a workflow, for an encoded input.
pub(crate) type Code =
    Arc<dyn Fn(Cx, &RawValue) -> Result<BoxFuture<'static, Outcome>, String> + Send + Sync>;

pub(crate) struct Driver<S> {
    pub(crate) store: S,
    pub(crate) config: Config,
    pub(crate) shutdown: watch::Receiver<bool>,
    pub(crate) hold: Hold,
    /// Of the workflow, for events.
    pub(crate) name: Arc<str>,
    pub(crate) seq: u64,
}

/// Why nothing more can be stored of the run by this worker.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It is somebody else's, or the store cannot be used.
    Lost,
    /// The store refuses it, and will do so again.
    Never(StoreError),
}

/// A run that was lost, and that nobody else may have: at this entry as far as is known.
#[derive(Clone, Debug)]
pub(crate) struct Unrenewed {
    pub(crate) hold: Hold,
    pub(crate) seq: u64,
}

pub(crate) struct Stored {
    next: u64,
    pub(crate) at: SystemTime,
    pub(crate) cancel: bool,
}

/// Runs a run for as long as it is held, or until this process has taken hold of it once more. Whatever was built of it is
/// dropped before this returns, with what is to be given back of it: a run that was lost only because the store did not
/// renew its lease.
pub(crate) async fn drive<S: JournalStore>(
    mut driver: Driver<S>,
    acquired: Acquired,
    code: Code,
    asked: Instant,
    superseded: oneshot::Receiver<()>,
) -> Option<Unrenewed> {
    let Config { lease, margin, observer, .. } = driver.config.clone();
    let (id, name) = (acquired.info.id.as_str().into(), acquired.info.name.clone());
    let change = if acquired.info.recoveries > 0 { RunChange::Recovered } else { RunChange::Acquired };
    let emit = |change| observer.emit(&name, || Event::Run { run: Arc::clone(&id), change });
    emit(change);
    let kept = Lease::keep(driver.store.clone(), acquired.hold.clone(), asked, lease, margin);
    let mut loss = None;
    let change = tokio::select! {
        biased;
        why = kept.lost() => {
            loss = Some(why);
            RunChange::Lost
        }
        Ok(()) = superseded => RunChange::Lost,
        change = driver.run_or_pause(&acquired, &code, &kept) => change.unwrap_or(RunChange::Lost),
    };
    emit(change);
    (loss == Some(Loss::Unrenewed)).then_some(Unrenewed { hold: driver.hold, seq: driver.seq })
}

impl<S: JournalStore> Driver<S> {
    /// What the store will never take pauses the run, if it takes that: whoever takes the run over could not store it either,
    /// and would do it again.
    async fn run_or_pause(
        &mut self,
        acquired: &Acquired,
        code: &Code,
        lease: &Lease,
    ) -> Result<RunChange, Refused> {
        match self.run(acquired, code, lease).await {
            Err(Refused::Never(error)) => self.pause(vec![], &error.to_string()).await,
            other => other,
        }
    }

    async fn run(&mut self, acquired: &Acquired, code: &Code, lease: &Lease) -> Result<RunChange, Refused> {
        self.seq = acquired.info.entries;
        let recoveries = acquired.info.recoveries;
        if recoveries > self.config.max_recoveries {
            let reason = format!(
                "taken over {recoveries} times from workers that did not give it up: see why they end"
            );
            return self.give_up(vec![], Next::Park(reason.into()), RunChange::Halted).await;
        }
        let mut shutdown = self.shutdown.clone();
        let loaded = tokio::select! {
            biased;
            loaded = self.load(&self.hold.id) => loaded,
            () = told(&mut shutdown) => {
                return self.give_up(vec![], Next::Yield, RunChange::Released).await;
            }
        };
        let (run, loaded) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => return self.pause(vec![], &error.to_string()).await,
        };
        let (core, input) = match self.prepare(run, loaded).await? {
            Ok(prepared) => prepared,
            Err(mismatch) => return self.mismatch(vec![], &mismatch).await,
        };
        if acquired.info.cancel_requested || core.lock().replay.unwind.is_some() {
            core.close(Gate::Cancel);
        }
        lease.signal.attach(&core);
        let _cleared = Cleared(&core);
        let called =
            core.scope(|| catch_unwind(AssertUnwindSafe(|| code(Cx::new(Arc::clone(&core)), &input))));
        let ended = match called {
            Err(payload) => Ended::Panicked(panicked(&*payload, None)),
            Ok(Ok(body)) => self.poll_to_end(&core, body).await?,
            Ok(Err(reason)) => {
                let what = "the input of the run".to_owned();
                Ended::Mismatch(Mismatch::Undecodable { what, reason })
            }
        };
        self.settle(&core, ended).await
    }

    /// A journal, and when it was read.
    pub(crate) async fn load(&self, id: &RunId) -> Result<(Run, Instant), StoreError> {
        let mut delays = self.config.retries.delays();
        loop {
            match self.store.load(id).await {
                Ok(Some(run)) => return Ok((run, Instant::now())),
                // Gone: whatever is stored next is refused.
                Ok(None) => {
                    return Err(StoreError::new("journal", "load", Fault::Internal).detail("no such run"));
                }
                Err(error) if error.fault() == Fault::Corrupt || error.fault() == Fault::Version => {
                    return Err(error);
                }
                Err(_) => sleep(delays.next().unwrap_or(PAUSE)).await,
            }
        }
    }

    /// What the code runs on.
    async fn prepare(
        &mut self,
        mut run: Run,
        loaded: Instant,
    ) -> Result<Result<(Arc<Core>, Box<RawValue>), Mismatch>, Refused> {
        let envelope: Envelope = match serde_json::from_slice(&run.input) {
            Ok(envelope) => envelope,
            Err(error) => {
                let what = "the input of the run".to_owned();
                return Ok(Err(Mismatch::Undecodable { what, reason: error.to_string() }));
            }
        };
        self.seq = run.entries.len() as u64;
        if let Some(fork) = &envelope.fork
            && let Err(error) = self.copy(&mut run.entries, fork).await?
        {
            let what = format!("the run `{}`, which this one continues,", fork.from);
            return Ok(Err(Mismatch::Undecodable { what, reason: error.to_string() }));
        }
        let replay = match Replay::new(&run.entries) {
            Ok(replay) => replay,
            Err(mismatch) => return Ok(Err(mismatch)),
        };
        let root = envelope.root().to_owned();
        let Config { max_value, observer, .. } = &self.config;
        let clock = (run.info.now, loaded);
        let core =
            Core::new(run.info.id, run.info.name, root, *max_value, Arc::clone(observer), replay, clock);
        Ok(Ok((Arc::new(core), envelope.input)))
    }

    async fn poll_to_end(
        &mut self,
        core: &Arc<Core>,
        body: BoxFuture<'static, Outcome>,
    ) -> Result<Ended, Refused> {
        let mut code = Polled::new(core, body, self.config.suspend_after);
        let mut storing = pin!(None);
        let mut patience: Option<Pin<Box<Sleep>>> = None;
        let mut drain: Option<Pin<Box<Sleep>>> = None;
        let mut shutdown = self.shutdown.clone();
        let mut shutdown = pin!(told(&mut shutdown));
        loop {
            let (in_flight, stuck) = (storing.is_some(), patience.is_some());
            let woken = tokio::select! {
                biased;
                stored = some(storing.as_mut()) => Woken::Stored(stored),
                woken = poll_fn(|cx| code.poll(cx, in_flight, stuck)) => woken,
                () = some(Pin::new(&mut patience)) => Woken::Impatient,
                () = some(Pin::new(&mut drain)) => Woken::Drained,
                () = shutdown.as_mut(), if drain.is_none() => Woken::Shutdown,
            };
            match woken {
                Woken::Stored(stored) => {
                    storing.set(None);
                    self.stored(core, &stored?);
                }
                Woken::Outgoing => {
                    let (store, hold, seq) = (self.store.clone(), self.hold.clone(), self.seq);
                    let (entries, retries) = (core.dispatch(), self.config.retries.clone());
                    storing.set(Some(append(store, hold, seq, entries, Next::Go, retries)));
                }
                Woken::Stuck(stuck) => patience = stuck.then(|| Box::pin(sleep(self.config.patience))),
                Woken::Impatient => {
                    patience = None;
                    if let Some(mismatch) = core.stuck() {
                        return Ok(Ended::Mismatch(mismatch));
                    }
                }
                Woken::Shutdown => {
                    drain = Some(Box::pin(sleep(self.config.drain)));
                    core.close(Gate::Shutdown);
                }
                Woken::Drained => {
                    drop(code);
                    if let Some(storing) = storing.as_mut().as_pin_mut() {
                        self.stored(core, &storing.await?);
                    }
                    return Ok(Ended::Stopped);
                }
                Woken::Ended(ended) => {
                    // The code, with all that it holds, is gone before anything else happens.
                    drop(code);
                    if let Some(storing) = storing.as_mut().as_pin_mut() {
                        self.stored(core, &storing.await?);
                    }
                    return Ok(ended);
                }
            }
        }
    }

    fn stored(&mut self, core: &Arc<Core>, stored: &Stored) {
        let entries = usize::try_from(stored.next - self.seq).unwrap_or(usize::MAX);
        self.seq = stored.next;
        core.emit(|| Event::Saved { entries });
        core.applied(stored.at);
        if stored.cancel {
            core.close(Gate::Cancel);
        }
    }

    pub(crate) async fn append(&mut self, entries: Vec<NewEntry>, next: Next) -> Result<Stored, Refused> {
        let (count, retries) = (entries.len(), self.config.retries.clone());
        let stored = append(self.store.clone(), self.hold.clone(), self.seq, entries, next, retries).await?;
        self.seq = stored.next;
        if count > 0 {
            self.config.observer.emit(&self.name, || Event::Saved { entries: count });
        }
        Ok(stored)
    }

    /// Stores the last of it, and lets the run go.
    pub(crate) async fn give_up(
        &mut self,
        entries: Vec<NewEntry>,
        next: Next,
        change: RunChange,
    ) -> Result<RunChange, Refused> {
        self.append(entries, next).await.map(|_| change)
    }

    /// Lets the run go until an operator has looked.
    pub(crate) async fn pause(&mut self, entries: Vec<NewEntry>, reason: &str) -> Result<RunChange, Refused> {
        self.give_up(entries, Next::Pause(short(reason)), RunChange::Halted).await
    }
}

/// A reason as stores take it: of no more than 512 bytes, and without NUL.
pub(crate) fn short(reason: &str) -> Arc<str> {
    let mut text = reason.replace('\0', "\u{fffd}");
    cut(&mut text, buttress_store::MAX_NAME);
    text.into()
}

/// Shortens a text to so many bytes.
pub(crate) fn cut(text: &mut String, bytes: usize) {
    const MORE: &str = "…";
    if text.len() > bytes {
        let end = (0..=bytes - MORE.len()).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str(MORE);
    }
}

const PAUSE: Duration = Duration::from_secs(1);

/// Stores entries for as long as it takes; whoever awaits it stops when the lease ends. A store that failed may have stored
/// them, and says so when it is asked again.
async fn append<S: JournalStore>(
    store: S,
    hold: Hold,
    seq: u64,
    entries: Vec<NewEntry>,
    next: Next,
    retries: Backoff,
) -> Result<Stored, Refused> {
    let mut delays = None;
    loop {
        match store.append(&hold, seq, &entries, &next).await {
            Ok(Appended::Applied { next, at, cancel_requested }) => {
                return Ok(Stored { next, at, cancel: cancel_requested });
            }
            Ok(Appended::Fenced | Appended::Conflict { .. }) => return Err(Refused::Lost),
            Err(error) if error.is_transient() || error.fault() == Fault::Full => {
                let delays = delays.get_or_insert_with(|| retries.delays());
                sleep(delays.next().unwrap_or(PAUSE)).await;
            }
            Err(error) => return Err(Refused::Never(error)),
        }
    }
}

/// Clears the run when its driver is done with it, or is dropped.
struct Cleared<'a>(&'a Core);

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// Resolves when the worker is to shut down.
pub(crate) async fn told(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|shutdown| *shutdown).await;
}

/// Resolves when a future that may not be there does.
async fn some<F: Future>(future: Pin<&mut Option<F>>) -> F::Output {
    match future.as_pin_mut() {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
