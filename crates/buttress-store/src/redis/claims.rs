use std::fmt::Write as _;
use std::time::Duration;

use redis::{Script, ScriptInvocation};

use super::codec;
use super::{Redis, Value};
use crate::claim::{Claim, ClaimRequest, ClaimStore, Claimed, Record, Waited, Written};
use crate::claim_row::{self, Change, ClaimRow};
use crate::error::{Fault, StoreError};
use crate::failure::Failure;
use crate::key::{Fingerprint, ScopedKey};
use crate::stored;
use crate::time;
use crate::waiters::News;

impl ClaimStore for Redis {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, StoreError> {
        let mut script = self.inner.scripts.claim.key(self.claim_key(request.key()));
        script.arg(request.fingerprint().as_bytes()).arg(&stored::owner(request.owner())[..]);
        script.arg(time::micros(request.lease())).arg(time::micros(request.kept_for()));
        let answer = self.invoke("claim", &script).await?;
        let failed = |failure: Failure| failure.into_error("redis", "claim");
        if won(&answer) {
            let field = |index: usize| answer.get(index).and_then(Option::as_deref);
            let epoch = codec::number(field(2)).map_err(failed)?;
            return Ok(Claimed::Owned(request.granted(epoch, codec::number(field(3)).map_err(failed)?)));
        }
        let (row, now) = read(&answer).map_err(failed)?;
        match claim_row::claim(row, request, now) {
            (claimed, Change::None) => Ok(claimed),
            _ => Err(failed(disagree())),
        }
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Written, StoreError> {
        let mut script = self.write(&self.inner.scripts.renew, claim);
        script.arg(time::micros(lease)).arg(time::micros(claim.kept_for()));
        self.change("renew", &script, |row, now| claim_row::renew(row, claim, lease, now)).await
    }

    async fn complete(&self, claim: &Claim, record: &Record, ttl: Duration) -> Result<Written, StoreError> {
        self.inner.limits.record(record)?;
        let mut script = self.write(&self.inner.scripts.complete, claim);
        let (state, body) = stored::done(record);
        script.arg(state).arg(time::micros(ttl));
        if let Some(body) = body {
            script.arg(body).arg(stored::body_sum(body));
        }
        let decide = |row, now| claim_row::complete(row, claim, record, ttl, now);
        let written = self.change("complete", &script, decide).await?;
        self.inner.waiters.wake(claim.key());
        Ok(written)
    }

    async fn release(&self, claim: &Claim) -> Result<Written, StoreError> {
        let script = self.write(&self.inner.scripts.release, claim);
        let written = self.change("release", &script, |row, now| claim_row::release(row, claim, now)).await?;
        self.inner.waiters.wake(claim.key());
        Ok(written)
    }

    async fn wait(
        &self,
        key: &ScopedKey,
        fingerprint: &Fingerprint,
        max: Duration,
    ) -> Result<Waited, StoreError> {
        let look = || async {
            let script = self.inner.scripts.look.key(self.claim_key(key));
            let answer = self.invoke("wait", &script).await?;
            let (row, now) = read(&answer).map_err(|failure| failure.into_error("redis", "wait"))?;
            Ok((claim_row::look(row, fingerprint, now), News::None))
        };
        self.inner.waiters.wait(key, max, look).await
    }

    /// Keys expire by themselves.
    async fn sweep(&self, _max: u32) -> Result<u64, StoreError> {
        Ok(0)
    }
}

impl Redis {
    /// With a tag of its own: the digits of what is claimed.
    fn claim_key(&self, key: &ScopedKey) -> Vec<u8> {
        let mut name = format!("{}:claim:{{", self.inner.prefix);
        for byte in stored::key(key) {
            let _ = write!(name, "{byte:02x}");
        }
        name.push('}');
        name.into_bytes()
    }

    fn write<'a>(&self, script: &'a Script, claim: &Claim) -> ScriptInvocation<'a> {
        let mut script = script.key(self.claim_key(claim.key()));
        script.arg(&stored::owner(claim.owner())[..]).arg(claim.epoch());
        script
    }

    async fn change(
        &self,
        verb: &'static str,
        script: &ScriptInvocation<'_>,
        decide: impl FnOnce(Option<ClaimRow>, i64) -> (Written, Change) + Send,
    ) -> Result<Written, StoreError> {
        let answer = self.invoke(verb, script).await?;
        if won(&answer) {
            return Ok(Written::Applied);
        }
        let failed = |failure: Failure| failure.into_error("redis", verb);
        let (row, now) = read(&answer).map_err(failed)?;
        match decide(row, now) {
            (written, Change::None) => Ok(written),
            _ => Err(failed(disagree())),
        }
    }
}

fn won(answer: &[Value]) -> bool {
    answer.first().is_some_and(|won| won.as_deref() == Some(b"1"))
}

fn read(answer: &[Value]) -> Result<(Option<ClaimRow>, i64), Failure> {
    let now = codec::number(answer.get(1).and_then(Option::as_deref))?;
    Ok((codec::read_claim(answer.get(2..).unwrap_or_default())?, now))
}

/// A script saw the row as this process does, and decided otherwise: it is not of this release.
fn disagree() -> Failure {
    Failure::new(Fault::Internal, "the script and this process disagree about the row")
}
