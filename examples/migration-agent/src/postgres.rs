//! PostgreSQL: a pool of connections, and a lock of the session that changes anything.

mod bare;
mod pool;
mod server;

use std::sync::Arc;
use std::time::Duration;

use buttress::core::{Backoff, clock};
use tokio::time::Instant;
use tokio_postgres::{Client, GenericClient, Row, Transaction, error::SqlState};
use tower::ServiceExt;

use crate::crash::Point;
use crate::database::{Begin, Change, Direction, Done, Record, Settings, State, TABLE};
use crate::fault::Fault;
use crate::heal::Pool;
use crate::problem::{Exit, Problem};

pub(crate) use pool::Connections;
use pool::Lent;
pub(crate) use server::Server;

/// A database of a server.
#[derive(Debug)]
pub(crate) struct Postgres {
    pool: Pool,
    settings: Settings,
}

/// The advisory lock of whoever changes the schema, in each database.
const LOCK: i64 = 0x6275_7474_7265_7373;

impl Postgres {
    pub(crate) fn new(pool: Pool, settings: Settings) -> Self {
        Self { pool, settings }
    }

    pub(crate) async fn install(&self) -> Result<(), Fault> {
        let client = self.connection(self.settings).await?;
        let there = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&TABLE]).await?;
        if !there.try_get::<_, bool>(0)? {
            self.fence(&client, self.settings).await?;
            let sql = format!(
                "CREATE TABLE IF NOT EXISTS {TABLE} (
                    id text PRIMARY KEY, hash text NOT NULL, state text NOT NULL, statement bigint NOT NULL,
                    sequence bigint NOT NULL, at timestamptz NOT NULL DEFAULT now(), ms bigint NOT NULL, run text NOT NULL)"
            );
            client.batch_execute(&sql).await?;
        }
        release(client).await
    }

    pub(crate) async fn history(&self) -> Result<Vec<Record>, Fault> {
        let client = self.connection(self.settings).await?;
        let records = records(&**client).await?;
        client.give_back();
        Ok(records)
    }

    pub(crate) async fn change(&self, change: &Change) -> Result<Done, Fault> {
        let settings = change.settings(self.settings);
        let mut client = self.connection(settings).await?;
        self.fence(&client, settings).await?;
        let done = if change.source().script.bare {
            bare::run(&client, change).await
        } else {
            whole(&mut client, change).await
        }?;
        // What could go wrong now has been done.
        let _ = release(client).await;
        Ok(done)
    }

    pub(crate) async fn rehearse(&self, changes: &[Change]) -> Result<Option<(Arc<str>, Fault)>, Fault> {
        let mut client = self.connection(self.settings).await?;
        let transaction = client.transaction().await?;
        for change in changes.iter().filter(|change| !change.source().script.bare) {
            if let Err(error) = transaction.batch_execute(&change.source().script.text).await {
                return Ok(Some((change.id().clone(), error.into())));
            }
        }
        transaction.rollback().await?;
        client.give_back();
        Ok(None)
    }

    /// A connection with these limits. The server notices within a second that its client is gone, and ends the statement.
    async fn connection(&self, settings: Settings) -> Result<Lent, Fault> {
        let client = self.pool.clone().oneshot(()).await.map_err(|error| Fault::of_supervised(&error))?;
        let sql = format!(
            "SET application_name = 'migration-agent'; SET lock_timeout = {}; SET statement_timeout = {}; \
             SET idle_in_transaction_session_timeout = '60s'; SET synchronous_commit = on; \
             SET client_min_messages = warning; \
             SELECT set_config(name, '1s', false) FROM pg_settings WHERE name = 'client_connection_check_interval'",
            settings.lock.as_millis().max(1),
            settings.statement.as_millis().max(1),
        );
        client.batch_execute(&sql).await?;
        Ok(client)
    }

    /// Takes the lock, which this session has until it ends or is recycled: whoever was cut off has it for as long as the
    /// server still works for them, and what they did is decided when it is free. It is asked for again and again, and not
    /// waited for, because `CREATE INDEX CONCURRENTLY` waits for everybody who waits.
    async fn fence(&self, client: &Client, settings: Settings) -> Result<(), Fault> {
        let pauses = Backoff::exponential(Duration::from_millis(20), 2.0, Duration::from_millis(500));
        let mut pauses = pauses.unwrap_or_default().delays();
        let until = Instant::now() + settings.lock.max(Duration::from_secs(2));
        loop {
            let row = client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK]).await?;
            if row.try_get(0)? {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(self.held_by(client).await?);
            }
            tokio::time::sleep(pauses.next().unwrap_or_default()).await;
        }
    }

    /// Who has the lock.
    async fn held_by(&self, client: &Client) -> Result<Fault, Fault> {
        let sql = "SELECT format('process %s of the server (%s, %s, since %s)', a.pid, a.application_name, a.state, \
                   to_char(a.state_change, 'HH24:MI:SS')) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                   WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $1 AND l.objid = $2 \
                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        // The two halves of the key.
        let halves = [(LOCK >> 32) as u32, LOCK as u32];
        let row = client.query_opt(sql, &[&halves[0], &halves[1]]).await?;
        let who = row.map(|row| row.try_get::<_, String>(0)).transpose()?;
        let who = who.unwrap_or_else(|| "another session".to_owned());
        Ok(Fault::passing(format!("{who} holds the lock of the migrations")))
    }
}

