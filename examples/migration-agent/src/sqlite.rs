//! SQLite: a connection for each change, on a thread of its own; the file's lock is what keeps others away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use buttress::core::clock;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{
    Batch, Connection, InterruptHandle, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior,
    params,
};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::crash::Point;
use crate::database::{Begin, Change, Direction, Done, Record, Settings, State, TABLE};
use crate::fault::Fault;
use crate::problem::{Exit, Problem};
use crate::sql::{Rule, Statement};

/// A database in a file.
#[derive(Debug)]
pub(crate) struct Sqlite {
    path: PathBuf,
    settings: Settings,
}

/// Told whenever a statement begins, and what it may take, so that its time can be measured from elsewhere.
type Ticks = watch::Sender<Duration>;

impl Sqlite {
    pub(crate) fn new(path: &Path, settings: Settings) -> Self {
        Self { path: path.to_owned(), settings }
    }

    pub(crate) async fn install(&self) -> Result<(), Fault> {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {TABLE} (
                id TEXT PRIMARY KEY NOT NULL, hash TEXT NOT NULL, state TEXT NOT NULL, statement INTEGER NOT NULL,
                sequence INTEGER NOT NULL, at TEXT NOT NULL, ms INTEGER NOT NULL, run TEXT NOT NULL) STRICT"
        );
        self.with(true, self.settings, move |connection, _| Ok(connection.execute_batch(&sql)?)).await
    }

    pub(crate) async fn history(&self) -> Result<Vec<Record>, Fault> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        self.with(false, self.settings, |connection, _| records(connection)).await
    }

    pub(crate) async fn change(&self, change: Change) -> Result<Done, Fault> {
        let settings = change.settings(self.settings);
        self.with(true, settings, move |connection, ticks| {
            if change.source().script.bare {
                bare(connection, &change, ticks)
            } else {
                whole(connection, &change, settings.statement, ticks)
            }
        })
        .await
    }

    /// Does something with a connection. A statement that takes too long is interrupted, and so is everything if nobody
    /// waits for it any more.
    async fn with<T: Send + 'static>(
        &self,
        create: bool,
        settings: Settings,
        work: impl FnOnce(&mut Connection, &Ticks) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (path, lock) = (self.path.clone(), settings.lock);
        let (ticks, mut ticked) = watch::channel(lock.saturating_add(settings.statement));
        let (handle, interrupt) = oneshot::channel();
        let mut working = tokio::task::spawn_blocking(move || {
            let mut connection = open(&path, create, lock)?;
            let _ = handle.send(connection.get_interrupt_handle());
            work(&mut connection, &ticks)
        });
        let interrupt = Interrupt(interrupt.await.ok());
        let ended = loop {
            let patience = *ticked.borrow_and_update();
            tokio::select! {
                ended = &mut working => break ended,
                told = tokio::time::timeout(patience, ticked.changed()) => match told {
                    Ok(Ok(())) => {}
                    // The work has ended.
                    Ok(Err(_)) => break (&mut working).await,
                    Err(_) => interrupt.now(),
                }
            }
        };
        ended.unwrap_or_else(|error| Err(Fault::unsure(format!("the thread of SQLite ended: {error}"))))
    }
}

/// Interrupts the statement under way when it is dropped: nobody waits for it.
struct Interrupt(Option<InterruptHandle>);

impl Interrupt {
    fn now(&self) {
        if let Some(handle) = &self.0 {
            handle.interrupt();
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.now();
    }
}

fn open(path: &Path, create: bool, lock: Duration) -> Result<Connection, Fault> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(lock)?;
    // Tables are rebuilt with references to them off; what refers to nothing is looked for before the commit.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF")?;
    Ok(connection)
}

fn records(connection: &Connection) -> Result<Vec<Record>, Fault> {
    let there = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    if connection.query_row(there, [TABLE], |_| Ok(())).optional()?.is_none() {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT id, hash, state, statement, sequence, at, ms FROM {TABLE} ORDER BY sequence");
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([], |row: &Row<'_>| {
        let record = |state| -> rusqlite::Result<Record> {
            let statement = row.get::<_, i64>(3)?.try_into().unwrap_or_default();
            let (sequence, at, ms) = (row.get(4)?, row.get(5)?, row.get(6)?);
            Ok(Record { id: row.get(0)?, hash: row.get(1)?, state, statement, sequence, at, ms })
        };
        Ok(match State::parse(&row.get::<_, String>(2)?) {
            Ok(state) => Ok(record(state)?),
            Err(fault) => Err(fault),
        })
    })?;
    rows.map(|row| row.map_err(Fault::from)?).collect()
}

/// Where a change begins, by what the file says while nobody else can write.
fn begin(connection: &Connection, change: &Change) -> Result<Begin, Fault> {
    let records = records(connection)?;
    let applied = records.iter().filter(|it| it.state == State::Applied).map(|it| it.id.clone());
    let applied: Vec<String> = applied.collect();
    change.begin(records.iter().find(|it| *it.id == **change.id()), &applied)
}

