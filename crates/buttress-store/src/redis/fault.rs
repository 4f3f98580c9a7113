use buttress_core::Effect;
use redis::aio::ConnectionManager;
use redis::{ErrorKind, RedisError, RedisResult};

use crate::error::Fault;
use crate::failure::Failure;

/// Of what is stored; what has a higher one is not touched.
const VERSION: u32 = 1;

/// Whether another connection may fare better: this one is silent, or leads to who is no longer the primary.
pub(super) fn asks_for_another(failure: &Failure) -> bool {
    failure.fault == Fault::Timeout || matches!(failure.detail.as_deref(), Some("READONLY" | "MASTERDOWN"))
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

/// Marks what is stored as this release's, if nothing is yet.
pub(super) async fn mark(connection: &mut ConnectionManager, prefix: &str) -> Result<(), Failure> {
    let mut set = redis::cmd("SET");
    set.arg(format!("{prefix}:version")).arg(VERSION).arg("NX");
    let _: Option<String> = set.query_async(connection).await.map_err(Failure::before)?;
    Ok(())
}

/// Refuses what a newer release has written, and what no release has.
pub(super) async fn expect_version(connection: &mut ConnectionManager, prefix: &str) -> Result<(), Failure> {
    let key = format!("{prefix}:version");
    let stored: Option<u32> =
        redis::cmd("GET").arg(&key).query_async(connection).await.map_err(Failure::before)?;
    match stored {
        Some(stored) if stored > VERSION => {
            let detail = format!("what it holds has version {stored}, this release knows {VERSION}");
            Err(Failure::new(Fault::Version, detail))
        }
        Some(_) => Ok(()),
        None => {
            let detail = format!(
                "there is nothing of this store under `{prefix}`; an application has to open it first"
            );
            Err(Failure::new(Fault::Misconfigured, detail))
        }
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