/// Lets go of the lock before others wait for a session that has nothing to do. One that cannot be asked is closed.
async fn release(client: Lent) -> Result<(), Fault> {
    client.batch_execute("SELECT pg_advisory_unlock_all()").await?;
    client.give_back();
    Ok(())
}

async fn records(client: &impl GenericClient) -> Result<Vec<Record>, Fault> {
    let sql = format!(
        "SELECT id, hash, state, statement, sequence, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), ms \
         FROM {TABLE} ORDER BY sequence"
    );
    match client.query(&sql, &[]).await {
        Ok(rows) => rows.iter().map(record).collect(),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn record(row: &Row) -> Result<Record, Fault> {
    Ok(Record {
        id: row.try_get(0)?,
        hash: row.try_get(1)?,
        state: State::parse(row.try_get(2)?)?,
        statement: usize::try_from(row.try_get::<_, i64>(3)?).unwrap_or_default(),
        sequence: row.try_get(4)?,
        at: row.try_get(5)?,
        ms: row.try_get(6)?,
    })
}

/// Where a change begins, by what the table says while this session has the lock.
async fn begin(client: &impl GenericClient, change: &Change) -> Result<Begin, Fault> {
    let records = records(client).await?;
    let applied = records.iter().filter(|it| it.state == State::Applied).map(|it| it.id.clone());
    let applied: Vec<String> = applied.collect();
    change.begin(records.iter().find(|it| *it.id == **change.id()), &applied)
}

/// A migration in one transaction with its record.
async fn whole(client: &mut Lent, change: &Change) -> Result<Done, Fault> {
    let transaction = client.transaction().await?;
    if begin(&*transaction, change).await? == Begin::Nowhere {
        return Ok(Done::Before);
    }
    let (id, started) = (change.id(), Instant::now());
    change.crash.at(id, Point::Before);
    let before = number(&transaction).await?;
    transaction.batch_execute(&change.source().script.text).await?;
    // Its settings end with it, and whatever it has set is not for the record.
    transaction.batch_execute("RESET search_path; RESET role").await?;
    if number(&transaction).await? != before {
        let what = format!("{id} has ended the transaction that it runs in");
        return Err(Fault::refused(
            Problem::new(Exit::Stuck, what).fix("look at what it has left, and take COMMIT out"),
        ));
    }
    let ms = millis(started);
    finish(&*transaction, change, ms).await?;
    change.crash.at(id, Point::During);
    // Its answer may be lost: the next attempt finds the record, or does not.
    transaction.commit().await.map_err(|error| {
        let fault = Fault::from(error);
        if fault.is_refusal() { fault } else { Fault::unsure(fault.problem.to_string()) }
    })?;
    change.crash.at(id, Point::After);
    Ok(Done::Now { ms })
}

/// The number of the transaction.
async fn number(transaction: &Transaction<'_>) -> Result<i64, Fault> {
    Ok(transaction.query_one("SELECT txid_current()", &[]).await?.try_get(0)?)
}

async fn finish(client: &impl GenericClient, change: &Change, ms: u64) -> Result<(), Fault> {
    let id = &**change.id();
    if change.direction == Direction::Down {
        client.execute(&format!("DELETE FROM {TABLE} WHERE id = $1"), &[&id]).await?;
        return Ok(());
    }
    let sql = format!(
        "INSERT INTO {TABLE} AS it (id, hash, state, statement, sequence, ms, run)
        VALUES ($1, $2, 'applied', 0, (SELECT coalesce(max(sequence), 0) + 1 FROM {TABLE}), $3, $4)
        ON CONFLICT (id) DO UPDATE SET state = 'applied', at = now(), ms = excluded.ms, run = excluded.run"
    );
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    client.execute(&sql, &[&id, &change.migration.up.hash, &ms, &&*change.run]).await?;
    Ok(())
}

fn millis(started: Instant) -> u64 {
    clock::nanos(started.elapsed()) / 1_000_000
}
