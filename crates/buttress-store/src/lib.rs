//! Where Buttress keeps claims, journals and answers: in memory, in SQLite, in PostgreSQL or in Redis.
//!
//! # When to use it, and when not
//!
//! `buttress-idempotency` and `buttress-checkpoint` are built on it; use it directly to write a store of your own, to look into
//! one, or to complete a claim in a database transaction. It is no cache and no queue: reads are there to decide, not to be
//! fast, and work that is due is asked for and not handed out. `buttress-degrade` puts its memory in front of it.
//!
//! # The rule
//!
//! A [`ClaimStore`] says who may run the effect of a key, and what it came to. A [`JournalStore`] says who may run a
//! workflow, and what has happened in it. Both give out *leases*, measured on the store's own clock, and both compare every
//! write with the *owner* and the *epoch* of the lease that it is made with: whoever lost it changes nothing any more,
//! whenever it wakes up. Each verb is one atomic step, and can be repeated with the same arguments.
//!
//! An [`AnswerStore`] keeps what may be lost, the last good answers of a service. It has no leases: of a key the answer to
//! the newest call stays, whoever writes it and in whatever order, and what was forgotten does not come back.
//!
//! # Which store
//!
//! | | `Memory` | `Sqlite` | `Postgres` | `Redis` |
//! |---|---|---|---|---|
//! | shared by | tasks of a process | processes of a machine | machines | machines |
//! | an acknowledged write survives a crash of the process | no | yes | yes | yes |
//! | … of the machine, or loss of power | no | yes | yes | with `appendonly yes`, `appendfsync always` |
//! | … a failover to a replica | | | if it replicates synchronously | no |
//! | clock | tokio's | the wall clock, never backwards | the server's | the server's |
//! | round trips of a claim, an answer | none | one commit, shared with others; a read of its own | one | one |
//! | … of an append | none | one commit, shared with others | one | one |
//! | waiting for others of the process / elsewhere | woken / – | woken / looks every 10 to 500 ms | woken / woken | as SQLite |
//! | a full store | refuses | refuses | refuses | refuses, with `noeviction` |
//! | checksums | – | rows, records, entries, answers | records, inputs, entries, answers | records, runs, inputs, entries, answers |
//! | exactly once with the caller's own writes | no | no | `complete_in` | no |
//!
//! # When a store fails
//!
//! Fail closed: what could not be claimed is not run, and what could not be recorded has not happened. An error names the
//! [`Fault`], and its [effect](StoreError::effect) says whether the write may have been applied all the same.
//!
//! | fault | when | what to do |
//! |---|---|---|
//! | [`Unavailable`](Fault::Unavailable) | down, unreachable, the connection broke, the primary is elsewhere | repeat with the same owner |
//! | [`Timeout`](Fault::Timeout) | the limit of the verb is over | repeat with the same owner |
//! | [`Busy`](Fault::Busy) | others kept it busy for longer than it waits for them | repeat |
//! | [`Full`](Fault::Full) | disk or memory | nothing was changed; make room, then repeat |
//! | [`Corrupt`](Fault::Corrupt) | a checksum is wrong, or a value cannot be read | the row is neither used nor overwritten (an answer is replaced; a run that a SQLite store remembers since it last appended to it is read, and so looked at, when its lease is next renewed); all others work |
//! | [`Version`](Fault::Version) | a newer release wrote it | refused when the store is opened, by SQLite and PostgreSQL later as well; upgrade |
//! | [`TooLarge`](Fault::TooLarge), [`Invalid`](Fault::Invalid) | the value | nothing was changed; for a record there is [`Record::TooLarge`] |
//! | [`Misconfigured`](Fault::Misconfigured) | rights, or a set-up that would lose data | refused when the store is opened |
//! | [`Closed`](Fault::Closed) | the store was shut down | open it again |
//!
//! # Cancellation and panics
//!
//! A dropped future may or may not have had its effect, and never half of it: repeat with the same [`Owner`]. No future holds a
//! lock while it waits. Dropping a [`Claim`] or a [`Hold`] does nothing; its lease runs on, so that work which outlives its
//! caller keeps what it holds.
//!
//! # Examples
//!
//! An effect that is run once:
//!
//! ```
//! use std::time::Duration;
//! use buttress_store::{
//!     ClaimRequest, ClaimStore, Claimed, Fingerprint, Memory, Record, ScopedKey, StoreError, Written,
//! };
//!
//! async fn charge(store: &impl ClaimStore, key: ScopedKey, body_hash: [u8; 32]) -> Result<Record, StoreError> {
//!     let request = ClaimRequest::new(key, Fingerprint::new(body_hash), Duration::from_secs(60));
//!     match store.claim(&request).await? {
//!         Claimed::Done(record) => Ok(record),
//!         Claimed::Owned(claim) if claim.unfinished() == 0 => {
//!             let record = Record::Value("charged".into());
//!             match store.complete(&claim, &record, Duration::from_secs(86_400)).await? {
//!                 Written::Applied => Ok(record),
//!                 Written::Fenced { winner } => Ok(winner.unwrap_or(Record::Unknown)),
//!             }
//!         }
//!         // Somebody died while it charged: ask the bank, and not fate.
//!         Claimed::Owned(_) => Ok(Record::Unknown),
//!         Claimed::InFlight { .. } | Claimed::Mismatch => Ok(Record::Unknown),
//!     }
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Memory::new();
//! let key = ScopedKey::try_new("tenant-7", "order-42")?;
//! let first = charge(&store, key.clone(), [7; 32]).await?;
//! assert_eq!(charge(&store, key, [7; 32]).await?, first);
//! # Ok(())
//! # }
//! ```
//!
//! A file that survives, swept in the background:
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use buttress_store::{Sqlite, Sweeper, SweeperOptions};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("claims.db");
//! let store = Sqlite::at(path).busy_timeout(Duration::from_secs(2)).open().await?;
//! let options = SweeperOptions::new().every(Duration::from_secs(300))?;
//! let sweeper = Sweeper::claims(store.clone(), options)?;
//! // At the end:
//! sweeper.shutdown(Duration::from_secs(1)).await;
//! store.shutdown().await;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "sqlite"))]
//! # fn main() {}
//! ```

#![cfg_attr(
    not(all(feature = "memory", feature = "postgres", feature = "redis", feature = "sqlite")),
    allow(dead_code, reason = "each backend uses its part of what they share")
)]

mod answer;
mod answer_row;
mod claim;
mod claim_row;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
mod failure;
mod journal;
mod key;
mod limits;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod run_row;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
mod stored;
mod sweeper;
mod time;
mod waiters;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod warn;

pub use answer::{AnswerStore, Forgotten, NewAnswer, ROW, StoredAnswer};
pub use claim::{Claim, ClaimRequest, ClaimStore, Claimed, Record, Waited, Written};
pub use error::{Fault, StoreError};
pub use journal::{
    Acquired, Appended, Command, Created, Cursor, Entry, Flow, Hold, JournalStore, NewEntry, NewRun, Next,
    Page, Peek, Query, Renewed, Run, RunInfo, Status, StatusKind, Wanted,
};
pub use key::{Fingerprint, MAX_NAME, Owner, RunId, ScopedKey};
#[cfg(feature = "memory")]
pub use memory::Memory;
#[cfg(feature = "postgres")]
pub use postgres::{Postgres, PostgresOptions};
#[cfg(feature = "redis")]
pub use redis::{Redis, RedisOptions};
#[cfg(feature = "sqlite")]
pub use sqlite::{Sqlite, SqliteOptions, SqliteStatistics};
pub use sweeper::{Sweeper, SweeperOptions};
