//! Runs the code of one run, under its lease, from its journal to its end.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use buttress_core::observe::RunChange;
use buttress_core::{Backoff, Event};
use buttress_store::{Acquired, Appended, Entry, Fault, Hold, JournalStore, NewEntry, Next, Run, StoreError};
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use crate::config::{Config, OnMismatch};
use crate::cx::Cx;
use crate::entry::{self, Body, Envelope, Kind};
use crate::error::Mismatch;
use crate::lease::Lease;
use crate::replay::Replay;
use crate::run::{BoxFuture, Core, Gate, Quiet};
use crate::undo;

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
    pub(crate) seq: u64,
}

/// Why nothing more can be stored of the run by this worker.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It is somebody else's, or the store cannot be used.
    Lost,
    /// It is too large.
    TooLarge(StoreError),
}

/// How the code ended, or why it did not.
enum Ended {
    Finished(Outcome),
    Panicked,
    Mismatch(Mismatch),
    Stopped,
    Suspended(Instant),
}

/// What the driver wakes for.
enum Woken {
    Stored(Result<Stored, Refused>),
    Outgoing,
    Ended(Ended),
    /// It does, or no longer, not get to what is recorded next.
    Stuck(bool),
    Impatient,
    Shutdown,
    Drained,
}

pub(crate) struct Stored {
    next: u64,
    at: SystemTime,
    cancel: bool,
}

/// Runs a run for as long as it is held. Whatever was built of it is dropped before this returns.
pub(crate) async fn drive<S: JournalStore>(
    mut driver: Driver<S>,
    acquired: Acquired,
    code: Code,
    asked: Instant,
) {
    let Config { lease, margin, observer, .. } = driver.config.clone();
    let (id, name) = (acquired.info.id.as_str().into(), acquired.info.name.clone());
    let change = if acquired.info.recoveries > 0 { RunChange::Recovered } else { RunChange::Acquired };
    let emit = |change| observer.emit(&name, || Event::Run { run: Arc::clone(&id), change });
    emit(change);
    let kept = Lease::keep(driver.store.clone(), acquired.hold.clone(), asked, lease, margin);
    let change = tokio::select! {
        biased;
        () = kept.lost() => RunChange::Lost,
        change = driver.run(&acquired, &code, &kept) => change.unwrap_or(RunChange::Lost),
    };
    emit(change);
}

impl<S: JournalStore> Driver<S> {
    async fn run(&mut self, acquired: &Acquired, code: &Code, lease: &Lease) -> Result<RunChange, Refused> {
        self.seq = acquired.info.entries;
        let recoveries = acquired.info.recoveries;
        if recoveries > self.config.max_recoveries {
            let reason = format!(
                "taken over {recoveries} times from workers that did not give it up: see why they end"
            );
            return self.give_up(vec![], Next::Park(reason.into()), RunChange::Halted).await;
        }
        let (run, loaded) = match self.load().await {
            Ok(loaded) => loaded,
            Err(error) => {
                return self.give_up(vec![], Next::Pause(error.to_string().into()), RunChange::Halted).await;
            }
        };
        let (core, input) = match self.prepare(run, loaded).await? {
            Ok(prepared) => prepared,
            Err(mismatch) => return self.mismatch(&mismatch).await,
        };
        if acquired.info.cancel_requested || core.lock().replay.unwind.is_some() {
            core.close(Gate::Cancel);
        }
        lease.signal.attach(&core);
        let called =
            core.scope(|| catch_unwind(AssertUnwindSafe(|| code(Cx::new(Arc::clone(&core)), &input))));
        let Ok(called) = called else { return Ok(RunChange::Panicked) };
        let ended = match called {
            Ok(body) => self.poll_to_end(&core, body).await?,
            Err(reason) => {
                let what = "the input of the run".to_owned();
                Ended::Mismatch(Mismatch::Undecodable { what, reason })
            }
        };
        self.settle(&core, ended).await
    }

