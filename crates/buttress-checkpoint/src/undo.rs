//! Undoes what a run has done.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use buttress_core::StepKey;
use buttress_core::clock::{Seconds, nanos};
use buttress_core::observe::RunChange;
use buttress_store::{JournalStore, NewEntry, Next};
use tokio::time::{Instant, sleep, sleep_until};

use crate::drive::{Driver, Refused, cut, told};
use crate::entry::{self, Body, Fault, Kind, MAX_TEXT};
use crate::error::StepId;
use crate::polled::panicked;
use crate::replay::{self, Marks};
use crate::run::{Compensation, Core};
use crate::settle::output;

/// How an attempt at undoing a step ended.
enum Undone {
    Yes(Duration),
    No(String),
    /// Its result is not of the type that is undone.
    Undecodable(String),
    /// With this text: it is tried again by code that is built anew.
    Panicked(String),
    /// The worker shuts down.
    Stopped,
}

impl<S: JournalStore> Driver<S> {
    /// Undoes what was done, in reverse order, and ends the run. What it ends with is what was recorded first.
    pub(crate) async fn unwind(
        &mut self,
        core: &Arc<Core>,
        mut rest: Vec<NewEntry>,
        cause: Body,
    ) -> Result<RunChange, Refused> {
        let (recorded, done, mut undoing, steps) = {
            let mut state = core.lock();
            let steps = std::mem::take(&mut state.compensations);
            let replay = &mut state.replay;
            let (done, undoing) =
                (std::mem::take(&mut replay.compensated), std::mem::take(&mut replay.undoing));
            (replay.unwind.clone(), done, undoing, steps)
        };
        let mut steps: Vec<Compensation> = steps.into_values().collect();
        let is_recorded = recorded.is_some();
        let cause = recorded.unwrap_or(cause);
        steps.retain(|step| !done.contains(&(step.id.name.clone(), step.id.occurrence)));
        if !steps.is_empty() && !is_recorded {
            rest.push(entry::write(Kind::Unwind, &"".into(), 0, &cause));
            self.append(std::mem::take(&mut rest), Next::Go).await?;
        }
        for mut step in steps.into_iter().rev() {
            let marks = undoing.remove(&(step.id.name.clone(), step.id.occurrence)).unwrap_or_default();
            if let Some(change) = self.undo(core, &mut step, marks).await? {
                return Ok(change);
            }
        }
        let next = if cause.cancelled { Next::Cancel } else { Next::Fail };
        rest.push(output(&cause));
        self.give_up(rest, next, RunChange::Over).await
    }

    /// Undoes one step, with as many attempts as are left. Gives what becomes of the run if that does not succeed.
    async fn undo(
        &mut self,
        core: &Arc<Core>,
        step: &mut Compensation,
        mut marks: Marks,
    ) -> Result<Option<RunChange>, Refused> {
        loop {
            let mut body = Body { n: step.id.ordinal, attempt: marks.attempts + 1, ..Body::default() };
            let undone = self.attempt(core, step, &marks).await;
            match undone {
                Undone::Yes(took) => {
                    body.took = Some(nanos(took) / 1000);
                    let entry = entry::write(Kind::Compensated, &step.id.name, step.id.occurrence, &body);
                    self.append(vec![entry], Next::Go).await?;
                    return Ok(None);
                }
                Undone::Stopped => {
                    return self.give_up(vec![], Next::Yield, RunChange::Released).await.map(Some);
                }
                Undone::Undecodable(error) => {
                    return self.not_undone(&step.id, &error).await.map(Some);
                }
                Undone::No(mut error) => {
                    cut(&mut error, MAX_TEXT);
                    let (entry, delay) = self.failed(&step.id, &mut marks, &mut body, &error);
                    let stored = self.append(vec![entry], Next::Go).await?;
                    if delay.is_none() {
                        return self.not_undone(&step.id, &error).await.map(Some);
                    }
                    core.lock().clock = (stored.at, Instant::now());
                    marks.until = replay::wake(stored.at, &body);
                }
                Undone::Panicked(text) => {
                    let error = format!("a panic: {text}");
                    return match self.failed(&step.id, &mut marks, &mut body, &error) {
                        (entry, Some(delay)) => {
                            self.give_up(vec![entry], Next::Sleep(delay), RunChange::Panicked).await
                        }
                        (entry, None) => {
                            self.append(vec![entry], Next::Go).await?;
                            self.not_undone(&step.id, &error).await
                        }
                    }
                    .map(Some);
                }
            }
        }
    }

