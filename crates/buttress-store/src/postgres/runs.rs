use std::time::Duration;

use bytes::Bytes;
use deadpool_postgres::Object;
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Row};

use super::row::{self, entry_columns, run_columns};
use super::{Postgres, TRIES};
use crate::error::{Fault, StoreError};
use crate::failure::Failure;
use crate::journal::{
    Acquired, Appended, Command, Created, Entry, Hold, JournalStore, NewEntry, NewRun, Next, Page, Peek,
    Query, Renewed, Run, RunInfo, Wanted,
};
use crate::key::RunId;
use crate::limits::PRUNED_ENTRIES;
use crate::run_row::{self, Append, RunRow};
use crate::stored;
use crate::time;

const CREATE: &str = concat!(
    "WITH attempt AS (
        INSERT INTO buttress_runs (id, name, version, fingerprint, parent, status, reason, cancel, epoch, owner,
            worker, lease_until, due, recoveries, entries, created, changed, input, sum)
        VALUES ($1, $2, $3, $4, $5, 0, '', false, CASE WHEN $6::bigint IS NULL THEN 0 ELSE 1 END, $7, $8,
            buttress_now() + $6, buttress_now() + coalesce($6, 0), 0, 0, buttress_now(), buttress_now(), $9, $10)
        ON CONFLICT (id) DO NOTHING
        RETURNING *
    )
    SELECT buttress_now() AS now, ",
    run_columns!(),
    " FROM attempt AS r UNION ALL SELECT buttress_now(), ",
    run_columns!(),
    " FROM buttress_runs AS r WHERE r.id = $1 AND NOT EXISTS (SELECT FROM attempt)"
);

const ACQUIRE: &str = concat!(
    "WITH due AS (
        SELECT r.number
        FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS flow (name, first, last)
        JOIN buttress_runs AS r ON r.name = flow.name AND r.version BETWEEN flow.first AND flow.last
        WHERE r.due <= buttress_now() AND ($4::text IS NULL OR r.id = $4)
        ORDER BY r.due, r.number LIMIT $5
        FOR UPDATE OF r SKIP LOCKED
    )
    UPDATE buttress_runs AS r SET
        recoveries = r.recoveries + CASE WHEN r.lease_until IS NULL THEN 0 ELSE 1 END,
        status = 0, epoch = r.epoch + 1, owner = $6, worker = $7, changed = buttress_now(),
        lease_until = buttress_now() + $8, due = buttress_now() + $8
    FROM due WHERE r.number = due.number
    RETURNING buttress_now() AS now, ",
    run_columns!()
);

/// `$4` is the sequence number, `$5` how many entries there are, `$6` what becomes of the run (see `stored::next`), `$7` the reason,
/// `$8` for how long or until when it sleeps.
const APPEND: &str = "
    WITH held AS (
        UPDATE buttress_runs SET
            entries = entries + $5,
            recoveries = CASE WHEN $5 = 0 THEN recoveries ELSE 0 END,
            changed = CASE WHEN $5 = 0 AND $6 = 0 THEN changed ELSE buttress_now() END,
            status = CASE
                WHEN $6 = 0 THEN status
                WHEN $6 = 1 OR $6 IN (2, 3) AND cancel THEN 0
                WHEN $6 IN (2, 3) THEN 1
                ELSE $6 - 2 END,
            reason = CASE WHEN $6 IN (4, 5) THEN $7 ELSE reason END,
            lease_until = CASE WHEN $6 = 0 THEN lease_until END,
            due = CASE
                WHEN $6 = 0 THEN due
                WHEN $6 = 1 OR $6 IN (2, 3) AND cancel THEN buttress_now()
                WHEN $6 = 2 THEN buttress_now() + $8
                WHEN $6 = 3 THEN $8 END
        WHERE id = $1 AND owner = $2 AND epoch = $3 AND lease_until IS NOT NULL AND entries = $4
        RETURNING number, cancel
    ), added AS (
        INSERT INTO buttress_entries (run, seq, at, kind, format, name, occurrence, payload, sum)
        SELECT held.number, $4 + entry.place - 1, buttress_now(), entry.kind, entry.format, entry.name,
            entry.occurrence, entry.payload, entry.sum
        FROM held, unnest($9::integer[], $10::integer[], $11::text[], $12::bigint[], $13::bytea[], $14::bigint[])
            WITH ORDINALITY AS entry (kind, format, name, occurrence, payload, sum, place)
    )
    SELECT cancel, buttress_now() AS now FROM held";

const RENEW: &str = "UPDATE buttress_runs SET lease_until = buttress_now() + $4, due = buttress_now() + $4
    WHERE id = $1 AND owner = $2 AND epoch = $3 AND lease_until IS NOT NULL RETURNING cancel";

