//! A claim that this process holds, from the store's answer to its end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{Captured, IdempotencyResult, Seal, Timer};
use buttress_store::{
    Claim as Stored, ClaimRequest, ClaimStore, Claimed, Fault, Fingerprint, Record, StoreError, Waited,
    Written,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::config::InFlight;
use crate::engine::Engine;
use crate::error::Error;
use crate::flights::Lead;
use crate::key::Claim;
use crate::outcome::{OnPanic, OnUnknown, Outcome, Reconciled};
use crate::protocol::Protocol;
use crate::tasks::{Running, race, within};

/// Dropped before the effect has begun, it gives the claim back; after that, it leaves it to its lease.
pub(crate) struct Held<St: ClaimStore> {
    engine: Arc<Engine<St>>,
    runtime: Handle,
    claim: Stored,
    fingerprint: Fingerprint,
    state: Mutex<State>,
    /// Shared with the future of the call, which is carried on from here even if it is dropped.
    begun: Arc<AtomicBool>,
    claimed: Instant,
    ceiling: Instant,
    running: Option<Running>,
}

struct State {
    lead: Option<Lead>,
    /// When the lease ends, as far as this process knows: as if the store had begun it when it was asked.
    lease_ends: Instant,
    settled: bool,
}

/// Hands the answer over, once.
fn give<T>(waiting: &mut Option<(oneshot::Sender<T>, T)>) {
    if let Some((reply, answer)) = waiting.take() {
        // Whoever asked may be gone.
        let _ = reply.send(answer);
    }
}

/// What a record came to.
enum Kept {
    Stored,
    /// Somebody else's answer counts.
    Winner(Record),
    /// Somebody else is at it.
    Lost,
    Failed,
}

type Reply<P, Res, E> =
    oneshot::Sender<Result<<P as Protocol<Res, E>>::Response, <P as Protocol<Res, E>>::Error>>;

/// An answer that is not given yet.
type Waiting<P, Res, E> =
    Option<(Reply<P, Res, E>, Result<<P as Protocol<Res, E>>::Response, <P as Protocol<Res, E>>::Error>)>;

impl<St: ClaimStore> Held<St> {
    pub(crate) fn new(
        engine: Arc<Engine<St>>,
        runtime: Handle,
        claim: Stored,
        fingerprint: Fingerprint,
        lead: Lead,
        running: Running,
        claimed: Instant,
    ) -> Self {
        let ceiling = after(claimed, engine.config.ceiling);
        let lease_ends = after(claimed, engine.config.lease);
        let state = Mutex::new(State { lead: Some(lead), lease_ends, settled: false });
        let begun = Arc::new(AtomicBool::new(false));
        Self { engine, runtime, claim, fingerprint, state, begun, claimed, ceiling, running: Some(running) }
    }

    /// Carries the call out, and records what it came to; answers as soon as that is known.
    pub(crate) async fn drive<P, Res, E, F>(
        mut self,
        begun: Arc<AtomicBool>,
        protocol: &P,
        effect: impl FnOnce(Claim) -> F,
        reply: Reply<P, Res, E>,
    ) where
        P: Protocol<Res, E>,
        F: Future<Output = Result<Res, E>>,
    {
        self.begun = begun;
        let held = &self;
        let work = async move {
            let claim = Claim { claim: held.claim.clone() };
            let known = match held.claim.unfinished() {
                0 => None,
                _ => held.look_first(protocol, &claim).await,
            };
            if let Some(answer) = known {
                let answer = answer.and_then(|record| protocol.restore(&record));
                let _ = reply.send(answer.or_else(|error| protocol.refuse(error)));
                return;
            }
            held.begun.store(true, Ordering::Release);
            let answer = effect(claim).await;
            held.settle(protocol, answer, reply).await;
        };
        race(work, held.keep()).await;
    }

    /// Earlier owners left the effect unknown: an answer, if this call is not to be carried out.
    async fn look_first<P, Res, E>(&self, protocol: &P, claim: &Claim) -> Option<Result<Record, Error>>
    where
        P: Protocol<Res, E>,
    {
        let found = match protocol.reconcile(claim) {
            Some(looking) => looking.await,
            None if self.engine.config.on_unknown == OnUnknown::Reject => Ok(Reconciled::Unknown),
            None => Ok(Reconciled::NotDone),
        };
        let record = match found {
            Ok(Reconciled::NotDone) => return None,
            Ok(Reconciled::Done(record)) => record,
            Ok(Reconciled::Unknown) => Record::Unknown,
            Err(error) => {
                self.release().await;
                return Some(Err(Error::Unreconciled(error)));
            }
        };
        Some(match self.keep_record(&record).await {
            Kept::Stored => {
                self.land(&record);
                Ok(record)
            }
            Kept::Winner(record) => Ok(record),
            Kept::Lost => Err(self.lost()),
            Kept::Failed => {
                let error = StoreError::new("store", "complete", Fault::Unavailable);
                Err(Error::Store(error))
            }
        })
    }

    async fn settle<P, Res, E>(&self, protocol: &P, answer: Result<Res, E>, reply: Reply<P, Res, E>)
    where
        P: Protocol<Res, E>,
    {
        let response = match protocol.judge(answer) {
            (Outcome::Definitive, Ok(response)) => response,
            (outcome, answer) => {
                match outcome {
                    Outcome::NotExecuted => self.release().await,
                    Outcome::Definitive | Outcome::Unknown => self.leave().await,
                }
                let _ = reply.send(answer.map(|response| protocol.unstored(response, false)));
                return;
            }
        };
        if let Some(taken) = self.taken_over().await {
            let _ = reply.send(self.answer_of(protocol, taken.as_ref()));
            return;
        }
        let (live, recording) = protocol.capture(response);
        let mut recording = pin!(recording);
        let mut waiting = Some((reply, Ok(live)));
        let recorded = match poll_fn(|cx| Poll::Ready(recording.as_mut().poll(cx))).await {
            Poll::Ready(recorded) => Some(recorded),
            Poll::Pending => {
                // It streams from here on. A body that nobody ends is recorded until the ceiling, or for a lease if that has passed.
                give(&mut waiting);
                let left = self.ceiling.saturating_duration_since(Instant::now());
                within(left.max(self.engine.config.lease), recording).await
            }
        };
        let Some(Ok(Captured { record, seal })) = recorded else {
            self.leave().await;
            give(&mut waiting);
            return;
        };
        match self.keep_record(&record).await {
            Kept::Stored => {
                self.report_kept(&record);
                self.land(&record);
                give(&mut waiting);
                seal.release();
            }
            Kept::Failed => {
                self.engine.report(IdempotencyResult::Unrecorded);
                give(&mut waiting);
                seal.release();
                self.keep_trying(&record).await;
            }
            Kept::Winner(winner) => self.concede(protocol, Some(&winner), waiting, seal),
            Kept::Lost => self.concede(protocol, None, waiting, seal),
        }
    }

    /// Somebody else's answer counts: the caller gets that, or, if it has read a part of this one, an error.
    fn concede<P, Res, E>(
        &self,
        protocol: &P,
        winner: Option<&Record>,
        waiting: Waiting<P, Res, E>,
        seal: Seal,
    ) where
        P: Protocol<Res, E>,
    {
        match waiting {
            Some((reply, _)) => {
                let _ = reply.send(self.answer_of(protocol, winner));
            }
            None => {
                self.engine.report(IdempotencyResult::Lost);
                self.settled();
                seal.fail(self.lost());
            }
        }
    }

    fn answer_of<P, Res, E>(&self, protocol: &P, winner: Option<&Record>) -> Result<P::Response, P::Error>
    where
        P: Protocol<Res, E>,
    {
        self.engine.report(IdempotencyResult::Lost);
        let answer = match winner {
            Some(record) => {
                self.land(record);
                protocol.restore(record)
            }
            None => {
                self.settled();
                Err(self.lost())
            }
        };
        answer.or_else(|error| protocol.refuse(error))
    }

    fn lost(&self) -> Error {
        Error::Lost { retry_after: self.engine.config.retry_after }
    }

    /// Before an answer is given away that streams: is the claim still this process's? Asked only where its lease may have
    /// ended. The winner's record, or `None` inside if there is none yet.
    #[allow(clippy::option_option, reason = "not taken over, or with a winner, or without one yet")]
    async fn taken_over(&self) -> Option<Option<Record>> {
        let engine = &self.engine;
        if Instant::now() < self.lock().lease_ends {
            return None;
        }
        let renewed =
            within(engine.config.store_timeout, engine.store.renew(&self.claim, engine.config.lease)).await;
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

    async fn wait_for_winner(&self) -> Option<Waited> {
        let max = match self.engine.config.in_flight {
            InFlight::Wait(max) => max,
            InFlight::Refuse => Duration::ZERO,
        };
        let deadline = after(Instant::now(), max);
        self.engine.wait(self.claim.key(), &self.fingerprint, deadline).await.ok()
    }

    async fn keep_record(&self, record: &Record) -> Kept {
        match self.complete(&self.claim, record).await {
            Ok(Written::Applied) => Kept::Stored,
            Ok(Written::Fenced { winner: Some(winner) }) => Kept::Winner(winner),
            Ok(Written::Fenced { winner: None }) => self.keep_anew(record).await,
            Err(_) => Kept::Failed,
        }
    }

    /// The claim is gone. If nobody has taken the key, this answer still is the answer.
    async fn keep_anew(&self, record: &Record) -> Kept {
        let engine = &self.engine;
        let request = ClaimRequest::new(self.claim.key().clone(), self.fingerprint, engine.config.lease);
        match within(engine.config.store_timeout, engine.store.claim(&request)).await {
            Some(Ok(Claimed::Owned(claim))) => match self.complete(&claim, record).await {
                Ok(Written::Applied) => Kept::Stored,
                Ok(Written::Fenced { winner: Some(winner) }) => Kept::Winner(winner),
                Ok(Written::Fenced { winner: None }) => Kept::Lost,
                Err(_) => Kept::Failed,
            },
            Some(Ok(Claimed::Done(winner))) => Kept::Winner(winner),
            Some(Ok(Claimed::Mismatch)) => Kept::Lost,
            Some(Ok(Claimed::InFlight { .. })) => match self.wait_for_winner().await {
                Some(Waited::Done(winner)) => Kept::Winner(winner),
                _ => Kept::Lost,
            },
            Some(Err(_)) | None => Kept::Failed,
        }
    }

    async fn complete(&self, claim: &Stored, record: &Record) -> Result<Written, StoreError> {
        let engine = &self.engine;
        let timeout = engine.config.store_timeout;
        let timed_out = || StoreError::new("store", "complete", Fault::Timeout).may_have_been_applied();
        let complete = async |record| {
            let completed = within(timeout, engine.store.complete(claim, record, engine.config.ttl)).await;
            completed.unwrap_or_else(|| Err(timed_out()))
        };
        match complete(record).await {
            // The effect is done, whatever there is room for.
            Err(error) if error.fault() == Fault::TooLarge => complete(&Record::TooLarge).await,
            completed => completed,
        }
    }

    /// The caller has the answer; the store will have it when it can, as long as the lease is renewed.
    async fn keep_trying(&self, record: &Record) {
        let mut pause = Duration::from_millis(100);
        while Instant::now() < self.ceiling {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
            match self.keep_record(record).await {
                Kept::Failed => {}
                Kept::Stored => {
                    self.engine.report(IdempotencyResult::Recorded);
                    return self.land(record);
                }
                Kept::Winner(_) | Kept::Lost => {
                    self.engine.report(IdempotencyResult::Lost);
                    return self.settled();
                }
            }
        }
    }

    /// The effect has not begun.
    async fn release(&self) {
        self.engine.report(IdempotencyResult::Released);
        let engine = &self.engine;
        // If that fails the lease ends by itself.
        let _ = within(engine.config.store_timeout, engine.store.release(&self.claim)).await;
        self.settled();
    }

    /// Nobody knows what the effect came to.
    async fn leave(&self) {
        self.engine.report(IdempotencyResult::Unknown);
        let engine = &self.engine;
        if let Some(hold) = engine.config.hold_unknown {
            let _ = within(engine.config.store_timeout, engine.store.renew(&self.claim, hold)).await;
        }
        self.settled();
    }

    fn report_kept(&self, record: &Record) {
        self.engine.report(match record {
            Record::TooLarge => IdempotencyResult::TooLarge,
            Record::Unknown => IdempotencyResult::Unknown,
            _ => IdempotencyResult::Executed,
        });
    }

    fn land(&self, record: &Record) {
        if let Some(lead) = self.settled_with_lead() {
            lead.land(record);
        }
    }

    fn settled(&self) {
        drop(self.settled_with_lead());
    }

    fn settled_with_lead(&self) -> Option<Lead> {
        let mut state = self.lock();
        state.settled = true;
        state.lead.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the lease at each third of it, up to the ceiling, or until it is lost. Never ends: whoever carries the call out
    /// goes on, and learns it when the record is refused.
    async fn keep(&self) {
        let lease = self.engine.config.lease;
        let mut next = after(self.claimed, lease / 3);
        loop {
            match Timer::at(next) {
                Ok(timer) => timer.await,
                // Without a timer nothing can be renewed.
                Err(_) => return std::future::pending().await,
            }
            let now = Instant::now();
            let left = self.ceiling.saturating_duration_since(now);
            if left.is_zero() || self.lock().settled {
                return std::future::pending().await;
            }
            let renewed = lease.min(left);
            let renewal = self.engine.store.renew(&self.claim, renewed);
            match within(self.engine.config.store_timeout, renewal).await {
                Some(Ok(Written::Applied)) => {
                    self.lock().lease_ends = after(now, renewed);
                    next = after(now, lease / 3);
                }
                Some(Ok(Written::Fenced { .. })) => return std::future::pending().await,
                Some(Err(_)) | None => next = after(Instant::now(), lease / 10),
            }
        }
    }
}

impl<St: ClaimStore> Drop for Held<St> {
    fn drop(&mut self) {
        let (lead, settled) = {
            let mut state = self.lock();
            (state.lead.take(), state.settled)
        };
        if settled {
            return;
        }
        let config = &self.engine.config;
        let free = !self.begun.load(Ordering::Acquire)
            || std::thread::panicking() && config.on_panic == OnPanic::Release;
        self.engine.report(if free { IdempotencyResult::Released } else { IdempotencyResult::Unknown });
        if !free && config.hold_unknown.is_none() {
            return;
        }
        let (engine, claim, running) = (Arc::clone(&self.engine), self.claim.clone(), self.running.take());
        let limit = config.store_timeout;
        self.engine.tasks.spawn(&self.runtime, limit, async move {
            // If that fails the lease ends by itself.
            match engine.config.hold_unknown {
                Some(hold) if !free => drop(engine.store.renew(&claim, hold).await),
                _ => drop(engine.store.release(&claim).await),
            }
            // Only now may the next one of this process ask.
            drop((lead, running));
        });
    }
}
