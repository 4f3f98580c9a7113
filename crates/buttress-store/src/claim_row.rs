//! What is stored of a key, and what each verb makes of it: pure, for the backends that decide in this process.

use std::time::Duration;

use crate::claim::{Claim, ClaimRequest, Claimed, Record, Waited, Written};
use crate::key::{Fingerprint, Owner};
use crate::time;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimRow {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) owner: Owner,
    pub(crate) epoch: u64,
    pub(crate) unfinished: u32,
    pub(crate) expires: i64,
    pub(crate) state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Claimed {
        lease_until: i64,
    },
    /// Given up, and kept for the sake of earlier owners that were left unfinished.
    Released,
    Done(Record),
}

/// What a verb does to the row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Put(ClaimRow),
    Delete,
}

impl ClaimRow {
    /// The row, unless its time is over.
    pub(crate) fn live(row: Option<Self>, now: i64) -> Option<Self> {
        row.filter(|row| row.expires > now)
    }

    fn is_of(&self, claim: &Claim) -> bool {
        self.owner == claim.owner() && self.epoch == claim.epoch()
    }

    fn fenced(self) -> Written {
        match self.state {
            State::Done(winner) => Written::Fenced { winner: Some(winner) },
            State::Claimed { .. } | State::Released => Written::Fenced { winner: None },
        }
    }

    fn leased(mut self, now: i64, lease: Duration, keep: Duration) -> Self {
        let lease_until = time::after(now, lease);
        self.expires = time::after(lease_until, keep);
        self.state = State::Claimed { lease_until };
        self
    }
}

pub(crate) fn claim(row: Option<ClaimRow>, request: &ClaimRequest, now: i64) -> (Claimed, Change) {
    let own = |epoch, unfinished| {
        let row = ClaimRow {
            fingerprint: *request.fingerprint(),
            owner: request.owner(),
            epoch,
            unfinished,
            expires: 0,
            state: State::Released,
        };
        let row = row.leased(now, request.lease(), request.kept_for());
        (Claimed::Owned(request.granted(epoch, unfinished)), Change::Put(row))
    };
    let Some(row) = ClaimRow::live(row, now) else { return own(1, 0) };
    if row.fingerprint != *request.fingerprint() {
        return (Claimed::Mismatch, Change::None);
    }
    match row.state {
        State::Done(record) => (Claimed::Done(record), Change::None),
        State::Released => own(row.epoch + 1, row.unfinished),
        State::Claimed { .. } if row.owner == request.owner() => own(row.epoch, row.unfinished),
        State::Claimed { lease_until } if lease_until > now => {
            (Claimed::InFlight { remaining: time::remaining(lease_until, now) }, Change::None)
        }
        State::Claimed { .. } => own(row.epoch + 1, row.unfinished.saturating_add(1)),
    }
}

pub(crate) fn renew(row: Option<ClaimRow>, claim: &Claim, lease: Duration, now: i64) -> (Written, Change) {
    match ClaimRow::live(row, now) {
        None => (Written::Fenced { winner: None }, Change::None),
        Some(row) if row.is_of(claim) => match row.state {
            State::Claimed { .. } => {
                (Written::Applied, Change::Put(row.leased(now, lease, claim.kept_for())))
            }
            // A renewal that the completion has overtaken.
            State::Done(_) => (Written::Applied, Change::None),
            State::Released => (row.fenced(), Change::None),
        },
        Some(row) => (row.fenced(), Change::None),
    }
}

pub(crate) fn complete(
    row: Option<ClaimRow>,
    claim: &Claim,
    record: &Record,
    ttl: Duration,
    now: i64,
) -> (Written, Change) {
    match ClaimRow::live(row, now) {
        None => (Written::Fenced { winner: None }, Change::None),
        Some(mut row) if row.is_of(claim) => match row.state {
            State::Claimed { .. } => {
                row.state = State::Done(record.clone());
                row.expires = time::after(now, ttl);
                (Written::Applied, Change::Put(row))
            }
            State::Done(_) => (Written::Applied, Change::None),
            State::Released => (row.fenced(), Change::None),
        },
        Some(row) => (row.fenced(), Change::None),
    }
}

pub(crate) fn release(row: Option<ClaimRow>, claim: &Claim, now: i64) -> (Written, Change) {
    match ClaimRow::live(row, now) {
        None => (Written::Applied, Change::None),
        Some(mut row) if row.is_of(claim) => match row.state {
            State::Claimed { .. } if row.unfinished == 0 => (Written::Applied, Change::Delete),
            State::Claimed { .. } => {
                row.state = State::Released;
                (Written::Applied, Change::Put(row))
            }
            State::Released => (Written::Applied, Change::None),
            State::Done(_) => (row.fenced(), Change::None),
        },
        Some(row) => (row.fenced(), Change::None),
    }
}

pub(crate) fn look(row: Option<ClaimRow>, fingerprint: &Fingerprint, now: i64) -> Waited {
    match ClaimRow::live(row, now) {
        None => Waited::Free,
        Some(row) if row.fingerprint != *fingerprint => Waited::Mismatch,
        Some(row) => match row.state {
            State::Done(record) => Waited::Done(record),
            State::Claimed { lease_until } if lease_until > now => {
                Waited::InFlight { remaining: time::remaining(lease_until, now) }
            }
            State::Claimed { .. } | State::Released => Waited::Free,
        },
    }
}
