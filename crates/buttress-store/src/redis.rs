//! Claims, journals and answers in Redis or Valkey.

mod answers;
mod claims;
mod codec;
mod fault;
mod runs;
mod scripts;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buttress_core::ConfigError;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, IntoConnectionInfo, RedisError, ScriptInvocation};
use tokio::time::Instant;

use crate::error::{Fault, StoreError};
use crate::failure::Failure;
use crate::limits::{Limits, MAX_VALUE};
use crate::waiters::Waiters;
use crate::warn::warn;
use scripts::Scripts;

/// A store in Redis 6.2 or newer, or Valkey, for many machines.
///
/// Each verb is one script, which the server runs as a whole, and one round trip; a listing may take several. What was answered with success survives as much as the server
/// is set up for: with `appendonly yes` and `appendfsync always` all of it survives a crash, with `everysec` the last second
/// may be lost, and without an append-only file everything since the last snapshot. It must not evict: `maxmemory-policy
/// noeviction`. [`warnings`](Redis::warnings) says which of these it is not. A failover to a replica loses what that had
/// not received yet, always: a claim may then be had twice, and its effect run twice. Where that must not happen, take
/// PostgreSQL; journals above all.
///
/// A key is one hash, under a name with a hash tag of its own, so that claims spread over a cluster's slots behind a proxy
/// that speaks for it; journals share one tag. What is of no use any more expires by itself: there is nothing to
/// [sweep](crate::ClaimStore::sweep).
///
/// # Releases
///
/// What a newer release has written is refused, with [`Fault::Version`], when the store is opened. A release that older ones
/// could not live with has other keys, which those that have the store open do not see.
///
/// # Clock
///
/// The server's, read in the script that uses it.
///
/// # Time-outs, dropped futures
///
/// Each verb has a [limit](RedisOptions::timeout). What it then had sent may still be applied, as it may when the future is
/// dropped: repeat it with the same owner. A connection that broke is made anew in the background, and one that
/// did not answer in time, or leads to a server that became a replica, is replaced.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    config: ConnectionManagerConfig,
    connection: Mutex<Connection>,
    prefix: String,
    timeout: Duration,
    limits: Limits,
    waiters: Waiters,
    scripts: Scripts,
    warnings: Vec<String>,
}

/// What all share, and which one it is.
#[derive(Clone)]
struct Connection {
    manager: ConnectionManager,
    number: u64,
    made: Instant,
}

impl Connection {
    fn new(manager: ConnectionManager, number: u64) -> Self {
        Self { manager, number, made: Instant::now() }
    }
}

/// How a server is reached; [`Redis::at`] begins.
#[derive(Clone, Debug)]
#[must_use]
pub struct RedisOptions {
    client: Client,
    prefix: String,
    timeout: Duration,
    max_value: usize,
}

/// One of those that a script answers with.
type Value = Option<Vec<u8>>;

/// A connection is replaced once in this time at most.
const YOUNG: Duration = Duration::from_secs(1);

impl Redis {
    /// A server, such as `redis://host:6379/`; with TLS, `rediss://host:6379/`, for which a feature of the `redis` crate has to
    /// be chosen, such as `tokio-rustls-comp`.
    ///
    /// # Errors
    ///
    /// If that is no address.
    pub fn at(server: impl IntoConnectionInfo) -> Result<RedisOptions, ConfigError> {
        let client = || {
            let server = server.into_connection_info()?;
            // Many share the connection: what one sends must not wait until the server has answered another.
            let settings = server.tcp_settings().clone().set_nodelay(true);
            Client::open(server.set_tcp_settings(settings))
        };
        // It may hold a password.
        let wrong = |_: RedisError| {
            ConfigError::new("server", format_args!("an address"), "must be one of a Redis server")
        };
        let client = client().map_err(wrong)?;
        let prefix = "buttress".to_owned();
        Ok(RedisOptions { client, prefix, timeout: Duration::from_secs(5), max_value: MAX_VALUE })
    }

