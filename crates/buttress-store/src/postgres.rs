//! Claims, journals and answers in PostgreSQL.

mod answers;
mod claims;
mod fault;
mod listener;
mod row;
mod runs;
mod schema;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::{ConfigError, Rng};
use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, Row, Socket};

use crate::error::{Fault, StoreError};
use crate::failure::Failure;
use crate::limits::{Limits, MAX_VALUE};
use crate::waiters::Waiters;
use crate::warn::warn;
use listener::Listener;

/// A store in PostgreSQL, 12 or newer, for many machines.
///
/// What was answered with success is in the server's log on its disk: connections of this store commit synchronously,
/// whatever the role's default is. A failover to a replica that does not replicate synchronously loses what it had not
/// received yet: a claim may then be had twice, and its effect run twice.
///
/// Each verb is one statement, and one round trip once a connection has prepared it; but for a command of an operator, which is
/// a transaction.
///
/// The tables `buttress_claims`, `buttress_runs`, `buttress_entries` and `buttress_answers` are created in the schema that the connection's
/// `search_path` begins with. Connections are prepared and kept in a pool; a pooler between them and the server must keep
/// sessions.
///
/// # Waiting
///
/// Whoever waits for a key asks the server to be told, and is woken within milliseconds of the commit with which another
/// process completes or releases it, `complete_in` included: one connection beside the pool listens, from the first wait on.
/// What nobody waits for is told to nobody. While that connection is down, waiters look for themselves, every 10 to 500 ms, and
/// every 2 seconds all the same while it is up.
///
/// # Releases
///
/// Tables that a newer release has migrated are refused, with [`Fault::Version`], when the store is opened. A migration that
/// older releases could not live with takes away the function that all their statements call: those of processes that have
/// the store open fail with the same fault from then on, and change nothing.
///
/// # Clock
///
/// The server's. Every lease, time to live and sleep is measured by it, in the statement that uses it.
///
/// # Time-outs, dropped futures
///
/// Each verb has a [limit](PostgresOptions::timeout). What it then had sent may still be applied, as it may when the future is
/// dropped: repeat it with the same owner. The server gives up what takes longer than the limit. A statement that failed because of others (serialisation, deadlock) is tried
/// again.
#[derive(Clone)]
pub struct Postgres {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Pool,
    timeout: Duration,
    limits: Limits,
    waiters: Arc<Waiters>,
    listener: Listener,
    warnings: Vec<String>,
}

/// How a server is reached; [`Postgres::at`] begins.
#[derive(Clone, Debug)]
#[must_use]
pub struct PostgresOptions {
    config: Config,
    connections: usize,
    timeout: Duration,
    max_value: usize,
}

/// How often a statement is tried that others keep from ending.
const TRIES: u32 = 8;

impl Postgres {
    /// A server, in `tokio-postgres`' terms.
    pub fn at(config: Config) -> PostgresOptions {
        PostgresOptions { config, connections: 8, timeout: Duration::from_secs(5), max_value: MAX_VALUE }
    }

    /// Connects without TLS, with the defaults of [`PostgresOptions`].
    ///
    /// # Errors
    ///
    /// See [`PostgresOptions::open`].
    pub async fn open(config: Config) -> Result<Self, StoreError> {
        Self::at(config).open(tokio_postgres::NoTls).await
    }

    /// What in the server's set-up would lose what it acknowledged; empty if nothing would. With the feature `tracing` each is
    /// a warning when the store is opened, too.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// Closes the pool; every verb fails with [`Fault::Closed`] from then on, for all clones. What is under way ends as it
    /// would have.
    pub fn close(&self) {
        self.inner.pool.close();
        self.inner.listener.close();
        self.inner.waiters.wake_all();
    }

    fn with(mut self, warnings: Vec<String>) -> Self {
        warn("postgres", &warnings);
        Arc::get_mut(&mut self.inner).expect("nobody else has it yet").warnings = warnings;
        self
    }

