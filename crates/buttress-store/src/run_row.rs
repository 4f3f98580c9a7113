//! What is stored of a run, and what each verb makes of it: pure, for the backends that decide in this process.

use std::sync::Arc;
use std::time::Duration;

use crate::journal::{
    Appended, Command, Created, Entry, Flow, Hold, NewEntry, NewRun, Next, Renewed, RunInfo, Status,
    StatusKind, Wanted,
};
use crate::key::{Fingerprint, Owner, RunId};
use crate::time;

#[derive(Clone, Debug)]
pub(crate) struct RunRow {
    pub(crate) id: RunId,
    pub(crate) name: Arc<str>,
    pub(crate) version: u32,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) parent: Option<RunId>,
    pub(crate) kind: StatusKind,
    /// Why it is halted.
    pub(crate) reason: Arc<str>,
    pub(crate) cancel: bool,
    pub(crate) epoch: u64,
    /// Who holds it, or held it last, or began it.
    pub(crate) owner: Owner,
    pub(crate) worker: Arc<str>,
    /// Set while it is held.
    pub(crate) lease_until: Option<i64>,
    /// When it can be acquired; set while it is open.
    pub(crate) due: Option<i64>,
    pub(crate) recoveries: u32,
    pub(crate) entries: u64,
    pub(crate) created: i64,
    pub(crate) changed: i64,
}

/// What an append is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Append {
    /// Add the entries, and store the row.
    Add,
    Fenced,
    Conflict,
    /// It may have been done already; it has been if the last entries are the same.
    Compare,
}

impl RunRow {
    pub(crate) fn new(run: &NewRun, lease: Option<Duration>, now: i64) -> Self {
        let lease_until = lease.map(|lease| time::after(now, lease));
        Self {
            id: run.id.clone(),
            name: run.name.clone(),
            version: run.version,
            fingerprint: run.fingerprint,
            parent: run.parent.clone(),
            kind: StatusKind::Running,
            reason: "".into(),
            cancel: false,
            epoch: u64::from(lease.is_some()),
            owner: run.owner,
            worker: run.worker.clone(),
            lease_until,
            due: Some(lease_until.unwrap_or(now)),
            recoveries: 0,
            entries: 0,
            created: now,
            changed: now,
        }
    }

    pub(crate) fn info(&self, now: i64) -> RunInfo {
        let status = match self.kind {
            StatusKind::Running => Status::Running,
            StatusKind::Sleeping => Status::Sleeping { until: time::to_system(self.due.unwrap_or(now)) },
            StatusKind::Paused => Status::Paused(self.reason.clone()),
            StatusKind::Parked => Status::Parked(self.reason.clone()),
            StatusKind::Done => Status::Done,
            StatusKind::Failed => Status::Failed,
            StatusKind::Cancelled => Status::Cancelled,
        };
        RunInfo {
            id: self.id.clone(),
            name: self.name.clone(),
            version: self.version,
            fingerprint: self.fingerprint,
            parent: self.parent.clone(),
            status,
            cancel_requested: self.cancel,
            epoch: self.epoch,
            worker: self.worker.clone(),
            lease: self.lease_until.map(|until| time::remaining(until, now)),
            recoveries: self.recoveries,
            entries: self.entries,
            created: time::to_system(self.created),
            changed: time::to_system(self.changed),
            now: time::to_system(now),
        }
    }

    pub(crate) fn hold(&self) -> Hold {
        Hold { id: self.id.clone(), owner: self.owner, epoch: self.epoch }
    }

    /// What somebody gets who wants to begin a run that there is already.
    pub(crate) fn exists(&self, run: &NewRun, lease: Option<Duration>, now: i64) -> Created {
        let repeated = self.owner == run.owner && self.epoch == u64::from(lease.is_some());
        if self.name != run.name || self.fingerprint != run.fingerprint {
            Created::Conflict(self.info(now))
        } else if repeated && lease.is_none() {
            Created::Queued
        } else if repeated && self.lease_until.is_some() {
            Created::Held(self.hold())
        } else {
            Created::Exists(self.info(now))
        }
    }

    pub(crate) fn is_wanted(&self, wanted: &Wanted, now: i64) -> bool {
        let runs = |flow: &Flow| flow.name == self.name && flow.versions.contains(&self.version);
        self.due.is_some_and(|due| due <= now)
            && wanted.id.as_ref().is_none_or(|id| *id == self.id)
            && wanted.flows.iter().any(runs)
    }

    pub(crate) fn acquire(&mut self, wanted: &Wanted, now: i64) {
        if self.lease_until.is_some() {
            self.recoveries = self.recoveries.saturating_add(1);
        }
        self.kind = StatusKind::Running;
        self.epoch += 1;
        self.owner = wanted.owner;
        self.worker = wanted.worker.clone();
        self.changed = now;
        self.lease(wanted.lease, now);
    }

    fn lease(&mut self, lease: Duration, now: i64) {
        self.lease_until = Some(time::after(now, lease));
        self.due = self.lease_until;
    }