    /// The journal, and when it was read.
    async fn load(&self) -> Result<(Run, Instant), StoreError> {
        let mut delays = retries();
        loop {
            match self.store.load(&self.hold.id).await {
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
        if let Some(fork) = &envelope.fork {
            self.copy(&mut run.entries, fork).await?;
        }
        let replay = match Replay::new(&run.entries) {
            Ok(replay) => replay,
            Err(mismatch) => return Ok(Err(mismatch)),
        };
        let root = envelope.fork.map_or_else(|| run.info.id.to_string(), |fork| fork.root);
        let Config { max_value, observer, .. } = &self.config;
        let clock = (run.info.now, loaded);
        let core =
            Core::new(run.info.id, run.info.name, root, *max_value, Arc::clone(observer), replay, clock);
        Ok(Ok((Arc::new(core), envelope.input)))
    }

    /// Brings over the entries with which a forked run begins, those that are not there yet.
    async fn copy(&mut self, entries: &mut Vec<Entry>, fork: &entry::Fork) -> Result<(), Refused> {
        let wanted = usize::try_from(fork.entries).unwrap_or(usize::MAX);
        if entries.len() >= wanted {
            return Ok(());
        }
        let from = buttress_store::RunId::try_new(fork.from.as_str()).map_err(|_| Refused::Lost)?;
        let source = self.store.load(&from).await.ok().flatten().ok_or(Refused::Lost)?;
        while entries.len() < wanted {
            let rest = source.entries.iter().skip(entries.len()).take((wanted - entries.len()).min(100));
            let chunk: Vec<NewEntry> = rest.map(|entry| entry.entry.clone()).collect();
            if chunk.is_empty() {
                return Err(Refused::Lost);
            }
            let at = self.append(chunk.clone(), Next::Go).await?.at;
            let first = entries.len() as u64;
            entries.extend((first..).zip(chunk).map(|(seq, entry)| Entry { seq, at, entry }));
        }
        Ok(())
    }

    async fn poll_to_end(
        &mut self,
        core: &Arc<Core>,
        body: BoxFuture<'static, Outcome>,
    ) -> Result<Ended, Refused> {
        let mut code = Polled::new(core, body);
        let mut storing: Option<BoxFuture<'static, Result<Stored, Refused>>> = None;
        let mut patience: Option<Pin<Box<Sleep>>> = None;
        let mut drain: Option<Pin<Box<Sleep>>> = None;
        let mut shutdown = self.shutdown.clone();
        loop {
            let (in_flight, stuck) = (storing.is_some(), patience.is_some());
            let woken = tokio::select! {
                biased;
                stored = some(&mut storing) => Woken::Stored(stored),
                woken = poll_fn(|cx| code.poll(cx, in_flight, stuck)) => woken,
                () = some(&mut patience) => Woken::Impatient,
                () = some(&mut drain) => Woken::Drained,
                _ = shutdown.wait_for(|shutdown| *shutdown), if drain.is_none() => Woken::Shutdown,
            };
            match woken {
                Woken::Stored(stored) => {
                    storing = None;
                    self.stored(core, &stored?);
                }
                Woken::Outgoing => {
                    let (store, hold, seq) = (self.store.clone(), self.hold.clone(), self.seq);
                    let entries = core.dispatch();
                    storing =
                        Some(Box::pin(async move { append(store, hold, seq, entries, Next::Go).await }));
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
                    if let Some(storing) = storing {
                        self.stored(core, &storing.await?);
                    }
                    return Ok(Ended::Stopped);
                }
                Woken::Ended(Ended::Suspended(until))
                    if until < Instant::now() + self.config.suspend_after =>
                {
                    code.awake = Some(until);
                }
                Woken::Ended(ended) => {
                    // The code, with all that it holds, is gone before anything else happens.
                    drop(code);
                    if let Some(storing) = storing {
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

    async fn settle(&mut self, core: &Arc<Core>, ended: Ended) -> Result<RunChange, Refused> {
        let gate = core.lock().gate;
        let rest = core.dispatch();
        match ended {
            Ended::Panicked => Ok(RunChange::Panicked),
            Ended::Mismatch(mismatch) => self.mismatch(&mismatch).await,
            Ended::Suspended(until) => {
                self.give_up(rest, Next::SleepUntil(core.system(until)), RunChange::Released).await
            }
            Ended::Stopped if gate != Gate::Cancel => {
                self.give_up(rest, Next::Yield, RunChange::Released).await
            }
            Ended::Stopped => self.unwind(core, rest, Body { cancelled: true, ..Body::default() }).await,
            Ended::Finished(outcome) => {
                let finished = core.lock().replay.finish();
                if let Err(mismatch) = finished {
                    return self.mismatch(&mismatch).await;
                }
                self.finish(core, rest, outcome).await
            }
        }
    }

    async fn finish(
        &mut self,
        core: &Arc<Core>,
        mut rest: Vec<NewEntry>,
        outcome: Outcome,
    ) -> Result<RunChange, Refused> {
        let too_large = |raw: &RawValue| raw.get().len() > self.config.max_value;
        let reason = match outcome {
            Ok(Ok(value) | Err(value)) if too_large(&value) => {
                format!(
                    "its result has {} bytes, and the bound is {}",
                    value.get().len(),
                    self.config.max_value
                )
            }
            Ok(Ok(value)) if core.lock().replay.unwind.is_none() => {
                rest.push(output(&Body { ok: Some(value), ..Body::default() }));
                return self.give_up(rest, Next::Done, RunChange::Over).await;
            }
            Ok(Err(error)) => {
                return self.unwind(core, rest, Body { err: Some(error), ..Body::default() }).await;
            }
            Ok(Ok(_)) => return self.unwind(core, rest, Body::default()).await,
            Err(reason) => format!("its result cannot be encoded: {reason}"),
        };
        self.give_up(rest, Next::Pause(reason.into()), RunChange::Halted).await
    }

    /// Undoes what was done, in reverse order, and ends the run. What it ends with is what was recorded first.
    async fn unwind(
        &mut self,
        core: &Arc<Core>,
        mut rest: Vec<NewEntry>,
        cause: Body,
    ) -> Result<RunChange, Refused> {
        let (recorded, done, mut steps) = {
            let mut state = core.lock();
            let steps = std::mem::take(&mut state.compensations);
            (state.replay.unwind.clone(), std::mem::take(&mut state.replay.compensated), steps)
        };
        let is_recorded = recorded.is_some();
        let cause = recorded.unwrap_or(cause);
        steps.retain(|step| !done.contains(&(step.id.name.clone(), step.id.occurrence)));
        if !steps.is_empty() && !is_recorded {
            rest.push(entry::write(Kind::Unwind, &"".into(), 0, &cause));
            self.append(std::mem::take(&mut rest), Next::Go).await?;
        }
        for mut step in steps.into_iter().rev() {
            if *self.shutdown.borrow() {
                return self.give_up(rest, Next::Yield, RunChange::Released).await;
            }
            match undo::undo(core, &mut step).await {
                undo::Undone::Yes(took) => {
                    let took = Some(buttress_core::clock::nanos(took) / 1000);
                    let body = Body { n: step.id.ordinal, took, ..Body::default() };
                    rest.push(entry::write(Kind::Compensated, &step.id.name, step.id.occurrence, &body));
                    self.append(std::mem::take(&mut rest), Next::Go).await?;
                }
                undo::Undone::Panicked => return Ok(RunChange::Panicked),
                undo::Undone::Failed(error) => {
                    let reason = format!("{} could not be undone: {error}", step.id);
                    return self.give_up(rest, Next::Pause(reason.into()), RunChange::Halted).await;
                }
            }
        }
        let next = if cause.cancelled { Next::Cancel } else { Next::Fail };
        rest.push(output(&cause));
        self.give_up(rest, next, RunChange::Over).await
    }

    async fn mismatch(&mut self, mismatch: &Mismatch) -> Result<RunChange, Refused> {
        let reason = mismatch.to_string();
        match self.config.on_mismatch {
            OnMismatch::Pause => self.give_up(vec![], Next::Pause(reason.into()), RunChange::Halted).await,
            OnMismatch::Fail => {
                let fault = Some(entry::Fault::NotStored { reason });
                let output = output(&Body { fault, ..Body::default() });
                self.give_up(vec![output], Next::Fail, RunChange::Over).await
            }
        }
    }

    async fn append(&mut self, entries: Vec<NewEntry>, next: Next) -> Result<Stored, Refused> {
        let (count, observer) = (entries.len(), Arc::clone(&self.config.observer));
        let stored = append(self.store.clone(), self.hold.clone(), self.seq, entries, next).await?;
        self.seq = stored.next;
        observer.emit("", || Event::Saved { entries: count });
        Ok(stored)
    }

    /// Stores the last of it, and lets the run go.
    async fn give_up(
        &mut self,
        entries: Vec<NewEntry>,
        next: Next,
        change: RunChange,
    ) -> Result<RunChange, Refused> {
        match self.append(entries, next).await {
            Ok(_) => Ok(change),
            Err(Refused::Lost) => Err(Refused::Lost),
            Err(Refused::TooLarge(error)) => {
                self.append(vec![], Next::Pause(error.to_string().into())).await?;
                Ok(RunChange::Halted)
            }
        }
    }
}

fn output(body: &Body) -> NewEntry {
    entry::write(Kind::Output, &"".into(), 0, body)
}

const PAUSE: Duration = Duration::from_secs(1);

/// The delays between attempts at a store that does not answer.
pub(crate) fn retries() -> impl Iterator<Item = Duration> {
    let backoff = Backoff::exponential(Duration::from_millis(50), 2.0, PAUSE);
    backoff.unwrap_or_default().delays()
}

/// Stores entries for as long as it takes; whoever awaits it stops when the lease ends. A store that failed may have stored
/// them, and says so when it is asked again.
async fn append<S: JournalStore>(
    store: S,
    hold: Hold,
    seq: u64,
    entries: Vec<NewEntry>,
    next: Next,
) -> Result<Stored, Refused> {
    let mut delays = retries();
    loop {
        match store.append(&hold, seq, &entries, &next).await {
            Ok(Appended::Applied { next, at, cancel_requested }) => {
                return Ok(Stored { next, at, cancel: cancel_requested });
            }
            Ok(Appended::Fenced | Appended::Conflict { .. }) => return Err(Refused::Lost),
            Err(error) if error.is_transient() || error.fault() == Fault::Full => {
                sleep(delays.next().unwrap_or(PAUSE)).await;
            }
            Err(error) if error.fault() == Fault::TooLarge => return Err(Refused::TooLarge(error)),
            Err(_) => return Err(Refused::Lost),
        }
    }
}

/// Resolves when a future that may not be there does.
async fn some<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// The code of a run, and what wakes it.
struct Polled {
    core: Arc<Core>,
    body: BoxFuture<'static, Outcome>,
    flag: Arc<Flag>,
    waker: Waker,
    /// A sleep that ends so soon that the run is not put down for it.
    awake: Option<Instant>,
}

/// Whether the code was woken while it was polled.
#[derive(Default)]
struct Flag {
    woken: AtomicBool,
    parent: Mutex<Option<Waker>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        let parent = self.parent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(parent) = parent {
            parent.wake();
        }
    }
}

impl Polled {
    fn new(core: &Arc<Core>, body: BoxFuture<'static, Outcome>) -> Self {
        let flag = Arc::<Flag>::default();
        let waker = Waker::from(Arc::clone(&flag));
        core.driven_by(&waker);
        Self { core: Arc::clone(core), body, flag, waker, awake: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>, in_flight: bool, stuck: bool) -> Poll<Woken> {
        *self.flag.parent.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        loop {
            self.flag.woken.store(false, Ordering::SeqCst);
            let (core, body) = (&self.core, &mut self.body);
            let mut inner = Context::from_waker(&self.waker);
            let polled = catch_unwind(AssertUnwindSafe(|| core.scope(|| body.as_mut().poll(&mut inner))));
            let mut state = core.lock();
            if let Some(fault) = state.fault.take() {
                return Poll::Ready(Woken::Ended(Ended::Mismatch(fault)));
            }
            match polled {
                Err(_) => return Poll::Ready(Woken::Ended(Ended::Panicked)),
                Ok(Poll::Ready(outcome)) => return Poll::Ready(Woken::Ended(Ended::Finished(outcome))),
                Ok(Poll::Pending) => {}
            }
            if !state.outbox.is_empty() && !in_flight {
                return Poll::Ready(Woken::Outgoing);
            }
            drop(state);
            // Something is about to poll it again, and may be all that it waits for.
            if self.flag.woken.load(Ordering::SeqCst) {
                return Poll::Pending;
            }
            let quiet = core.quiet(in_flight, Instant::now());
            match quiet {
                Quiet::Again => {}
                Quiet::Stopped => return Poll::Ready(Woken::Ended(Ended::Stopped)),
                Quiet::Sleeping(until) if self.awake != Some(until) => {
                    return Poll::Ready(Woken::Ended(Ended::Suspended(until)));
                }
                Quiet::Stuck if !stuck => return Poll::Ready(Woken::Stuck(true)),
                Quiet::Busy if stuck => return Poll::Ready(Woken::Stuck(false)),
                Quiet::Stuck | Quiet::Busy | Quiet::Sleeping(_) => return Poll::Pending,
            }
        }
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        // What the code's values do when they are dropped, they do inside of the run.
        let body = std::mem::replace(&mut self.body, Box::pin(std::future::pending()));
        let _ = catch_unwind(AssertUnwindSafe(|| self.core.scope(move || drop(body))));
    }
}