    /// One statement, within the limit of its verb, tried again while others keep it from ending.
    async fn query(
        &self,
        verb: &'static str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        self.within(verb, async |client| {
            let statement = client.prepare_cached(sql).await.map_err(Failure::before)?;
            let mut pauses = None;
            loop {
                match client.query(&statement, parameters).await.map_err(Failure::from) {
                    Err(failure) if failure.fault == Fault::Busy => {
                        let pauses = pauses.get_or_insert_with(|| (Rng::from_system(), TRIES));
                        pauses.1 -= 1;
                        if pauses.1 == 0 {
                            return Err(failure);
                        }
                        tokio::time::sleep(pauses.0.up_to(Duration::from_millis(20))).await;
                    }
                    result => return result,
                }
            }
        })
        .await
    }

    /// What a verb does with a connection, within its limit. A connection that did not answer in time is not used again,
    /// and neither is one to a server that only reads.
    async fn within<T, W>(&self, verb: &'static str, work: W) -> Result<T, StoreError>
    where
        W: AsyncFnOnce(&mut Object) -> Result<T, Failure>,
    {
        let mut connection = None;
        let limited = tokio::time::timeout(self.inner.timeout, async {
            let connection = connection.insert(self.inner.pool.get().await.map_err(Failure::of_pool)?);
            work(connection).await
        });
        let result = limited.await;
        match result {
            Ok(result) => result.map_err(|failure| {
                if fault::asks_for_another(&failure) {
                    drop(connection.map(Object::take));
                }
                failure.into_error("postgres", verb)
            }),
            Err(_) => Err(Failure::late(self.inner.timeout, connection.map(Object::take).is_some())
                .into_error("postgres", verb)),
        }
    }
}

impl PostgresOptions {
    /// How many connections there are at most, the one that listens aside: 8 by default. Who needs one more waits, within the
    /// limit of its verb.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// The limit of each verb, waiting for a connection included: 5 seconds by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The largest record, input or entry in bytes: 16 MiB by default, and never more than PostgreSQL's gigabyte.
    pub fn max_value(mut self, bytes: usize) -> Self {
        self.max_value = bytes.min(1_000_000_000);
        self
    }

    /// Connects, and brings the tables up to date.
    ///
    /// # Errors
    ///
    /// [`Fault::Unavailable`] if the server cannot be reached, [`Fault::Misconfigured`] if it lets this user not in or not
    /// make tables, or if there are to be no connections, [`Fault::Version`] if the tables are a newer release's.
    pub async fn open<T>(self, tls: T) -> Result<Postgres, StoreError>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let store = self.connect(tls)?;
        let warnings = store.within("open", schema::open).await?;
        Ok(store.with(warnings))
    }

    /// Connects to what an application keeps, as a tool does that looks at it: no table is made or brought up to date.
    ///
    /// # Errors
    ///
    /// As those of [`open`](PostgresOptions::open); [`Fault::Misconfigured`] also if there are no tables, or those of an older
    /// release.
    pub async fn attach<T>(self, tls: T) -> Result<Postgres, StoreError>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let store = self.connect(tls)?;
        let warnings = store.within("attach", schema::attach).await?;
        Ok(store.with(warnings))
    }

    fn connect<T>(self, tls: T) -> Result<Postgres, StoreError>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let wrong = |error: ConfigError| {
            let fault = StoreError::new("postgres", "open", Fault::Misconfigured);
            fault.detail("the options break a rule").caused_by(error)
        };
        if self.connections == 0 {
            return Err(wrong(ConfigError::new("connections", 0, "must be at least 1")));
        }
        if self.timeout.is_zero() {
            return Err(wrong(ConfigError::new("timeout", self.timeout, "must be more than zero")));
        }
        let session: Arc<str> = schema::session(self.timeout).into();
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let waiters = Arc::new(Waiters::new("postgres"));
        let listener = Listener::new(self.config.clone(), tls.clone(), self.timeout, waiters.clone());
        let pool = Pool::builder(Manager::from_config(self.config, tls, recycling))
            .max_size(self.connections)
            .runtime(Runtime::Tokio1)
            .post_create(Hook::async_fn(move |client, _| {
                let session = session.clone();
                Box::pin(async move { client.batch_execute(&session).await.map_err(HookError::Backend) })
            }))
            .build()
            .map_err(|error| StoreError::new("postgres", "open", Fault::Internal).caused_by(error))?;
        let limits = Limits { store: "postgres", value: self.max_value };
        let inner = Inner { pool, timeout: self.timeout, limits, waiters, listener, warnings: Vec::new() };
        Ok(Postgres { inner: Arc::new(inner) })
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("pool", &self.inner.pool.status()).finish_non_exhaustive()
    }
}
