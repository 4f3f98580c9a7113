//! Where Buttress keeps claims and journals: in memory, in SQLite, in PostgreSQL or in Redis.

mod claim;
mod claim_row;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
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
mod time;
mod waiters;

pub use claim::{Claim, ClaimRequest, ClaimStore, Claimed, Record, Waited, Written};
pub use error::{Fault, StoreError};
pub use journal::{
    Acquired, Appended, Command, Created, Cursor, Entry, Flow, Hold, JournalStore, NewEntry, NewRun, Next,
    Page, Query, Renewed, Run, RunInfo, Status, StatusKind, Wanted,
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
