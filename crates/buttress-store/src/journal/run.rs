//! What there is to read of runs, one by one and in lists.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::NewEntry;
use crate::key::{Fingerprint, RunId};

/// An entry of a journal, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the journal, from 0 on, without gaps.
    pub seq: u64,
    /// When it was added, on the store's clock.
    pub at: SystemTime,
    /// What it says.
    pub entry: NewEntry,
}

/// What a run is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It runs, or waits for someone to run it.
    Running,
    /// It sleeps until this time on the store's clock.
    Sleeping {
        /// The time at which it can be acquired again.
        until: SystemTime,
    },
    /// It is halted, for this reason, and goes on when an operator resumes it.
    Paused(Arc<str>),
    /// It is halted because it never got any further.
    Parked(Arc<str>),
    /// It has succeeded.
    Done,
    /// It has failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// A status without what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum StatusKind {
    /// [`Status::Running`]
    Running = 0,
    /// [`Status::Sleeping`]
    Sleeping = 1,
    /// [`Status::Paused`]
    Paused = 2,
    /// [`Status::Parked`]
    Parked = 3,
    /// [`Status::Done`]
    Done = 4,
    /// [`Status::Failed`]
    Failed = 5,
    /// [`Status::Cancelled`]
    Cancelled = 6,
}

impl Status {
    /// Without what belongs to it.
    pub fn kind(&self) -> StatusKind {
        match self {
            Self::Running => StatusKind::Running,
            Self::Sleeping { .. } => StatusKind::Sleeping,
            Self::Paused(_) => StatusKind::Paused,
            Self::Parked(_) => StatusKind::Parked,
            Self::Done => StatusKind::Done,
            Self::Failed => StatusKind::Failed,
            Self::Cancelled => StatusKind::Cancelled,
        }
    }
}

impl StatusKind {
    /// All of them, in their order.
    pub const ALL: [Self; 7] = [
        Self::Running,
        Self::Sleeping,
        Self::Paused,
        Self::Parked,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Done, failed or cancelled: nothing ever changes again.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// Running or sleeping: it can be held.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Running | Self::Sleeping)
    }
}

/// What there is to know of a run without its input and its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunInfo {
    /// Its identity.
    pub id: RunId,
    /// The name of its workflow.
    pub name: Arc<str>,
    /// The version of the code that began it.
    pub version: u32,
    /// A hash of its input.
    pub fingerprint: Fingerprint,
    /// The run that it is a part of.
    pub parent: Option<RunId>,
    /// What it is doing.
    pub status: Status,
    /// Somebody wants it cancelled.
    pub cancel_requested: bool,
    /// How many have held it.
    pub epoch: u64,
    /// Who holds it, or held it last; for people to read.
    pub worker: Arc<str>,
    /// Time left of the lease of whoever holds it; `None` if nobody does, zero if it is over.
    pub lease: Option<Duration>,
    /// How often it was taken over from a holder that had not given it up, since it last got an entry. An operator who resumes
    /// it sets this to zero.
    pub recoveries: u32,
    /// The number of its entries, and the sequence number of the next one.
    pub entries: u64,
    /// When it was begun, on the store's clock.
    pub created: SystemTime,
    /// When it last changed, on the store's clock. Renewing a lease is no change.
    pub changed: SystemTime,
    /// The store's clock when this was read.
    pub now: SystemTime,
}

/// A run with all that is stored of it.
#[derive(Clone, Debug)]
pub struct Run {
    /// What there is to know of it.
    pub info: RunInfo,
    /// Its input.
    pub input: Bytes,
    /// Its entries, in their order.
    pub entries: Vec<Entry>,
}

/// A run without its input and without its journal, but for the end of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peek {
    /// What there is to know of it.
    pub info: RunInfo,
    /// Its last entry if it is over, which says what it came to; `None` while it is not, or if it has no entries.
    pub last: Option<Entry>,
}

/// Which runs are to be listed; by default all, a hundred to the page.
#[derive(Clone, Debug)]
pub struct Query {
    /// In any of these; empty for all.
    pub statuses: Vec<StatusKind>,
    /// Of this workflow.
    pub name: Option<Arc<str>>,
    /// Begun by this run as parts of itself.
    pub parent: Option<RunId>,
    /// What comes after the page that ended with this cursor.
    pub after: Option<Cursor>,
    /// How many to the page, at least 1 and at most 1,000.
    pub limit: u32,
}

impl Default for Query {
    fn default() -> Self {
        Self { statuses: Vec::new(), name: None, parent: None, after: None, limit: 100 }
    }
}

impl Query {
    /// The limit within its bounds.
    pub fn page_size(&self) -> usize {
        self.limit.clamp(1, 1000) as usize
    }

    /// Whether a run is asked for, its place in the list aside.
    pub fn matches(&self, info: &RunInfo) -> bool {
        let named = self.name.as_ref().is_none_or(|name| *name == info.name);
        let of_parent = self.parent.is_none() || self.parent == info.parent;
        named && of_parent && (self.statuses.is_empty() || self.statuses.contains(&info.status.kind()))
    }
}

/// The end of a page: the last run of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// When it was begun.
    pub created: SystemTime,
    /// Its identity.
    pub id: RunId,
}

impl RunInfo {
    /// The cursor of a page that ends with this run.
    pub fn cursor(&self) -> Cursor {
        Cursor { created: self.created, id: self.id.clone() }
    }
}

/// One page of a listing. Runs that begin while one turns the pages are not on them; none is missing or twice.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The runs.
    pub runs: Vec<RunInfo>,
    /// Runs that are [damaged](crate::Fault::Corrupt): they have their places on this page, and may or may not be among those
    /// that were asked for.
    pub damaged: Vec<RunId>,
    /// Where the next page begins; `None` if this was the last.
    pub next: Option<Cursor>,
}

impl Page {
    /// The page for a query, of the runs that match it and of one more if there is one; for implementations of
    /// [`JournalStore`](crate::JournalStore).
    pub fn of(runs: Vec<RunInfo>, query: &Query) -> Self {
        Self::with_damaged(runs.into_iter().map(Ok).collect(), query)
    }

    /// The same where of some runs nothing can be read but their places.
    pub fn with_damaged(mut runs: Vec<Result<RunInfo, Cursor>>, query: &Query) -> Self {
        let more = runs.len() > query.page_size();
        runs.truncate(query.page_size());
        let cursor = |run: &Result<RunInfo, Cursor>| run.as_ref().map_or_else(Cursor::clone, RunInfo::cursor);
        let mut page = Self { next: runs.last().filter(|_| more).map(cursor), ..Self::default() };
        for run in runs {
            match run {
                Ok(info) => page.runs.push(info),
                Err(place) => page.damaged.push(place.id),
            }
        }
        page
    }
}

/// What an operator decides about a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// It is to be cancelled. Whoever holds it learns so from its next append or renewal; a run that sleeps, waits or is halted
    /// can be acquired at once, with its recoveries counted from zero if it was halted, so that it can clean up. It is over
    /// once that is done, and halted like any other if it cannot be. One that is over stays as it is.
    Cancel,
    /// A halted run goes on: it can be acquired, and its recoveries are counted from zero. One that sleeps wakes now. Any
    /// other stays as it is.
    Resume,
    /// It is over at once, as cancelled, and nothing is cleaned up: for a run whose code is gone, or cannot clean up. Whoever
    /// holds it has lost it. One that is over stays as it is.
    Abandon,
}
