//! What becomes of a run when its code has ended, or stops.

use std::sync::Arc;

use buttress_core::Event;
use buttress_core::clock::nanos;
use buttress_core::observe::RunChange;
use buttress_store::{JournalStore, NewEntry, Next};
use serde_json::value::RawValue;

use crate::config::{Config, OnMismatch};
use crate::drive::{Driver, Outcome, Refused, short};
use crate::entry::{self, Body, Kind};
use crate::error::Mismatch;
use crate::polled::Ended;
use crate::run::{Core, Gate};

impl<S: JournalStore> Driver<S> {
    pub(crate) async fn settle(&mut self, core: &Arc<Core>, ended: Ended) -> Result<RunChange, Refused> {
        let gate = core.lock().gate;
        let rest = core.dispatch();
        match ended {
            Ended::Panicked(reason) => self.panicked(core, rest, reason).await,
            Ended::Mismatch(mismatch) => self.mismatch(rest, &mismatch).await,
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
                    return self.mismatch(rest, &mismatch).await;
                }
                self.finish(core, rest, outcome).await
            }
        }
    }

    /// The run is given back, so that whoever is free runs it again after a while; after too many of them in a row somebody has
    /// to look. What was done beside a panic is not done again.
    pub(crate) async fn panicked(
        &mut self,
        core: &Arc<Core>,
        mut rest: Vec<NewEntry>,
        reason: String,
    ) -> Result<RunChange, Refused> {
        let earlier = if rest.is_empty() { core.lock().replay.panics } else { 0 };
        let attempt = earlier.saturating_add(1);
        let Config { panics, max_recoveries, observer, .. } = &self.config;
        let delay = panics.delays().nth(earlier as usize).filter(|_| attempt <= *max_recoveries);
        let wait = delay.map(|delay| nanos(delay) / 1000);
        let Some(delay) = delay else {
            let told = format!(
                "its code panicked {attempt} times and recorded nothing in between, at last with: {reason}"
            );
            observer.emit(&self.name, || Event::Run {
                run: core.id.as_str().into(),
                change: RunChange::Panicked,
            });
            rest.push(panic_entry(attempt, wait, reason));
            return self.give_up(rest, Next::Park(short(&told)), RunChange::Halted).await;
        };
        rest.push(panic_entry(attempt, wait, reason));
        self.give_up(rest, Next::Sleep(delay), RunChange::Panicked).await
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
        self.pause(rest, &reason).await
    }

    /// What is recorded stays as it is. `rest` is what was done beside it, and is nothing in a replay.
    pub(crate) async fn mismatch(
        &mut self,
        mut rest: Vec<NewEntry>,
        mismatch: &Mismatch,
    ) -> Result<RunChange, Refused> {
        let reason = mismatch.to_string();
        match self.config.on_mismatch {
            OnMismatch::Pause => self.pause(rest, &reason).await,
            OnMismatch::Fail => {
                let fault = Some(entry::Fault::Mismatch { reason });
                rest.push(output(&Body { fault, ..Body::default() }));
                self.give_up(rest, Next::Fail, RunChange::Over).await
            }
        }
    }
}

fn panic_entry(attempt: u32, wait: Option<u64>, reason: String) -> NewEntry {
    let fault = Some(entry::Fault::Panicked { reason });
    entry::write(Kind::Panicked, &"".into(), 0, &Body { attempt, wait, fault, ..Body::default() })
}

pub(crate) fn output(body: &Body) -> NewEntry {
    entry::write(Kind::Output, &"".into(), 0, body)
}
