//! What becomes of a run when its code has ended, or stops.

use std::sync::Arc;

use buttress_core::observe::RunChange;
use buttress_store::{JournalStore, NewEntry, Next};
use serde_json::value::RawValue;

use crate::config::OnMismatch;
use crate::drive::{Driver, Outcome, Refused};
use crate::entry::{self, Body, Kind};
use crate::error::Mismatch;
use crate::polled::Ended;
use crate::run::{Core, Gate};

impl<S: JournalStore> Driver<S> {
    pub(crate) async fn settle(&mut self, core: &Arc<Core>, ended: Ended) -> Result<RunChange, Refused> {
        let gate = core.lock().gate;
        let rest = core.dispatch();
        match ended {
            Ended::Panicked => {
                // What was done beside it must not be done again. The lease is kept, so that the panic counts.
                if !rest.is_empty() {
                    self.append(rest, Next::Go).await?;
                }
                Ok(RunChange::Panicked)
            }
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

pub(crate) fn output(body: &Body) -> NewEntry {
    entry::write(Kind::Output, &"".into(), 0, body)
}
