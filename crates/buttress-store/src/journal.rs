use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::error::StoreError;
use crate::key::{Fingerprint, Owner, RunId};

/// Where runs of workflows are kept: what was begun with which input, and an append-only list of what has happened since.
///
/// A run is *open* (running or sleeping), *halted* (paused or parked, until an operator resumes it) or *over* (done,
/// failed or cancelled). An open run can be held by one owner at a time, for the time of a lease that is measured on the
/// *store's* clock. Every verb is one atomic step of the store. Each append is compared with the epoch, the owner **and**
/// the sequence number: whoever lost a run can add nothing to it, and no entry is added twice.
///
/// What was said of leases, of repeating a verb and of dropped futures for [`ClaimStore`](crate::ClaimStore) is true here
/// as well: repeat with the same [`Owner`].
pub trait JournalStore: Clone + Send + Sync + 'static {
    /// Begins a run, and with a `lease` takes hold of it in the same step; without one, whoever [acquires](Self::acquire) it
    /// first runs it. The run is stored before anything of it is run.
    ///
    /// # Errors
    ///
    /// If the store fails.
    fn create(
        &self,
        run: &NewRun,
        lease: Option<Duration>,
    ) -> impl Future<Output = Result<Created, StoreError>> + Send;

    /// Takes hold of runs that are due: begun and not yet taken, abandoned by an owner whose lease is over, or asleep until
    /// a time that has come. The longest due come first. Never gives a run to two owners.
    ///
    /// The one verb that repeating does not give again: what was acquired while the answer was lost is due once its lease is
    /// over, and counts as recovered then.
    ///
    /// # Errors
    ///
    /// If the store fails, or what is due is [damaged](crate::Fault::Corrupt) and nothing else is due.
    fn acquire(&self, wanted: &Wanted) -> impl Future<Output = Result<Vec<Acquired>, StoreError>> + Send;

    /// Adds entries to a run that the caller holds, the first of them with sequence number `seq`, and says what becomes of
    /// the run, in one step: all or nothing. The entries may be none.
    ///
    /// # Errors
    ///
    /// If the store fails, or an entry is [too large](crate::Fault::TooLarge): nothing was added.
    fn append(
        &self,
        hold: &Hold,
        seq: u64,
        entries: &[NewEntry],
        next: &Next,
    ) -> impl Future<Output = Result<Appended, StoreError>> + Send;

    /// Starts the lease anew, from the store's now.
    ///
    /// # Errors
    ///
    /// If the store fails: the lease ends when it would have ended.
    fn renew(&self, hold: &Hold, lease: Duration)
    -> impl Future<Output = Result<Renewed, StoreError>> + Send;

    /// A run with its input and all its entries, as they were at one moment; `None` if there is no such run.
    ///
    /// # Errors
    ///
    /// If the store fails, or what it holds is [damaged](crate::Fault::Corrupt): a journal is read whole or not at all.
    fn load(&self, id: &RunId) -> impl Future<Output = Result<Option<Run>, StoreError>> + Send;

    /// What there is to know of a run without reading its journal, and the entry that it ended with if it is over; `None` if
    /// there is no such run. What it costs does not depend on how long the journal is: ask this one again and again.
    ///
    /// # Errors
    ///
    /// If the store fails, or what is asked for is [damaged](crate::Fault::Corrupt).
    fn peek(&self, id: &RunId) -> impl Future<Output = Result<Option<Peek>, StoreError>> + Send;

    /// One page of runs, the youngest first. A run that is damaged keeps no other off it.
    ///
    /// # Errors
    ///
    /// If the store fails.
    fn list(&self, query: &Query) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// What an operator decides about a run that others may hold. Gives the run as it is afterwards, unchanged where the
    /// command does not apply; `None` if there is no such run.
    ///
    /// # Errors
    ///
    /// If the store fails.
    fn control(
        &self,
        id: &RunId,
        command: Command,
    ) -> impl Future<Output = Result<Option<RunInfo>, StoreError>> + Send;

    /// Deletes at most `max` runs that have been over for longer than `age`, with their entries, and says how many: none if none
    /// is left. It stops with the run that makes it 10,000 entries, so that nobody waits for long. Open and halted runs stay,
    /// and so do the parents of those.
    ///
    /// # Errors
    ///
    /// If the store fails: the runs stay until the next time.
    fn prune(&self, age: Duration, max: u32) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// A run that is to be begun.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Its identity.
    pub id: RunId,
    /// The name of its workflow.
    pub name: Arc<str>,
    /// The version of its workflow's code.
    pub version: u32,
    /// A hash of its input: the same identity with another one is a conflict.
    pub fingerprint: Fingerprint,
    /// The input, encoded by the caller.
    pub input: Bytes,
    /// The run that begins this one as a part of itself.
    pub parent: Option<RunId>,
    /// Who begins it, and holds it if a lease was asked for.
    pub owner: Owner,
    /// A name for whoever holds it, such as the host's, for listings only.
    pub worker: Arc<str>,
}

