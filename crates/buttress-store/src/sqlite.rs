//! Claims, journals and answers in a SQLite file.

mod answers;
mod claims;
mod clock;
mod fault;
mod known;
mod row;
mod runs;
mod schema;
mod session;
mod worker;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;

use crate::error::{Fault, StoreError};
use crate::failure::Failure;
use crate::limits::{Limits, MAX_VALUE};
use crate::waiters::Waiters;
use clock::StoreClock;
use session::Session;
use worker::{Pending, Statistics, Thread};

/// A store in a SQLite file: the default for one machine.
///
/// What was answered with success survives a crash of the process and a loss of power: WAL, `synchronous=FULL`, set and
/// read back. Several processes of one machine may have the file open at the same time; it must not be on a network file
/// system. Writes of this process are gathered: those that come in while one commit is under way share the next one, and
/// its one `fsync`.
///
/// # Clock
///
/// SQLite has no server, so the store's clock is this machine's wall clock, which the processes share. Within a process it
/// never runs backwards, and goes on at its own pace where the wall clock is set back.
///
/// Where the wall clock is set forward by a second or more, or the machine has slept, the lease of a *run* does not count as over
/// because of that: a process that used the store before sees it by the monotonic clock, and takes over no run that somebody holds for
/// as long as the [lease](crate::Wanted::lease) that it asks for. Whoever is alive has renewed its own by then. A process that is
/// started just after the step cannot see it, and may take over a run before its owner renews. *Claims* end early: another
/// process may take over what is still being worked on. Whoever lost one or the other is fenced.
///
/// Set forward and then back, it leaves each process that used the store meanwhile ahead by as much, for as long as it runs.
/// By itself, or among others that were all running, it loses nothing by that: a lease lasts as long as it was asked for,
/// neither for ever nor less. But a process that is started afterwards sees the leases of the others last longer by as much,
/// and the others may take over its own at once: restart all processes that have the file open after a clock was wrong.
///
/// # Releases
///
/// A file that a newer release has migrated is refused, with [`Fault::Version`]: when it is opened, and by a process that
/// has it open already, from its next command on.
///
/// # Dropped futures, shutdown
///
/// A write that was handed to the writer is applied, even if its future is dropped: only its answer is lost. The writer ends
/// after its last command once all clones are dropped; [`shutdown`](Sqlite::shutdown) waits for that.
///
/// A paused tokio clock runs ahead while it waits for the writer, which is a thread: give such tests a
/// [clock](SqliteOptions::clock) of their own.
#[derive(Clone)]
pub struct Sqlite {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    writer: Thread,
    reader: Thread,
    limits: Limits,
    waiters: Waiters,
    clock: Arc<StoreClock>,
    statistics: Arc<Statistics>,
}

/// How a file is opened; [`Sqlite::at`] begins.
#[derive(Clone)]
#[must_use]
pub struct SqliteOptions {
    path: PathBuf,
    busy_timeout: Duration,
    max_value: usize,
    clock: Option<Arc<dyn Fn() -> SystemTime + Send + Sync>>,
    wall: fn() -> SystemTime,
}

/// What the writer of one [`Sqlite`] has done since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteStatistics {
    /// Commands that were carried out, successfully or not.
    pub commands: u64,
    /// Commits that changed the file: each is one `fsync` of the write-ahead log, checkpoints aside.
    pub commits: u64,
}

/// Commands that wait for a thread; whoever has one more waits for room.
const QUEUE: usize = 1024;

