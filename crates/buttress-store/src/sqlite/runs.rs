#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::Sqlite;
use super::row::{self, select_runs, tail};
use super::session::Session;
use crate::error::StoreError;
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

const DUE: &str =
    select_runs!("WHERE runs.name = ?1 AND due <= ?2 AND version BETWEEN ?3 AND ?4 ORDER BY due");

const LIST: &str = select_runs!(
    "WHERE (created, id) < (?1, ?2) AND (?3 = 0 OR ?3 >> status & 1) AND (?4 IS NULL OR runs.name = ?4) \
     AND (?5 IS NULL OR parent = ?5) ORDER BY created DESC, id DESC LIMIT ?6"
);

pub(super) const FIND: &str = select_runs!("WHERE id = ?1");

const ENTRIES: &str = concat!(
    "SELECT seq, at, kind, format, name, occurrence, payload, sum FROM entries WHERE run = ?1 AND seq >= ?2 AND seq < ",
    tail!(),
    " ORDER BY seq"
);

const OLD: &str = "SELECT number, entries FROM runs AS run WHERE status >= 4 AND changed <= ?1 AND NOT EXISTS \
     (SELECT 1 FROM runs AS child WHERE child.parent = run.id AND child.status < 4) ORDER BY changed LIMIT ?2";

impl JournalStore for Sqlite {
    async fn create(&self, run: &NewRun, lease: Option<Duration>) -> Result<Created, StoreError> {
        self.inner.limits.run(run)?;
        let (bytes, input_sum, run) = (run.input.len(), stored::body_sum(&run.input), run.clone());
        let work = move |connection: &Connection, now| {
            if let Some((_, existing)) = find(connection, &run.id)? {
                return Ok(existing.exists(&run, lease, now));
            }
            let new = RunRow::new(&run, lease, now);
            let number = insert(connection, &new)?;
            let sql = "INSERT INTO inputs (run, input, sum) VALUES (?1, ?2, ?3)";
            connection.prepare_cached(sql)?.execute(params![number, &run.input[..], input_sum])?;
            Ok(if lease.is_some() { Created::Held(new.hold()) } else { Created::Queued })
        };
        self.write("create", bytes, work).await
    }