    /// What is recorded of a failed attempt, and for how long to wait before the next, if there is one.
    fn failed(
        &self,
        step: &StepId,
        marks: &mut Marks,
        body: &mut Body,
        error: &str,
    ) -> (NewEntry, Option<Duration>) {
        marks.attempts += 1;
        let delay = self.undo_delay(marks.attempts);
        body.wait = delay.map(|delay| nanos(delay) / 1000);
        body.fault = Some(Fault::NotUndone { reason: error.to_owned() });
        (entry::write(Kind::NotUndone, &step.name, step.occurrence, body), delay)
    }

    /// Somebody has to look.
    async fn not_undone(&mut self, step: &StepId, error: &str) -> Result<RunChange, Refused> {
        self.pause(vec![], &format!("{step} could not be undone: {error}")).await
    }

    /// For how long to wait after so many failed attempts, over all workers; `None` if somebody has to look first. Each time
    /// that the run is resumed it is tried once more.
    fn undo_delay(&self, failed: u32) -> Option<Duration> {
        let (backoff, max) = &self.config.undo;
        if failed <= *max { backoff.delays().nth(failed as usize - 1) } else { None }
    }

    /// One attempt, once it is due. A shutdown does not wait for one that is not, and for one that is under way as long as for
    /// a step.
    async fn attempt(&self, core: &Arc<Core>, step: &mut Compensation, marks: &Marks) -> Undone {
        let mut shutdown = self.shutdown.clone();
        let due = async {
            if let Some(until) = marks.until {
                sleep_until(core.instant(until)).await;
            }
        };
        tokio::select! {
            biased;
            () = told(&mut shutdown) => return Undone::Stopped,
            () = due => {}
        }
        let drained = async {
            told(&mut shutdown).await;
            sleep(self.config.drain).await;
        };
        let limit = self.config.undo_timeout;
        tokio::select! {
            biased;
            undone = undo_once(core, step) => undone,
            () = drained => Undone::Stopped,
            () = sleep(limit) => Undone::No(format!("it did not end within {}", Seconds(limit))),
        }
    }
}

async fn undo_once(core: &Arc<Core>, step: &mut Compensation) -> Undone {
    let began = Instant::now();
    // A key of its own, which no step can have: it is another call than the one that it takes back.
    let key = core.key_of(&format!("compensate\0{}", step.id.name), step.id.occurrence);
    let Compensation { id, value, undo } = step;
    let called = || core.scope(|| core.in_step(id, || undo(value)));
    let mut future = match catch_unwind(AssertUnwindSafe(called)) {
        Ok(Ok(future)) => Box::pin(StepKey::scope(key, future)),
        Ok(Err(error)) => return Undone::Undecodable(error),
        Err(payload) => return Undone::Panicked(panicked(&*payload, None)),
    };
    let ended = poll_fn(|cx| {
        let poll = || core.scope(|| core.in_step(id, || future.as_mut().poll(cx)));
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(polled) => polled.map(Ok),
            Err(payload) => Poll::Ready(Err(panicked(&*payload, None))),
        }
    });
    match ended.await {
        Err(text) => Undone::Panicked(text),
        Ok(Ok(())) => Undone::Yes(began.elapsed()),
        Ok(Err(error)) => Undone::No(error),
    }
}
