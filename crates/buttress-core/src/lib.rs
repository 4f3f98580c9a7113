//! The nouns that all of Buttress's layers share.
//!
//! A layer of one pattern knows nothing of the others: they speak through the types of this crate. A [`Classify`]
//! turns an outcome into a [`Verdict`]; [`Replay`], [`Carry`], [`Discard`], [`KeyOf`] and [`Capture`] say how the
//! requests and responses of a protocol are treated; a [`Watch`] decides when a call is over; a [`Backoff`] makes
//! delays; a [`Refused`] is an error that a layer makes itself; an [`Observe`] hears of everything.
//!
//! # When to use it, and when not
//!
//! Use it to write a classifier or a strategy for a protocol of your own, an observer, or a layer that stacks with
//! Buttress's. To guard a client, start with the `buttress` crate, which re-exports all of this.
//!
//! # Examples
//!
//! What an error out of a stack says:
//!
//! ```
//! use buttress_core::{BoxError, Reason, Refused, find};
//!
//! let error: BoxError = Refused::new("circuit breaker", "datadog".into(), Reason::CircuitOpen).into();
//! if let Some(refused) = find::<Refused>(&*error) {
//!     assert_eq!(refused.reason(), Reason::CircuitOpen);
//! }
//! ```
//!
//! A classifier of one's own:
//!
//! ```
//! use buttress_core::{Classify, ErrorRef, Kind, Verdict, error_verdict};
//!
//! struct Reply { code: u16 }
//!
//! #[derive(Clone)]
//! struct Replies;
//!
//! impl Classify<Reply> for Replies {
//!     fn classify(&self, outcome: Result<&Reply, ErrorRef<'_>>) -> Verdict {
//!         match outcome {
//!             Ok(reply) if reply.code == 0 => Verdict::Success,
//!             Ok(reply) if reply.code == 7 => Verdict::failure(Kind::Throttled),
//!             Ok(_) => Verdict::Rejected,
//!             Err(error) => error_verdict(error),
//!         }
//!     }
//! }
//! # assert!(Replies.classify(Ok(&Reply { code: 7 })).is_failure());
//! ```

mod backoff;
mod classify;
pub mod clock;
mod error;
mod exhausted;
mod jitter;
mod level;
mod mode;
pub mod observe;
mod refused;
mod rng;
mod shared;
mod step_key;
mod strategy;
#[doc(hidden)]
pub mod sync;
mod timer;
mod verdict;
mod watch;

pub use backoff::{Backoff, Delays};
pub use classify::{Classify, ClassifyFn, ErrorRef, ErrorsAreFailures, classify_fn, error_verdict};
pub use clock::{Clock, NoTimer};
pub use error::{BoxError, ConfigError, Elapsed, Judged, Recorded, chain, find, own_verdict};
pub use exhausted::{Exhausted, Stop};
pub use jitter::Jitter;
pub use level::Level;
pub use mode::{Mode, ModeCell};
pub use observe::{Event, Health, IdempotencyResult, Observe, Observer, observe_fn};
pub use refused::{Reason, Refused};
pub use rng::Rng;
pub use shared::Shared;
pub use step_key::StepKey;
pub use strategy::{
    Capture, Captured, Carried, Carry, CloneCapture, CloneReplay, Discard, KeyBy, KeyOf, Plain, Repeatable,
    Replay, Seal, Trim, key_by,
};
pub use timer::{Countdown, Timer, within};
pub use verdict::{Effect, Hint, Kind, Verdict};
pub use watch::{Now, Settle, Watch};
