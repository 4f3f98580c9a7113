//! What the agent asks of a database, and what is recorded in it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::crash::Crash;
use crate::fault::Fault;
use crate::files::{Migration, Source};
use crate::problem::{Exit, Problem};
use crate::sql::Dialect;
use crate::{postgres, sqlite};

/// Either database.
#[derive(Clone, Debug)]
pub(crate) enum Database {
    Postgres(Arc<postgres::Postgres>),
    Sqlite(Arc<sqlite::Sqlite>),
}

/// Where the history is, in both databases.
pub(crate) const TABLE: &str = "buttress_migrations";

/// What a statement may take, if its file says nothing else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) lock: Duration,
    pub(crate) statement: Duration,
}

/// One migration of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) hash: String,
    pub(crate) state: State,
    /// Of what runs outside of a transaction, the statement that has begun, from 0 on.
    pub(crate) statement: usize,
    /// In which order they were applied.
    pub(crate) sequence: i64,
    pub(crate) at: String,
    pub(crate) ms: i64,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Applied,
    /// Begun outside of a transaction, and not known to have ended.
    Applying,
    Undoing,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    Up,
    Down,
}

/// One migration that is to be applied or undone.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) migration: Arc<Migration>,
    pub(crate) direction: Direction,
    /// To be applied needs what it requires; to be undone, that nothing of this is applied.
    pub(crate) others: Vec<Arc<str>>,
    pub(crate) run: Arc<str>,
    pub(crate) crash: Crash,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Done {
    Now {
        ms: u64,
    },
    /// An attempt before, or another agent, has done it.
    Before,
}

/// Where a change begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    Nowhere,
    AtFirst,
    /// With this statement, which may have been done.
    At(usize),
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Applying => "applying",
            Self::Undoing => "undoing",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        Ok(match text {
            "applied" => Self::Applied,
            "applying" => Self::Applying,
            "undoing" => Self::Undoing,
            other => {
                let what = format!("{TABLE} has a state `{other}`, which this release does not know");
                return Err(Fault::refused(Problem::new(Exit::Stuck, what).fix("use a newer release")));
            }
        })
    }
}

impl Direction {
    /// What the history says while this goes on outside of a transaction.
    pub(crate) fn state(self) -> State {
        match self {
            Self::Up => State::Applying,
            Self::Down => State::Undoing,
        }
    }

    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Up => "apply",
            Self::Down => "undo",
        }
    }

    pub(crate) fn past(self) -> &'static str {
        match self {
            Self::Up => "applied",
            Self::Down => "undone",
        }
    }
}

impl Change {
    pub(crate) fn id(&self) -> &Arc<str> {
        &self.migration.id
    }

    /// The file that is run. What is undone has one: nothing else is planned.
    pub(crate) fn source(&self) -> &Source {
        match self.direction {
            Direction::Up => &self.migration.up,
            Direction::Down => self.migration.down.as_ref().unwrap_or(&self.migration.up),
        }
    }

    pub(crate) fn settings(&self, settings: Settings) -> Settings {
        let limits = self.source().limits;
        Settings {
            lock: limits.lock.unwrap_or(settings.lock),
            statement: limits.statement.unwrap_or(settings.statement),
        }
    }

    /// Within which time an attempt is over, however the connection fares: what the database bounds by itself, and some more.
    pub(crate) fn limit(&self, settings: Settings) -> Duration {
        let Settings { lock, statement } = self.settings(settings);
        let statements = u32::try_from(self.source().script.statements.len()).unwrap_or(u32::MAX);
        (lock + statement)
            .saturating_mul(statements.max(1))
            .saturating_add(lock * 2 + Duration::from_secs(15))
    }

    /// Where to begin, given what is recorded of it and which migrations are applied.
    pub(crate) fn begin(&self, record: Option<&Record>, applied: &[String]) -> Result<Begin, Fault> {
        if let Some(record) = record {
            same(&record.id, &record.hash, &self.migration.up.hash).map_err(Fault::refused)?;
        }
        let state = record.map(|record| (record.state, record.statement));
        match (self.direction, state) {
            (Direction::Up, Some((State::Applied, _))) | (Direction::Down, None) => {
                return Ok(Begin::Nowhere);
            }
            (Direction::Up, Some((State::Applying, at))) | (Direction::Down, Some((State::Undoing, at))) => {
                return Ok(Begin::At(at));
            }
            (Direction::Up, Some((State::Undoing, _))) => return Err(self.halfway("undone", "`down 1`")),
            (Direction::Down, Some((State::Applying, _))) => return Err(self.halfway("applied", "`up`")),
            (Direction::Up, None) | (Direction::Down, Some((State::Applied, _))) => {}
        }
        let is_applied = |id: &&Arc<str>| applied.iter().any(|applied| **applied == ***id);
        let in_the_way = match self.direction {
            Direction::Up => self
                .others
                .iter()
                .find(|id| !is_applied(id))
                .map(|id| format!("requires {id}, which is not applied")),
            Direction::Down => {
                self.others.iter().find(is_applied).map(|id| format!("is required by {id}, which is applied"))
            }
        };
        match in_the_way {
            Some(why) => Err(Fault::refused(Problem::new(Exit::Changed, format!("{} {why}", self.id())))),
            None => Ok(Begin::AtFirst),
        }
    }

    fn halfway(&self, what: &str, command: &str) -> Fault {
        let what = format!("{} is half {what}", self.id());
        Fault::refused(
            Problem::new(Exit::Stuck, what).fix(format!("run {command} first, which goes on with it")),
        )
    }
}

/// Whether a file is still what was applied.
pub(crate) fn same(id: &str, recorded: &str, file: &str) -> Result<(), Problem> {
    if recorded == file {
        return Ok(());
    }
    let what =
        format!("{id} is not what was applied\n  applied: sha256 {recorded}\n  file:    sha256 {file}");
    Err(Problem::new(Exit::Changed, what).fix("restore the file, and change things in a new migration"))
}

impl Database {
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Makes the table of the history, if it is not there.
    pub(crate) async fn install(&self) -> Result<(), Fault> {
        match self {
            Self::Postgres(postgres) => postgres.install().await,
            Self::Sqlite(sqlite) => sqlite.install().await,
        }
    }

    /// All that is recorded, in the order in which it was applied; nothing, if there is no table yet.
    pub(crate) async fn history(&self) -> Result<Vec<Record>, Fault> {
        match self {
            Self::Postgres(postgres) => postgres.history().await,
            Self::Sqlite(sqlite) => sqlite.history().await,
        }
    }

    /// Applies or undoes a migration, once: it may be asked for any number of times.
    pub(crate) async fn change(&self, change: Change) -> Result<Done, Fault> {
        match self {
            Self::Postgres(postgres) => postgres.change(&change).await,
            Self::Sqlite(sqlite) => sqlite.change(change).await,
        }
    }

    /// Runs all of these in a transaction that is rolled back, up to the first that fails: its id, and why.
    pub(crate) async fn rehearse(&self, changes: Vec<Change>) -> Result<Option<(Arc<str>, Fault)>, Fault> {
        match self {
            Self::Postgres(postgres) => postgres.rehearse(&changes).await,
            Self::Sqlite(_) => Ok(None),
        }
    }
}
