use buttress_core::Effect;
use rusqlite::{Error, ErrorCode};

use crate::error::Fault;
use crate::failure::Failure;

impl Failure {
    /// The same for another command: SQLite's own error can be had once, its text again and again.
    pub(super) fn again(&self) -> Self {
        let source = self.source.as_ref().map(ToString::to_string);
        let detail = self.detail.clone().or(source);
        Self { fault: self.fault, effect: self.effect, detail, source: None }
    }

    /// A commit that failed in a way that leaves open whether it is on the disk.
    pub(super) fn of_commit(error: Error) -> Self {
        let failure = Self::from(error);
        match failure.fault {
            Fault::Full | Fault::Busy => failure,
            _ => Self { effect: Effect::Unknown, ..failure },
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let fault = match &error {
            Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Fault::Busy,
                ErrorCode::DiskFull => Fault::Full,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Fault::Corrupt,
                ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::SystemIoFailure => Fault::Unavailable,
                ErrorCode::TooBig => Fault::TooLarge,
                _ => Fault::Internal,
            },
            Error::InvalidColumnType(..)
            | Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..) => Fault::Corrupt,
            _ => Fault::Internal,
        };
        Self { fault, effect: Effect::NotSent, detail: None, source: Some(error.into()) }
    }
}
