use std::fmt;
use std::future::Future;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::error::StoreError;
use crate::key::ScopedKey;

/// Where answers are kept that may be lost: of each key the newest one, until its time is over.
///
/// It holds nothing that anybody relies on: an answer can be asked for anew, so that it is evicted where room is needed and
/// replaced whatever it says. What a store does promise is order: whoever comes late replaces nothing that is newer, and
/// brings back nothing that was forgotten. An answer is as new as the call that asked for it, and times are given as *ages*,
/// counted by whoever writes, so that only the *store's* clock is compared with itself. What a verb takes on its way is not in
/// them: of answers to calls within ten seconds the one that is written last counts as the newest. Whoever has read the store's
/// [`clock`](Self::clock) says when the call was made at the earliest ([`NewAnswer::asked`]); without that, an answer that was on its way
/// for longer than from its call until its key was forgotten is not recognised as late.
///
/// Where a clock was set back there are rows of its future. They are replaced by whatever comes, and [`StoredAnswer`] says so.
///
/// Repeating a verb with a larger age is safe, and so is dropping its future: it has had its effect, or not.
pub trait AnswerStore: Clone + Send + Sync + 'static {
    /// Keeps an answer in the place of what there is; whether it did. It does not where there is a newer one, or where the key
    /// or its scope was forgotten after the call was made.
    ///
    /// # Errors
    ///
    /// If the store fails, or the body is [too large](crate::Fault::TooLarge): what there is stays.
    fn put(&self, answer: &NewAnswer) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The answer of this key, if there is one whose time is not over.
    ///
    /// # Errors
    ///
    /// If the store fails, or the row is [damaged](crate::Fault::Corrupt).
    fn get(&self, key: &ScopedKey) -> impl Future<Output = Result<Option<StoredAnswer>, StoreError>> + Send;

    /// What the store's clock reads: of any moment since, it tells what that clock read then at the least.
    ///
    /// # Errors
    ///
    /// If the store fails.
    fn clock(&self) -> impl Future<Output = Result<SystemTime, StoreError>> + Send;

    /// Forgets the answers of a key, or of a whole scope, to calls that were made at least so long ago. For an hour, answers to
    /// such calls are not kept, either.
    ///
    /// # Errors
    ///
    /// If the store fails: what there is stays.
    fn forget(&self, what: &Forgotten, age: Duration) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Deletes at most `max` rows of the scope that are of no use any more, and says how many there were: what is past its time,
    /// what was forgotten, and the oldest of what is beyond so many bytes. Bytes are those of keys and bodies, and
    /// [`ROW`] for each row.
    ///
    /// # Errors
    ///
    /// If the store fails: the rows stay until the next time.
    fn trim(&self, scope: &str, bytes: u64, max: u32)
    -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// About how many bytes a row takes beside its key and its body.
pub const ROW: u64 = 128;

/// Of two answers whose calls were made within this time, in microseconds, the one that is written last stays: what a write takes on
/// its way makes its answer look younger by as much.
pub(crate) const SLACK: i64 = 10_000_000;

/// For so long late answers to what was forgotten are recognised: no call takes as long.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(3600);

/// An answer that is to be kept.
#[derive(Clone)]
pub struct NewAnswer {
    /// What it answers.
    pub key: ScopedKey,
    /// The answer, encoded by whoever asked.
    pub body: Bytes,
    /// How long ago the call was made that asked for it.
    pub age: Duration,
    /// When that was on the store's clock, at the earliest, for whoever has read it: the time that the write is on its way then makes
    /// its answer no younger. Where the clock was set back since then, `age` counts.
    pub asked: Option<SystemTime>,
    /// For how long it is kept, from now on.
    pub keep: Duration,
}

/// Keys and bodies are not printed.
impl fmt::Debug for NewAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, body, age, asked, keep } = self;
        let mut debug = f.debug_struct("NewAnswer");
        debug.field("key", key).field("bytes", &body.len()).field("age", age);
        debug.field("asked", asked).field("keep", keep).finish()
    }
}

/// An answer that was kept.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The answer.
    pub body: Bytes,
    /// When the call was made that asked for it, on the store's clock.
    pub born: SystemTime,
    /// What that clock reads now. It is before `born` if the clock was set back since: then nobody knows how old the answer is.
    pub now: SystemTime,
}

impl fmt::Debug for StoredAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { body, born, now } = self;
        f.debug_struct("StoredAnswer")
            .field("bytes", &body.len())
            .field("born", born)
            .field("now", now)
            .finish()
    }
}

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// The answer of this key.
    Key(ScopedKey),
    /// Those of all keys of this scope. It is as long as one of a [`ScopedKey`] at most.
    Scope(std::sync::Arc<str>),
}
