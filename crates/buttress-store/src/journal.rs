mod run;

use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::error::StoreError;
use crate::key::{Fingerprint, Owner, RunId};

pub use run::{Command, Cursor, Entry, Page, Peek, Query, Run, RunInfo, Status, StatusKind};

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
