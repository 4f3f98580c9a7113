//! The cases, each with its number in `behaviours/checkpoint.md`.

#![expect(missing_docs, clippy::missing_panics_doc, reason = "the name of a case says what it asserts")]

pub mod change;
pub mod crash;
pub mod errors;
pub mod forks;
pub mod operator;
pub mod simple;
pub mod start;
pub mod undo;
pub mod workers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_checkpoint::{Failure, RunError, StepKey};
use buttress_store::{JournalStore, RunId, RunInfo, StatusKind};
use tokio::sync::Notify;
use tokio::time::sleep;

/// What the bodies of steps did: their names in order, with their keys.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    done: Arc<Mutex<Vec<(String, String)>>>,
    changed: Arc<Notify>,
}

impl Effects {
    pub fn add(&self, name: &str) {
        let key = StepKey::current().map(|key| key.to_string()).unwrap_or_default();
        self.done.lock().unwrap().push((name.to_owned(), key));
        self.changed.notify_waiters();
    }

    /// Does it, and gives a number that belongs to the name.
    pub fn done(&self, name: &str) -> Result<usize, Failure> {
        self.add(name);
        Ok(name.len())
    }

    /// Does it, and does not end.
    pub async fn hang<T>(&self, name: &str) -> T {
        self.add(name);
        std::future::pending().await
    }

    pub fn names(&self) -> Vec<String> {
        self.done.lock().unwrap().iter().map(|(name, _)| name.clone()).collect()
    }

    pub fn count(&self, name: &str) -> usize {
        self.names().iter().filter(|done| *done == name).count()
    }

    pub fn keys(&self) -> HashMap<String, Vec<String>> {
        let mut keys: HashMap<String, Vec<String>> = HashMap::new();
        for (name, key) in self.done.lock().unwrap().iter() {
            keys.entry(name.clone()).or_default().push(key.clone());
        }
        keys
    }

    /// Waits until it was done so often.
    pub async fn until(&self, name: &str, count: usize) {
        loop {
            let changed = self.changed.notified();
            if self.count(name) >= count {
                return;
            }
            tokio::select! {
                () = changed => {}
                () = sleep(Duration::from_millis(20)) => {}
            }
        }
    }
}

pub fn id(id: &str) -> RunId {
    RunId::try_new(id).unwrap()
}

pub async fn info<S: JournalStore>(store: &S, run: &str) -> RunInfo {
    store.load(&id(run)).await.unwrap().expect("there is such a run").info
}

/// Waits until the run is in this state.
pub async fn until<S: JournalStore>(store: &S, run: &str, status: StatusKind) -> RunInfo {
    loop {
        let info = info(store, run).await;
        if info.status.kind() == status {
            return info;
        }
        assert!(!info.status.kind().is_over(), "it is over: {info:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until so many entries of the run are stored.
pub async fn until_entries<S: JournalStore>(store: &S, run: &str, entries: u64) {
    while info(store, run).await.entries < entries {
        sleep(Duration::from_millis(20)).await;
    }
}

pub fn halted<T: std::fmt::Debug>(result: Result<T, RunError<Failure>>) -> String {
    match result {
        Err(RunError::Halted { reason, .. }) => reason.to_string(),
        other => panic!("it is not halted: {other:?}"),
    }
}