    fn is_of(&self, hold: &Hold) -> bool {
        self.owner == hold.owner && self.epoch == hold.epoch
    }

    pub(crate) fn renew(&mut self, hold: &Hold, lease: Duration, now: i64) -> Renewed {
        if !self.is_of(hold) || self.lease_until.is_none() {
            return Renewed::Fenced;
        }
        self.lease(lease, now);
        Renewed::Held { cancel_requested: self.cancel }
    }

    pub(crate) fn check_append(&self, hold: &Hold, seq: u64, entries: &[NewEntry], next: &Next) -> Append {
        if !self.is_of(hold) {
            return Append::Fenced;
        }
        let held = self.lease_until.is_some();
        if held && self.entries == seq {
            return Append::Add;
        }
        let repeated = self.entries == seq + entries.len() as u64;
        match (held, repeated) {
            (true, true) if !entries.is_empty() && *next == Next::Go => Append::Compare,
            (true, _) => Append::Conflict,
            (false, true) if self.may_follow(next) => Append::Compare,
            (false, _) => Append::Fenced,
        }
    }

    /// Whether the run, which was given up, may have been given up in this way.
    fn may_follow(&self, next: &Next) -> bool {
        match next {
            Next::Go => false,
            Next::Yield => self.kind == StatusKind::Running,
            // An operator may have woken it in between.
            Next::Sleep(_) | Next::SleepUntil(_) => self.kind.is_open(),
            Next::Pause(reason) => self.kind == StatusKind::Paused && self.reason == *reason,
            Next::Park(reason) => self.kind == StatusKind::Parked && self.reason == *reason,
            Next::Done => self.kind == StatusKind::Done,
            Next::Fail => self.kind == StatusKind::Failed,
            Next::Cancel => self.kind == StatusKind::Cancelled,
        }
    }

    /// It has so many entries now, of which the last ones were added then.
    pub(crate) fn went_on(&mut self, entries: u64, at: i64) {
        (self.entries, self.recoveries, self.changed) = (entries, 0, at);
    }

    /// What becomes of the run once its entries are added.
    pub(crate) fn appended(&mut self, entries: &[NewEntry], next: &Next, now: i64) {
        if !entries.is_empty() {
            self.went_on(self.entries + entries.len() as u64, now);
        } else if *next != Next::Go {
            self.changed = now;
        }
        match next {
            Next::Go => {}
            Next::Yield => self.open(StatusKind::Running, now),
            Next::Sleep(duration) => self.sleep(time::after(now, *duration), now),
            Next::SleepUntil(until) => self.sleep(time::from_system(*until), now),
            Next::Pause(reason) => self.halt(StatusKind::Paused, reason),
            Next::Park(reason) => self.halt(StatusKind::Parked, reason),
            Next::Done => self.close(StatusKind::Done),
            Next::Fail => self.close(StatusKind::Failed),
            Next::Cancel => self.close(StatusKind::Cancelled),
        }
    }

    /// Whoever wants it cancelled does not wait until it wakes.
    fn sleep(&mut self, until: i64, now: i64) {
        if self.cancel { self.open(StatusKind::Running, now) } else { self.open(StatusKind::Sleeping, until) }
    }

    fn open(&mut self, kind: StatusKind, due: i64) {
        (self.kind, self.lease_until, self.due) = (kind, None, Some(due));
    }

    fn halt(&mut self, kind: StatusKind, reason: &Arc<str>) {
        self.close(kind);
        self.reason = reason.clone();
    }

    fn close(&mut self, kind: StatusKind) {
        (self.kind, self.lease_until, self.due) = (kind, None, None);
    }

    /// Whether anything changed.
    pub(crate) fn control(&mut self, command: Command, now: i64) -> bool {
        let halted = matches!(self.kind, StatusKind::Paused | StatusKind::Parked);
        match command {
            _ if self.kind.is_over() => return false,
            Command::Resume if !halted && self.kind != StatusKind::Sleeping => return false,
            Command::Cancel | Command::Resume => {
                self.cancel |= command == Command::Cancel;
                if halted {
                    self.recoveries = 0;
                    self.reason = "".into();
                }
                if self.lease_until.is_none() {
                    self.open(StatusKind::Running, now);
                }
            }
            Command::Abandon => {
                self.cancel = true;
                self.reason = "".into();
                self.close(StatusKind::Cancelled);
            }
        }
        self.changed = now;
        true
    }
}

/// What an append came to that may have been done already: it was if the last entries of the journal are the same.
pub(crate) fn repeated(row: &RunRow, stored: &[Entry], entries: &[NewEntry]) -> Appended {
    let same =
        stored.len() == entries.len() && stored.iter().zip(entries).all(|(stored, new)| stored.entry == *new);
    if same {
        let at = stored.last().map_or_else(|| time::to_system(row.changed), |last| last.at);
        Appended::Applied { next: row.entries, at, cancel_requested: row.cancel }
    } else if row.lease_until.is_some() {
        Appended::Conflict { next: row.entries }
    } else {
        Appended::Fenced
    }
}
