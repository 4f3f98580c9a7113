//! The decision about one call: who carries it out, and who gets the answer of another.

use std::fmt;
use std::sync::Arc;

use buttress_core::clock::after;
use buttress_core::{Effect, Event, IdempotencyResult, Mode, ModeCell, Observer};
use buttress_store::{
    ClaimRequest, ClaimStore, Claimed, Fault, Fingerprint, Record, ScopedKey, StoreError, Waited,
};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::config::{Config, InFlight};
use crate::error::Error;
use crate::flights::{Flights, Joined, Lead};
use crate::held::Held;
use crate::tasks::{Tasks, within};

pub(crate) struct Engine<St> {
    pub(crate) name: Arc<str>,
    pub(crate) store: St,
    pub(crate) config: Config,
    pub(crate) mode: ModeCell,
    pub(crate) observer: Observer,
    pub(crate) flights: Arc<Flights>,
    pub(crate) tasks: Arc<Tasks>,
}

impl<St> fmt::Debug for Engine<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

pub(crate) enum Decision<St: ClaimStore> {
    Run(Held<St>),
    Replay(Record),
    Refuse(Error),
    /// Carry it out, and store nothing.
    Unprotected,
}

impl<St: ClaimStore> Engine<St> {
    pub(crate) fn report(&self, result: IdempotencyResult) {
        self.observer.emit(&self.name, || Event::Idempotency(result));
    }

    pub(crate) fn in_flight(&self) -> Error {
        Error::InFlight { retry_after: self.config.retry_after }
    }

    /// What to do with a call; reports everything but what is run.
    pub(crate) async fn decide(
        self: &Arc<Self>,
        runtime: &Handle,
        key: &ScopedKey,
        fingerprint: Fingerprint,
    ) -> Decision<St> {
        let observing = self.mode.get() == Mode::Observe;
        let wait = match self.config.in_flight {
            InFlight::Wait(max) if !observing => Some(after(Instant::now(), max)),
            _ => None,
        };
        let decision = loop {
            break match self.flights.join(key, fingerprint) {
                Joined::First(lead) => self.ask(runtime, lead, key, fingerprint, wait).await,
                Joined::Mismatch => Decision::Refuse(Error::Mismatch),
                Joined::Duplicate(first) => {
                    let Some(deadline) = wait else { break Decision::Refuse(self.in_flight()) };
                    match within(deadline.saturating_duration_since(Instant::now()), first.landed()).await {
                        Some(Some(record)) => Decision::Replay(record),
                        Some(None) => continue,
                        None => Decision::Refuse(self.in_flight()),
                    }
                }
            };
        };
        let (result, decision) = match decision {
            Decision::Run(_) => return decision,
            Decision::Replay(_) if observing => (IdempotencyResult::WouldReplay, Decision::Unprotected),
            Decision::Refuse(Error::Store(_)) if observing || self.config.fail_open => {
                (IdempotencyResult::Unprotected, Decision::Unprotected)
            }
            Decision::Refuse(_) if observing => (IdempotencyResult::WouldRefuse, Decision::Unprotected),
            Decision::Replay(_) => (IdempotencyResult::Replayed, decision),
            Decision::Refuse(ref error) => (result_of(error), decision),
            Decision::Unprotected => (IdempotencyResult::Unprotected, decision),
        };
        self.report(result);
        decision
    }

