//! What is told to the store about a claim.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{IdempotencyResult, Timer, within};
use buttress_store::{
    Claim as Stored, ClaimRequest, ClaimStore, Claimed, Fault, Record, StoreError, Waited, Written,
};
use tokio::time::Instant;

use super::{Held, Kept, State};
use crate::config::InFlight;
use crate::flights::Lead;
use crate::outcome::OnPanic;
use crate::returns::{pause, pauses};

impl<St: ClaimStore> Held<St> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn claim(&self) -> Stored {
        self.lock().claim.clone()
    }

    fn land(&self, record: &Record) {
        if let Some(lead) = self.settled_with_lead() {
            lead.land(record);
        }
    }

    /// Nobody gets an answer from this call.
    pub(super) fn settled(&self) {
        if let Some(lead) = self.settled_with_lead() {
            lead.fail();
        }
    }

    fn settled_with_lead(&self) -> Option<Lead> {
        let mut state = self.lock();
        state.settled = true;
        state.lead.take()
    }

    /// The answer of this key, and what that means for this call.
    pub(super) fn end(&self, record: &Record, result: IdempotencyResult) {
        self.engine.report(result);
        self.land(record);
    }

    /// Renews the lease at each third of it, up to the ceiling. Never ends: whoever carries the call out goes on, and learns
    /// when the record is refused that it was lost.
    pub(super) async fn keep(&self) {
        let lease = self.engine.config.lease;
        // A renewal that hangs must not cost the lease.
        let limit = self.engine.config.store_timeout.min(lease / 3);
        let mut next = after(self.claimed, lease / 3);
        // Of what was lost nothing is to be renewed, until it was had again.
        let mut lost = None;
        loop {
            match Timer::at(next) {
                Ok(timer) => timer.await,
                // Without a timer nothing can be renewed.
                Err(_) => return std::future::pending().await,
            }
            let now = Instant::now();
            let left = self.ceiling.saturating_duration_since(now);
            let (claim, lease_ends, settled) = {
                let state = self.lock();
                (state.claim.clone(), state.lease_ends, state.settled)
            };
            if left.is_zero() || settled {
                return std::future::pending().await;
            }
            next = after(now, lease / 3);
            if lost == Some(lease_ends) {
                continue;
            }
            let renewed = lease.min(left);
            match within(limit, self.engine.store.renew(&claim, renewed)).await {
                Some(Ok(Written::Applied)) => self.lock().lease_ends = after(now, renewed),
                Some(Ok(Written::Fenced { .. })) => lost = Some(lease_ends),
                Some(Err(_)) | None => next = after(Instant::now(), lease / 10),
            }
        }
    }

    /// Before an answer is given away that streams: is the claim still this process's? Asked only where its lease may have
    /// ended. The winner's record, or `None` inside if there is none yet.
    #[allow(clippy::option_option, reason = "not taken over, or with a winner, or without one yet")]
    pub(super) async fn taken_over(&self) -> Option<Option<Record>> {
        let config = &self.engine.config;
        if Instant::now() < self.lock().lease_ends {
            return None;
        }
        let claim = self.claim();
        let renewed = within(config.store_timeout, self.engine.store.renew(&claim, config.lease)).await;
        match renewed {
            Some(Ok(Written::Fenced { winner: Some(winner) })) => Some(Some(winner)),
            Some(Ok(Written::Fenced { winner: None })) => match self.wait_for_winner().await {
                Some(Waited::Done(winner)) => Some(Some(winner)),
                Some(Waited::InFlight { .. } | Waited::Mismatch) => Some(None),
                Some(Waited::Free) | None => None,
            },
            _ => None,
        }
    }

    pub(super) async fn wait_for_winner(&self) -> Option<Waited> {
        let max = match self.engine.config.in_flight {
            InFlight::Wait(max) => max,
            InFlight::Refuse => Duration::ZERO,
        };
        let deadline = after(Instant::now(), max);
        self.engine.wait(self.claim().key(), &self.fingerprint, deadline).await.ok()
    }

    #[cfg(feature = "postgres")]
    pub(super) async fn winner(&self) -> Option<Record> {
        match self.wait_for_winner().await {
            Some(Waited::Done(winner)) => Some(winner),
            _ => None,
        }
    }

    /// The effect has recorded its answer itself, if it has committed.
    #[cfg(feature = "postgres")]
    async fn look_for_record(&self, record: &Record) -> Kept {
        match self.engine.wait(self.claim().key(), &self.fingerprint, Instant::now()).await {
            Ok(Waited::Done(found)) if found == *record => Kept::Stored,
            Ok(Waited::Done(found)) => Kept::Winner(found),
            Ok(_) => Kept::Lost,
            Err(_) => Kept::Failed,
        }
    }

    pub(super) async fn keep_record(&self, record: &Record) -> Kept {
        #[cfg(feature = "postgres")]
        if self.shown.transaction.was_tried() {
            return self.look_for_record(record).await;
        }
        match self.complete(record).await {
            Ok(Written::Applied) => Kept::Stored,
            Ok(Written::Fenced { winner: Some(winner) }) => Kept::Winner(winner),
            Ok(Written::Fenced { winner: None }) => self.keep_anew(record).await,
            Err(_) => Kept::Failed,
        }
    }

    /// The claim is gone. If nobody has taken the key, this answer still is the answer.
    async fn keep_anew(&self, record: &Record) -> Kept {
        let (engine, lost) = (&self.engine, self.claim());
        // The same owner each time: it may have got the claim, and not heard of it.
        let request = ClaimRequest::new(lost.key().clone(), self.fingerprint, engine.config.lease);
        let request = request.owned_by(lost.owner());
        let lease_ends = after(Instant::now(), engine.config.lease);
        match within(engine.config.store_timeout, engine.store.claim(&request)).await {
            Some(Ok(Claimed::Owned(claim))) => {
                {
                    let mut state = self.lock();
                    (state.claim, state.lease_ends) = (claim, lease_ends);
                }
                match self.complete(record).await {
                    Ok(Written::Applied) => Kept::Stored,
                    Ok(Written::Fenced { winner: Some(winner) }) => Kept::Winner(winner),
                    Ok(Written::Fenced { winner: None }) => Kept::Lost,
                    Err(_) => Kept::Failed,
                }
            }
            Some(Ok(Claimed::Done(winner))) => Kept::Winner(winner),
            Some(Ok(Claimed::Mismatch)) => Kept::Lost,
            Some(Ok(Claimed::InFlight { .. })) => match self.wait_for_winner().await {
                Some(Waited::Done(winner)) => Kept::Winner(winner),
                _ => Kept::Lost,
            },
            Some(Err(_)) | None => Kept::Failed,
        }
    }

    async fn complete(&self, record: &Record) -> Result<Written, StoreError> {
        let (engine, claim) = (&self.engine, self.claim());
        let timeout = engine.config.store_timeout;
        let timed_out = || StoreError::new("store", "complete", Fault::Timeout).may_have_been_applied();
        let complete = async |record| {
            let completed = within(timeout, engine.store.complete(&claim, record, engine.config.ttl)).await;
            completed.unwrap_or_else(|| Err(timed_out()))
        };
        match complete(record).await {
            // The effect is done, whatever there is room for.
            Err(error) if error.fault() == Fault::TooLarge => complete(&Record::TooLarge).await,
            completed => completed,
        }
    }

    /// The caller has the answer; the store will have it when it can, as long as the lease is renewed.
    pub(super) async fn keep_trying(&self, record: &Record) {
        let mut pauses = pauses();
        while Instant::now() < self.ceiling && pause(&mut pauses).await {
            match self.keep_record(record).await {
                Kept::Failed => {}
                Kept::Stored => return self.end(record, IdempotencyResult::Recorded),
                Kept::Winner(winner) => return self.end(&winner, IdempotencyResult::Lost),
                Kept::Lost => {
                    self.engine.report(IdempotencyResult::Lost);
                    return self.settled();
                }
            }
        }
    }

    /// The effect has not begun: the key is free, or, if the store fails, it will be as soon as this is dropped and the store
    /// has taken that.
    pub(super) async fn release(&self) {
        self.lock().free = true;
        let engine = &self.engine;
        let released = within(engine.config.store_timeout, engine.store.release(&self.claim())).await;
        if let Some(Ok(written)) = released {
            self.settled();
            engine.report(what_release_says(written == Written::Applied));
        }
    }

    /// Nobody knows what the effect came to.
    pub(super) async fn leave(&self) {
        self.engine.report(IdempotencyResult::Unknown);
        let engine = &self.engine;
        if let Some(hold) = engine.config.hold_unknown {
            let _ = within(engine.config.store_timeout, engine.store.renew(&self.claim(), hold)).await;
        }
        self.settled();
    }
}

