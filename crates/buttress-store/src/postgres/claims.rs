use std::time::Duration;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Transaction};

use super::row::{self, claim_columns};
use super::{Postgres, TRIES};
use crate::claim::{Claim, ClaimRequest, ClaimStore, Claimed, Record, Waited, Written};
use crate::claim_row::{self, Change, ClaimRow, State};
use crate::error::{Fault, StoreError};
use crate::failure::Failure;
use crate::key::{Fingerprint, ScopedKey};
use crate::stored;
use crate::time;
use crate::waiters::{self, News};

/// Takes the key if it may be had; gives the claim, or what kept it from being had. A key that is not to be had is only read:
/// an insertion that meets it would wait for whoever changes it, lock it, and have the disk wait for that.
const CLAIM: &str = concat!(
    "WITH attempt AS (
        INSERT INTO buttress_claims AS c (key, fingerprint, owner, epoch, unfinished, state, lease_until, expires)
        SELECT $1, $2, $3, 1, 0, 0, buttress_now() + $4, buttress_now() + $4 + $5
        WHERE NOT EXISTS (
            SELECT FROM buttress_claims AS c
            WHERE c.key = $1 AND c.expires > buttress_now() AND (c.fingerprint <> $2 OR c.state > 1
                OR c.state = 0 AND c.owner <> $3 AND c.lease_until > buttress_now()))
        ON CONFLICT (key) DO UPDATE SET
            fingerprint = excluded.fingerprint,
            owner = excluded.owner,
            epoch = CASE
                WHEN c.expires <= buttress_now() THEN 1
                WHEN c.state = 0 AND c.owner = excluded.owner THEN c.epoch
                ELSE c.epoch + 1 END,
            unfinished = CASE
                WHEN c.expires <= buttress_now() THEN 0
                WHEN c.state = 0 AND c.owner <> excluded.owner THEN c.unfinished + 1
                ELSE c.unfinished END,
            state = 0,
            awaited = c.awaited AND c.state = 0,
            lease_until = excluded.lease_until,
            expires = excluded.expires,
            body = NULL,
            sum = NULL
        WHERE c.expires <= buttress_now() OR c.fingerprint = excluded.fingerprint AND (
            c.state = 1 OR c.state = 0 AND (c.owner = excluded.owner OR c.lease_until <= buttress_now()))
        RETURNING *
    )
    SELECT true AS won, buttress_now() AS now, ",
    claim_columns!(),
    " FROM attempt AS c
    UNION ALL
    SELECT false, buttress_now(), ",
    claim_columns!(),
    " FROM buttress_claims AS c WHERE c.key = $1 AND NOT EXISTS (SELECT FROM attempt)"
);

/// What each write ends with: whether it was made, and the row as it was before.
macro_rules! outcome {
    ($attempt:literal, $more:literal) => {
        concat!(
            $attempt,
            " SELECT EXISTS (SELECT FROM attempt) AS won, buttress_now() AS now, ",
            claim_columns!(),
            $more,
            " FROM (SELECT 1) AS one LEFT JOIN buttress_claims AS c ON c.key = $1"
        )
    };
}

/// The same of a write after which nobody has the key any more: those who wait for it are told, once it is committed. The tag
/// is `$4`. If nobody waits nothing is sent: it would have the commits wait for each other.
macro_rules! ending {
    ($attempt:literal) => {
        outcome!($attempt, ", (SELECT pg_notify('buttress_claims', $4) FROM attempt WHERE awaited)")
    };
}

const RENEW: &str = outcome!(
    "WITH attempt AS (
        UPDATE buttress_claims SET lease_until = buttress_now() + $4, expires = buttress_now() + $4 + $5
        WHERE key = $1 AND owner = $2 AND epoch = $3 AND state = 0 AND expires > buttress_now()
        RETURNING 1
    )",
    ""
);

const COMPLETE: &str = ending!(
    "WITH attempt AS (
        UPDATE buttress_claims
        SET state = $5, body = $6, sum = $7, lease_until = NULL, expires = buttress_now() + $8
        WHERE key = $1 AND owner = $2 AND epoch = $3 AND state = 0 AND expires > buttress_now()
        RETURNING awaited
    )"
);