/// A migration in one transaction with its record.
fn whole(
    connection: &mut Connection,
    change: &Change,
    limit: Duration,
    ticks: &Ticks,
) -> Result<Done, Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if begin(&transaction, change)? == Begin::Nowhere {
        return Ok(Done::Before);
    }
    let (id, started) = (change.id(), Instant::now());
    change.crash.at(id, Point::Before);
    // The file is locked: nothing waits any more.
    ticks.send_replace(limit);
    let broken = references(&transaction)?;
    let mut batch = Batch::new(&transaction, &change.source().script.text);
    while let Some(mut statement) = batch.next()? {
        ticks.send_replace(limit);
        let mut rows = statement.raw_query();
        while rows.next()?.is_some() {}
    }
    if transaction.is_autocommit() {
        let what = format!("{id} has ended the transaction that it runs in");
        return Err(Fault::refused(
            Problem::new(Exit::Stuck, what).fix("look at what it has left, and take COMMIT out"),
        ));
    }
    if references(&transaction)? > broken {
        let what = format!("{id} leaves rows that refer to nothing: see PRAGMA foreign_key_check");
        return Err(Fault::refused(Problem::new(Exit::Failed, what)));
    }
    let ms = millis(started);
    finish(&transaction, change, ms)?;
    change.crash.at(id, Point::During);
    commit(transaction)?;
    change.crash.at(id, Point::After);
    Ok(Done::Now { ms })
}

fn commit(transaction: Transaction<'_>) -> Result<(), Fault> {
    transaction.commit().map_err(|error| {
        let fault = Fault::from(error);
        // What fails while it is written to the disk may be there.
        if fault.is_refusal() { fault } else { Fault::unsure(fault.problem.to_string()) }
    })
}

/// How many rows refer to nothing.
fn references(connection: &Connection) -> Result<i64, Fault> {
    Ok(connection.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0))?)
}

fn finish(connection: &Connection, change: &Change, ms: u64) -> Result<(), Fault> {
    let id = &**change.id();
    if change.direction == Direction::Down {
        connection.execute(&format!("DELETE FROM {TABLE} WHERE id = ?1"), [id])?;
        return Ok(());
    }
    let sql = format!(
        "INSERT INTO {TABLE} VALUES (?1, ?2, 'applied', 0, (SELECT coalesce(max(sequence), 0) + 1 FROM {TABLE}),
            strftime('%Y-%m-%dT%H:%M:%SZ', 'now'), ?3, ?4)
        ON CONFLICT (id) DO UPDATE SET state = excluded.state, at = excluded.at, ms = excluded.ms, run = excluded.run"
    );
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    connection.execute(&sql, params![id, change.migration.up.hash, ms, &*change.run])?;
    Ok(())
}

/// Statements that no transaction takes: that each begins is written first.
fn bare(connection: &mut Connection, change: &Change, ticks: &Ticks) -> Result<Done, Fault> {
    let started = Instant::now();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let begun = begin(&transaction, change)?;
    if begun == Begin::AtFirst {
        mark(&transaction, change, 0)?;
    }
    commit(transaction)?;
    let statements = &change.source().script.statements;
    let first = match begun {
        Begin::Nowhere => return Ok(Done::Before),
        Begin::AtFirst => 0,
        Begin::At(at) => match statements.get(at) {
            Some(statement) if !was_done(connection, statement)? => at,
            _ => at + 1,
        },
    };
    for (at, statement) in statements.iter().enumerate().skip(first) {
        mark(connection, change, at)?;
        change.crash.at(change.id(), Point::Before);
        ticks.send_modify(|_| {});
        if let Err(error) = connection.execute_batch(&statement.text) {
            let fault = Fault::from(error);
            if at == 0 && fault.is_refusal() {
                forget(connection, change)?;
            }
            return Err(fault);
        }
        change.crash.at(change.id(), Point::During);
    }
    let ms = millis(started);
    finish(connection, change, ms)?;
    change.crash.at(change.id(), Point::After);
    Ok(Done::Now { ms })
}

fn mark(connection: &Connection, change: &Change, at: usize) -> Result<(), Fault> {
    let sql = format!(
        "INSERT INTO {TABLE} VALUES (?1, ?2, ?3, ?4, (SELECT coalesce(max(sequence), 0) + 1 FROM {TABLE}),
            strftime('%Y-%m-%dT%H:%M:%SZ', 'now'), 0, ?5)
        ON CONFLICT (id) DO UPDATE SET state = excluded.state, statement = excluded.statement, run = excluded.run"
    );
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    let state = change.direction.state().as_str();
    connection.execute(&sql, params![&**change.id(), change.migration.up.hash, state, at, &*change.run])?;
    Ok(())
}

/// Nothing of it was done: it is as if it had not begun, and its file may be corrected.
fn forget(connection: &Connection, change: &Change) -> Result<(), Fault> {
    let sql = match change.direction {
        Direction::Up => format!("DELETE FROM {TABLE} WHERE id = ?1"),
        Direction::Down => format!("UPDATE {TABLE} SET state = 'applied', statement = 0 WHERE id = ?1"),
    };
    connection.execute(&sql, [&**change.id()])?;
    Ok(())
}

fn was_done(connection: &Connection, statement: &Statement) -> Result<bool, Fault> {
    match &statement.rule {
        Some(Rule::Ask(query)) => Ok(connection.query_row(query, [], |row| row.get(0))?),
        // Indexes are made in transactions here.
        Some(Rule::Repeat | Rule::IndexBuilt(_) | Rule::IndexGone(_)) | None => Ok(false),
    }
}

fn millis(started: Instant) -> u64 {
    clock::nanos(started.elapsed()) / 1_000_000
}