fn what_release_says(released: bool) -> IdempotencyResult {
    if released { IdempotencyResult::Released } else { IdempotencyResult::Unknown }
}

impl<St: ClaimStore> Drop for Held<St> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.settled {
            return;
        }
        let (lead, claim, answer) = (state.lead.take(), state.claim.clone(), state.answer.take());
        #[cfg(feature = "postgres")]
        let answer = answer.filter(|_| !self.shown.transaction.was_tried());
        let begun = self.begun.load(Ordering::Acquire);
        let config = &self.engine.config;
        let released_by_panic = std::thread::panicking() && config.on_panic == OnPanic::Release;
        let free = answer.is_none() && (!begun || state.free || released_by_panic);
        // Whoever waits learns it when the key can be asked for.
        let next = move || match lead {
            Some(lead) if begun => lead.fail(),
            lead => drop(lead),
        };
        if !free && answer.is_none() && config.hold_unknown.is_none() {
            self.engine.report(IdempotencyResult::Unknown);
            return next();
        }
        let (engine, running, end) = (Arc::clone(&self.engine), self.running.take(), self.ceiling);
        let limit = config.ceiling;
        self.engine.tasks.spawn(&self.runtime, limit, async move {
            let timeout = engine.config.store_timeout;
            let result = if free {
                what_release_says(engine.release_until(&claim, end).await)
            } else if let Some(record) = &answer {
                match within(timeout, engine.store.complete(&claim, record, engine.config.ttl)).await {
                    Some(Ok(Written::Applied)) => super::executed(record),
                    Some(Ok(Written::Fenced { .. })) => IdempotencyResult::Lost,
                    Some(Err(_)) | None => IdempotencyResult::Unknown,
                }
            } else {
                let hold = engine.config.hold_unknown.unwrap_or_default();
                let _ = within(timeout, engine.store.renew(&claim, hold)).await;
                IdempotencyResult::Unknown
            };
            engine.report(result);
            next();
            drop(running);
        });
    }
}
