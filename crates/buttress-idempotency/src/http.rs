//! `Idempotency-Key` on servers and clients.

mod body;
mod canonical;
mod header;
mod keys;
mod outcome;
mod recording;

pub use body::RequestBody;
pub use header::HeaderKey;
pub use keys::HttpKeys;
pub use recording::Recording;