const RELEASE: &str = ending!(
    "WITH gone AS (
        DELETE FROM buttress_claims
        WHERE key = $1 AND owner = $2 AND epoch = $3 AND state = 0 AND unfinished = 0
        AND expires > buttress_now()
        RETURNING awaited
    ), kept AS (
        UPDATE buttress_claims SET state = 1, lease_until = NULL
        WHERE key = $1 AND owner = $2 AND epoch = $3 AND state = 0 AND unfinished > 0
        AND expires > buttress_now()
        RETURNING awaited
    ), attempt AS (SELECT * FROM gone UNION ALL SELECT * FROM kept)"
);

const LOOK: &str = outcome!("WITH attempt AS (SELECT WHERE false)", "");

/// A look of somebody who waits, and asks to be told. It waits for nobody who changes the row at this moment, nor for the
/// disk: what a crash forgets is asked for by the next look.
const WAIT: &str = outcome!(
    "WITH attempt AS (
        UPDATE buttress_claims SET awaited = true WHERE key = (
            SELECT key FROM buttress_claims
            WHERE key = $1 AND state = 0 AND NOT awaited AND lease_until > buttress_now()
            FOR UPDATE SKIP LOCKED)
        RETURNING set_config('synchronous_commit', 'off', true)
    )",
    ", (SELECT count(*) FROM attempt) = 1 OR coalesce(c.awaited, false) AS awaited"
);

const SWEEP: &str = "DELETE FROM buttress_claims WHERE key = ANY (ARRAY(
        SELECT key FROM buttress_claims WHERE expires <= buttress_now() ORDER BY expires LIMIT $1
        FOR UPDATE SKIP LOCKED
    )) RETURNING 1";

impl ClaimStore for Postgres {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, StoreError> {
        let key = stored::key(request.key());
        let (fingerprint, owner) =
            (&request.fingerprint().as_bytes()[..], &stored::owner(request.owner())[..]);
        let (lease, keep) = (time::micros(request.lease()), time::micros(request.kept_for()));
        for _ in 0..TRIES {
            let rows = self.query("claim", CLAIM, &[&key, &fingerprint, &owner, &lease, &keep]).await?;
            // Committed by others after this statement began, and so not to be seen by it: ask again.
            let Some(row) = rows.first() else { continue };
            let (won, now, row) = read(row).map_err(|failure| failure.into_error("postgres", "claim"))?;
            match (won, row) {
                (true, Some(row)) => return Ok(Claimed::Owned(request.granted(row.epoch, row.unfinished))),
                (_, row) => {
                    if let (claimed, Change::None) = claim_row::claim(row, request, now) {
                        return Ok(claimed);
                    }
                }
            }
        }
        Err(restless("claim"))
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Written, StoreError> {
        let (micros, keep) = (time::micros(lease), time::micros(claim.kept_for()));
        let decide = |row, now| claim_row::renew(row, claim, lease, now);
        self.change("renew", None, claim, RENEW, &[&micros, &keep], decide).await
    }

    async fn complete(&self, claim: &Claim, record: &Record, ttl: Duration) -> Result<Written, StoreError> {
        let written = self.completed(None, claim, record, ttl).await?;
        self.inner.waiters.wake(claim.key());
        Ok(written)
    }

    async fn release(&self, claim: &Claim) -> Result<Written, StoreError> {
        let decide = |row, now| claim_row::release(row, claim, now);
        let written = self.change("release", None, claim, RELEASE, &[&tag(claim)], decide).await?;
        self.inner.waiters.wake(claim.key());
        Ok(written)
    }

    async fn wait(
        &self,
        key: &ScopedKey,
        fingerprint: &Fingerprint,
        max: Duration,
    ) -> Result<Waited, StoreError> {
        let sql = if max.is_zero() { LOOK } else { WAIT };
        let look = || async {
            // Before the look: what changes after it is heard of.
            let listens = !max.is_zero() && self.inner.listener.listens();
            let rows = self.query("wait", sql, &[&stored::key(key)]).await?;
            let failed = |failure: Failure| failure.into_error("postgres", "wait");
            let (_, now, row) = first(&rows).map_err(failed)?;
            let told = listens && row::get(&rows[0], "awaited").map_err(failed)?;
            Ok((claim_row::look(row, fingerprint, now), if told { News::Likely } else { News::None }))
        };
        self.inner.waiters.wait(key, max, look).await
    }

