use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::Fault;
use crate::failure::Failure;

/// Of the tables below; a file with a higher one is not touched.
///
/// 2: appends to a run that goes on count its entries among those, and leave its row alone. A file of version 1 is one in which
/// no append has done so yet, and nothing in it has to be changed but the number.
const VERSION: i64 = 2;

/// "Btrs", so that the file is known for what it is.
const APPLICATION: i64 = 0x4274_7273;

/// `state`: 0 claimed, 1 released, 2 to 4 done. `status`: as `StatusKind`; from 4 on it is over.
///
/// The entry of a run with the highest number that there is, if there is one, is none: it says in `occurrence` how many there
/// were, and in `at` when, after the last append to the run as it went on. Where that is more than `entries` of the run's row says,
/// `recoveries` and `changed` of the row are old, too. Runs that are over have none.
const TABLES: &str = "
CREATE TABLE claims (
    key BLOB NOT NULL PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    owner BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    unfinished INTEGER NOT NULL,
    state INTEGER NOT NULL,
    lease_until INTEGER,
    expires INTEGER NOT NULL,
    body BLOB,
    sum INTEGER NOT NULL
);
CREATE INDEX claims_expires ON claims (expires);

CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    parent TEXT,
    status INTEGER NOT NULL,
    reason TEXT NOT NULL,
    cancel INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    owner BLOB NOT NULL,
    worker TEXT NOT NULL,
    lease_until INTEGER,
    due INTEGER,
    recoveries INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    sum INTEGER NOT NULL
);
CREATE INDEX runs_due ON runs (name, due) WHERE due IS NOT NULL;
CREATE INDEX runs_created ON runs (created, id);
CREATE INDEX runs_over ON runs (changed) WHERE status >= 4;
CREATE INDEX runs_parent ON runs (parent) WHERE parent IS NOT NULL;

CREATE TABLE inputs (
    run INTEGER PRIMARY KEY,
    input BLOB NOT NULL,
    sum INTEGER NOT NULL
);

CREATE TABLE entries (
    run INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    format INTEGER NOT NULL,
    name TEXT NOT NULL,
    occurrence INTEGER NOT NULL,
    payload BLOB NOT NULL,
    sum INTEGER NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;
";

/// A row without a body was forgotten; one that takes no bytes is that of its scope. Releases that know nothing of it can live
/// with it, and the version stays.
const ANSWERS: &str = "
CREATE TABLE IF NOT EXISTS answers (
    key BLOB NOT NULL PRIMARY KEY,
    scope BLOB NOT NULL,
    born INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    body BLOB,
    sum INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_born ON answers (scope, born, bytes, expires);
";

/// The connection that writes, to a file that is sound and up to date.
pub(super) fn open(path: &Path, busy_timeout: Duration) -> Result<Connection, Failure> {
    let mut connection = connect(path, busy_timeout, OpenFlags::SQLITE_OPEN_CREATE)?;
    // Of one moment: another process may be making the tables.
    let snapshot = connection.transaction()?;
    expect_ours(&snapshot)?;
    snapshot.finish()?;
    let journal = write_ahead(&connection)?;
    make_durable(&connection, &journal)?;
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        return Err(Failure::new(Fault::Corrupt, check));
    }
    migrate(&mut connection)?;
    Ok(connection)
}

/// The connection that writes, to a file that somebody else keeps; it is taken as it is.
pub(super) fn attach(path: &Path, busy_timeout: Duration) -> Result<Connection, Failure> {
    let connection = connect(path, busy_timeout, OpenFlags::empty())?;
    expect_ours(&connection)?;
    let version = pragma(&connection, "user_version")?;
    if version != VERSION {
        let detail = format!(
            "its schema has version {version}, and not {VERSION}; an application has to open it first"
        );
        return Err(Failure::new(Fault::Misconfigured, detail));
    }
    let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    make_durable(&connection, &journal)?;
    Ok(connection)
}

/// What is committed from now on is on the disk then.
fn make_durable(connection: &Connection, journal: &str) -> Result<(), Failure> {
    if journal != "wal" {
        let detail = format!("no write-ahead log is possible here, the journal mode is {journal}");
        return Err(Failure::new(Fault::Misconfigured, detail));
    }
    // macOS' fsync leaves data in the disk's cache.
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;",
    )?;
    let synchronous = pragma(connection, "synchronous")?;
    if synchronous != 2 {
        let detail = format!("synchronous is {synchronous}, and not 2 (FULL)");
        return Err(Failure::new(Fault::Misconfigured, detail));
    }
    Ok(())
}

/// Turns the write-ahead log on. While another process does the same, SQLite does not wait for it.
fn write_ahead(connection: &Connection) -> Result<String, Failure> {
    let mut tries = 0;
    loop {
        let journal = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0));
        match journal.map_err(Failure::from) {
            Err(failure) if failure.fault == Fault::Busy && tries < 100 => {
                tries += 1;
                std::thread::park_timeout(Duration::from_millis(10));
            }
            journal => return journal,
        }
    }
}

/// A connection that can only read.
pub(super) fn open_reader(path: &Path, busy_timeout: Duration) -> Result<Connection, Failure> {
    let connection = connect(path, busy_timeout, OpenFlags::empty())?;
    connection.execute_batch("PRAGMA query_only = ON")?;
    Ok(connection)
}

fn connect(path: &Path, busy_timeout: Duration, create: OpenFlags) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | create;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy_timeout)?;
    // Else each value that is bound to a statement with a range, or a join, has it compiled anew.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Refuses a file that a newer release has migrated, perhaps since it was opened.
pub(super) fn expect_known(connection: &Connection) -> Result<(), Failure> {
    let mut version = connection.prepare_cached("PRAGMA user_version")?;
    let version: i64 = version.query_row([], |row| row.get(0))?;
    if version > VERSION {
        let detail = format!("its schema has version {version}, this release knows {VERSION}");
        return Err(Failure::new(Fault::Version, detail));
    }
    Ok(())
}

/// Refuses a file that is a newer release's, or something else's, before anything in it is changed.
fn expect_ours(connection: &Connection) -> Result<(), Failure> {
    let application = pragma(connection, "application_id")?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application == APPLICATION {
        expect_known(connection)?;
    }
    if application != APPLICATION && (application != 0 || tables != 0) {
        return Err(Failure::new(Fault::Misconfigured, "the file is a database of something else"));
    }
    Ok(())
}

fn migrate(connection: &mut Connection) -> Result<(), Failure> {
    // Another process may do the same at this moment.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    expect_ours(&transaction)?;
    let version = pragma(&transaction, "user_version")?;
    if version == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
    }
    if version < VERSION {
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.execute_batch(ANSWERS)?;
    transaction.commit().map_err(Failure::of_commit)
}

fn pragma(connection: &Connection, name: &str) -> Result<i64, Failure> {
    Ok(connection.pragma_query_value(None, name, |row| row.get(0))?)
}
