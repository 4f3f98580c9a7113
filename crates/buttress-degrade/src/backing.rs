//! Where good answers outlive the process.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use buttress_core::{BoxError, ConfigError};
use buttress_store::{AnswerStore, Forgotten, NewAnswer, ScopedKey, StoreError, StoredAnswer};
use bytes::{Buf, BufMut, Bytes};

use crate::recall::Kept;
use crate::store::Lifetime;

/// A store behind the memory of a [`LastGood`](crate::LastGood): good answers survive a restart, and other processes with the same
/// store and scope find them.
///
/// * A call that would be made because memory has no answer, or none that is fresh, looks here first, at most for
///   [`read_timeout`](Self::read_timeout). What is found is as old as it is, on the *store's* clock, and served by the same rules;
///   what is fresh spares the call. Hits of memory look at nothing.
/// * What is kept in memory is written here by a task in the background, the newest of each key, and so is what is
///   [invalidated](crate::LastGood::invalidate). No answer waits for that. At most 1,024 keys and 16 MiB wait to be written; a further
///   answer is then kept in memory only, and of what is invalidated beyond that all of the scope is.
/// * A store that fails is left alone for 1 s, and up to 30 s if it goes on: memory alone does until then. That, a record that is
///   damaged, and one of a newer release are told to the observer ([`StoreFailed`](buttress_core::Event::StoreFailed)), and are no
///   failures of calls.
/// * What is larger than [`max_bytes`](Self::max_bytes) in all is trimmed, the oldest first, each time when a sixteenth of it was
///   written: it may be exceeded by as much for each process.
///
/// Keys are written as hashes (BLAKE3). Answers are written as they are: the store is as secret as they. An answer whose `Vary`
/// names a credential is kept in memory only.
///
/// What another process has invalidated is still served here as long as it is fresh in memory. A process that is killed loses what
/// it had still to write, invalidations too: for what must be gone, set a short `ttl`.
///
/// Where the store's clock is set back, answers of its future have no known age: they count as no longer fresh. To a process that has
/// read the clock before, it never runs backwards.
///
/// ```
/// use buttress_degrade::{Backing, ByKey, LastGood};
/// use buttress_store::Memory;
///
/// # fn main() -> Result<(), buttress_core::ConfigError> {
/// let rules = ByKey::<_, u32>::new(|city: &String| Some(city.as_str().into()));
/// // One that outlives the process is `buttress_store::Sqlite`, `Postgres` or `Redis`.
/// let store = LastGood::new(rules).backed_by(Backing::new(Memory::new(), "weather")?);
/// # let _ = store;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Backing {
    pub(crate) shelf: Arc<dyn Shelf>,
    pub(crate) scope: Arc<str>,
    pub(crate) max_bytes: u64,
    pub(crate) read_timeout: Duration,
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, max_bytes, read_timeout, .. } = self;
        let mut debug = f.debug_struct("Backing");
        debug.field("scope", scope).field("max_bytes", max_bytes).field("read_timeout", read_timeout);
        debug.finish_non_exhaustive()
    }
}

impl Backing {
    /// This store, at most 256 MiB of it, and at most 100 ms for each look. `scope` is what the answers are of: services that share
    /// a store need different ones, and processes that share answers the same.
    ///
    /// # Errors
    ///
    /// If the scope is longer than [`MAX_NAME`](buttress_store::MAX_NAME).
    pub fn new<S: AnswerStore>(store: S, scope: impl Into<Arc<str>>) -> Result<Self, ConfigError> {
        let scope = scope.into();
        ScopedKey::try_new(Arc::clone(&scope), "a key")?;
        let (max_bytes, read_timeout) = (256 * 1024 * 1024, Duration::from_millis(100));
        Ok(Self { shelf: Arc::new(store), scope, max_bytes, read_timeout })
    }

    /// How many bytes the scope takes in the store, about. Default 256 MiB.
    #[must_use]
    pub fn max_bytes(self, bytes: u64) -> Self {
        Self { max_bytes: bytes, ..self }
    }

    /// How long a call waits for the store before it is made. Default 100 ms.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn read_timeout(self, time: Duration) -> Result<Self, ConfigError> {
        if time.is_zero() {
            return Err(ConfigError::new("read_timeout", time, "must be longer than zero"));
        }
        Ok(Self { read_timeout: time, ..self })
    }

    /// A key as the store has it: hashed, since keys may be long, or secret.
    pub(crate) fn key(&self, key: &str) -> ScopedKey {
        let hash = blake3::hash(key.as_bytes()).to_hex();
        ScopedKey::try_new(Arc::clone(&self.scope), hash.as_str()).expect("the scope was checked")
    }
}

