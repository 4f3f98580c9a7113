//! The store in a SQLite file.

mod damage;
mod processes;
mod upgrade;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use buttress_store::conformance::Harness;
use buttress_store::{Claim, ClaimRequest, ClaimStore, Claimed, Fingerprint, Record, ScopedKey, Sqlite};
use tempfile::TempDir;

/// A file of its own for each store, and a clock that is moved by hand.
struct File {
    directory: TempDir,
    micros: Arc<AtomicU64>,
}

impl File {
    fn new() -> Self {
        let micros = Arc::new(AtomicU64::new(1_700_000_000_000_000));
        Self { directory: TempDir::new().unwrap(), micros }
    }
}

impl Harness for File {
    type Store = Sqlite;

    async fn store(&self) -> Sqlite {
        let clock = self.micros.clone();
        let now = move || UNIX_EPOCH + Duration::from_micros(clock.load(Ordering::Relaxed));
        Sqlite::at(self.directory.path().join("store.db")).clock(now).open().await.unwrap()
    }

    async fn pass(&self, time: Duration) {
        self.micros.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }
}

mod claims {
    buttress_store::claim_conformance!(super::File::new());
}

mod journals {
    buttress_store::journal_conformance!(super::File::new());
}

mod answers {
    buttress_store::answer_conformance!(super::File::new());
}

const HOUR: Duration = Duration::from_secs(3600);

fn request(name: &str) -> ClaimRequest {
    ClaimRequest::new(ScopedKey::try_new("", name).unwrap(), Fingerprint::new([0; 32]), HOUR)
}

fn value(bytes: impl Into<Vec<u8>>) -> Record {
    Record::Value(bytes.into().into())
}

async fn owned(store: &Sqlite, name: &str) -> Claim {
    match store.claim(&request(name)).await.unwrap() {
        Claimed::Owned(claim) => claim,
        other => panic!("{name} is not free: {other:?}"),
    }
}

async fn open(directory: &Path) -> Sqlite {
    Sqlite::open(directory.join("store.db")).await.unwrap()
}