    /// What in the server's set-up would lose what it acknowledged; empty if nothing would. With the feature `tracing` each is
    /// a warning when the store is opened, too.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    async fn invoke(
        &self,
        verb: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<Vec<Value>, StoreError> {
        let Connection { mut manager, number, .. } = self.connection().clone();
        let limited = tokio::time::timeout(self.inner.timeout, script.invoke_async(&mut manager)).await;
        let failure = match limited {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::from(error),
            Err(_) => Failure::late(self.inner.timeout, true),
        };
        if fault::asks_for_another(&failure) {
            self.replace(number);
        }
        Err(failure.into_error("redis", verb))
    }

    /// Makes a new connection the one that all share, unless others have done so, or this one is still young. The manager
    /// replaces one that broke, but neither one that is silent, as it is for a quarter of an hour when the server's machine is
    /// gone, nor one to a server that became a replica. Others may still get their answers from the old one.
    fn replace(&self, number: u64) {
        let Inner { client, config, .. } = &*self.inner;
        let mut connection = self.connection();
        if connection.number == number
            && connection.made.elapsed() >= YOUNG
            && let Ok(manager) = ConnectionManager::new_lazy_with_config(client.clone(), config.clone())
        {
            *connection = Connection::new(manager, number + 1);
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.inner.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RedisOptions {
    /// What all keys begin with: `buttress` by default. Stores with different prefixes have nothing in common.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The limit of each verb, connecting anew included: 5 seconds by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The largest record, input or entry in bytes: 16 MiB by default, and never more than Redis' 512 MiB.
    pub fn max_value(mut self, bytes: usize) -> Self {
        self.max_value = bytes.min(512 << 20);
        self
    }

    /// Connects, and looks how the server is set up.
    ///
    /// # Errors
    ///
    /// [`Fault::Unavailable`] if the server cannot be reached, [`Fault::Misconfigured`] if it lets this user not in or the
    /// prefix has a brace, [`Fault::Version`] if what it holds is a newer release's.
    pub async fn open(self) -> Result<Redis, StoreError> {
        self.open_with(async |connection, prefix| {
            fault::mark(connection, prefix).await?;
            fault::expect_version(connection, prefix).await
        })
        .await
    }

    /// Connects to what an application keeps, as a tool does that looks at it: nothing is written.
    ///
    /// # Errors
    ///
    /// As those of [`open`](RedisOptions::open); [`Fault::Misconfigured`] also if no application has opened it yet.
    pub async fn attach(self) -> Result<Redis, StoreError> {
        self.open_with(fault::expect_version).await
    }

    async fn open_with<L>(self, look: L) -> Result<Redis, StoreError>
    where
        L: AsyncFnOnce(&mut ConnectionManager, &str) -> Result<(), Failure>,
    {
        if self.prefix.contains(['{', '}']) {
            let wrong =
                StoreError::new("redis", "open", Fault::Misconfigured).detail("the options break a rule");
            return Err(wrong.caused_by(ConfigError::new("prefix", self.prefix, "must have no braces")));
        }
        let failed = |failure: Failure| failure.into_error("redis", "open");
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            .set_number_of_retries(2);
        let connecting = ConnectionManager::new_with_config(self.client.clone(), config.clone());
        let connection = tokio::time::timeout(self.timeout * 2, connecting).await;
        let connection = connection.map_err(|_| failed(Failure::late(self.timeout * 2, false)))?;
        let mut connection = connection.map_err(|error| failed(Failure::before(error)))?;
        look(&mut connection, &self.prefix).await.map_err(failed)?;
        Scripts::load(&mut connection).await.map_err(|error| failed(Failure::before(error)))?;
        let warnings = fault::warnings(&mut connection).await.map_err(failed)?;
        warn("redis", &warnings);
        let limits = Limits { store: "redis", value: self.max_value };
        let inner = Inner {
            client: self.client,
            config,
            connection: Mutex::new(Connection::new(connection, 0)),
            prefix: self.prefix,
            timeout: self.timeout,
            limits,
            waiters: Waiters::new("redis"),
            scripts: Scripts::new(),
            warnings,
        };
        Ok(Redis { inner: Arc::new(inner) })
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.inner.prefix).finish_non_exhaustive()
    }
}