/// Rules whose records can be written down, for a [`Backing`].
pub trait Writes: Kept {
    /// The record as bytes; `None` if it is not to leave the process.
    fn write(&self, record: &Self::Record) -> Option<Bytes>;

    /// The record that these bytes hold.
    ///
    /// # Errors
    ///
    /// If they hold none.
    fn read(&self, bytes: Bytes) -> Result<Self::Record, BoxError>;
}

/// [`AnswerStore`], as an object.
pub(crate) trait Shelf: Send + Sync {
    fn put<'a>(&'a self, answer: &'a NewAnswer) -> BoxedResult<'a, bool>;
    fn get<'a>(&'a self, key: &'a ScopedKey) -> BoxedResult<'a, Option<StoredAnswer>>;
    fn clock(&self) -> BoxedResult<'_, SystemTime>;
    fn forget<'a>(&'a self, what: &'a Forgotten, age: Duration) -> BoxedResult<'a, ()>;
    fn trim<'a>(&'a self, scope: &'a str, bytes: u64, max: u32) -> BoxedResult<'a, u64>;
}

pub(crate) type BoxedResult<'a, T> =
    std::pin::Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

impl<S: AnswerStore> Shelf for S {
    fn put<'a>(&'a self, answer: &'a NewAnswer) -> BoxedResult<'a, bool> {
        Box::pin(AnswerStore::put(self, answer))
    }

    fn get<'a>(&'a self, key: &'a ScopedKey) -> BoxedResult<'a, Option<StoredAnswer>> {
        Box::pin(AnswerStore::get(self, key))
    }

    fn clock(&self) -> BoxedResult<'_, SystemTime> {
        Box::pin(AnswerStore::clock(self))
    }

    fn forget<'a>(&'a self, what: &'a Forgotten, age: Duration) -> BoxedResult<'a, ()> {
        Box::pin(AnswerStore::forget(self, what, age))
    }

    fn trim<'a>(&'a self, scope: &'a str, bytes: u64, max: u32) -> BoxedResult<'a, u64> {
        Box::pin(AnswerStore::trim(self, scope, bytes, max))
    }
}

/// The first byte of what is written, which names the layout: a lifetime, and the record.
const VERSION: u8 = 1;

pub(crate) fn write(lifetime: Lifetime, record: &[u8]) -> Bytes {
    let Lifetime { age, fresh, while_revalidate, if_error } = lifetime;
    let mut out = Vec::with_capacity(64 + record.len());
    out.put_u8(VERSION);
    for time in [age, fresh, while_revalidate, if_error] {
        out.put_u64(time.as_secs());
        out.put_u32(time.subsec_nanos());
    }
    out.put_slice(record);
    out.into()
}

pub(crate) fn read(mut bytes: Bytes) -> Result<(Lifetime, Bytes), BoxError> {
    match bytes.try_get_u8()? {
        VERSION => {}
        newer if newer > VERSION => return Err("it was written by a newer release".into()),
        _ => return Err("it is no answer".into()),
    }
    let mut times = [Duration::ZERO; 4];
    for time in &mut times {
        let (seconds, nanos) = (bytes.try_get_u64()?, bytes.try_get_u32()?);
        *time = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()));
    }
    let [age, fresh, while_revalidate, if_error] = times;
    Ok((Lifetime { age, fresh, while_revalidate, if_error }, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_and_a_record_survive_and_what_is_cut_off_or_newer_is_refused() {
        let lifetime = Lifetime {
            age: Duration::from_nanos(1),
            fresh: Duration::MAX,
            while_revalidate: Duration::ZERO,
            if_error: Duration::from_secs(86_400),
        };
        let written = write(lifetime, b"record");
        let (read_lifetime, record) = read(written.clone()).unwrap();
        assert_eq!((read_lifetime, &record[..]), (lifetime, &b"record"[..]));
        let head = written.len() - b"record".len();
        assert!((0..head).all(|length| read(written.slice(..length)).is_err()));
        for (version, told) in [(2, "it was written by a newer release"), (0, "it is no answer")] {
            let mut other = written.to_vec();
            other[0] = version;
            assert_eq!(read(other.into()).unwrap_err().to_string(), told);
        }
        // Not even what nobody has written overflows.
        assert!(read([&[1][..], &[0xff; 48]].concat().into()).is_ok());
    }

    #[test]
    fn what_breaks_a_rule_is_a_typed_error() {
        let store = buttress_store::Memory::new;
        assert_eq!(Backing::new(store(), "s".repeat(600)).unwrap_err().field(), "scope");
        let backing = Backing::new(store(), "scope").unwrap();
        assert_eq!(backing.read_timeout(Duration::ZERO).unwrap_err().field(), "read_timeout");
    }
}