    async fn acquire(&self, wanted: &Wanted) -> Result<Vec<Acquired>, StoreError> {
        self.inner.limits.wanted(wanted)?;
        let (wanted, clock) = (wanted.clone(), self.inner.clock.clone());
        let work = move |session: &mut Session<'_>, now| {
            let mut acquired = Vec::new();
            // Who lives will have renewed it by then.
            let only_free = clock.stepped_within(wanted.lease);
            for (number, mut run) in due(session.connection, &wanted, now, only_free)? {
                run.acquire(&wanted, now);
                update(session, number, &run)?;
                acquired.push(Acquired { hold: run.hold(), info: run.info(now) });
            }
            Ok(acquired)
        };
        self.write_run("acquire", 0, work).await
    }

    async fn append(
        &self,
        hold: &Hold,
        seq: u64,
        entries: &[NewEntry],
        next: &Next,
    ) -> Result<Appended, StoreError> {
        self.inner.limits.append(entries, next)?;
        let bytes = entries.iter().map(|entry| entry.payload.len()).sum();
        let sums: Vec<i64> =
            (seq..).zip(entries).map(|(seq, entry)| stored::entry_sum(&hold.id, seq, entry)).collect();
        let (hold, entries, next) = (hold.clone(), entries.to_vec(), next.clone());
        let work = move |session: &mut Session<'_>, now| {
            let connection = session.connection;
            let known = session.known.take(&hold.id).map(Some);
            let found = known.map_or_else(|| find(connection, &hold.id), Ok)?;
            let Some((number, mut run)) = found else { return Ok(Appended::Fenced) };
            match run.check_append(&hold, seq, &entries, &next) {
                Append::Fenced => Ok(Appended::Fenced),
                Append::Conflict => Ok(Appended::Conflict { next: run.entries }),
                Append::Compare => {
                    let stored = read_entries(connection, number, &hold.id, seq)?;
                    Ok(run_row::repeated(&run, &stored, &entries))
                }
                Append::Add => {
                    add_entries(session, number, now, seq, &entries, &sums)?;
                    run.appended(&entries, &next, now);
                    match next {
                        Next::Go if entries.is_empty() => {}
                        Next::Go => count(session, number, &run)?,
                        _ => update(session, number, &run)?,
                    }
                    let (next_seq, at, cancel_requested) = (run.entries, time::to_system(now), run.cancel);
                    if next == Next::Go {
                        session.known.keep(number, run);
                    }
                    Ok(Appended::Applied { next: next_seq, at, cancel_requested })
                }
            }
        };
        self.write_run("append", bytes, work).await
    }

    async fn renew(&self, hold: &Hold, lease: Duration) -> Result<Renewed, StoreError> {
        let hold = hold.clone();
        let work = move |session: &mut Session<'_>, now| {
            let Some((number, mut run)) = find(session.connection, &hold.id)? else {
                return Ok(Renewed::Fenced);
            };
            let renewed = run.renew(&hold, lease, now);
            if renewed != Renewed::Fenced {
                update(session, number, &run)?;
            }
            Ok(renewed)
        };
        self.write_run("renew", 0, work).await
    }

    async fn load(&self, id: &RunId) -> Result<Option<Run>, StoreError> {
        let id = id.clone();
        let work = move |connection: &Connection, now| {
            let Some((number, run)) = find(connection, &id)? else { return Ok(None) };
            let sql = "SELECT input, sum FROM inputs WHERE run = ?1";
            let mut select = connection.prepare_cached(sql)?;
            let input = select.query_row([number], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?)));
            let (input, sum) = input.optional()?.ok_or_else(|| Failure::damaged("the run's input"))?;
            if stored::body_sum(&input) != sum {
                return Err(Failure::damaged("the run's input"));
            }
            let entries = read_entries(connection, number, &id, 0)?;
            if !entries.iter().map(|entry| entry.seq).eq(0..run.entries) {
                return Err(Failure::damaged("the journal"));
            }
            Ok(Some(Run { info: run.info(now), input: Bytes::from(input), entries }))
        };
        self.read("load", work).await
    }

    async fn peek(&self, id: &RunId) -> Result<Option<Peek>, StoreError> {
        let id = id.clone();
        let work = move |connection: &Connection, now| {
            let Some((number, run)) = find(connection, &id)? else { return Ok(None) };
            let mut last = None;
            if run.kind.is_over() && run.entries > 0 {
                let entry = read_entries(connection, number, &id, run.entries - 1)?.pop();
                last = Some(entry.ok_or_else(|| Failure::damaged("the journal"))?);
            }
            Ok(Some(Peek { info: run.info(now), last }))
        };
        self.read("peek", work).await
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        let query = query.clone();
        let work = move |connection: &Connection, now| {
            let statuses = query.statuses.iter().fold(0_i64, |mask, kind| mask | 1 << (*kind as u8));
            let parent = query.parent.as_ref().map(RunId::as_str);
            let (created, id) = match &query.after {
                Some(cursor) => (time::from_system(cursor.created), cursor.id.as_str()),
                None => (i64::MAX, ""),
            };
            let limit = query.page_size() as i64 + 1;
            let name = query.name.as_deref();
            let mut select = connection.prepare_cached(LIST)?;
            let mut rows = select.query(params![created, id, statuses, name, parent, limit])?;
            let mut runs = Vec::new();
            while let Some(row) = rows.next()? {
                runs.push(match row::run(row) {
                    Ok((_, run)) => Ok(run.info(now)),
                    Err(failure) => Err(row::place(row).ok_or(failure)?),
                });
            }
            Ok(Page::with_damaged(runs, &query))
        };
        self.read("list", work).await
    }

    async fn control(&self, id: &RunId, command: Command) -> Result<Option<RunInfo>, StoreError> {
        let id = id.clone();
        let work = move |session: &mut Session<'_>, now| {
            let Some((number, mut run)) = find(session.connection, &id)? else { return Ok(None) };
            if run.control(command, now) {
                update(session, number, &run)?;
            }
            Ok(Some(run.info(now)))
        };
        self.write_run("control", 0, work).await
    }

    async fn prune(&self, age: Duration, max: u32) -> Result<u64, StoreError> {
        let work = move |connection: &Connection, now: i64| {
            let mut old = connection.prepare_cached(OLD)?;
            let before = now.saturating_sub(time::micros(age));
            let mut rows = old.query(params![before, max])?;
            let (mut old, mut entries) = (Vec::new(), 0);
            while entries < PRUNED_ENTRIES as i64
                && let Some(row) = rows.next()?
            {
                old.push(row.get::<_, i64>(0)?);
                entries += row.get::<_, i64>(1)?;
            }
            for number in &old {
                for sql in [
                    "DELETE FROM entries WHERE run = ?1",
                    "DELETE FROM inputs WHERE run = ?1",
                    "DELETE FROM runs WHERE number = ?1",
                ] {
                    connection.prepare_cached(sql)?.execute([number])?;
                }
            }
            Ok(old.len() as u64)
        };
        self.write("prune", 0, work).await
    }
}