/// The run, with each of its entries from `$2` on in a row of its own, and with its input in the first if that is 0.
const LOAD: &str = concat!(
    "SELECT buttress_now() AS now, ",
    run_columns!(),
    ", CASE WHEN $2 = 0 AND coalesce(e.seq, 0) = 0 THEN r.input END AS input, r.sum AS input_sum, ",
    entry_columns!(),
    " FROM buttress_runs AS r LEFT JOIN buttress_entries AS e ON e.run = r.number AND e.seq >= $2
    WHERE r.id = $1 ORDER BY e.seq"
);

const FIND_FOR_UPDATE: &str = concat!(
    "SELECT buttress_now() AS now, ",
    run_columns!(),
    " FROM buttress_runs AS r WHERE r.id = $1 FOR UPDATE"
);

const CONTROL: &str =
    "UPDATE buttress_runs SET status = $2, reason = $3, cancel = $4, lease_until = $5, due = $6,
    recoveries = $7, changed = $8 WHERE id = $1";

/// The run, and its last entry if it is over.
const PEEK: &str = concat!(
    "SELECT buttress_now() AS now, ",
    run_columns!(),
    ", ",
    entry_columns!(),
    " FROM buttress_runs AS r
    LEFT JOIN buttress_entries AS e ON r.status >= 4 AND e.run = r.number AND e.seq = r.entries - 1
    WHERE r.id = $1"
);

const LIST: &str = concat!(
    "SELECT buttress_now() AS now, ",
    run_columns!(),
    " FROM buttress_runs AS r
    WHERE (r.created, r.id) < ($1, $2) AND ($3 = 0 OR ($3::integer >> r.status) & 1 = 1)
    AND ($4::text IS NULL OR r.name = $4) AND ($5::text IS NULL OR r.parent = $5)
    ORDER BY r.created DESC, r.id DESC LIMIT $6"
);

const PRUNE: &str = "
    WITH old AS (
        SELECT number, changed, entries FROM buttress_runs AS r
        WHERE status >= 4 AND changed <= buttress_now() - $1 AND NOT EXISTS (
            SELECT FROM buttress_runs AS child WHERE child.parent = r.id AND child.status < 4)
        ORDER BY changed LIMIT $2
        FOR UPDATE SKIP LOCKED
    ), few AS (
        SELECT number FROM (
            SELECT number, sum(entries) OVER (ORDER BY changed, number) - entries AS before FROM old
        ) AS counted WHERE before < $3::bigint
    ), entries AS (
        DELETE FROM buttress_entries WHERE run IN (SELECT number FROM few)
    )
    DELETE FROM buttress_runs WHERE number IN (SELECT number FROM few) RETURNING 1";

impl JournalStore for Postgres {
    async fn create(&self, run: &NewRun, lease: Option<Duration>) -> Result<Created, StoreError> {
        self.inner.limits.run(run)?;
        let fingerprint = &run.fingerprint.as_bytes()[..];
        let (owner, micros) = (&stored::owner(run.owner)[..], lease.map(time::micros));
        let (version, parent) = (i64::from(run.version), run.parent.as_ref().map(RunId::as_str));
        let (input, sum) = (&run.input[..], stored::body_sum(&run.input));
        for _ in 0..TRIES {
            let parameters: [&(dyn ToSql + Sync); 10] = [
                &run.id.as_str(),
                &&*run.name,
                &version,
                &fingerprint,
                &parent,
                &micros,
                &owner,
                &&*run.worker,
                &input,
                &sum,
            ];
            let rows = self.query("create", CREATE, &parameters).await?;
            // Committed by others after this statement began, or pruned: ask again.
            let Some(row) = rows.first() else { continue };
            let (row, now) = row::run_now(row).map_err(|failure| failure.into_error("postgres", "create"))?;
            return Ok(row.exists(run, lease, now));
        }
        Err(StoreError::new("postgres", "create", Fault::Busy))
    }

