//! Rows as SQLite keeps them, each with a checksum over the whole.

use bytes::Bytes;
use rusqlite::Row;

use crate::claim_row::ClaimRow;
use crate::failure::Failure;
use crate::journal::{Cursor, Entry, NewEntry, StatusKind};
use crate::key::{Fingerprint, Owner, RunId};
use crate::run_row::RunRow;
use crate::stored::{self, Sum, body_sum, entry_sum, owner};
use crate::time;

fn optional(sum: Sum, value: Option<i64>) -> Sum {
    sum.int(i64::from(value.is_some())).int(value.unwrap_or(0))
}

pub(super) fn claim_sum(key: &[u8], row: &ClaimRow, body_sum: i64) -> i64 {
    let (number, lease_until, body) = stored::state(&row.state);
    let sum = Sum::default().bytes(key).bytes(row.fingerprint.as_bytes()).bytes(&owner(row.owner));
    let sum = sum.int(row.epoch as i64).int(row.unfinished.into()).int(number.into());
    let sum = optional(sum, lease_until).int(row.expires);
    optional(sum, body.map(|_| body_sum)).get()
}

/// Of the columns `fingerprint, owner, epoch, unfinished, state, lease_until, expires, body, sum`.
pub(super) fn claim(key: &[u8], row: &Row<'_>) -> Result<ClaimRow, Failure> {
    let body: Option<Vec<u8>> = row.get(7)?;
    let body_sum = body.as_deref().map_or(0, body_sum);
    let lease_until: Option<i64> = row.get(5)?;
    let state = stored::read_state(row.get(4)?, lease_until, body);
    let state = state.ok_or_else(|| Failure::damaged("the claim"))?;
    let claim = ClaimRow {
        fingerprint: Fingerprint::new(row.get(0)?),
        owner: read_owner(row, 1)?,
        epoch: row.get::<_, i64>(2)? as u64,
        unfinished: row.get(3)?,
        expires: row.get(6)?,
        state,
    };
    if claim_sum(key, &claim, body_sum) != row.get(8)? {
        return Err(Failure::damaged("the claim"));
    }
    Ok(claim)
}

fn read_owner(row: &Row<'_>, index: usize) -> Result<Owner, Failure> {
    let number = u128::from_be_bytes(row.get(index)?);
    Owner::from_u128(number).ok_or_else(|| Failure::damaged("the owner"))
}

/// The sequence number of what comes last among a run's entries, and counts them: the highest that there is.
macro_rules! tail {
    () => {
        "9223372036854775807"
    };
}
pub(super) use tail;

/// The columns that a run is read from; a macro, so that statements stay literals, which the cache finds again.
macro_rules! select_runs {
    ($rest:literal) => {
        concat!(
            "SELECT number, id, runs.name, version, fingerprint, parent, status, reason, cancel, epoch, owner, ",
            "worker, lease_until, due, recoveries, entries, created, changed, runs.sum, ",
            "tail.at, tail.occurrence, tail.sum FROM runs ",
            "LEFT JOIN entries AS tail ON tail.run = number AND tail.seq = ",
            $crate::sqlite::row::tail!(),
            " ",
            $rest
        )
    };
}
pub(super) use select_runs;

pub(super) fn run_sum(row: &RunRow) -> i64 {
    let sum = Sum::default().bytes(row.id.as_str().as_bytes()).bytes(row.name.as_bytes());
    let sum = sum.int(row.version.into()).bytes(row.fingerprint.as_bytes());
    let parent = row.parent.as_ref().map_or(&[][..], |parent| parent.as_str().as_bytes());
    let sum = sum.bytes(parent).int(row.kind as i64).bytes(row.reason.as_bytes());
    let sum = sum.int(row.cancel.into()).int(row.epoch as i64).bytes(&owner(row.owner));
    let sum = optional(optional(sum.bytes(row.worker.as_bytes()), row.lease_until), row.due);
    let sum = sum.int(row.recoveries.into()).int(row.entries as i64);
    sum.int(row.created).int(row.changed).get()
}

/// Of how many entries a run has, and when the last one was added.
pub(super) fn tail_sum(id: &RunId, entries: u64, at: i64) -> i64 {
    Sum::default().bytes(id.as_str().as_bytes()).int(entries as i64).int(at).get()
}

/// What was added since the row itself was written.
fn follow(run: &mut RunRow, row: &Row<'_>) -> Result<(), Failure> {
    let Some(at) = row.get::<_, Option<i64>>(19)? else { return Ok(()) };
    let entries = row.get::<_, i64>(20)? as u64;
    if tail_sum(&run.id, entries, at) != row.get(21)? {
        return Err(Failure::damaged("the number of the run's entries"));
    }
    if entries > run.entries {
        run.went_on(entries, at);
    }
    Ok(())
}

/// A run, and its number.
pub(super) fn run(row: &Row<'_>) -> Result<(i64, RunRow), Failure> {
    let damaged = |what: &str| Failure::damaged(what);
    let id = |text: String| RunId::try_new(text).map_err(|_| damaged("the run's identity"));
    let text = |index| -> Result<String, Failure> { Ok(row.get(index)?) };
    let status: usize = row.get::<_, u8>(6)?.into();
    let kind = *StatusKind::ALL.get(status).ok_or_else(|| damaged("the run's status"))?;
    let parent: Option<String> = row.get(5)?;
    let mut run = RunRow {
        id: id(text(1)?)?,
        name: text(2)?.into(),
        version: row.get(3)?,
        fingerprint: Fingerprint::new(row.get(4)?),
        parent: parent.map(id).transpose()?,
        kind,
        reason: text(7)?.into(),
        cancel: row.get(8)?,
        epoch: row.get::<_, i64>(9)? as u64,
        owner: read_owner(row, 10)?,
        worker: text(11)?.into(),
        lease_until: row.get(12)?,
        due: row.get(13)?,
        recoveries: row.get(14)?,
        entries: row.get::<_, i64>(15)? as u64,
        created: row.get(16)?,
        changed: row.get(17)?,
    };
    if run_sum(&run) != row.get(18)? {
        return Err(damaged("the run"));
    }
    follow(&mut run, row)?;
    Ok((row.get(0)?, run))
}

/// Where a run stands in the list that is damaged otherwise.
pub(super) fn place(row: &Row<'_>) -> Option<Cursor> {
    let id = RunId::try_new(row.get::<_, String>(1).ok()?).ok()?;
    Some(Cursor { created: time::to_system(row.get(16).ok()?), id })
}

/// Of the columns `seq, at, kind, format, name, occurrence, payload, sum`.
pub(super) fn entry(id: &RunId, row: &Row<'_>) -> Result<Entry, Failure> {
    let entry = NewEntry {
        kind: row.get(2)?,
        format: row.get(3)?,
        name: row.get::<_, String>(4)?.into(),
        occurrence: row.get(5)?,
        payload: Bytes::from(row.get::<_, Vec<u8>>(6)?),
    };
    let seq = row.get::<_, i64>(0)? as u64;
    if entry_sum(id, seq, &entry) != row.get(7)? {
        return Err(Failure::damaged(&format!("entry {seq} of the journal")));
    }
    Ok(Entry { seq, at: time::to_system(row.get(1)?), entry })
}