/// The runs that are due, the longest due first; of those that nobody holds `only_free`.
fn due(
    connection: &Connection,
    wanted: &Wanted,
    now: i64,
    only_free: bool,
) -> Result<Vec<(i64, RunRow)>, Failure> {
    let may_be_had = |run: &RunRow| !only_free || run.lease_until.is_none();
    if let Some(id) = &wanted.id {
        let run = find(connection, id)?.filter(|(_, run)| run.is_wanted(wanted, now) && may_be_had(run));
        return Ok(run.filter(|_| wanted.max > 0).into_iter().collect());
    }
    let (mut due, mut damaged) = (BTreeMap::new(), None);
    for flow in &wanted.flows {
        let mut select = connection.prepare_cached(DUE)?;
        let (first, last) = (flow.versions.start(), flow.versions.end());
        let mut rows = select.query(params![&*flow.name, now, first, last])?;
        let mut sound = 0;
        while sound < wanted.max
            && let Some(row) = rows.next()?
        {
            match row::run(row) {
                Ok((number, run)) if may_be_had(&run) => {
                    sound += 1;
                    due.insert((run.due, number), run);
                }
                Ok(_) => {}
                Err(failure) => damaged = Some(failure),
            }
        }
    }
    // It is told of as soon as it keeps nobody from what is sound.
    if due.is_empty()
        && let Some(failure) = damaged
    {
        return Err(failure);
    }
    let due = due.into_iter().take(wanted.max as usize);
    Ok(due.map(|((_, number), run)| (number, run)).collect())
}

fn find(connection: &Connection, id: &RunId) -> Result<Option<(i64, RunRow)>, Failure> {
    Ok(select(connection, FIND, [id.as_str()])?.pop())
}

fn select(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
) -> Result<Vec<(i64, RunRow)>, Failure> {
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(parameters)?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        runs.push(row::run(row)?);
    }
    Ok(runs)
}

fn insert(connection: &Connection, run: &RunRow) -> Result<i64, Failure> {
    let sql = "INSERT INTO runs (id, name, version, fingerprint, parent, status, reason, cancel, epoch, owner, \
               worker, lease_until, due, recoveries, entries, created, changed, sum) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
    connection.prepare_cached(sql)?.execute(params![
        run.id.as_str(),
        &*run.name,
        run.version,
        run.fingerprint.as_bytes(),
        run.parent.as_ref().map(RunId::as_str),
        run.kind as u8,
        &*run.reason,
        run.cancel,
        run.epoch as i64,
        stored::owner(run.owner),
        &*run.worker,
        run.lease_until,
        run.due,
        run.recoveries,
        run.entries as i64,
        run.created,
        run.changed,
        row::run_sum(run),
    ])?;
    Ok(connection.last_insert_rowid())
}

/// Writes what can change of a run. Of one that is over nothing is counted any more.
fn update(session: &mut Session<'_>, number: i64, run: &RunRow) -> Result<(), Failure> {
    let connection = session.connection;
    session.known.take(&run.id);
    let sql = "UPDATE runs SET status = ?2, reason = ?3, cancel = ?4, epoch = ?5, owner = ?6, worker = ?7, \
               lease_until = ?8, due = ?9, recoveries = ?10, entries = ?11, changed = ?12, sum = ?13 \
               WHERE number = ?1";
    connection.prepare_cached(sql)?.execute(params![
        number,
        run.kind as u8,
        &*run.reason,
        run.cancel,
        run.epoch as i64,
        stored::owner(run.owner),
        &*run.worker,
        run.lease_until,
        run.due,
        run.recoveries,
        run.entries as i64,
        run.changed,
        row::run_sum(run),
    ])?;
    if run.kind.is_over() {
        let sql = concat!("DELETE FROM entries WHERE run = ?1 AND seq = ", tail!());
        connection.prepare_cached(sql)?.execute([number])?;
    }
    Ok(())
}

/// Writes what an append changes of a run that goes on, beside the entries: in the page that is written anyway, and in no other.
/// That the run is the caller's is known in the same transaction, which no other writes beside.
fn count(session: &mut Session<'_>, number: i64, run: &RunRow) -> Result<(), Failure> {
    let sql = concat!(
        "INSERT OR REPLACE INTO entries (run, seq, at, kind, format, name, occurrence, payload, sum) VALUES (?1, ",
        tail!(),
        ", ?2, 0, 0, '', ?3, x'', ?4)"
    );
    let (entries, at) = (run.entries, run.changed);
    let sum = row::tail_sum(&run.id, entries, at);
    session.kept(sql)?.execute(params![number, at, entries as i64, sum])?;
    Ok(())
}

fn add_entries(
    session: &mut Session<'_>,
    number: i64,
    now: i64,
    seq: u64,
    entries: &[NewEntry],
    sums: &[i64],
) -> Result<(), Failure> {
    let sql = "INSERT INTO entries (run, seq, at, kind, format, name, occurrence, payload, sum) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let insert = session.kept(sql)?;
    let added = (seq..).zip(entries).zip(sums).try_for_each(|((seq, entry), sum)| {
        let NewEntry { kind, format, name, occurrence, payload } = entry;
        let entry = params![number, seq as i64, now, kind, format, &**name, occurrence, &payload[..], sum];
        insert.execute(entry).map(|_| ())
    });
    // A payload may be large, and a failed append the last one for long.
    insert.clear_bindings();
    Ok(added?)
}

/// The entries from `seq` on.
fn read_entries(connection: &Connection, number: i64, id: &RunId, seq: u64) -> Result<Vec<Entry>, Failure> {
    let mut select = connection.prepare_cached(ENTRIES)?;
    let mut rows = select.query(params![number, seq as i64])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(row::entry(id, row)?);
    }
    Ok(entries)
}
