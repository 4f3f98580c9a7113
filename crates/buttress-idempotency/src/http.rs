//! `Idempotency-Key` on servers.

mod body;
mod canonical;
mod keys;
mod outcome;
mod recording;

pub use body::RequestBody;
pub use keys::HttpKeys;
pub use recording::Recording;
