use std::path::Path;
use std::time::Duration;

use buttress_store::{
    Acquired, Appended, Command, Created, Hold, JournalStore, NewEntry, NewRun, Next, Page, Peek, Postgres,
    PostgresOptions, Query, Redis, RedisOptions, Renewed, Run, RunId, RunInfo, Sqlite, StoreError, Wanted,
};
use tokio_postgres::NoTls;

use crate::Failure;

/// A store that is named by a URL.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnyStore {
    /// `sqlite:PATH`
    Sqlite(Sqlite),
    /// `postgres://…`
    Postgres(Postgres),
    /// `redis://…`
    Redis(Redis),
}

impl AnyStore {
    /// Opens the store with this URL as a tool does: an application must have opened it before, and nothing is made or brought
    /// up to date in it.
    ///
    /// # Errors
    ///
    /// If the URL is of no known kind, or the store cannot be opened.
    pub async fn open(url: &str) -> Result<Self, Failure> {
        let attached = match Url::parse(url)? {
            Url::Sqlite(path) if !Path::new(path).exists() => {
                return Err(Failure::new(format!("there is no file `{path}`")));
            }
            Url::Sqlite(path) => Sqlite::at(path).attach().await.map(Self::Sqlite),
            Url::Postgres(options) => options.attach(NoTls).await.map(Self::Postgres),
            Url::Redis(options) => options.attach().await.map(Self::Redis),
        };
        attached.map_err(|error| Failure::from(&error))
    }

    /// Opens the store with this URL as an application does: what is not there is made.
    ///
    /// # Errors
    ///
    /// If the URL is of no known kind, or the store cannot be opened.
    pub async fn create(url: &str) -> Result<Self, Failure> {
        let opened = match Url::parse(url)? {
            Url::Sqlite(path) => Sqlite::open(path).await.map(Self::Sqlite),
            Url::Postgres(options) => options.open(NoTls).await.map(Self::Postgres),
            Url::Redis(options) => options.open().await.map(Self::Redis),
        };
        opened.map_err(|error| Failure::from(&error))
    }

    /// Writes what is left to write and closes a SQLite file.
    pub async fn close(&self) {
        if let Self::Sqlite(sqlite) = self {
            sqlite.shutdown().await;
        }
    }
}

/// What a URL names.
enum Url<'a> {
    Sqlite(&'a str),
    Postgres(PostgresOptions),
    Redis(RedisOptions),
}

impl<'a> Url<'a> {
    fn parse(url: &'a str) -> Result<Self, Failure> {
        if let Some(path) = sqlite_path(url) {
            return Ok(Self::Sqlite(path));
        }
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "postgres" | "postgresql" => {
                // The error may quote the URL, with its password.
                let config = url.parse().map_err(|_| Failure::usage("that is no URL of PostgreSQL"))?;
                Ok(Self::Postgres(Postgres::at(config)))
            }
            "redis" | "valkey" => Redis::at(url).map(Self::Redis).map_err(|error| Failure::from(&error)),
            _ => Err(Failure::usage("a store is `sqlite:PATH`, `postgres://…` or `redis://…`")),
        }
    }
}

/// The file that a URL names, if it names one: `sqlite:PATH` or `sqlite://PATH`, where an absolute path begins with a slash of
/// its own.
fn sqlite_path(url: &str) -> Option<&str> {
    let path = url.strip_prefix("sqlite:")?;
    Some(path.strip_prefix("//").unwrap_or(path))
}

macro_rules! each {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            AnyStore::Sqlite($store) => $call,
            AnyStore::Postgres($store) => $call,
            AnyStore::Redis($store) => $call,
        }
    };
}

impl JournalStore for AnyStore {
    async fn create(&self, run: &NewRun, lease: Option<Duration>) -> Result<Created, StoreError> {
        each!(self, store => store.create(run, lease).await)
    }

    async fn acquire(&self, wanted: &Wanted) -> Result<Vec<Acquired>, StoreError> {
        each!(self, store => store.acquire(wanted).await)
    }

    async fn append(
        &self,
        hold: &Hold,
        seq: u64,
        entries: &[NewEntry],
        next: &Next,
    ) -> Result<Appended, StoreError> {
        each!(self, store => store.append(hold, seq, entries, next).await)
    }

    async fn renew(&self, hold: &Hold, lease: Duration) -> Result<Renewed, StoreError> {
        each!(self, store => store.renew(hold, lease).await)
    }

    async fn load(&self, id: &RunId) -> Result<Option<Run>, StoreError> {
        each!(self, store => store.load(id).await)
    }

    async fn peek(&self, id: &RunId) -> Result<Option<Peek>, StoreError> {
        each!(self, store => store.peek(id).await)
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        each!(self, store => store.list(query).await)
    }

    async fn control(&self, id: &RunId, command: Command) -> Result<Option<RunInfo>, StoreError> {
        each!(self, store => store.control(id, command).await)
    }

    async fn prune(&self, age: Duration, max: u32) -> Result<u64, StoreError> {
        each!(self, store => store.prune(age, max).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_with_and_without_slashes() {
        for (url, path) in [
            ("sqlite:runs.db", Some("runs.db")),
            ("sqlite:/var/runs.db", Some("/var/runs.db")),
            ("sqlite://runs.db", Some("runs.db")),
            ("sqlite:///var/runs.db", Some("/var/runs.db")),
            ("sqlite:sqlite:odd", Some("sqlite:odd")),
            ("redis://localhost", None),
        ] {
            assert_eq!(sqlite_path(url), path, "{url}");
        }
    }
}