    async fn acquire(&self, wanted: &Wanted) -> Result<Vec<Acquired>, StoreError> {
        self.inner.limits.wanted(wanted)?;
        let names: Vec<&str> = wanted.flows.iter().map(|flow| &*flow.name).collect();
        let bound = |of: fn(&crate::journal::Flow) -> u32| -> Vec<i64> {
            wanted.flows.iter().map(|flow| of(flow).into()).collect()
        };
        let (first, last) = (bound(|flow| *flow.versions.start()), bound(|flow| *flow.versions.end()));
        let (id, max) = (wanted.id.as_ref().map(RunId::as_str), i64::from(wanted.max));
        let (owner, lease) = (&stored::owner(wanted.owner)[..], time::micros(wanted.lease));
        let parameters: [&(dyn ToSql + Sync); 8] =
            [&names, &first, &last, &id, &max, &owner, &&*wanted.worker, &lease];
        let rows = self.query("acquire", ACQUIRE, &parameters).await?;
        let (mut acquired, mut damaged) = (Vec::with_capacity(rows.len()), None);
        for row in &rows {
            match row::run_now(row) {
                Ok((run, now)) => acquired.push(Acquired { hold: run.hold(), info: run.info(now) }),
                Err(failure) => damaged = Some(failure),
            }
        }
        match damaged {
            // It is told of as soon as it keeps nobody from what is sound.
            Some(failure) if acquired.is_empty() => Err(failure.into_error("postgres", "acquire")),
            _ => Ok(acquired),
        }
    }

    async fn append(
        &self,
        hold: &Hold,
        seq: u64,
        entries: &[NewEntry],
        next: &Next,
    ) -> Result<Appended, StoreError> {
        self.inner.limits.append(entries, next)?;
        let owner = &stored::owner(hold.owner)[..];
        let (epoch, first, count) = (hold.epoch as i64, seq as i64, entries.len() as i64);
        let (code, reason, sleep) = stored::next(next);
        let columns = Columns::of(hold, seq, entries);
        for _ in 0..TRIES {
            let parameters: [&(dyn ToSql + Sync); 14] = [
                &hold.id.as_str(),
                &owner,
                &epoch,
                &first,
                &count,
                &code,
                &reason,
                &sleep,
                &columns.kinds,
                &columns.formats,
                &columns.names,
                &columns.occurrences,
                &columns.payloads,
                &columns.sums,
            ];
            let rows = self.query("append", APPEND, &parameters).await?;
            let failed = |failure: Failure| failure.into_error("postgres", "append");
            if let Some(row) = rows.first() {
                let at = time::to_system(row::get(row, "now").map_err(failed)?);
                let cancel_requested = row::get(row, "cancel").map_err(failed)?;
                return Ok(Appended::Applied { next: seq + entries.len() as u64, at, cancel_requested });
            }
            if let Some(appended) = self.not_appended(hold, seq, entries, next).await? {
                return Ok(appended);
            }
        }
        Err(StoreError::new("postgres", "append", Fault::Busy))
    }

    async fn renew(&self, hold: &Hold, lease: Duration) -> Result<Renewed, StoreError> {
        let owner = &stored::owner(hold.owner)[..];
        let parameters: [&(dyn ToSql + Sync); 4] =
            [&hold.id.as_str(), &owner, &(hold.epoch as i64), &time::micros(lease)];
        let rows = self.query("renew", RENEW, &parameters).await?;
        let Some(row) = rows.first() else { return Ok(Renewed::Fenced) };
        let cancel_requested =
            row::get(row, "cancel").map_err(|failure| failure.into_error("postgres", "renew"))?;
        Ok(Renewed::Held { cancel_requested })
    }

    async fn load(&self, id: &RunId) -> Result<Option<Run>, StoreError> {
        let rows = self.query("load", LOAD, &[&id.as_str(), &0_i64]).await?;
        loaded(id, &rows).map_err(|failure| failure.into_error("postgres", "load"))
    }

    async fn peek(&self, id: &RunId) -> Result<Option<Peek>, StoreError> {
        let rows = self.query("peek", PEEK, &[&id.as_str()]).await?;
        let peek = |row| {
            let (run, now) = row::run_now(row)?;
            let ended = run.kind.is_over() && run.entries > 0;
            let last = if ended { Some(row::entry(id, row)?) } else { None };
            Ok(Peek { info: run.info(now), last })
        };
        rows.first().map(peek).transpose().map_err(|failure: Failure| failure.into_error("postgres", "peek"))
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        let statuses = query.statuses.iter().fold(0_i32, |mask, kind| mask | 1 << (*kind as u8));
        let (created, id) = match &query.after {
            Some(cursor) => (time::from_system(cursor.created), cursor.id.as_str()),
            None => (i64::MAX, ""),
        };
        let parent = query.parent.as_ref().map(RunId::as_str);
        let limit = query.page_size() as i64 + 1;
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&created, &id, &statuses, &query.name.as_deref(), &parent, &limit];
        let rows = self.query("list", LIST, &parameters).await?;
        let runs = rows.iter().map(|row| match row::run_now(row) {
            Ok((run, now)) => Ok(Ok(run.info(now))),
            Err(failure) => row::place(row).map(Err).ok_or(failure),
        });
        let runs: Result<Vec<_>, Failure> = runs.collect();
        Ok(Page::with_damaged(runs.map_err(|failure| failure.into_error("postgres", "list"))?, query))
    }

    async fn control(&self, id: &RunId, command: Command) -> Result<Option<RunInfo>, StoreError> {
        self.within("control", async |client| control(client, id, command).await).await
    }

    async fn prune(&self, age: Duration, max: u32) -> Result<u64, StoreError> {
        let rows = self
            .query("prune", PRUNE, &[&time::micros(age), &i64::from(max), &(PRUNED_ENTRIES as i64)])
            .await?;
        Ok(rows.len() as u64)
    }
}

