use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::Memory;
use crate::claim::{Claim, ClaimRequest, ClaimStore, Claimed, Record, Waited, Written};
use crate::claim_row::{self, Change, ClaimRow};
use crate::error::{Fault, StoreError};
use crate::key::{Fingerprint, ScopedKey};
use crate::waiters::News;

/// The rows, and the order in which they expire.
pub(super) struct Claims {
    rows: HashMap<ScopedKey, ClaimRow>,
    expiry: BTreeSet<(i64, ScopedKey)>,
    max: usize,
}

impl Claims {
    pub(super) fn new(max: usize) -> Self {
        Self { rows: HashMap::new(), expiry: BTreeSet::new(), max }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    fn apply(&mut self, key: &ScopedKey, change: Change) {
        let old = match change {
            Change::None => return,
            Change::Delete => self.rows.remove(key),
            Change::Put(row) => {
                self.expiry.insert((row.expires, key.clone()));
                let expires = row.expires;
                self.rows.insert(key.clone(), row).filter(|old| old.expires != expires)
            }
        };
        if let Some(old) = old {
            self.expiry.remove(&(old.expires, key.clone()));
        }
    }

    fn sweep(&mut self, max: usize, now: i64) -> usize {
        let mut swept = 0;
        while swept < max && self.expiry.first().is_some_and(|(expires, _)| *expires <= now) {
            if let Some((_, key)) = self.expiry.pop_first() {
                self.rows.remove(&key);
                swept += 1;
            }
        }
        swept
    }

    /// Whether there is room for this key.
    fn admits(&mut self, key: &ScopedKey, now: i64) -> bool {
        self.rows.len() < self.max || self.rows.contains_key(key) || self.sweep(1, now) > 0
    }
}

impl ClaimStore for Memory {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, StoreError> {
        let now = self.now();
        let mut claims = self.lock_claims();
        if !claims.admits(request.key(), now) {
            let full = StoreError::new("memory", "claim", Fault::Full);
            return Err(full.detail(format!("all of {} claims are alive", claims.max)));
        }
        let (claimed, change) = claim_row::claim(claims.rows.get(request.key()).cloned(), request, now);
        claims.apply(request.key(), change);
        Ok(claimed)
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Written, StoreError> {
        Ok(self.write(claim, |row, now| claim_row::renew(row, claim, lease, now)))
    }

    async fn complete(&self, claim: &Claim, record: &Record, ttl: Duration) -> Result<Written, StoreError> {
        self.inner.limits.record(record)?;
        Ok(self.write(claim, |row, now| claim_row::complete(row, claim, record, ttl, now)))
    }

    async fn release(&self, claim: &Claim) -> Result<Written, StoreError> {
        Ok(self.write(claim, |row, now| claim_row::release(row, claim, now)))
    }

    async fn wait(
        &self,
        key: &ScopedKey,
        fingerprint: &Fingerprint,
        max: Duration,
    ) -> Result<Waited, StoreError> {
        let look = || async {
            let now = self.now();
            let row = self.lock_claims().rows.get(key).cloned();
            Ok((claim_row::look(row, fingerprint, now), News::Certain))
        };
        self.inner.waiters.wait(key, max, look).await
    }

    async fn sweep(&self, max: u32) -> Result<u64, StoreError> {
        let now = self.now();
        Ok(self.lock_claims().sweep(max as usize, now) as u64)
    }
}

impl Memory {
    fn write(
        &self,
        claim: &Claim,
        decide: impl FnOnce(Option<ClaimRow>, i64) -> (Written, Change),
    ) -> Written {
        let now = self.now();
        let mut claims = self.lock_claims();
        let (written, change) = decide(claims.rows.get(claim.key()).cloned(), now);
        claims.apply(claim.key(), change);
        drop(claims);
        self.inner.waiters.wake(claim.key());
        written
    }
}
