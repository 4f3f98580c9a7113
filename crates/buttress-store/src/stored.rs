//! What the backends with rows have in common: columns, and checksums.

use crc32fast::Hasher;

use crate::answer::Forgotten;
use crate::claim::Record;
use crate::claim_row::State;
use crate::journal::{NewEntry, Next};
use crate::key::{Owner, RunId, ScopedKey};
use crate::time;

/// Of fields, and of where each of them ends.
#[derive(Default)]
pub(crate) struct Sum(Hasher);

impl Sum {
    pub(crate) fn int(mut self, value: i64) -> Self {
        self.0.update(&value.to_le_bytes());
        self
    }

    pub(crate) fn bytes(self, value: &[u8]) -> Self {
        let mut sum = self.int(value.len() as i64);
        sum.0.update(value);
        sum
    }

    pub(crate) fn get(self) -> i64 {
        self.0.finalize().into()
    }
}

/// Of a record or an input.
pub(crate) fn body_sum(body: &[u8]) -> i64 {
    Sum::default().bytes(body).get()
}

/// Without the time, which only the store knows.
pub(crate) fn entry_sum(id: &RunId, seq: u64, entry: &NewEntry) -> i64 {
    let sum = Sum::default().bytes(id.as_str().as_bytes()).int(seq as i64);
    let sum = sum.int(entry.kind.into()).int(entry.format.into()).bytes(entry.name.as_bytes());
    sum.int(entry.occurrence.into()).bytes(&entry.payload).get()
}

/// A scope and a key as one value that no other pair has.
pub(crate) fn key(key: &ScopedKey) -> Vec<u8> {
    [&scope(key.scope()), key.key().as_bytes()].concat()
}

/// What stands for a whole scope: no key is empty.
pub(crate) fn scope(scope: &str) -> Vec<u8> {
    let length = u16::try_from(scope.len()).expect("a scope is shorter than that");
    [&length.to_be_bytes(), scope.as_bytes()].concat()
}

/// The key or the scope that is to be forgotten, and which scope that is.
pub(crate) fn forgotten(what: &Forgotten) -> (Vec<u8>, Vec<u8>) {
    match what {
        Forgotten::Key(scoped) => (key(scoped), scope(scoped.scope())),
        Forgotten::Scope(name) => (scope(name), scope(name)),
    }
}

/// Of an answer's body, and of where it belongs.
pub(crate) fn answer_sum(key: &[u8], body: &[u8]) -> i64 {
    Sum::default().bytes(key).bytes(body).get()
}

pub(crate) fn owner(owner: Owner) -> [u8; 16] {
    owner.as_u128().to_be_bytes()
}

/// The columns that depend on the state of a claim: its number, the end of the lease, the body.
pub(crate) fn state(state: &State) -> (i16, Option<i64>, Option<&[u8]>) {
    match state {
        State::Claimed { lease_until } => (0, Some(*lease_until), None),
        State::Released => (1, None, None),
        State::Done(record) => {
            let (number, body) = done(record);
            (number, None, body)
        }
    }
}

pub(crate) fn done(record: &Record) -> (i16, Option<&[u8]>) {
    match record {
        Record::Value(value) => (2, Some(value)),
        Record::TooLarge => (3, None),
        Record::Unknown => (4, None),
    }
}

/// What becomes of a run as a number, the reason, and for how long or until when it sleeps.
pub(crate) fn next(next: &Next) -> (i32, &str, i64) {
    match next {
        Next::Go => (0, "", 0),
        Next::Yield => (1, "", 0),
        Next::Sleep(duration) => (2, "", time::micros(*duration)),
        Next::SleepUntil(until) => (3, "", time::from_system(*until)),
        Next::Pause(reason) => (4, reason, 0),
        Next::Park(reason) => (5, reason, 0),
        Next::Done => (6, "", 0),
        Next::Fail => (7, "", 0),
        Next::Cancel => (8, "", 0),
    }
}

/// The state that these columns stand for, if they stand for one.
pub(crate) fn read_state(number: i16, lease_until: Option<i64>, body: Option<Vec<u8>>) -> Option<State> {
    match (number, lease_until, body) {
        (0, Some(lease_until), None) => Some(State::Claimed { lease_until }),
        (1, None, None) => Some(State::Released),
        (2, None, Some(body)) => Some(State::Done(Record::Value(body.into()))),
        (3, None, None) => Some(State::Done(Record::TooLarge)),
        (4, None, None) => Some(State::Done(Record::Unknown)),
        (_, _, _) => None,
    }
}
