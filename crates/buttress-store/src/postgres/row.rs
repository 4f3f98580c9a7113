//! Rows as PostgreSQL gives them.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::claim_row::ClaimRow;
use crate::error::Fault;
use crate::failure::Failure;
use crate::journal::{Cursor, Entry, NewEntry, StatusKind};
use crate::key::{Fingerprint, Owner, RunId};
use crate::run_row::RunRow;
use crate::stored;
use crate::time;

/// The columns that a claim is read from, as the other statements name them.
macro_rules! claim_columns {
    () => {
        "c.fingerprint, c.owner, c.epoch, c.unfinished, c.state, c.lease_until, c.expires, c.body, c.sum"
    };
}
pub(super) use claim_columns;

/// The columns that a run is read from.
macro_rules! run_columns {
    () => {
        "r.id, r.name, r.version, r.fingerprint, r.parent, r.status, r.reason, r.cancel, r.epoch, \
         r.owner, r.worker, r.lease_until, r.due, r.recoveries, r.entries, r.created, r.changed"
    };
}
pub(super) use run_columns;

/// The columns that an entry is read from; none has the name of one of a run's.
macro_rules! entry_columns {
    () => {
        "e.seq, e.at, e.kind, e.format, e.name AS step, e.occurrence, e.payload, e.sum"
    };
}
pub(super) use entry_columns;

pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: &str) -> Result<T, Failure> {
    row.try_get(column).map_err(|_| Failure::new(Fault::Corrupt, format!("the column `{column}`")))
}

/// A number that was never negative when it was written.
fn natural<T: TryFrom<i64>>(row: &Row, column: &str) -> Result<T, Failure> {
    let number: i64 = get(row, column)?;
    T::try_from(number).map_err(|_| Failure::new(Fault::Corrupt, format!("the column `{column}`")))
}

fn bytes<const N: usize>(row: &Row, column: &str) -> Result<[u8; N], Failure> {
    let bytes: &[u8] = get(row, column)?;
    bytes.try_into().map_err(|_| Failure::new(Fault::Corrupt, format!("the column `{column}`")))
}

fn owner(row: &Row) -> Result<Owner, Failure> {
    let owner = Owner::from_u128(u128::from_be_bytes(bytes(row, "owner")?));
    owner.ok_or_else(|| Failure::new(Fault::Corrupt, "the column `owner`"))
}

/// `None` where the columns are those of no row.
pub(super) fn claim(row: &Row) -> Result<Option<ClaimRow>, Failure> {
    let Some(state) = get::<Option<i16>>(row, "state")? else { return Ok(None) };
    let body: Option<Vec<u8>> = get(row, "body")?;
    if body.as_deref().map(stored::body_sum) != get(row, "sum")? {
        return Err(Failure::damaged("the record"));
    }
    let state = stored::read_state(state, get(row, "lease_until")?, body);
    Ok(Some(ClaimRow {
        fingerprint: Fingerprint::new(bytes(row, "fingerprint")?),
        owner: owner(row)?,
        epoch: natural(row, "epoch")?,
        unfinished: natural(row, "unfinished")?,
        expires: get(row, "expires")?,
        state: state.ok_or_else(|| Failure::new(Fault::Corrupt, "the column `state`"))?,
    }))
}

pub(super) fn run(row: &Row) -> Result<RunRow, Failure> {
    let corrupt = |column: &str| Failure::new(Fault::Corrupt, format!("the column `{column}`"));
    let id = |text: &str, column| RunId::try_new(text).map_err(|_| corrupt(column));
    let status = usize::try_from(get::<i16>(row, "status")?).ok();
    let kind = status.and_then(|status| StatusKind::ALL.get(status)).ok_or_else(|| corrupt("status"))?;
    let parent: Option<&str> = get(row, "parent")?;
    Ok(RunRow {
        id: id(get(row, "id")?, "id")?,
        name: get::<&str>(row, "name")?.into(),
        version: natural(row, "version")?,
        fingerprint: Fingerprint::new(bytes(row, "fingerprint")?),
        parent: parent.map(|parent| id(parent, "parent")).transpose()?,
        kind: *kind,
        reason: get::<&str>(row, "reason")?.into(),
        cancel: get(row, "cancel")?,
        epoch: natural(row, "epoch")?,
        owner: owner(row)?,
        worker: get::<&str>(row, "worker")?.into(),
        lease_until: get(row, "lease_until")?,
        due: get(row, "due")?,
        recoveries: natural(row, "recoveries")?,
        entries: natural(row, "entries")?,
        created: get(row, "created")?,
        changed: get(row, "changed")?,
    })
}

/// Where a run stands in the list that is damaged otherwise.
pub(super) fn place(row: &Row) -> Option<Cursor> {
    let id = RunId::try_new(get::<&str>(row, "id").ok()?).ok()?;
    Some(Cursor { created: time::to_system(get(row, "created").ok()?), id })
}

/// A run, and the server's time.
pub(super) fn run_now(row: &Row) -> Result<(RunRow, i64), Failure> {
    Ok((run(row)?, get(row, "now")?))
}

pub(super) fn entry(id: &RunId, row: &Row) -> Result<Entry, Failure> {
    let small = |column| {
        let number: i32 = get(row, column)?;
        u16::try_from(number).map_err(|_| Failure::new(Fault::Corrupt, format!("the column `{column}`")))
    };
    let entry = NewEntry {
        kind: small("kind")?,
        format: small("format")?,
        name: get::<&str>(row, "step")?.into(),
        occurrence: natural(row, "occurrence")?,
        payload: get::<Vec<u8>>(row, "payload")?.into(),
    };
    let seq = natural(row, "seq")?;
    if stored::entry_sum(id, seq, &entry) != get::<i64>(row, "sum")? {
        return Err(Failure::damaged(&format!("entry {seq} of the journal")));
    }
    Ok(Entry { seq, at: time::to_system(get(row, "at")?), entry })
}
