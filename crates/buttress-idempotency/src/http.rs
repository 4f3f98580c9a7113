//! `Idempotency-Key` on servers and clients.

mod body;
mod canonical;
mod header;
mod identify;
mod keys;
mod outcome;
mod recording;

pub use body::RequestBody;
pub use header::HeaderKey;
pub use identify::Identified;
pub use keys::HttpKeys;
pub use recording::Recording;
