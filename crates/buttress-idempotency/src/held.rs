//! A claim that this process holds, from the store's answer to its end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use buttress_core::clock::after;
use buttress_core::{Captured, IdempotencyResult, Mode, Seal, within};
use buttress_store::{Claim as Stored, ClaimStore, Fault, Fingerprint, Record, StoreError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::error::Error;
use crate::flights::Lead;
use crate::key::Claim;
use crate::outcome::{OnUnknown, Outcome, Reconciled};
use crate::protocol::Protocol;
use crate::tasks::{Running, race};

mod writes;

/// Dropped before the effect has begun, it gives the claim back; after that, it leaves it to its lease; and once the answer was
/// judged to be one, it records that there was one.
pub(crate) struct Held<St: ClaimStore> {
    engine: Arc<Engine<St>>,
    runtime: Handle,
    fingerprint: Fingerprint,
    state: Mutex<State>,
    /// The call is carried out and gets its own answer, whatever the store says.
    observing: bool,
    /// As the effect sees it.
    shown: Claim,
    /// Shared with the future of the call, which is carried on from here even if it is dropped.
    begun: Arc<AtomicBool>,
    claimed: Instant,
    ceiling: Instant,
    running: Option<Running>,
}

struct State {
    /// Another one where it was lost, and could be had again.
    claim: Stored,
    lead: Option<Lead>,
    /// When the lease ends, as far as this process knows: as if the store had begun it when it was asked.
    lease_ends: Instant,
    /// The effect has certainly not begun.
    free: bool,
    /// There is an answer that nobody has tried to record yet; as far as it is known.
    answer: Option<Record>,
    settled: bool,
}

/// Hands the answer over, once; false if whoever asked is gone.
fn give<T>(waiting: &mut Option<(oneshot::Sender<T>, T)>) -> bool {
    waiting.take().is_some_and(|(reply, answer)| reply.send(answer).is_ok())
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
        let observing = engine.mode.get() == Mode::Observe;
        let (lead, running) = (Some(lead), Some(running));
        let shown = Claim::new(claim.clone(), &engine.config);
        let state = State { claim, lead, lease_ends, free: false, answer: None, settled: false };
        let (state, begun) = (Mutex::new(state), Arc::new(AtomicBool::new(false)));
        Self { engine, runtime, fingerprint, state, observing, shown, begun, claimed, ceiling, running }
    }

    /// Carries the call out, and records what it came to; answers as soon as that is known.
    pub(crate) async fn drive<P, Res, E, R, F>(
        mut self,
        begun: Arc<AtomicBool>,
        protocol: &P,
        ready: impl Future<Output = Result<R, E>>,
        effect: impl FnOnce(R, Claim) -> F,
        reply: Reply<P, Res, E>,
    ) where
        P: Protocol<Res, E>,
        F: Future<Output = Result<Res, E>>,
    {
        self.begun = begun;
        let held = &self;
        let work = async move {
            let known = match held.shown.unfinished() {
                0 => None,
                _ if held.observing => {
                    if held.engine.config.on_unknown == OnUnknown::Reject {
                        held.engine.report(IdempotencyResult::WouldRefuse);
                    }
                    None
                }
                _ => held.look_first(protocol).await,
            };
            if let Some(answer) = known {
                let answer = answer.and_then(|record| protocol.restore(&record));
                let _ = reply.send(answer.or_else(|error| protocol.refuse(error)));
                return;
            }
            let ready = match ready.await {
                Ok(ready) => ready,
                Err(error) => {
                    // Nothing was called.
                    held.release().await;
                    let (_, answer) = protocol.judge(Err(error));
                    let _ = reply.send(answer.map(|response| protocol.unstored(response, false)));
                    return;
                }
            };
            held.begun.store(true, Ordering::Release);
            let answer = effect(ready, held.shown.clone()).await;
            held.settle(protocol, answer, reply).await;
        };
        race(work, held.keep()).await;
    }

    /// Earlier owners left the effect unknown: an answer, if this call is not to be carried out.
    async fn look_first<P, Res, E>(&self, protocol: &P) -> Option<Result<Record, Error>>
    where
        P: Protocol<Res, E>,
    {
        let found = match protocol.reconcile(&self.shown) {
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
                self.end(&record, replayed(&record));
                Ok(record)
            }
            Kept::Winner(winner) => {
                self.end(&winner, replayed(&winner));
                Ok(winner)
            }
            Kept::Lost => {
                self.engine.report(IdempotencyResult::Lost);
                self.settled();
                Err(self.lost())
            }
            Kept::Failed => {
                self.engine.report(IdempotencyResult::Unavailable);
                self.settled();
                Err(Error::Store(StoreError::new("store", "complete", Fault::Unavailable)))
            }
        })
    }

    async fn settle<P, Res, E>(&self, protocol: &P, answer: Result<Res, E>, reply: Reply<P, Res, E>)
    where
        P: Protocol<Res, E>,
    {
        #[cfg(feature = "postgres")]
        if self.shown.transaction.was_fenced() && !self.observing {
            let winner = self.winner().await;
            let _ = reply.send(self.answer_of(protocol, winner.as_ref()));
            return;
        }
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
        if let Some(taken) = if self.observing { None } else { self.taken_over().await } {
            let _ = reply.send(self.answer_of(protocol, taken.as_ref()));
            return;
        }
        // From here on it is never repeated, whatever becomes of the answer.
        self.lock().answer = Some(Record::TooLarge);
        let (live, recording) = protocol.capture(response);
        let mut recording = pin!(recording);
        let mut waiting = Some((reply, Ok(live)));
        let recorded = match poll_fn(|cx| Poll::Ready(recording.as_mut().poll(cx))).await {
            Poll::Ready(recorded) => Some(recorded),
            Poll::Pending => {
                // It streams from here on. A body that nobody ends is recorded until the ceiling, or for a lease if that has passed.
                let is_read = give(&mut waiting);
                let left = self.ceiling.saturating_duration_since(Instant::now());
                let mut abandoned = None;
                let counted = poll_fn(|cx| {
                    let recorded = recording.as_mut().poll(cx);
                    if is_read && abandoned.is_none() && protocol.is_abandoned(&recording) {
                        abandoned = Some(self.engine.tasks.count_detached());
                    }
                    recorded
                });
                within(left.max(self.engine.config.lease), counted).await
            }
        };
        let Some(Ok(Captured { record, seal })) = recorded else {
            return self.record(protocol, &Record::TooLarge, waiting, Seal::default()).await;
        };
        self.record(protocol, &record, waiting, seal).await;
    }

    async fn record<P, Res, E>(
        &self,
        protocol: &P,
        record: &Record,
        mut waiting: Waiting<P, Res, E>,
        seal: Seal,
    ) where
        P: Protocol<Res, E>,
    {
        self.lock().answer = Some(record.clone());
        let kept = self.keep_record(record).await;
        self.lock().answer = None;
        match kept {
            Kept::Stored => {
                self.end(record, executed(record));
                give(&mut waiting);
                seal.release();
            }
            Kept::Failed => {
                self.engine.report(IdempotencyResult::Unrecorded);
                give(&mut waiting);
                seal.release();
                self.keep_trying(record).await;
            }
            Kept::Winner(_) | Kept::Lost if self.observing => {
                self.engine.report(IdempotencyResult::Lost);
                self.settled();
                give(&mut waiting);
                seal.release();
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
                seal.fail(self.lost().into_boxed());
            }
        }
    }

    fn answer_of<P, Res, E>(&self, protocol: &P, winner: Option<&Record>) -> Result<P::Response, P::Error>
    where
        P: Protocol<Res, E>,
    {
        let answer = match winner {
            Some(record) => {
                self.end(record, IdempotencyResult::Lost);
                protocol.restore(record)
            }
            None => {
                self.engine.report(IdempotencyResult::Lost);
                self.settled();
                Err(self.lost())
            }
        };
        answer.or_else(|error| protocol.refuse(error))
    }

    fn lost(&self) -> Error {
        Error::Lost { retry_after: self.engine.config.retry_after }
    }
}

fn executed(record: &Record) -> IdempotencyResult {
    match record {
        Record::TooLarge => IdempotencyResult::TooLarge,
        Record::Unknown => IdempotencyResult::Unknown,
        _ => IdempotencyResult::Executed,
    }
}

fn replayed(record: &Record) -> IdempotencyResult {
    match record {
        Record::Unknown => IdempotencyResult::Unknown,
        _ => IdempotencyResult::Replayed,
    }
}
