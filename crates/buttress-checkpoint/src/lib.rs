//! Workflows that survive a crash: each step is journaled, and skipped when its run resumes.
//!
//! # When to use it, and when not
//!
//! Use it for work of several steps with effects outside of the process, that must be ended and must not repeat them: an
//! incident's response, a migration, an order. For one call an idempotency key is enough. For code that only wants to know
//! how far it had come there is [`Checkpoint`].
//!
//! # The rule
//!
//! A workflow is plain async code. When its run resumes, the code runs from its beginning, and an operation whose result is
//! recorded gives that result without being run. The code must therefore do the same things after the same results: what
//! depends on the time, on chance or on the world belongs into a step.
//!
//! The identity of an operation is its name with its number among those of the same name, fixed when it is built. Recorded
//! results are handed over one at a time, in the order in which they were recorded, and nothing new begins before they all
//! are; so `join!` is deterministic too, as are [`Cx::race`] and `select!` with `biased;`. If the code builds something else
//! than what is recorded, the run pauses with a [`Mismatch`], its journal untouched; [`Cx::patched`] lets old and new runs
//! share one code.
//!
//! A step runs at least once, under a [key](Cx::key) that never changes. What its receiver recognises by that key is done
//! once. Others run [at most once](Semantics), are [reconciled](Step::reconcile), or are a transaction of PostgreSQL (the
//! feature `postgres`) and happen exactly once. A run belongs to one worker, for the time of a lease on the store's clock;
//! whoever lost it can record nothing.
//!
//! # Cancellation and panics
//!
//! A cancelled run stops before its next step, when the steps that are under way have ended, and is undone
//! ([`Step::compensate`]). A shutdown ends what is under way and gives the run back. Neither is ever recorded as a result,
//! and nor are a lost lease or a store that fails. A panic is no result either: what was done beside it is recorded, with its
//! text, and the run is given back and run again [after a while](Config::panic_delays); after
//! [ten](Config::max_recoveries) of them in a row it is parked. A body is dropped [before](Config::lease) its lease ends.
//!
//! # Examples
//!
//! ```
//! use buttress_checkpoint::{Cx, Failure, Workflows};
//! use buttress_store::Memory;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Failure> {
//! let workflows = Workflows::open(Memory::new());
//! let order = workflows.register("order", 1, async |cx: Cx, item: String| {
//!     let stock = cx.step("reserve", async || Ok::<_, Failure>(3)).await?;
//!     let paid = cx.step("charge", async || Ok::<_, Failure>(format!("{item} paid"))).await?;
//!     Ok::<_, Failure>((stock, paid))
//! })?;
//! let handle = order.start("order-42", "a lamp".to_owned()).await?;
//! tokio::select! {
//!     () = workflows.run_until(std::future::pending()) => {}
//!     result = handle.result() => assert_eq!(result?, (3, "a lamp paid".to_owned())),
//! }
//! # Ok(()) }
//! ```
//!
//! A step that is retried, bounded, looked after when it was interrupted, and undone when a later one fails:
//!
//! ```
//! use std::time::Duration;
//! use buttress_checkpoint::{Config, Cx, Failure, RunError, Semantics, Workflows};
//! use buttress_core::Backoff;
//! use buttress_store::Memory;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::default().lease(Duration::from_secs(60), Duration::from_secs(10))?.max_recoveries(3);
//! let workflows = Workflows::with(Memory::new(), config);
//! let order = workflows.register("order", 1, async |cx: Cx, ()| {
//!     cx.step("charge", async || Ok::<_, Failure>(cx.key("charge")?.to_string()))
//!         .retry(Backoff::default(), 5)
//!         .timeout(Duration::from_secs(10))
//!         .semantics(Semantics::AtMostOnce)
//!         .reconcile(async || Ok(None))
//!         .compensate(async |_payment: String| Ok::<_, Failure>(()))
//!         .await?;
//!     cx.step("ship", async || Err::<(), _>(Failure::new("out of stock"))).await?;
//!     Ok::<(), Failure>(())
//! })?;
//! let handle = order.start("order-42", ()).await?;
//! tokio::select! {
//!     () = workflows.run_until(std::future::pending()) => {}
//!     result = handle.result() => assert!(matches!(result, Err(RunError::Failed(_)))),
//! }
//! # Ok(()) }
//! ```

mod checkpoint;
mod config;
mod cx;
mod drive;
mod entry;
mod error;
mod fork;
mod handle;
#[cfg(feature = "http")]
mod http;
mod inspect;
mod key;
mod layer;
mod lease;
mod polled;
mod race;
mod replay;
mod run;
mod settle;
mod sleep;
mod step;
#[cfg(feature = "postgres")]
mod transaction;
mod undo;
mod verdict;
mod worker;
mod workflows;

use std::time::Duration;

pub use buttress_core::StepKey;
use buttress_store::{JournalStore, StoreError};

pub use checkpoint::{Checkpoint, CheckpointError};
pub use config::{Config, OnMismatch};
pub use cx::Cx;
pub use error::{Failure, Mismatch, Misplaced, RunError, StartError, StepError, StepId, StepKind};
pub use handle::{Handle, Workflow};
#[cfg(feature = "http")]
pub use http::HttpRecord;
pub use inspect::{ForkError, StepState, StepView, Timeline, retry_from};
pub use layer::{CheckpointFuture, CheckpointLayer, Checkpointed, Json, OutsideWorkflow, Record};
pub use race::Race;
pub use sleep::Sleep;
pub use step::{Semantics, Step};
#[cfg(feature = "postgres")]
pub use transaction::{Begun, StepTransaction, TransactionError};
pub use workflows::{Versions, Workflows};

/// Deletes runs that have been over for longer than `age`, in batches of a hundred at most, and says how many; see
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
        if pruned == 0 {
            return Ok(all);
        }
        tokio::task::yield_now().await;
    }
}

/// The page on workflows is compiled and run with the tests.
#[cfg(doctest)]
mod page {
    #[doc = include_str!("../../../docs/checkpoint.md")]
    struct Page;
}
