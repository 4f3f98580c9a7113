use std::error::Error as _;

use buttress_core::Effect;
use deadpool_postgres::{HookError, PoolError};
use tokio_postgres::Error;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::WrongType;

use crate::error::Fault;
use crate::failure::Failure;

impl Failure {
    pub(super) fn of_pool(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                Self::before(error)
            }
            PoolError::Closed => {
                Self { fault: Fault::Closed, effect: Effect::NotSent, detail: None, source: None }
            }
            other => Self { source: Some(other.into()), ..Self::new(Fault::Internal, "the pool") },
        }
    }
}

/// Whether another connection may fare better: after a failover this one may lead to what is a replica now.
pub(super) fn asks_for_another(failure: &Failure) -> bool {
    failure.fault == Fault::Unavailable
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let Some(refusal) = error.as_db_error() else {
            let ours = error.source().is_some_and(<dyn std::error::Error>::is::<WrongType>);
            // Else it is the connection, or what came over it.
            let fault = if ours { Fault::Internal } else { Fault::Unavailable };
            return Self { fault, effect: Effect::Unknown, detail: None, source: Some(error.into()) };
        };
        let fault = fault(refusal);
        // What a server that ends was about to commit may be committed; one that only reads has refused it.
        let ends = fault == Fault::Unavailable && *refusal.code() != SqlState::READ_ONLY_SQL_TRANSACTION;
        let effect = if ends { Effect::Unknown } else { Effect::NotSent };
        // Its details and hints may quote values.
        let detail = format!("{}: {}", refusal.code().code(), refusal.message());
        Self { fault, effect, detail: Some(detail), source: None }
    }
}

fn fault(refusal: &DbError) -> Fault {
    let code = refusal.code();
    match code.code() {
        "40001" | "40P01" | "55P03" => Fault::Busy,
        "53100" | "53200" | "53400" => Fault::Full,
        "57014" => Fault::Timeout,
        "XX001" | "XX002" => Fault::Corrupt,
        // What this release has created is not there any more, or not as it was.
        "42P01" | "42703" | "42883" => Fault::Version,
        // A replica: the primary is elsewhere by now.
        "25006" => Fault::Unavailable,
        _ if *code == SqlState::TOO_MANY_CONNECTIONS => Fault::Unavailable,
        text if text.starts_with("08") || text.starts_with("57P") => Fault::Unavailable,
        text if text.starts_with("28") || text.starts_with("3D") || text == "42501" || text == "3F000" => {
            Fault::Misconfigured
        }
        _ => Fault::Internal,
    }
}