impl Postgres {
    /// Why nothing was appended; `None` if nothing speaks against it any more.
    async fn not_appended(
        &self,
        hold: &Hold,
        seq: u64,
        entries: &[NewEntry],
        next: &Next,
    ) -> Result<Option<Appended>, StoreError> {
        let rows = self.query("append", LOAD, &[&hold.id.as_str(), &(seq as i64)]).await?;
        let Some(row) = rows.first() else { return Ok(Some(Appended::Fenced)) };
        let failed = |failure: Failure| failure.into_error("postgres", "append");
        let run = row::run(row).map_err(failed)?;
        Ok(match run.check_append(hold, seq, entries, next) {
            Append::Add => None,
            Append::Fenced => Some(Appended::Fenced),
            Append::Conflict => Some(Appended::Conflict { next: run.entries }),
            Append::Compare => {
                Some(run_row::repeated(&run, &read_entries(&hold.id, &rows).map_err(failed)?, entries))
            }
        })
    }
}

/// Entries, column by column.
struct Columns<'a> {
    kinds: Vec<i32>,
    formats: Vec<i32>,
    names: Vec<&'a str>,
    occurrences: Vec<i64>,
    payloads: Vec<&'a [u8]>,
    sums: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(hold: &Hold, seq: u64, entries: &'a [NewEntry]) -> Self {
        Self {
            kinds: entries.iter().map(|entry| entry.kind.into()).collect(),
            formats: entries.iter().map(|entry| entry.format.into()).collect(),
            names: entries.iter().map(|entry| &*entry.name).collect(),
            occurrences: entries.iter().map(|entry| entry.occurrence.into()).collect(),
            payloads: entries.iter().map(|entry| &entry.payload[..]).collect(),
            sums: (seq..).zip(entries).map(|(seq, entry)| stored::entry_sum(&hold.id, seq, entry)).collect(),
        }
    }
}

fn loaded(id: &RunId, rows: &[Row]) -> Result<Option<Run>, Failure> {
    let Some(row) = rows.first() else { return Ok(None) };
    let (run, now) = row::run_now(row)?;
    // It comes with the first entry.
    let input: Option<Vec<u8>> = row::get(row, "input")?;
    let input = input.ok_or_else(|| Failure::damaged("the journal"))?;
    if stored::body_sum(&input) != row::get::<i64>(row, "input_sum")? {
        return Err(Failure::damaged("the run's input"));
    }
    let entries = read_entries(id, rows)?;
    if !entries.iter().map(|entry| entry.seq).eq(0..run.entries) {
        return Err(Failure::damaged("the journal"));
    }
    Ok(Some(Run { info: run.info(now), input: Bytes::from(input), entries }))
}

/// The entries in the rows of a run: none if the only row is without one.
fn read_entries(id: &RunId, rows: &[Row]) -> Result<Vec<Entry>, Failure> {
    let none = rows.len() == 1 && row::get::<Option<i64>>(&rows[0], "seq")?.is_none();
    rows.iter().skip(usize::from(none)).map(|row| row::entry(id, row)).collect()
}

async fn control(client: &mut Object, id: &RunId, command: Command) -> Result<Option<RunInfo>, Failure> {
    // It waits for others, whatever the role's default is, and does not fail because of them.
    let transaction =
        client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
    let rows = transaction.query(FIND_FOR_UPDATE, &[&id.as_str()]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (mut run, now): (RunRow, i64) = row::run_now(row)?;
    if run.control(command, now) {
        let (status, recoveries) = (run.kind as i16, i64::from(run.recoveries));
        let parameters: [&(dyn ToSql + Sync); 8] = [
            &id.as_str(),
            &status,
            &&*run.reason,
            &run.cancel,
            &run.lease_until,
            &run.due,
            &recoveries,
            &run.changed,
        ];
        transaction.execute(CONTROL, &parameters).await?;
    }
    transaction.commit().await?;
    Ok(Some(run.info(now)))
}
