//! What the failures of a database mean: by SQLSTATE, and by SQLite's result codes.

use std::error::Error;
use std::fmt;

use buttress::core::{Classify, Effect, ErrorRef, Kind, Verdict, error_verdict, find};
use buttress::{BoxError, Exhausted};
use deadpool_postgres::{HookError, PoolError};
use rusqlite::ErrorCode;

use crate::problem::{Exit, Problem};

/// Why a database has not done what it was asked to.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) problem: Problem,
    pub(crate) verdict: Verdict,
    /// There was no connection to be had.
    pub(crate) starved: bool,
}

/// Judges the outcome of a call to the database.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ByFault;

impl<T> Classify<T> for ByFault {
    fn classify(&self, outcome: Result<&T, ErrorRef<'_>>) -> Verdict {
        match outcome {
            Ok(_) => Verdict::Success,
            Err(error) => find::<Fault>(error).map_or_else(|| error_verdict(error), |fault| fault.verdict),
        }
    }
}

impl Fault {
    pub(crate) fn new(verdict: Verdict, problem: Problem) -> Self {
        Self { problem, verdict, starved: false }
    }

    /// The database has answered: it is well, and will say the same again.
    pub(crate) fn refused(problem: Problem) -> Self {
        Self::new(Verdict::Rejected, problem)
    }

    /// It may pass, and nothing was changed.
    pub(crate) fn passing(what: impl Into<String>) -> Self {
        let problem = Problem::new(Exit::Unavailable, what).fix("run it again when the database is well");
        Self::new(Verdict::failure(Kind::Transient).not_sent(), problem)
    }

    /// It may pass; whether anything was changed is not known.
    pub(crate) fn unsure(what: impl Into<String>) -> Self {
        let fault = Self::passing(what);
        Self { verdict: Verdict::failure(Kind::Transient), ..fault }
    }

    fn lasting(exit: Exit, what: impl Into<String>) -> Self {
        Self::new(Verdict::failure(Kind::Permanent).not_sent(), Problem::new(exit, what))
    }

    fn fix(self, fix: &str) -> Self {
        Self { problem: self.problem.fix(fix), ..self }
    }

    /// Whether the database has said no to the SQL, so that it was certainly not done.
    pub(crate) fn is_refusal(&self) -> bool {
        match self.verdict {
            Verdict::Failure { effect, .. } => effect == Effect::NotSent,
            _ => true,
        }
    }

    /// Why a supervised pool gives no connection: its own reason, or that there is no pool.
    pub(crate) fn of_supervised(error: &BoxError) -> Self {
        let fault = find::<Self>(&**error).cloned();
        fault.unwrap_or_else(|| Self { starved: true, ..Self::passing(chain(&**error)) })
    }

    /// Why the pool has no connection.
    pub(crate) fn of_pool(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => error.into(),
            PoolError::Timeout(_) => {
                let fault = Self::passing("no connection of the pool was free, or could be made, in time");
                Self { starved: true, ..fault }
            }
            other => Self::passing(format!("the pool of connections: {other}")),
        }
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(refusal) = error.as_db_error() else { return of_connection(&error) };
        let code = refusal.code().code();
        let at = match refusal.position() {
            Some(tokio_postgres::error::ErrorPosition::Original(at)) => format!(" (at character {at})"),
            _ => String::new(),
        };
        let what = format!("PostgreSQL says {code}: {}{at}", refusal.message());
        match code {
            // Serialisation, deadlock: the transaction is rolled back.
            "40001" | "40P01" => Self::passing(what),
            "55P03" => Self::passing(what).fix("find who holds the lock, or raise --lock-timeout"),
            "57014" => Self::lasting(Exit::Failed, what)
                .fix("the statement took too long: raise --statement-timeout, or split the work"),
            "53300" => {
                let verdict = Verdict::failure(Kind::Throttled).not_sent();
                Self { verdict, starved: true, ..Self::passing(what) }
            }
            // A replica; after a failover the primary is elsewhere.
            "25006" => Self::passing(what),
            // What a server that ends was about to commit may be committed.
            _ if code.starts_with("08") || code.starts_with("57P") => Self::unsure(what),
            "53100" | "53200" | "53400" => {
                Self::lasting(Exit::Unavailable, what).fix("make room, then run it again")
            }
            _ if code.starts_with("28") || code.starts_with("3D") || code.starts_with("58") => {
                Self::lasting(Exit::Unavailable, what).fix("look at --database-url, and at the server")
            }
            _ if code.starts_with("XX") => Self::lasting(Exit::Stuck, what).fix("look at the server's log"),
            _ => Self::refused(Problem::new(Exit::Failed, what)),
        }
    }
}

