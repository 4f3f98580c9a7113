//! Values as Redis keeps them: fields one after another, and a checksum over them.

use bytes::Bytes;

use super::Value;
use crate::claim_row::ClaimRow;
use crate::error::Fault;
use crate::failure::Failure;
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

    fn bytes(&mut self) -> Result<&'a [u8], Failure> {
        let length = self.int()?;
        let (value, rest) = self.0.split_at_checked(length).ok_or_else(unreadable)?;
        self.0 = rest;
        Ok(value)
    }

    fn text(&mut self) -> Result<&'a str, Failure> {
        std::str::from_utf8(self.bytes()?).map_err(|_| unreadable())
    }
}

fn unreadable() -> Failure {
    Failure::new(Fault::Corrupt, "it cannot be read")
}

/// How many values a run is given as by the scripts: its identity and its fields.
pub(super) const RUN: usize = 17;

/// The values that the scripts for runs give, in their order. The script has compared their checksum.
pub(super) fn read_run(fields: &[Value]) -> Result<RunRow, Failure> {
    let field = |index: usize| fields.get(index).and_then(Option::as_deref);
    let text = |index| field(index).and_then(|value| std::str::from_utf8(value).ok()).ok_or_else(unreadable);
    let id = |text: &str| RunId::try_new(text).map_err(|_| unreadable());
    let optional =
        |index| -> Result<Option<&str>, Failure> { Ok(Some(text(index)?).filter(|text| !text.is_empty())) };
    let time = |index| optional(index)?.map(|text| number(Some(text.as_bytes()))).transpose();
    Ok(RunRow {
        id: id(text(0)?)?,
        name: text(1)?.into(),
        version: number(field(2))?,
        fingerprint: Fingerprint::new(fixed(field(3))?),
        parent: optional(4)?.map(id).transpose()?,
        created: number(field(5))?,
        kind: *StatusKind::ALL.get(number::<usize>(field(6))?).ok_or_else(unreadable)?,
        reason: text(7)?.into(),
        cancel: number::<u8>(field(8))? != 0,
        epoch: number(field(9))?,
        owner: owner(&fixed(field(10))?)?,
        worker: text(11)?.into(),
        lease_until: time(12)?,
        due: time(13)?,
        recoveries: number(field(14))?,
        entries: number(field(15))?,
        changed: number(field(16))?,
    })
}

/// Without the time, which the script puts before it.
pub(super) fn write_entry(seq: u64, entry: &NewEntry) -> Vec<u8> {
    let mut fields = Writer(Vec::with_capacity(72 + entry.name.len() + entry.payload.len()));
    fields.int(seq as i64);
    fields.int(entry.kind.into());
    fields.int(entry.format.into());
    fields.int(entry.occurrence.into());
    fields.bytes(entry.name.as_bytes());
    fields.bytes(&entry.payload);
    fields.end()
}

/// Begins with sixteen digits of the time and, as the script can compute nothing better, two of what is left of it modulo 97.
pub(super) fn read_entry(value: &[u8]) -> Result<Entry, Failure> {
    let (at, value) = value.split_at_checked(18).ok_or_else(unreadable)?;
    let (at, check): (i64, i64) = (number(Some(&at[..16]))?, number(Some(&at[16..]))?);
    if at % 97 != check {
        return Err(Failure::damaged("the time of an entry of the journal"));
    }
    let mut fields = Reader::new("an entry of the journal", value)?;
    let (seq, at) = (fields.int()?, time::to_system(at));
    let (kind, format, occurrence) = (fields.int()?, fields.int()?, fields.int()?);
    let (name, payload) = (fields.text()?.into(), Bytes::copy_from_slice(fields.bytes()?));
    Ok(Entry { seq, at, entry: NewEntry { kind, format, name, occurrence, payload } })
}

fn owner(bytes: &[u8; 16]) -> Result<Owner, Failure> {
    Owner::from_u128(u128::from_be_bytes(*bytes)).ok_or_else(unreadable)
}

fn fixed<const N: usize>(value: Option<&[u8]>) -> Result<[u8; N], Failure> {
    value.and_then(|value| value.try_into().ok()).ok_or_else(unreadable)
}

/// A number that a script gave as text.
pub(super) fn number<T: std::str::FromStr>(value: Option<&[u8]>) -> Result<T, Failure> {
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(unreadable)
}

/// The fields that the scripts for claims give after the time; none if there is no such row.
pub(super) fn read_claim(fields: &[Value]) -> Result<Option<ClaimRow>, Failure> {
    if fields.is_empty() {
        return Ok(None);
    }
    let field = |index: usize| fields.get(index).and_then(Option::as_deref);
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
