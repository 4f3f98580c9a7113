//! Workflows that survive a crash: each step is journaled, and skipped when its run resumes.

mod checkpoint;
mod config;
mod cx;
mod drive;
mod entry;
mod error;
#[cfg(feature = "http")]
mod http;
mod inspect;
mod key;
mod layer;
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

pub use checkpoint::{Checkpoint, CheckpointError};
pub use config::{Config, OnMismatch};
pub use cx::Cx;
pub use error::{Failure, Misplaced, Mismatch, RunError, StartError, StepError, StepId, StepKind};
#[cfg(feature = "http")]
pub use http::HttpRecord;
pub use inspect::{ForkError, StepState, StepView, Timeline, retry_from};
pub use layer::{
    CheckpointFuture, CheckpointLayer, Checkpointed, IdempotencyKeyLayer, Json, OutsideWorkflow, Record, StepKeyed,
};
pub use race::Race;
pub use sleep::Sleep;
pub use step::{Semantics, Step};
pub use workflows::{Handle, Versions, Workflow, Workflows};

/// Deletes runs that have been over for longer than `age`, in batches of a hundred, and says how many; see
/// [`Workflows::prune`].
///
/// # Errors
///
/// If the store fails; the batches before stay deleted.
pub async fn prune<S: JournalStore>(store: &S, age: Duration) -> Result<u64, StoreError> {
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
