//! The servers that a client calls, and what is done to them.

mod disk;
mod http;
mod postgres;

use std::sync::Arc;

use async_trait::async_trait;

use crate::fault::Fault;
use crate::{BoxError, Client};

pub use disk::Disk;
pub use http::{Http, http_client};
pub use postgres::Postgres;

/// What one client depends on, for one fault.
#[async_trait]
pub trait World: Send + Sync + 'static {
    /// How many targets a client may choose from.
    fn targets(&self) -> usize {
        1
    }

    /// A client of one of them. It may connect now, or when it is first called.
    async fn client(&self, target: usize) -> Result<Client, BoxError>;

    /// Does what the fault is; what is over as soon as it is done is over when this returns.
    async fn inject(&self);

    /// Undoes it, whoever healed what in the meantime.
    async fn mend(&self);

    /// What a supervisor does that restarts whatever does not answer: the server, if it is its own, and what belongs to the
    /// client's process.
    async fn restart(&self);

    /// What helps against this fault beyond another client, if there is something: the names of the actions are those of the
    /// ladder.
    async fn cure(&self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// The world of a fault, of which there may be several at once.
///
/// # Panics
///
/// If its servers do not start.
pub async fn build(fault: Fault) -> Arc<dyn World> {
    if fault.needs_postgres() {
        Arc::new(Postgres::start(fault).await)
    } else if fault == Fault::FullDisk {
        Arc::new(Disk::mount())
    } else {
        Arc::new(Http::start(fault).await)
    }
}
