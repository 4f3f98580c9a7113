use buttress_core::Effect;
use rusqlite::{Error, ErrorCode};

use crate::error::{Fault, StoreError};

/// Why a command, or the commit that it shares with others, failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    effect: Effect,
    detail: Option<Box<str>>,
    source: Option<Error>,
}

impl Failure {
    pub(super) fn new(fault: Fault, detail: impl Into<Box<str>>) -> Self {
        Self { fault, effect: Effect::NotSent, detail: Some(detail.into()), source: None }
    }

    pub(super) fn damaged(what: &str) -> Self {
        Self::new(Fault::Corrupt, format!("{what} has another checksum than it was written with"))
    }

    /// The same for another command: SQLite's own error can be had once, its text again and again.
    pub(super) fn again(&self) -> Self {
        let source = self.source.as_ref().map(|source| source.to_string().into());
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

    pub(super) fn into_error(self, verb: &'static str) -> StoreError {
        let mut error = StoreError::new("sqlite", verb, self.fault);
        if self.effect == Effect::Unknown {
            error = error.may_have_been_applied();
        }
        if let Some(detail) = self.detail {
            error = error.detail(detail);
        }
        match self.source {
            Some(source) => error.caused_by(source),
            None => error,
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
        Self { fault, effect: Effect::NotSent, detail: None, source: Some(error) }
    }
}
