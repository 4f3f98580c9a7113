//! Carries out each call once.

mod client;
mod config;
mod engine;
mod error;
mod flights;
mod future;
mod handle;
mod held;
#[cfg(feature = "http")]
mod http;
mod key;
mod layer;
mod outcome;
mod protocol;
mod service;
mod tasks;
mod value;

pub use client::{IdempotencyKey, IdempotencyKeyLayer, KeyFuture, KeyTooOld, Stamp, StampFn, stamp_fn};
pub use config::{Config, InFlight};
pub use error::{Error, InvalidKey, RunError};
pub use future::ResponseFuture;
pub use handle::Idempotency;
#[cfg(feature = "http")]
pub use http::{HeaderKey, HttpKeys, Recording, RequestBody};
pub use key::{Claim, Hash, MAX_KEY, new_key, parse_key};
pub use layer::IdempotencyLayer;
pub use outcome::{OnPanic, OnUnknown, Outcome, Reconciled};
pub use protocol::{Identify, Protocol};
pub use service::Idempotent;
pub use value::{Keyed, Ran};
