//! Steps that are a transaction of PostgreSQL.

use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::StepKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_postgres::{Client, IsolationLevel, Transaction};

/// A transaction in a step's body: what it writes happens exactly once, whatever becomes of the worker, the connection or the
/// answer to its commit.
///
/// Beside the writes it leaves the step's key and result in a table of the same database. A step that is run again, by
/// another worker too, finds them and gives that result. Of two that run at once the second one waits, before it has written
/// anything, until the first has ended: then it gives the first one's result, or is the one. The journal may be in any
/// store; the table is only for what happens between the commit and the record.
///
/// Its key is that of the step's [next call](StepKey::next_call), so that a body may have several of them, in a fixed order.
/// An error is not kept, since nothing was written. The answer to a commit may be lost: give the step a
/// [retry](crate::Step::retry), and the second attempt finds what the first one has done. A transaction that is dropped is
/// rolled back.
///
/// It is at `READ COMMITTED`, with `synchronous_commit` on. A worker that is stopped in the middle of it keeps others
/// waiting; the server ends it after a minute, if no other `idle_in_transaction_session_timeout` is set.
///
/// ```no_run
/// use buttress_checkpoint::{Begun, Cx, Failure, StepTransaction};
/// use tokio_postgres::{Client, NoTls};
///
/// async fn connect() -> Result<Client, Failure> {
///     let (client, connection) = tokio_postgres::connect("host=localhost dbname=bank", NoTls).await?;
///     tokio::spawn(connection);
///     Ok(client)
/// }
///
/// async fn pay(cx: &Cx) -> Result<i64, Failure> {
///     let transfer = async || {
///         let mut client = connect().await?;
///         let transaction = match StepTransaction::begin(&mut client).await? {
///             Begun::Done(balance) => return Ok(balance),
///             Begun::Open(transaction) => transaction,
///         };
///         let sql = "UPDATE accounts SET balance = balance - 7 WHERE id = 1 RETURNING balance";
///         let balance: i64 = transaction.query_one(sql, &[]).await?.get(0);
///         transaction.commit(&balance).await?;
///         Ok::<_, Failure>(balance)
///     };
///     Ok(cx.step("transfer", transfer).retry(Default::default(), 3).await?)
/// }
/// ```
pub struct StepTransaction<'a> {
    transaction: Transaction<'a>,
    key: Arc<str>,
}

/// What beginning a step's transaction came to.
#[derive(Debug)]
pub enum Begun<'a, T> {
    /// It has begun.
    Open(StepTransaction<'a>),
    /// It was committed before, with this result.
    Done(T),
}

/// Why a step's transaction could not be begun or committed. It is rolled back; a commit may have been made all the same.
#[derive(Debug)]
#[non_exhaustive]
pub enum TransactionError {
    /// It was begun outside of a step's body, or in a task that the body spawned: it has no key.
    OutsideStep,
    /// The result cannot be encoded, or what is stored is of another type.
    Encoding(serde_json::Error),
    /// The database failed.
    Database(tokio_postgres::Error),
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutsideStep => {
                "a step's transaction was begun outside of a step; begin it in the step's body, in no other task"
            }
            Self::Encoding(_) => "the result of the step's transaction does not fit",
            Self::Database(_) => "the step's transaction failed; it may have been committed: retry the step",
        })
    }
}

impl Error for TransactionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::OutsideStep => None,
            Self::Encoding(error) => Some(error),
            Self::Database(error) => Some(error),
        }
    }
}

impl From<tokio_postgres::Error> for TransactionError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl<'a> StepTransaction<'a> {
    /// Makes the table `buttress_steps`, if it is not there.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn install(client: &Client) -> Result<(), tokio_postgres::Error> {
        // One at a time: two that make it at once would fail.
        client
            .batch_execute(
                "BEGIN; SELECT pg_advisory_xact_lock(1114796147);
                CREATE TABLE IF NOT EXISTS buttress_steps (
                    key text COLLATE \"C\" PRIMARY KEY, result text, at timestamptz NOT NULL DEFAULT now());
                CREATE INDEX IF NOT EXISTS buttress_steps_at ON buttress_steps (at); COMMIT",
            )
            .await
    }

    /// Begins the transaction, or gives the result of the one that was committed under the same key. Waits for one that is
    /// open.
    ///
    /// # Errors
    ///
    /// See [`TransactionError`].
    pub async fn begin<T: DeserializeOwned>(
        client: &'a mut Client,
    ) -> Result<Begun<'a, T>, TransactionError> {
        let key = StepKey::next_call().ok_or(TransactionError::OutsideStep)?;
        let begin = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
        let transaction = begin.start().await?;
        transaction
            .batch_execute(
                "SET LOCAL synchronous_commit = on;
                SELECT set_config('idle_in_transaction_session_timeout', '60s', true)
                WHERE current_setting('idle_in_transaction_session_timeout') = '0'",
            )
            .await?;
        let claim = "INSERT INTO buttress_steps (key) VALUES ($1) ON CONFLICT (key) DO NOTHING";
        if transaction.execute(claim, &[&&*key]).await? == 1 {
            return Ok(Begun::Open(Self { transaction, key }));
        }
        let sql = "SELECT coalesce(result, '') FROM buttress_steps WHERE key = $1";
        let result: String = transaction.query_one(sql, &[&&*key]).await?.try_get(0)?;
        serde_json::from_str(&result).map(Begun::Done).map_err(TransactionError::Encoding)
    }

    /// Commits what was written, and the result.
    ///
    /// # Errors
    ///
    /// See [`TransactionError`].
    pub async fn commit(self, result: &impl Serialize) -> Result<(), TransactionError> {
        let result = serde_json::to_string(result).map_err(TransactionError::Encoding)?;
        let sql = "UPDATE buttress_steps SET result = $2 WHERE key = $1";
        self.transaction.execute(sql, &[&&*self.key, &result]).await?;
        Ok(self.transaction.commit().await?)
    }

    /// Forgets transactions that were begun longer ago, and says how many. A step that is run again after that is a new one:
    /// the age must be longer than any run is interrupted for between two attempts.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn prune(client: &Client, age: Duration) -> Result<u64, tokio_postgres::Error> {
        let sql = "DELETE FROM buttress_steps WHERE at < now() - make_interval(secs => $1)";
        client.execute(sql, &[&age.as_secs_f64()]).await
    }
}

impl<'a> Deref for StepTransaction<'a> {
    type Target = Transaction<'a>;

    fn deref(&self) -> &Transaction<'a> {
        &self.transaction
    }
}

impl fmt::Debug for StepTransaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepTransaction").field("key", &self.key).finish_non_exhaustive()
    }
}
