//! The journal's format: which kinds of entries there are, and what is in them.

use std::sync::Arc;

use buttress_store::{Entry, NewEntry};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::error::{Mismatch, StepKind};

/// The text of an error that is kept of an attempt, in bytes.
pub(crate) const MAX_TEXT: usize = 4096;

/// The version of the payloads' encoding: JSON, to which fields may be added.
pub(crate) const FORMAT: u16 = 1;

/// What an entry says. The numbers are stored: none is ever used again. 12 to 19 are kept for child workflows and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    /// A step has its result.
    Step = 1,
    /// A step that is to be known of begins.
    Started = 2,
    /// An attempt at a step failed, and there will be another.
    Attempt = 3,
    /// A sleep begins.
    Sleep = 4,
    /// It is over.
    Woken = 5,
    /// A race has a winner.
    Race = 6,
    /// The code after this point is the patched one.
    Patch = 7,
    /// The run fails or is cancelled, and what it did is undone from here on.
    Unwind = 8,
    /// A step was undone.
    Compensated = 9,
    /// The run is over.
    Output = 10,
    /// An attempt at undoing a step failed.
    NotUndone = 11,
    /// A [`Checkpoint`](crate::Checkpoint) was saved.
    Saved = 20,
    /// The code of the run panicked.
    Panicked = 21,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Step,
        Self::Started,
        Self::Attempt,
        Self::Sleep,
        Self::Woken,
        Self::Race,
        Self::Patch,
        Self::Unwind,
        Self::Compensated,
        Self::Output,
        Self::NotUndone,
        Self::Saved,
        Self::Panicked,
    ];

    /// The operation that it belongs to, if it belongs to one.
    pub(crate) fn operation(self) -> Option<StepKind> {
        match self {
            Self::Step | Self::Started | Self::Attempt => Some(StepKind::Step),
            Self::Sleep | Self::Woken => Some(StepKind::Sleep),
            Self::Race => Some(StepKind::Race),
            Self::Patch => Some(StepKind::Patch),
            Self::Unwind
            | Self::Compensated
            | Self::Output
            | Self::NotUndone
            | Self::Saved
            | Self::Panicked => None,
        }
    }

    /// Whether the workflow's code goes on with it, so that its place among others matters.
    pub(crate) fn is_delivered(self) -> bool {
        matches!(self, Self::Step | Self::Woken | Self::Race | Self::Patch)
    }
}

/// What is in an entry. Each kind uses some of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Body {
    /// The ordinal of the operation.
    pub(crate) n: u32,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub(crate) ok: Option<Box<RawValue>>,
    /// The error of the step's or the workflow's own type.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub(crate) err: Option<Box<RawValue>>,
    /// An error of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<Fault>,
    /// The fingerprint of the step's input, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) input: Option<String>,
    /// The number of the attempt, from 1 on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) attempt: u32,
    /// Whether the attempt was done is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unknown: bool,
    /// How long that took, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) took: Option<u64>,
    /// How long to wait from when the entry was stored, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wait: Option<u64>,
    /// Until when to wait, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) winner: Option<u32>,
    /// What is unwound was cancelled, and has not failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) cancelled: bool,
}

/// An error of ours, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    TimedOut {
        micros: u64,
    },
    Interrupted,
    NotStored {
        reason: String,
    },
    /// The code does not do what is recorded.
    Mismatch {
        reason: String,
    },
    /// The step could not be undone.
    NotUndone {
        reason: String,
    },
    /// The code of the run panicked.
    Panicked {
        reason: String,
    },
}

/// JSON's `null` is a value, such as `()`, and not the lack of one.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

pub(crate) fn write(kind: Kind, name: &Arc<str>, occurrence: u32, body: &Body) -> NewEntry {
    // Numbers, flags and JSON that is valid already: nothing that could not be written.
    let payload = serde_json::to_vec(body).unwrap_or_default();
    NewEntry {
        kind: kind as u16,
        format: FORMAT,
        name: name.clone(),
        occurrence,
        payload: Bytes::from(payload),
    }
}

pub(crate) fn read(entry: &Entry) -> Result<(Kind, Body), Mismatch> {
    let NewEntry { kind, format, payload, .. } = &entry.entry;
    let unreadable = || Mismatch::Unreadable { seq: entry.seq, kind: *kind, format: *format };
    let known = Kind::ALL.into_iter().find(|known| *known as u16 == *kind).ok_or_else(unreadable)?;
    if *format != FORMAT {
        return Err(unreadable());
    }
    let body = serde_json::from_slice(payload).map_err(|error| Mismatch::Undecodable {
        what: format!("entry {}", entry.seq),
        reason: error.to_string(),
    })?;
    Ok((known, body))
}

/// What is stored as the input of a run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) input: Box<RawValue>,
    /// What the keys of its steps are derived from: another one in each run, whatever its identity.
    pub(crate) root: String,
    /// The run that it continues, of which some entries are its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fork: Option<Fork>,
}

impl Envelope {
    pub(crate) fn root(&self) -> &str {
        self.fork.as_ref().map_or(&self.root, |fork| &fork.root)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fork {
    pub(crate) from: String,
    /// The first operation that is not that run's.
    pub(crate) before: u32,
    /// How many entries the operations before have.
    pub(crate) entries: u64,
    /// What keys are derived from, in place of the run's own.
    pub(crate) root: String,
}

impl Fork {
    /// Whether an entry of the run that is continued is one of the run that continues it: operations have their numbers in the
    /// order in which they begin, and entries in the order in which they end.
    pub(crate) fn keeps(&self, entry: &Entry) -> bool {
        read(entry).is_ok_and(|(kind, body)| kind.operation().is_some() && body.n < self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn stored(entry: NewEntry) -> Entry {
        Entry { seq: 3, at: UNIX_EPOCH, entry }
    }

    #[test]
    fn a_result_of_nothing_is_a_result() {
        let ok = serde_json::value::to_raw_value(&()).unwrap();
        let entry = write(Kind::Step, &"a".into(), 0, &Body { n: 1, ok: Some(ok), ..Body::default() });
        let (kind, body) = read(&stored(entry)).unwrap();
        assert_eq!((kind, body.ok.unwrap().get()), (Kind::Step, "null"));
        assert!(body.err.is_none());
    }

    #[test]
    fn what_a_newer_release_wrote_is_refused_and_not_guessed_at() {
        let entry = write(Kind::Step, &"a".into(), 0, &Body::default());
        for newer in [NewEntry { format: 2, ..entry.clone() }, NewEntry { kind: 99, ..entry.clone() }] {
            assert!(matches!(read(&stored(newer)), Err(Mismatch::Unreadable { seq: 3, .. })));
        }
        let torn = NewEntry { payload: entry.payload.slice(1..), ..entry };
        assert!(matches!(read(&stored(torn)), Err(Mismatch::Undecodable { .. })));
    }
}