impl Sqlite {
    /// Opens a file, or creates it, with the defaults of [`SqliteOptions`].
    ///
    /// # Errors
    ///
    /// See [`SqliteOptions::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::at(path).open().await
    }

    /// A file that is to be opened, or created.
    pub fn at(path: impl AsRef<Path>) -> SqliteOptions {
        SqliteOptions {
            path: path.as_ref().to_owned(),
            busy_timeout: Duration::from_secs(5),
            max_value: MAX_VALUE,
            clock: None,
            wall: buttress_core::clock::wall,
        }
    }

    /// What the writer has done so far.
    pub fn statistics(&self) -> SqliteStatistics {
        self.inner.statistics.read()
    }

    /// Carries out what was handed over before, closes the file and refuses everything after that with
    /// [`Fault::Closed`], for all clones. Returns once the file is closed, however often and by however many it is called.
    pub async fn shutdown(&self) {
        self.inner.writer.stop().await;
        self.inner.reader.stop().await;
    }

    /// For what leaves runs as they are.
    async fn write<T: Send + 'static>(
        &self,
        verb: &'static str,
        bytes: usize,
        work: impl FnOnce(&Connection, i64) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.write_run(verb, bytes, move |session: &mut Session<'_>, now| work(session.connection, now)).await
    }

    async fn write_run<T: Send + 'static>(
        &self,
        verb: &'static str,
        bytes: usize,
        work: impl FnOnce(&mut Session<'_>, i64) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (pending, answer) = Pending::job(verb, bytes, work);
        let sent = self.inner.writer.send(pending).await;
        sent.map_err(|_| StoreError::new("sqlite", verb, Fault::Closed))?;
        let closed = |_| StoreError::new("sqlite", verb, Fault::Closed).may_have_been_applied();
        answer.await.map_err(closed)?
    }

    async fn read<T: Send + 'static>(
        &self,
        verb: &'static str,
        work: impl FnOnce(&Connection, i64) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let work = move |session: &mut Session<'_>, now| work(session.connection, now);
        let (pending, answer) = Pending::job(verb, 0, work);
        let closed = || StoreError::new("sqlite", verb, Fault::Closed);
        self.inner.reader.send(pending).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

impl SqliteOptions {
    /// For how long a write waits while another process writes, before it fails with [`Fault::Busy`]: 5 seconds by default.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// The largest record, input or entry in bytes: 16 MiB by default, and never more than SQLite's billion.
    pub fn max_value(mut self, bytes: usize) -> Self {
        self.max_value = bytes.min(1_000_000_000);
        self
    }

    /// Reads the store's time from here, and not from the wall clock; for tests. All who share the file must read the same.
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Opens the file, checks it and brings its tables up to date. That reads the whole file once.
    ///
    /// # Errors
    ///
    /// [`Fault::Unavailable`] if it cannot be opened or created, [`Fault::Corrupt`] if it is damaged or no database,
    /// [`Fault::Version`] if a newer release has migrated it, [`Fault::Misconfigured`] if it is a database of something else, or on
    /// a file system that does not support the write-ahead log.
    pub async fn open(self) -> Result<Sqlite, StoreError> {
        self.open_with(schema::open).await
    }

    /// Opens a file that an application keeps, as a tool does that looks at it: nothing is created, read as a whole or brought
    /// up to date, and what is damaged in it is noticed where it is met.
    ///
    /// # Errors
    ///
    /// As those of [`open`](SqliteOptions::open); [`Fault::Misconfigured`] also if the file is empty or of an older release.
    pub async fn attach(self) -> Result<Sqlite, StoreError> {
        self.open_with(schema::attach).await
    }

    async fn open_with(
        self,
        open: fn(&Path, Duration) -> Result<Connection, Failure>,
    ) -> Result<Sqlite, StoreError> {
        let clock = Arc::new(StoreClock::new(self.clock.clone(), self.wall));
        let statistics = Arc::new(Statistics::default());
        // The writer first: it creates the tables that the reader reads.
        let writes = worker::Writes { clock: clock.clone(), statistics: statistics.clone() };
        let (path, timeout) = (self.path.clone(), self.busy_timeout);
        let writer = worker::spawn("sqlite-writer", QUEUE, move || open(&path, timeout), writes).await?;
        let (path, timeout) = (self.path.clone(), self.busy_timeout);
        let reads = worker::Reads { clock: clock.clone() };
        let reader =
            worker::spawn("sqlite-reader", QUEUE, move || schema::open_reader(&path, timeout), reads).await?;
        let limits = Limits { store: "sqlite", value: self.max_value };
        let (path, waiters) = (self.path, Waiters::new("sqlite"));
        Ok(Sqlite { inner: Arc::new(Inner { path, writer, reader, limits, waiters, clock, statistics }) })
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for SqliteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, busy_timeout, max_value, clock: _, wall: _ } = self;
        f.debug_struct("SqliteOptions")
            .field("path", path)
            .field("busy_timeout", busy_timeout)
            .field("max_value", max_value)
            .finish_non_exhaustive()
    }
}