    /// Asks the store, for all callers of this process.
    async fn ask(
        self: &Arc<Self>,
        runtime: &Handle,
        lead: Lead,
        key: &ScopedKey,
        fingerprint: Fingerprint,
        wait: Option<Instant>,
    ) -> Decision<St> {
        if self.tasks.is_closed() {
            return Decision::Refuse(Error::ShuttingDown);
        }
        if self.tasks.detached() >= self.config.max_detached {
            return Decision::Refuse(Error::Overloaded);
        }
        let running = self.tasks.begin();
        loop {
            let request = ClaimRequest::new(key.clone(), fingerprint, self.config.lease);
            let mut asked = Asked { engine: self, runtime, request: Some(&request) };
            let began = Instant::now();
            let claimed = match within(self.config.store_timeout, self.store.claim(&request)).await {
                Some(Ok(claimed)) => claimed,
                Some(Err(error)) => {
                    if error.effect() == Effect::NotSent {
                        asked.request = None;
                    }
                    return Decision::Refuse(Error::Store(error));
                }
                None => {
                    let error = StoreError::new("store", "claim", Fault::Timeout).may_have_been_applied();
                    return Decision::Refuse(Error::Store(error));
                }
            };
            asked.request = None;
            match claimed {
                Claimed::Owned(claim) => {
                    let (engine, runtime) = (Arc::clone(self), runtime.clone());
                    return Decision::Run(Held::new(
                        engine,
                        runtime,
                        claim,
                        fingerprint,
                        lead,
                        running,
                        began,
                    ));
                }
                Claimed::Done(record) => {
                    lead.land(&record);
                    return Decision::Replay(record);
                }
                Claimed::Mismatch => return Decision::Refuse(Error::Mismatch),
                Claimed::InFlight { .. } => {}
            }
            let Some(deadline) = wait else { return Decision::Refuse(self.in_flight()) };
            match self.wait(key, &fingerprint, deadline).await {
                Ok(Waited::Done(record)) => {
                    lead.land(&record);
                    return Decision::Replay(record);
                }
                Ok(Waited::Free) => {}
                Ok(Waited::InFlight { .. }) => return Decision::Refuse(self.in_flight()),
                Ok(Waited::Mismatch) => return Decision::Refuse(Error::Mismatch),
                Err(error) => return Decision::Refuse(Error::Store(error)),
            }
        }
    }

    /// Waits in the store until somebody else's call is over.
    pub(crate) async fn wait(
        &self,
        key: &ScopedKey,
        fingerprint: &Fingerprint,
        deadline: Instant,
    ) -> Result<Waited, StoreError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let bound = left.saturating_add(self.config.store_timeout);
        let waited = within(bound, self.store.wait(key, fingerprint, left)).await;
        waited.unwrap_or_else(|| Err(StoreError::new("store", "wait", Fault::Timeout)))
    }
}

/// A claim that is asked for. If nobody hears the answer, the claim is given back: it would block the key for a lease.
struct Asked<'a, St: ClaimStore> {
    engine: &'a Arc<Engine<St>>,
    runtime: &'a Handle,
    request: Option<&'a ClaimRequest>,
}

impl<St: ClaimStore> Drop for Asked<'_, St> {
    fn drop(&mut self) {
        let Some(request) = self.request.take().cloned() else { return };
        let engine = Arc::clone(self.engine);
        let lease = engine.config.lease;
        // The same owner asks again, which gives the claim that it may have got; beyond a lease nothing is left to give back.
        self.engine.tasks.spawn(self.runtime, lease, async move {
            let mut pause = std::time::Duration::from_millis(50);
            loop {
                match engine.store.claim(&request).await {
                    Ok(Claimed::Owned(claim)) if engine.store.release(&claim).await.is_ok() => return,
                    Ok(Claimed::Owned(_)) | Err(_) => tokio::time::sleep(pause).await,
                    Ok(_) => return,
                }
                pause = (pause * 2).min(lease);
            }
        });
    }
}

pub(crate) fn result_of(error: &Error) -> IdempotencyResult {
    match error {
        Error::InFlight { .. } => IdempotencyResult::InFlight,
        Error::Mismatch => IdempotencyResult::Mismatch,
        Error::KeyMissing
        | Error::KeyInvalid(_)
        | Error::RequestTooLarge { .. }
        | Error::RequestFailed(_) => IdempotencyResult::Invalid,
        Error::Lost { .. } => IdempotencyResult::Lost,
        Error::Unknown | Error::Unreconciled(_) => IdempotencyResult::Unknown,
        Error::AnswerTooLarge | Error::Unreadable(_) => IdempotencyResult::Replayed,
        Error::Store(_) | Error::Overloaded | Error::ShuttingDown | Error::NoRuntime => {
            IdempotencyResult::Unavailable
        }
    }
}
