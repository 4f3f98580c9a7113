//! What was applied: from the database, or, for who only looks, from the last good copy of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use buttress::core::{clock, find};
use buttress::degrade::{Chain, Component, DegradeLayer, Degraded, Level, Rung};
use buttress::{BoxError, ConfigError};
use serde::{Deserialize, Serialize};
use tower::{Layer, ServiceExt, service_fn};

use crate::database::Record;
use crate::problem::{Exit, Problem};
use crate::stack::Stack;

/// Reads the history.
#[derive(Clone, Debug)]
pub(crate) struct History {
    stack: Stack,
    copy: Arc<Copy>,
}

/// A file that holds what was read last.
#[derive(Debug)]
struct Copy {
    file: PathBuf,
    /// Which database it is of.
    database: String,
}

/// What is in the file.
#[derive(Serialize, Deserialize)]
struct Copied {
    database: String,
    /// Seconds since 1970.
    at: u64,
    records: Vec<Record>,
}

/// What was read, and how old it is if it is not the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) records: Vec<Record>,
    pub(crate) age: Option<Duration>,
}

/// How long one may wait for a history.
const LIMIT: Duration = Duration::from_secs(20);

impl History {
    pub(crate) fn new(stack: Stack, file: PathBuf, database: String) -> Self {
        Self { stack, copy: Arc::new(Copy { file, database }) }
    }

    /// What the database says, which is all that anything may be done by.
    pub(crate) async fn truth(&self) -> Result<Vec<Record>, Problem> {
        self.read().await.map(|read| read.records)
    }

    async fn read(&self) -> Result<Read, Problem> {
        let records = self.stack.ask(LIMIT, async |database| database.history().await).await?;
        // A copy that cannot be kept is missed when it is needed, and not now.
        let _ = self.copy.keep(&records);
        Ok(Read { records, age: None })
    }

    /// What the database says, or the last good copy where it says nothing.
    pub(crate) async fn look(&self, component: Component) -> Result<Degraded<Read>, Problem> {
        let layer = self.layer(component).map_err(|error| Problem::input(error.to_string()))?;
        let history = self.clone();
        let service = layer.layer(service_fn(move |()| {
            let history = history.clone();
            async move { history.read().await }
        }));
        let unanswered = |error: BoxError| match find::<Problem>(&*error) {
            Some(problem) => problem.clone(),
            None => Problem::new(Exit::Unavailable, error.to_string()),
        };
        service.oneshot(()).await.map_err(unanswered)
    }

    fn layer(
        &self,
        component: Component,
    ) -> Result<DegradeLayer<Chain<(), Degraded<Read>>, buttress::core::Plain>, ConfigError> {
        let copy = Arc::clone(&self.copy);
        let rung = Rung::answer("last good copy", move |_| copy.read()).level(Level::Moderate);
        Ok(DegradeLayer::new("history", Chain::new().rung(rung))?.report_to(component))
    }
}

impl Copy {
    fn keep(&self, records: &[Record]) -> Result<(), BoxError> {
        let at = clock::wall().duration_since(UNIX_EPOCH)?.as_secs();
        let copied = Copied { database: self.database.clone(), at, records: records.to_vec() };
        replace(&self.file, &serde_json::to_vec_pretty(&copied)?)
    }

    fn read(&self) -> Option<Read> {
        let copied: Copied = serde_json::from_slice(&fs::read(&self.file).ok()?).ok()?;
        let now = clock::wall().duration_since(UNIX_EPOCH).ok()?;
        let age = Duration::from_secs(now.as_secs().saturating_sub(copied.at));
        (copied.database == self.database).then_some(Read { records: copied.records, age: Some(age) })
    }
}

/// Puts a whole file in the place of another one.
fn replace(file: &Path, bytes: &[u8]) -> Result<(), BoxError> {
    let new = file.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, bytes)?;
    Ok(fs::rename(&new, file)?)
}