    async fn sweep(&self, max: u32) -> Result<u64, StoreError> {
        Ok(self.query("sweep", SWEEP, &[&i64::from(max)]).await?.len() as u64)
    }
}

impl Postgres {
    /// Completes a claim in the caller's own transaction: what that writes and the record become durable together, or not
    /// at all, and so exactly once.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use buttress_store::{Claim, Postgres, Record, Written};
    /// # async fn pay(store: Postgres, client: &mut tokio_postgres::Client, claim: Claim)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let transaction = client.transaction().await?;
    /// transaction.execute("UPDATE accounts SET balance = balance - 7 WHERE id = 1", &[]).await?;
    /// let record = Record::Value("paid".into());
    /// match store.complete_in(&transaction, &claim, &record, Duration::from_secs(86_400)).await? {
    ///     Written::Applied => transaction.commit().await?,
    ///     Written::Fenced { .. } => transaction.rollback().await?,
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// On [`Written::Fenced`] somebody else has the claim, or an earlier transaction has completed it: roll back. So where the
    /// answer to a commit was lost, the whole transaction can be repeated: if it was committed, the second one is fenced, and
    /// the winner's record is its own. Others who ask for the key wait until the transaction
    /// ends, so complete last.
    ///
    /// # Errors
    ///
    /// If the statement fails, or the record is [too large](Fault::TooLarge): the transaction has to be rolled back.
    /// Nothing is tried again, since that would need a new transaction.
    pub async fn complete_in(
        &self,
        transaction: &Transaction<'_>,
        claim: &Claim,
        record: &Record,
        ttl: Duration,
    ) -> Result<Written, StoreError> {
        self.completed(Some(transaction), claim, record, ttl).await
    }

    async fn completed(
        &self,
        transaction: Option<&Transaction<'_>>,
        claim: &Claim,
        record: &Record,
        ttl: Duration,
    ) -> Result<Written, StoreError> {
        self.inner.limits.record(record)?;
        let (state, body) = stored::done(record);
        let (sum, micros) = (body.map(stored::body_sum), time::micros(ttl));
        let decide = |row: Option<ClaimRow>, now| {
            let stored = row.as_ref().and_then(|row| match &row.state {
                State::Done(record) => Some(record.clone()),
                State::Claimed { .. } | State::Released => None,
            });
            match claim_row::complete(row, claim, record, ttl, now) {
                // By an earlier transaction, whose other writes are there too: this one's would be the second.
                (Written::Applied, Change::None) if transaction.is_some() => {
                    (Written::Fenced { winner: stored }, Change::None)
                }
                outcome => outcome,
            }
        };
        let parameters: [&(dyn ToSql + Sync); 5] = [&tag(claim), &state, &body, &sum, &micros];
        self.change("complete", transaction, claim, COMPLETE, &parameters, decide).await
    }

    /// A write for a claim: with what the statement says was there before, `decide` says what it came to if it was not made.
    async fn change(
        &self,
        verb: &'static str,
        transaction: Option<&Transaction<'_>>,
        claim: &Claim,
        sql: &str,
        more: &[&(dyn ToSql + Sync)],
        decide: impl Fn(Option<ClaimRow>, i64) -> (Written, Change) + Send,
    ) -> Result<Written, StoreError> {
        let (key, owner) = (stored::key(claim.key()), &stored::owner(claim.owner())[..]);
        let epoch = claim.epoch() as i64;
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&key, &owner, &epoch];
        parameters.extend(more);
        for _ in 0..TRIES {
            let rows = match transaction {
                None => self.query(verb, sql, &parameters).await?,
                Some(transaction) => {
                    let rows = transaction.query(sql, &parameters).await;
                    rows.map_err(|error| Failure::before(error).into_error("postgres", verb))?
                }
            };
            let (won, now, row) = first(&rows).map_err(|failure| failure.into_error("postgres", verb))?;
            if won {
                return Ok(Written::Applied);
            }
            if let (written, Change::None) = decide(row, now) {
                return Ok(written);
            }
        }
        Err(restless(verb))
    }
}

/// What is read was changed by others before it could be written, again and again.
fn restless(verb: &'static str) -> StoreError {
    StoreError::new("postgres", verb, Fault::Busy).detail("others change the key all the time")
}

/// By which those who wait for the claim's key are told.
fn tag(claim: &Claim) -> String {
    waiters::tag(claim.key()).to_string()
}

fn first(rows: &[Row]) -> Result<(bool, i64, Option<ClaimRow>), Failure> {
    read(rows.first().ok_or_else(|| Failure::new(Fault::Internal, "no row"))?)
}

/// Whether the write was made, the server's time, and the row.
fn read(row: &Row) -> Result<(bool, i64, Option<ClaimRow>), Failure> {
    Ok((row::get(row, "won")?, row::get(row, "now")?, row::claim(row)?))
}
