//! Private PostgreSQL and Redis servers, for tests of real stores, and a server of effects.
//!
//! Each runs on a port of its own, in a folder of its own, from the programs that are installed, with no rights but those to
//! start them: PostgreSQL refuses to run as root, so root starts it as another user. A server ends with the value that started
//! it, or with the process, however that ends.

#[cfg(feature = "stores")]
mod backends;
mod effects;
mod postgres;
mod program;
mod redis;
mod server;

#[cfg(feature = "stores")]
pub use backends::{Backend, InMemory, InPostgres, InRedis, InSqlite, Opened};
pub use effects::{Effects, Request, apply, serve_effects, signal};
pub use postgres::Postgres;
pub use program::Program;
pub use redis::Redis;
pub use server::Port;

/// Which of the programs are missing, each with the Debian package that has it.
pub fn missing() -> Vec<(&'static str, &'static str)> {
    let mut missing = Vec::new();
    if postgres::binaries().is_none() {
        missing.push(("PostgreSQL (initdb, postgres)", "postgresql"));
    }
    if redis::binary().is_none() {
        missing.push(("Redis or Valkey (redis-server)", "redis-server"));
    }
    missing
}