/// It is the connection that failed, or a value of ours.
fn of_connection(error: &tokio_postgres::Error) -> Fault {
    let what = format!("the connection to PostgreSQL failed: {}", chain(error));
    if find::<tokio_postgres::types::WrongType>(error).is_some() {
        return Fault::lasting(Exit::Stuck, what);
    }
    if find::<rustls::Error>(error).is_some() {
        let fix = "look at the server's certificate, and at sslmode and sslrootcert of --database-url";
        return Fault::lasting(Exit::Unavailable, what).fix(fix);
    }
    // Its type is not public.
    if what.ends_with("server does not support TLS") {
        let fix = "turn `ssl` on at the server or, if nobody listens, say sslmode=disable in --database-url";
        return Fault::lasting(Exit::Unavailable, what).fix(fix);
    }
    match find::<std::io::Error>(error).map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound) => Fault::passing(what),
        _ => Fault::unsure(what),
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = buttress::core::chain(error).map(ToString::to_string).collect();
    texts.dedup_by(|cause, error| error.ends_with(cause.as_str()));
    texts.join(": ")
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let what = format!("SQLite says: {error}");
        let rusqlite::Error::SqliteFailure(failure, _) = &error else {
            return Self::refused(Problem::new(Exit::Failed, what));
        };
        match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::passing(what)
                .fix("another process writes for too long: find it, or raise --lock-timeout"),
            ErrorCode::OperationInterrupted => Self::lasting(Exit::Failed, what)
                .fix("the statement took too long: raise --statement-timeout, or split the work"),
            ErrorCode::DiskFull => Self::lasting(Exit::Unavailable, what).fix("make room, then run it again"),
            ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
                Self::lasting(Exit::Unavailable, what)
                    .fix("look at --database-url, and at the rights of the file")
            }
            ErrorCode::SystemIoFailure => Self::unsure(what),
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                Self::lasting(Exit::Stuck, what).fix("look at the file of --database-url")
            }
            _ => Self::refused(Problem::new(Exit::Failed, what)),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl Error for Fault {}

/// What comes out of the stack, for people; `last` is what the database said last.
pub(crate) fn problem(error: &BoxError, last: Option<Problem>) -> Problem {
    let problem = match find::<Fault>(&**error) {
        Some(fault) => fault.problem.clone(),
        // A layer of the stack has refused, or cut it off.
        None => {
            let what = match last {
                Some(last) => format!("{}; the last failure: {last}", chain(&**error)),
                None => chain(&**error),
            };
            return Problem::new(Exit::Unavailable, what).fix("run it again when the database is well");
        }
    };
    match find::<Exhausted>(&**error) {
        Some(exhausted) => problem.after(exhausted.attempts),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sqlite(code: ErrorCode) -> Fault {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error { code, extended_code: 0 }, None).into()
    }

    #[test]
    fn a_locked_file_passes_and_a_wrong_statement_does_not() {
        assert_eq!(sqlite(ErrorCode::DatabaseBusy).verdict, Verdict::failure(Kind::Transient).not_sent());
        assert_eq!(sqlite(ErrorCode::ConstraintViolation).verdict, Verdict::Rejected);
        assert_eq!(sqlite(ErrorCode::DatabaseCorrupt).problem.exit, Exit::Stuck);
        assert_eq!(sqlite(ErrorCode::OperationInterrupted).problem.exit, Exit::Failed);
    }

    #[test]
    fn what_the_stack_says_of_the_database_is_what_people_read() {
        let error: BoxError = sqlite(ErrorCode::DiskFull).into();
        assert_eq!(problem(&error, None).exit, Exit::Unavailable);
        let refused = buttress::core::Refused::new(
            "circuit breaker",
            "database".into(),
            buttress::core::Reason::CircuitOpen,
        );
        let problem = problem(&refused.into(), None);
        assert!(problem.to_string().contains("the circuit is open"), "{problem}");
    }
}
