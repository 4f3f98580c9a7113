use std::time::Duration;

use buttress_core::{BoxError, Effect};
use redis::aio::ConnectionManager;
use redis::{ErrorKind, RedisError, RedisResult};

use crate::error::{Fault, StoreError};

/// Of what is stored; what has a higher one is not touched.
const VERSION: u32 = 1;

/// Why a verb failed.
#[derive(Debug)]
pub(super) struct Failure {
    fault: Fault,
    effect: Effect,
    detail: Option<String>,
    source: Option<BoxError>,
}

/// Verbs that write nothing.
const READS: [&str; 4] = ["wait", "load", "peek", "list"];

impl Failure {
    pub(super) fn new(fault: Fault, detail: impl Into<String>) -> Self {
        Self { fault, effect: Effect::NotSent, detail: Some(detail.into()), source: None }
    }

    pub(super) fn damaged(what: &str) -> Self {
        Self::new(Fault::Corrupt, format!("{what} has another checksum than it was written with"))
    }

    pub(super) fn late(limit: Duration) -> Self {
        Self { effect: Effect::Unknown, ..Self::new(Fault::Timeout, format!("the limit is {limit:?}")) }
    }

    /// Before anything was sent that could have an effect.
    pub(super) fn before(error: RedisError) -> Self {
        Self { effect: Effect::NotSent, ..Self::from(error) }
    }

    /// Whether another connection may fare better: this one is silent, or leads to who is no longer the primary.
    pub(super) fn asks_for_another(&self) -> bool {
        self.fault == Fault::Timeout || matches!(self.detail.as_deref(), Some("READONLY" | "MASTERDOWN"))
    }

    pub(super) fn into_error(self, verb: &'static str) -> StoreError {
        let mut error = StoreError::new("redis", verb, self.fault);
        if self.effect == Effect::Unknown && !READS.contains(&verb) {
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

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() {
            return Self {
                effect: Effect::Unknown,
                source: Some(error.into()),
                ..Self::new(Fault::Timeout, "the connection's limit")
            };
        }
        let code = match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => error.code(),
            ErrorKind::AuthenticationFailed => Some("NOAUTH"),
            // The connection, or what came over it.
            _ => {
                let source = Some(error.into());
                return Self { fault: Fault::Unavailable, effect: Effect::Unknown, detail: None, source };
            }
        };
        let text = error.detail().unwrap_or_default();
        // A script passes on what its commands met with.
        let fault = match code.unwrap_or_default() {
            _ if text.contains("OOM command not allowed") => Fault::Full,
            "OOM" => Fault::Full,
            "MISCONF" | "LOADING" | "MASTERDOWN" | "READONLY" | "TRYAGAIN" | "CLUSTERDOWN" => {
                Fault::Unavailable
            }
            "NOAUTH" | "WRONGPASS" | "NOPERM" => Fault::Misconfigured,
            "BUSY" => Fault::Busy,
            "WRONGTYPE" => Fault::Corrupt,
            _ => Fault::Internal,
        };
        Self { fault, effect: Effect::NotSent, detail: code.map(str::to_owned), source: Some(error.into()) }
    }
}

/// Refuses what a newer release has written.
pub(super) async fn expect_version(connection: &mut ConnectionManager, prefix: &str) -> Result<(), Failure> {
    let key = format!("{prefix}:version");
    let mut set = redis::cmd("SET");
    set.arg(&key).arg(VERSION).arg("NX");
    let _: Option<String> = set.query_async(connection).await.map_err(Failure::before)?;
    let stored: Option<u32> =
        redis::cmd("GET").arg(&key).query_async(connection).await.map_err(Failure::before)?;
    match stored {
        Some(stored) if stored > VERSION => {
            let detail = format!("what it holds has version {stored}, this release knows {VERSION}");
            Err(Failure::new(Fault::Version, detail))
        }
        _ => Ok(()),
    }
}

/// What of the server's set-up would lose what it acknowledged.
pub(super) async fn warnings(connection: &mut ConnectionManager) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    for (setting, safe, loss) in [
        ("appendonly", "yes", "a restart loses what was acknowledged since the last snapshot"),
        ("appendfsync", "always", "a crash loses what was acknowledged last"),
        ("maxmemory-policy", "noeviction", "claims are evicted while they are alive, and had twice"),
    ] {
        let found: RedisResult<Vec<String>> =
            redis::cmd("CONFIG").arg("GET").arg(setting).query_async(connection).await;
        match found {
            Ok(found) if found.get(1).is_some_and(|value| value == safe) => {}
            Ok(found) => {
                let value = found.get(1).map_or("unknown", String::as_str);
                warnings.push(format!("Redis' {setting} is {value}, and not {safe}: {loss}"));
            }
            // Where others run the server they may not say.
            Err(error) if !error.is_io_error() => {
                warnings
                    .push(format!("whether Redis' {setting} is {safe} could not be read: if not, {loss}"));
            }
            Err(error) => return Err(Failure::before(error)),
        }
    }
    Ok(warnings)
}
