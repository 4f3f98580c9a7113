//! The decision about one call: who carries it out, and who gets the answer of another.

use std::fmt;
use std::sync::Arc;

use buttress_core::clock::after;
use buttress_core::{Effect, Event, IdempotencyResult, Mode, ModeCell, Observer, within};
use buttress_store::{
    ClaimRequest, ClaimStore, Claimed, Fault, Fingerprint, Record, ScopedKey, StoreError, Waited,
};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::config::{Config, InFlight};
use crate::error::Error;
use crate::flights::{Flights, Followed, Joined, Lead};
use crate::held::Held;
use crate::returns::Returns;
use crate::tasks::{Running, Tasks};

pub(crate) struct Engine<St> {
    pub(crate) name: Arc<str>,
    pub(crate) store: St,
    pub(crate) config: Config,
    pub(crate) mode: ModeCell,
    pub(crate) observer: Observer,
    pub(crate) flights: Arc<Flights>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) returns: Returns,
}

impl<St> fmt::Debug for Engine<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[allow(clippy::large_enum_variant, reason = "to be run is the common case")]
pub(crate) enum Decision<St: ClaimStore> {
    Run(Held<St>),
    Replay(Record),
    Refuse(Error),
    /// Carry it out, and store nothing. To be held until that is over.
    Unprotected(Unprotected),
}

/// A call that is carried out although nothing is claimed for it.
#[derive(Debug)]
pub(crate) struct Unprotected {
    /// Its duplicates at this process find it.
    lead: Option<Lead>,
    _running: Running,
}

impl Drop for Unprotected {
    fn drop(&mut self) {
        if let Some(lead) = self.lead.take() {
            lead.fail();
        }
    }
}

impl<St: ClaimStore> Engine<St> {
    pub(crate) fn report(&self, result: IdempotencyResult) {
        self.observer.emit(&self.name, || Event::Idempotency(result));
    }

    pub(crate) fn in_flight(&self) -> Error {
        Error::InFlight { retry_after: self.config.retry_after }
    }

    pub(crate) fn unprotected(&self) -> Unprotected {
        Unprotected { lead: None, _running: self.tasks.begin() }
    }

    /// What to do with a call; reports everything but what is run. `waits` hears of it when it is to wait for another one.
    pub(crate) async fn decide(
        self: &Arc<Self>,
        runtime: &Handle,
        key: &ScopedKey,
        fingerprint: Fingerprint,
        mut waits: impl FnMut(),
    ) -> Decision<St> {
        let observing = self.mode.get() == Mode::Observe;
        let wait = match self.config.in_flight {
            InFlight::Wait(max) if !observing => Some(after(Instant::now(), max)),
            _ => None,
        };
        let decision = match (self.flights.join(key, fingerprint), wait) {
            (Joined::First(lead), _) => self.ask(runtime, lead, key, fingerprint, (wait, waits)).await,
            (Joined::Duplicate(_), None) => Decision::Refuse(self.in_flight()),
            (Joined::Duplicate(first), Some(deadline)) => {
                waits();
                match within(deadline.saturating_duration_since(Instant::now()), first.wait()).await {
                    Some(Followed::Landed(record)) => Decision::Replay(record),
                    Some(Followed::Lead(lead)) => {
                        self.ask(runtime, lead, key, fingerprint, (wait, waits)).await
                    }
                    Some(Followed::Failed) | None => Decision::Refuse(self.in_flight()),
                }
            }
        };
        let (result, decision) = match decision {
            Decision::Run(_) => return decision,
            Decision::Replay(_) if observing => {
                (IdempotencyResult::WouldReplay, Decision::Unprotected(self.unprotected()))
            }
            Decision::Refuse(Error::Store(_)) if observing => {
                (IdempotencyResult::Unprotected, Decision::Unprotected(self.unprotected()))
            }
            Decision::Refuse(_) if observing => {
                (IdempotencyResult::WouldRefuse, Decision::Unprotected(self.unprotected()))
            }
            Decision::Replay(_) => (IdempotencyResult::Replayed, decision),
            Decision::Refuse(ref error) => (result_of(error), decision),
            Decision::Unprotected(_) => (IdempotencyResult::Unprotected, decision),
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
        (wait, mut waits): (Option<Instant>, impl FnMut()),
    ) -> Decision<St> {
        // A shutdown that sees nothing running has closed before this, which then sees that.
        let running = self.tasks.begin();
        if self.tasks.is_closed() {
            return Decision::Refuse(Error::ShuttingDown);
        }
        if self.tasks.detached() >= self.config.max_detached {
            return Decision::Refuse(Error::Overloaded);
        }
        let mut has_owner = false;
        loop {
            let began = Instant::now();
            match self.claim(runtime, key, fingerprint).await {
                Ok(Claimed::Owned(claim)) => {
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
                Ok(Claimed::Done(record)) => {
                    lead.land(&record);
                    return Decision::Replay(record);
                }
                Ok(Claimed::Mismatch) => return Decision::Refuse(Error::Mismatch),
                Ok(Claimed::InFlight { .. }) => has_owner = true,
                // Around a store that has named an owner nothing goes, nor around one that has something and cannot say what.
                Err(error) if self.config.fail_open && !has_owner && is_absent(&error) => {
                    return Decision::Unprotected(Unprotected { lead: Some(lead), _running: running });
                }
                Err(error) => {
                    lead.fail();
                    return Decision::Refuse(Error::Store(error));
                }
            }
            let Some(deadline) = wait else { return Decision::Refuse(self.in_flight()) };
            waits();
            match self.wait(key, &fingerprint, deadline).await {
                Ok(Waited::Done(record)) => {
                    lead.land(&record);
                    return Decision::Replay(record);
                }
                Ok(Waited::Free) => {}
                Ok(Waited::InFlight { .. }) => return Decision::Refuse(self.in_flight()),
                Err(_) => {
                    lead.fail();
                    return Decision::Refuse(self.in_flight());
                }
                Ok(Waited::Mismatch) => return Decision::Refuse(Error::Mismatch),
            }
        }
    }

    async fn claim(
        self: &Arc<Self>,
        runtime: &Handle,
        key: &ScopedKey,
        fingerprint: Fingerprint,
    ) -> Result<Claimed, StoreError> {
        let request = ClaimRequest::new(key.clone(), fingerprint, self.config.lease);
        let mut asked = Asked { engine: self, runtime, request: Some(&request) };
        let claimed = within(self.config.store_timeout, self.store.claim(&request)).await;
        let claimed = claimed.unwrap_or_else(|| {
            Err(StoreError::new("store", "claim", Fault::Timeout).may_have_been_applied())
        });
        let heard = claimed.as_ref().map_or_else(|error| error.effect() == Effect::NotSent, |_| true);
        if heard {
            asked.request = None;
        }
        claimed
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
        if let Some(request) = self.request.take() {
            self.engine.give_back(self.runtime, request.clone());
        }
    }
}

/// Whether the store is not there, or has no room, which says nothing about the key.
fn is_absent(error: &StoreError) -> bool {
    error.is_transient() || matches!(error.fault(), Fault::Full | Fault::Closed)
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
