use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Sqlite, row};
use crate::claim::{Claim, ClaimRequest, ClaimStore, Claimed, Record, Waited, Written};
use crate::claim_row::{self, Change, ClaimRow};
use crate::error::StoreError;
use crate::failure::Failure;
use crate::key::{Fingerprint, ScopedKey};
use crate::stored;
use crate::waiters::News;

pub(super) const SWEEP: &str = "DELETE FROM claims WHERE rowid IN \
     (SELECT rowid FROM claims WHERE expires <= ?1 ORDER BY expires LIMIT ?2)";

impl ClaimStore for Sqlite {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, StoreError> {
        let (key, request) = (stored::key(request.key()), request.clone());
        let work = move |connection: &Connection, now| {
            let (claimed, change) = claim_row::claim(read(connection, &key)?, &request, now);
            apply(connection, &key, change, 0)?;
            Ok(claimed)
        };
        self.write("claim", 0, work).await
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Written, StoreError> {
        let decide = move |row, claim: &Claim, now| claim_row::renew(row, claim, lease, now);
        self.change("renew", claim, 0, 0, decide).await
    }

    async fn complete(&self, claim: &Claim, record: &Record, ttl: Duration) -> Result<Written, StoreError> {
        self.inner.limits.record(record)?;
        let (bytes, sum) = match record {
            Record::Value(value) => (value.len(), stored::body_sum(value)),
            Record::TooLarge | Record::Unknown => (0, 0),
        };
        let record = record.clone();
        let decide = move |row, claim: &Claim, now| claim_row::complete(row, claim, &record, ttl, now);
        let written = self.change("complete", claim, bytes, sum, decide).await?;
        self.inner.waiters.wake(claim.key());
        Ok(written)
    }

    async fn release(&self, claim: &Claim) -> Result<Written, StoreError> {
        let written = self.change("release", claim, 0, 0, claim_row::release).await?;
        self.inner.waiters.wake(claim.key());
        Ok(written)
    }

    async fn wait(
        &self,
        key: &ScopedKey,
        fingerprint: &Fingerprint,
        max: Duration,
    ) -> Result<Waited, StoreError> {
        let look = || {
            let (key, fingerprint) = (stored::key(key), *fingerprint);
            let work = move |connection: &Connection, now| {
                Ok((claim_row::look(read(connection, &key)?, &fingerprint, now), News::None))
            };
            self.read("wait", work)
        };
        self.inner.waiters.wait(key, max, look).await
    }

    async fn sweep(&self, max: u32) -> Result<u64, StoreError> {
        let work = move |connection: &Connection, now: i64| {
            Ok(connection.prepare_cached(SWEEP)?.execute(params![now, max])? as u64)
        };
        self.write("sweep", 0, work).await
    }
}

impl Sqlite {
    /// `sum` is that of the record's body, if the change has one.
    async fn change(
        &self,
        verb: &'static str,
        claim: &Claim,
        bytes: usize,
        sum: i64,
        decide: impl FnOnce(Option<ClaimRow>, &Claim, i64) -> (Written, Change) + Send + 'static,
    ) -> Result<Written, StoreError> {
        let (key, claim) = (stored::key(claim.key()), claim.clone());
        let work = move |connection: &Connection, now| {
            let (written, change) = decide(read(connection, &key)?, &claim, now);
            apply(connection, &key, change, sum)?;
            Ok(written)
        };
        self.write(verb, bytes, work).await
    }
}

fn read(connection: &Connection, key: &[u8]) -> Result<Option<ClaimRow>, Failure> {
    let sql = "SELECT fingerprint, owner, epoch, unfinished, state, lease_until, expires, body, sum \
               FROM claims WHERE key = ?1";
    let mut select = connection.prepare_cached(sql)?;
    let row = select.query_row([key], |row| Ok(row::claim(key, row))).optional()?;
    row.transpose()
}

fn apply(connection: &Connection, key: &[u8], change: Change, body_sum: i64) -> Result<(), Failure> {
    let row = match change {
        Change::None => return Ok(()),
        Change::Delete => {
            connection.prepare_cached("DELETE FROM claims WHERE key = ?1")?.execute([key])?;
            return Ok(());
        }
        Change::Put(row) => row,
    };
    let sql = "INSERT INTO claims \
               (key, fingerprint, owner, epoch, unfinished, state, lease_until, expires, body, sum) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
               ON CONFLICT (key) DO UPDATE SET fingerprint = ?2, owner = ?3, epoch = ?4, unfinished = ?5, \
               state = ?6, lease_until = ?7, expires = ?8, body = ?9, sum = ?10";
    let (state, lease_until, body) = stored::state(&row.state);
    connection.prepare_cached(sql)?.execute(params![
        key,
        row.fingerprint.as_bytes(),
        stored::owner(row.owner),
        row.epoch as i64,
        row.unfinished,
        state,
        lease_until,
        row.expires,
        body,
        row::claim_sum(key, &row, body_sum),
    ])?;
    Ok(())
}
