//! The store in memory, whose verbs do what a test says.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "each test file uses a part of it"
)]

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::{Event, IdempotencyResult, Observe, observe_fn};
use buttress_idempotency::{Claim, Hash, Idempotency, Ran, RunError};
use buttress_store::{
    ClaimRequest, ClaimStore, Claimed, Fault, Fingerprint, Memory, Record, ScopedKey, StoreError, Waited,
    Written,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Claim,
    Renew,
    Complete,
    Release,
    Wait,
}

/// What becomes of one call of a verb.
#[derive(Clone, Copy, Debug)]
pub enum Do {
    Pass,
    /// Nothing is changed.
    Fail(Fault),
    /// The same after so long.
    FailAfter(Duration),
    /// It is applied, and its answer is lost.
    Lose,
    /// It takes so long.
    Take(Duration),
}

type Script = dyn Fn(Verb, usize) -> Do + Send + Sync;

#[derive(Clone)]
pub struct Scripted {
    pub inner: Memory,
    counts: Arc<Mutex<HashMap<Verb, usize>>>,
    script: Arc<Mutex<Arc<Script>>>,
}

impl Scripted {
    pub fn new() -> Self {
        let script: Arc<Script> = Arc::new(|_, _| Do::Pass);
        Self { inner: Memory::new(), counts: Arc::default(), script: Arc::new(Mutex::new(script)) }
    }

    /// From now on; numbers count from now, too, and from 1.
    pub fn script(&self, script: impl Fn(Verb, usize) -> Do + Send + Sync + 'static) {
        self.counts.lock().unwrap().clear();
        *self.script.lock().unwrap() = Arc::new(script);
    }

    pub fn count(&self, verb: Verb) -> usize {
        self.counts.lock().unwrap().get(&verb).copied().unwrap_or_default()
    }

    async fn run<T>(
        &self,
        verb: Verb,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let number = {
            let mut counts = self.counts.lock().unwrap();
            let number = counts.entry(verb).or_default();
            *number += 1;
            *number
        };
        let script = Arc::clone(&*self.script.lock().unwrap());
        match script(verb, number) {
            Do::Pass => work.await,
            Do::Fail(fault) => Err(StoreError::new("scripted", "answer", fault)),
            Do::FailAfter(time) => {
                tokio::time::sleep(time).await;
                Err(StoreError::new("scripted", "answer", Fault::Unavailable))
            }
            Do::Lose => {
                work.await?;
                Err(StoreError::new("scripted", "answer", Fault::Unavailable).may_have_been_applied())
            }
            Do::Take(time) => {
                tokio::time::sleep(time).await;
                work.await
            }
        }
    }
}

impl ClaimStore for Scripted {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, StoreError> {
        self.run(Verb::Claim, self.inner.claim(request)).await
    }

    async fn renew(&self, claim: &buttress_store::Claim, lease: Duration) -> Result<Written, StoreError> {
        self.run(Verb::Renew, self.inner.renew(claim, lease)).await
    }

    async fn complete(
        &self,
        claim: &buttress_store::Claim,
        record: &Record,
        ttl: Duration,
    ) -> Result<Written, StoreError> {
        self.run(Verb::Complete, self.inner.complete(claim, record, ttl)).await
    }

    async fn release(&self, claim: &buttress_store::Claim) -> Result<Written, StoreError> {
        self.run(Verb::Release, self.inner.release(claim)).await
    }

    async fn wait(
        &self,
        key: &ScopedKey,
        fingerprint: &Fingerprint,
        max: Duration,
    ) -> Result<Waited, StoreError> {
        self.run(Verb::Wait, self.inner.wait(key, fingerprint, max)).await
    }

    async fn sweep(&self, max: u32) -> Result<u64, StoreError> {
        self.inner.sweep(max).await
    }
}

/// What was reported.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<IdempotencyResult>>>);

impl Log {
    pub fn observer(&self) -> Arc<dyn Observe> {
        let log = self.clone();
        observe_fn(move |_, event| {
            if let Event::Idempotency(result) = event {
                log.0.lock().unwrap().push(*result);
            }
        })
    }

    pub fn take(&self) -> Vec<IdempotencyResult> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub type Tried = Result<Ran<u32>, RunError<std::io::Error>>;

/// Runs an effect under the key `k`.
pub fn run<St, F>(
    idempotency: &Idempotency<St>,
    effect: impl FnOnce(Claim) -> F + Send + 'static,
) -> impl Future<Output = Tried> + Send + 'static
where
    St: ClaimStore,
    F: Future<Output = Result<u32, std::io::Error>> + Send + 'static,
{
    run_with(idempotency, "k", "", effect)
}

pub fn run_with<St, F>(
    idempotency: &Idempotency<St>,
    key: &str,
    content: &str,
    effect: impl FnOnce(Claim) -> F + Send + 'static,
) -> impl Future<Output = Tried> + Send + 'static
where
    St: ClaimStore,
    F: Future<Output = Result<u32, std::io::Error>> + Send + 'static,
{
    let idempotency = idempotency.clone();
    let (key, fingerprint) = (ScopedKey::try_new("", key).unwrap(), Hash::new().part(content).fingerprint());
    async move { idempotency.run(key, fingerprint, effect).await }
}

/// An error that says that nothing was done.
pub fn not_sent() -> std::io::Error {
    std::io::ErrorKind::ConnectionRefused.into()
}