/// What beginning a run came to.
#[derive(Clone, Debug)]
pub enum Created {
    /// It has begun and is the caller's.
    Held(Hold),
    /// It has begun, and waits for someone to acquire it.
    Queued,
    /// There is a run with this identity, name and fingerprint.
    Exists(RunInfo),
    /// There is a run with this identity, and another name or fingerprint.
    Conflict(RunInfo),
}

/// Which runs somebody wants to take hold of.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The workflows that the caller has the code of. A run of any other is left alone.
    pub flows: Vec<Flow>,
    /// This one only.
    pub id: Option<RunId>,
    /// Who asks; all runs that are acquired are held by this one.
    pub owner: Owner,
    /// A name for the owner, for listings only.
    pub worker: Arc<str>,
    /// For how long.
    pub lease: Duration,
    /// How many at most.
    pub max: u32,
}

/// A workflow, in the versions that a worker has the code of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its name.
    pub name: Arc<str>,
    /// Its versions.
    pub versions: RangeInclusive<u32>,
}

/// A run that was taken hold of. Its entries are had with [`load`](JournalStore::load).
#[derive(Clone, Debug)]
pub struct Acquired {
    /// The proof.
    pub hold: Hold,
    /// The run, as it is now.
    pub info: RunInfo,
}

/// Proof that a run is held. Dropping it does nothing, and the lease goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Which run.
    pub id: RunId,
    /// Held by whom.
    pub owner: Owner,
    /// Which holder of the run this is, from 1 on; it grows with each.
    pub epoch: u64,
}

/// What becomes of a run after an append. All but [`Next::Go`] give it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on, and its lease runs on.
    Go,
    /// It is given back, and anybody may acquire it at once.
    Yield,
    /// It sleeps for this long, from the store's now.
    Sleep(Duration),
    /// It sleeps until this time on the store's clock.
    SleepUntil(SystemTime),
    /// It is halted until an operator resumes it, for this reason.
    Pause(Arc<str>),
    /// It is halted because it never gets any further, for this reason.
    Park(Arc<str>),
    /// It is over, and has succeeded.
    Done,
    /// It is over, and has failed.
    Fail,
    /// It is over, since it was cancelled.
    Cancel,
}

/// What an append came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a run that is lost must not go on"]
pub enum Appended {
    /// It is stored.
    Applied {
        /// The sequence number of the next entry.
        next: u64,
        /// When, on the store's clock; the entries carry the same time.
        at: SystemTime,
        /// Somebody wants the run cancelled.
        cancel_requested: bool,
    },
    /// The run is lost: somebody else has taken it, or it is over, halted or gone. Nothing was added.
    Fenced,
    /// The run is held, but its next entry has another number. Nothing was added.
    Conflict {
        /// The sequence number of the next entry.
        next: u64,
    },
}

/// What renewing a lease on a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a run that is lost must not go on"]
pub enum Renewed {
    /// The lease runs anew.
    Held {
        /// Somebody wants the run cancelled.
        cancel_requested: bool,
    },
    /// The run is lost.
    Fenced,
}

/// What happened in a run, and what kind of thing that is, as it is to be stored.
///
/// A store reads none of it, and keeps a checksum of the whole.
#[derive(Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// What kind of entry it is; the numbers belong to whoever writes them.
    pub kind: u16,
    /// The version of the payload's encoding.
    pub format: u16,
    /// What it is about, such as the name of a step; may be empty.
    pub name: Arc<str>,
    /// Which one of that name.
    pub occurrence: u32,
    /// The rest, encoded by the caller.
    pub payload: Bytes,
}

impl fmt::Debug for NewEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, format, name, occurrence, payload } = self;
        write!(f, "NewEntry({name}#{occurrence}, kind {kind}, format {format}, {} bytes)", payload.len())
    }
}

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
    /// [`JournalStore`].
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
