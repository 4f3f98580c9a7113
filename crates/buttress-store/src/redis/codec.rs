//! Values as Redis keeps them: fields one after another, and a checksum over them.

use bytes::Bytes;

use super::fault::Failure;
use crate::claim_row::ClaimRow;
use crate::error::Fault;
use crate::journal::{Entry, NewEntry, StatusKind};
use crate::key::{Fingerprint, Owner, RunId};
use crate::run_row::RunRow;
use crate::stored;
use crate::time;

struct Writer(Vec<u8>);

impl Writer {
    fn int(&mut self, value: i64) {
        self.0.extend(value.to_le_bytes());
    }

    fn optional(&mut self, value: Option<i64>) {
        self.int(i64::from(value.is_some()));
        self.int(value.unwrap_or(0));
    }

    fn bytes(&mut self, value: &[u8]) {
        self.int(value.len() as i64);
        self.0.extend(value);
    }

    /// With the checksum.
    fn end(mut self) -> Vec<u8> {
        let sum = stored::body_sum(&self.0);
        self.int(sum);
        self.0
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(what: &str, value: &'a [u8]) -> Result<Self, Failure> {
        let (fields, sum) = value.split_last_chunk::<8>().ok_or_else(|| Failure::damaged(what))?;
        if stored::body_sum(fields) != i64::from_le_bytes(*sum) {
            return Err(Failure::damaged(what));
        }
        Ok(Self(fields))
    }

    fn int<T: TryFrom<i64>>(&mut self) -> Result<T, Failure> {
        let (value, rest) = self.0.split_first_chunk::<8>().ok_or_else(unreadable)?;
        self.0 = rest;
        T::try_from(i64::from_le_bytes(*value)).map_err(|_| unreadable())
    }

    fn optional(&mut self) -> Result<Option<i64>, Failure> {
        let (some, value) = (self.int::<i64>()? != 0, self.int()?);
        Ok(some.then_some(value))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Failure> {
        let length = self.int()?;
        let (value, rest) = self.0.split_at_checked(length).ok_or_else(unreadable)?;
        self.0 = rest;
        Ok(value)
    }

    fn text(&mut self) -> Result<&'a str, Failure> {
        std::str::from_utf8(self.bytes()?).map_err(|_| unreadable())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        self.bytes()?.try_into().map_err(|_| unreadable())
    }
}

fn unreadable() -> Failure {
    Failure::new(Fault::Corrupt, "it cannot be read")
}

pub(super) fn write_run(run: &RunRow) -> Vec<u8> {
    let mut fields = Writer(Vec::with_capacity(256));
    for text in
        [run.id.as_str(), &run.name, run.parent.as_ref().map_or("", RunId::as_str), &run.reason, &run.worker]
    {
        fields.bytes(text.as_bytes());
    }
    fields.bytes(run.fingerprint.as_bytes());
    fields.bytes(&stored::owner(run.owner));
    fields.int(run.version.into());
    fields.int(run.kind as i64);
    fields.int(run.cancel.into());
    fields.int(run.epoch as i64);
    fields.optional(run.lease_until);
    fields.optional(run.due);
    fields.int(run.recoveries.into());
    fields.int(run.entries as i64);
    fields.int(run.created);
    fields.int(run.changed);
    fields.end()
}

pub(super) fn read_run(value: &[u8]) -> Result<RunRow, Failure> {
    let mut fields = Reader::new("the run", value)?;
    let id = |text: &str| RunId::try_new(text).map_err(|_| unreadable());
    let (own, name, parent) = (id(fields.text()?)?, fields.text()?.into(), fields.text()?);
    let (reason, worker) = (fields.text()?.into(), fields.text()?.into());
    Ok(RunRow {
        id: own,
        name,
        parent: if parent.is_empty() { None } else { Some(id(parent)?) },
        reason,
        worker,
        fingerprint: Fingerprint::new(fields.array()?),
        owner: owner(&fields.array()?)?,
        version: fields.int()?,
        kind: *StatusKind::ALL.get(fields.int::<usize>()?).ok_or_else(unreadable)?,
        cancel: fields.int::<i64>()? != 0,
        epoch: fields.int()?,
        lease_until: fields.optional()?,
        due: fields.optional()?,
        recoveries: fields.int()?,
        entries: fields.int()?,
        created: fields.int()?,
        changed: fields.int()?,
    })
}

pub(super) fn write_entry(seq: u64, at: i64, entry: &NewEntry) -> Vec<u8> {
    let mut fields = Writer(Vec::with_capacity(80 + entry.name.len() + entry.payload.len()));
    fields.int(seq as i64);
    fields.int(at);
    fields.int(entry.kind.into());
    fields.int(entry.format.into());
    fields.int(entry.occurrence.into());
    fields.bytes(entry.name.as_bytes());
    fields.bytes(&entry.payload);
    fields.end()
}

pub(super) fn read_entry(value: &[u8]) -> Result<Entry, Failure> {
    let mut fields = Reader::new("an entry of the journal", value)?;
    let (seq, at) = (fields.int()?, time::to_system(fields.int()?));
    let (kind, format, occurrence) = (fields.int()?, fields.int()?, fields.int()?);
    let (name, payload) = (fields.text()?.into(), Bytes::copy_from_slice(fields.bytes()?));
    Ok(Entry { seq, at, entry: NewEntry { kind, format, name, occurrence, payload } })
}

fn owner(bytes: &[u8; 16]) -> Result<Owner, Failure> {
    Owner::from_u128(u128::from_be_bytes(*bytes)).ok_or_else(unreadable)
}

/// A number that a script gave as text.
pub(super) fn number<T: std::str::FromStr>(value: Option<&[u8]>) -> Result<T, Failure> {
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(unreadable)
}

/// The fields that the scripts for claims give after the time; none if there is no such row.
pub(super) fn read_claim(fields: &[Option<Vec<u8>>]) -> Result<Option<ClaimRow>, Failure> {
    if fields.is_empty() {
        return Ok(None);
    }
    let field = |index: usize| fields.get(index).and_then(Option::as_deref);
    fn fixed<const N: usize>(value: Option<&[u8]>) -> Result<[u8; N], Failure> {
        value.and_then(|value| value.try_into().ok()).ok_or_else(unreadable)
    }
    let body = field(7).map(<[u8]>::to_vec);
    if let Some(body) = &body
        && stored::body_sum(body) != number(field(8))?
    {
        return Err(Failure::damaged("the record"));
    }
    let lease_until = field(5).map(|lease| number(Some(lease))).transpose()?;
    let state = stored::read_state(number(field(4))?, lease_until, body).ok_or_else(unreadable)?;
    Ok(Some(ClaimRow {
        fingerprint: Fingerprint::new(fixed(field(0))?),
        owner: owner(&fixed(field(1))?)?,
        epoch: number(field(2))?,
        unfinished: number(field(3))?,
        expires: number(field(6))?,
        state,
    }))
}
