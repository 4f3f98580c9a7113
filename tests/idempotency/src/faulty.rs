use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use buttress_store::{
    Claim, ClaimRequest, ClaimStore, Claimed, Fault, Fingerprint, Record, ScopedKey, StoreError, Waited,
    Written,
};

/// A store that fails or hangs where it is told to, and counts its verbs.
#[derive(Clone, Debug)]
pub struct Faulty<St> {
    inner: St,
    /// What it is told, and what it counted.
    pub switch: Arc<Switch>,
}

/// What a [`Faulty`] store is told, and what it counted.
#[derive(Debug, Default)]
pub struct Switch {
    /// Claims fail, and are not made.
    pub claims_fail: AtomicBool,
    /// Claims are made, and their answer comes an hour late.
    pub claims_hang: AtomicBool,
    /// Completions fail, and are not made.
    pub completions_fail: AtomicBool,
    /// No answer is small enough.
    pub answers_too_large: AtomicBool,
    /// Claims that were asked for.
    pub claims: AtomicUsize,
    /// Claims that were made, or refused.
    pub claimed: AtomicUsize,
    /// Renewals.
    pub renewals: AtomicUsize,
}

impl<St> Faulty<St> {
    /// A store that works, until it is told otherwise.
    pub fn new(inner: St) -> Self {
        Self { inner, switch: Arc::default() }
    }
}

impl Switch {
    /// Turns one of them on or off.
    pub fn set(switch: &AtomicBool, on: bool) {
        switch.store(on, Ordering::SeqCst);
    }
}

fn is_on(switch: &AtomicBool) -> bool {
    switch.load(Ordering::SeqCst)
}

impl<St: ClaimStore> ClaimStore for Faulty<St> {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, StoreError> {
        self.switch.claims.fetch_add(1, Ordering::SeqCst);
        if is_on(&self.switch.claims_fail) {
            return Err(StoreError::new("faulty", "claim", Fault::Unavailable));
        }
        let claimed = self.inner.claim(request).await;
        self.switch.claimed.fetch_add(1, Ordering::SeqCst);
        if is_on(&self.switch.claims_hang) {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        claimed
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Written, StoreError> {
        self.switch.renewals.fetch_add(1, Ordering::SeqCst);
        self.inner.renew(claim, lease).await
    }

    async fn complete(&self, claim: &Claim, record: &Record, ttl: Duration) -> Result<Written, StoreError> {
        if is_on(&self.switch.completions_fail) {
            return Err(StoreError::new("faulty", "complete", Fault::Unavailable));
        }
        if is_on(&self.switch.answers_too_large) && matches!(record, Record::Value(_)) {
            return Err(StoreError::new("faulty", "complete", Fault::TooLarge));
        }
        self.inner.complete(claim, record, ttl).await
    }

    async fn release(&self, claim: &Claim) -> Result<Written, StoreError> {
        self.inner.release(claim).await
    }

    async fn wait(
        &self,
        key: &ScopedKey,
        fingerprint: &Fingerprint,
        max: Duration,
    ) -> Result<Waited, StoreError> {
        self.inner.wait(key, fingerprint, max).await
    }

    async fn sweep(&self, max: u32) -> Result<u64, StoreError> {
        self.inner.sweep(max).await
    }
}
