use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use buttress_store::{Postgres, Record, Written};

use crate::config::Config;
use crate::error::Error;
use crate::key::Claim;

/// What an effect has done with its claim in a transaction of its own; clones of a claim share it.
#[derive(Clone, Debug)]
pub(crate) struct Transaction(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ttl: Duration,
    retry_after: Duration,
    state: AtomicU8,
}

const COMPLETED: u8 = 1;
const FENCED: u8 = 2;

impl Transaction {
    pub(crate) fn new(config: &Config) -> Self {
        let (ttl, retry_after) = (config.ttl, config.retry_after);
        Self(Arc::new(Shared { ttl, retry_after, state: AtomicU8::new(0) }))
    }

    /// The answer counts if the transaction was committed, and only then.
    pub(crate) fn was_tried(&self) -> bool {
        self.0.state.load(Ordering::Acquire) != 0
    }

    pub(crate) fn was_fenced(&self) -> bool {
        self.0.state.load(Ordering::Acquire) == FENCED
    }
}

impl Claim {
    /// Completes the claim in the effect's own transaction, so that what that writes and the answer become durable together,
    /// or not at all: exactly once within one PostgreSQL. The answer is kept for [`Config::ttl`](crate::Config::ttl).
    ///
    /// Complete last, then commit, and answer what was recorded: [`record_of`](crate::record_of) makes the record of an answer
    /// of [`Keyed`](crate::Keyed) and [`Idempotency::run`](crate::Idempotency::run), `HttpKeys::record` that of a response.
    /// Whatever the effect answers after a transaction that was rolled back or not committed is not recorded, and its caller
    /// gets the answer of whoever took the key, or [`Error::Lost`].
    ///
    /// A claim that is not [protected](Claim::is_protected) completes nothing, and the transaction can be committed.
    ///
    /// ```no_run
    /// # use buttress_core::BoxError;
    /// # use buttress_idempotency::{Claim, record_of};
    /// async fn pay(
    ///     claim: Claim,
    ///     store: &buttress_store::Postgres,
    ///     client: &mut tokio_postgres::Client,
    /// ) -> Result<u64, BoxError> {
    ///     let transaction = client.transaction().await?;
    ///     transaction.execute("UPDATE accounts SET balance = balance - 7 WHERE id = 1", &[]).await?;
    ///     // An error drops the transaction, which rolls it back.
    ///     claim.complete_in(store, &transaction, &record_of(&7)).await?;
    ///     transaction.commit().await?;
    ///     Ok(7)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if somebody else has taken the key, or an earlier transaction has completed it; [`Error::Store`] if the
    /// statement fails. The transaction has to be rolled back, which dropping it does.
    pub async fn complete_in(
        &self,
        store: &Postgres,
        transaction: &tokio_postgres::Transaction<'_>,
        record: &Record,
    ) -> Result<(), Error> {
        if !self.is_protected() {
            return Ok(());
        }
        let Shared { ttl, retry_after, state } = &*self.transaction.0;
        // Also if this future is dropped in the middle.
        state.store(COMPLETED, Ordering::Release);
        match store.complete_in(transaction, &self.claim, record, *ttl).await.map_err(Error::Store)? {
            Written::Applied => Ok(()),
            Written::Fenced { .. } => {
                state.store(FENCED, Ordering::Release);
                Err(Error::Lost { retry_after: *retry_after })
            }
        }
    }
}
