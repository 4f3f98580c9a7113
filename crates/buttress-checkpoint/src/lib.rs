//! Workflows that survive a crash: each step is journaled, and skipped when its run resumes.

mod config;
mod cx;
mod drive;
mod entry;
mod error;
mod key;
mod lease;
mod race;
mod replay;
mod run;
mod sleep;
mod step;
mod undo;
mod workflows;

use std::time::Duration;

pub use buttress_core::StepKey;
use buttress_store::{JournalStore, StoreError};

pub use config::{Config, OnMismatch};
pub use cx::Cx;
pub use error::{Failure, Mismatch, Misplaced, RunError, StartError, StepError, StepId, StepKind};
pub use race::Race;
pub use sleep::Sleep;
pub use step::{Semantics, Step};
pub use workflows::{Handle, Versions, Workflow, Workflows};

async fn prune<S: JournalStore>(store: &S, age: Duration) -> Result<u64, StoreError> {
    const BATCH: u32 = 100;
    let mut all = 0;
    loop {
        let pruned = store.prune(age, BATCH).await?;
        all += pruned;
        if pruned < u64::from(BATCH) {
            return Ok(all);
        }
        tokio::task::yield_now().await;
    }
}
