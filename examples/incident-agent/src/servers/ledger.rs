//! What the embedded vendors have done, entry by entry, in a file that outlives every process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::vendors::Vendor;

/// How many tasks the service has before anybody scales it.
const TASKS: u64 = 6;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub(crate) enum Entry {
    /// A request arrived, whatever then became of it.
    Received { vendor: Vendor },
    /// A supervisor asked how the vendor is.
    Checked { vendor: Vendor },
    /// A change was asked for: it was made, unless its key was known.
    Effect { vendor: Vendor, what: String, key: Option<String>, applied: bool },
    /// Somebody looked how far the restart is.
    Looked,
    /// PagerDuty took an event.
    Event { action: String, key: String },
    /// The agent's process was killed at this point.
    Killed { at: String },
}

/// All entries, added up.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    received: BTreeMap<Vendor, u64>,
    checks: u64,
    applied: BTreeMap<String, u64>,
    known: BTreeSet<String>,
    repeated: u64,
    tasks: Option<u64>,
    looks: Option<u32>,
    /// Open incidents, the one that this is all about among them.
    open: BTreeSet<String>,
    seen: BTreeSet<String>,
    events: u64,
    /// How often somebody's telephone rang.
    rang: u64,
    rang_for: BTreeSet<String>,
    killed: Vec<String>,
}

impl State {
    /// Nothing has happened yet but the incident with this key, which is open.
    pub(crate) fn new(open: &str) -> Self {
        Self { open: BTreeSet::from([open.to_owned()]), ..Self::default() }
    }

    pub(crate) fn add(&mut self, entry: &Entry) {
        match entry {
            Entry::Received { vendor } => *self.received.entry(*vendor).or_default() += 1,
            Entry::Checked { .. } => self.checks += 1,
            Entry::Effect { applied: false, .. } => self.repeated += 1,
            Entry::Effect { what, key, .. } => {
                *self.applied.entry(what.clone()).or_default() += 1;
                match (what.as_str(), key) {
                    ("restart", _) => self.looks = Some(0),
                    ("scale", Some(tasks)) => self.tasks = tasks.parse().ok(),
                    (_, Some(key)) => drop(self.known.insert(key.clone())),
                    (_, None) => {}
                }
            }
            Entry::Looked => self.looks = self.looks.map(|looks| looks.saturating_add(1)),
            Entry::Event { action, key } => self.event(action, key),
            Entry::Killed { at } => self.killed.push(at.clone()),
        }
    }

    fn event(&mut self, action: &str, key: &str) {
        self.events += 1;
        self.seen.insert(key.to_owned());
        match action {
            "trigger" if self.open.insert(key.to_owned()) => {
                self.rang += 1;
                self.rang_for.insert(key.to_owned());
            }
            "resolve" => drop(self.open.remove(key)),
            _ => {}
        }
    }

    /// How many requests this vendor has received.
    pub(crate) fn received(&self, vendor: Vendor) -> u64 {
        self.received.get(&vendor).copied().unwrap_or(0)
    }

    /// How often a supervisor asked how a vendor is.
    pub(crate) fn checks(&self) -> u64 {
        self.checks
    }

    /// How often a change was made.
    pub(crate) fn applied(&self, what: &str) -> u64 {
        self.applied.get(what).copied().unwrap_or(0)
    }

    /// Whether a change with this key was made.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.known.contains(key)
    }

    /// How many tasks the service is to have.
    pub(crate) fn tasks(&self) -> u64 {
        self.tasks.unwrap_or(TASKS)
    }

    /// How often the restart has been looked at since it began.
    pub(crate) fn looks(&self) -> Option<u32> {
        self.looks
    }

    /// How many events PagerDuty took.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// How many incidents they were about.
    pub(crate) fn incidents(&self) -> u64 {
        self.seen.len() as u64
    }

    /// How often a person was paged.
    pub(crate) fn pages(&self) -> u64 {
        self.rang
    }

    /// How often somebody was paged again for the same incident.
    pub(crate) fn duplicate_pages(&self) -> u64 {
        self.rang - self.rang_for.len() as u64
    }

    /// How often something was done again: in one incident each change is wanted once.
    pub(crate) fn duplicates(&self) -> u64 {
        self.applied.values().map(|times| times.saturating_sub(1)).sum::<u64>() + self.duplicate_pages()
    }

    /// How often a change was asked for again and recognised by its key, so that it was not made again.
    pub(crate) fn recognised(&self) -> u64 {
        self.repeated
    }

    /// Where the agent was killed, in order.
    pub(crate) fn killed(&self) -> &[String] {
        &self.killed
    }
}

/// The entries and where they go.
#[derive(Debug)]
pub(crate) struct Ledger {
    state: State,
    file: Option<File>,
}

impl Ledger {
    /// Kept in memory, for as long as its servers run.
    pub(crate) fn in_memory(open: &str) -> Self {
        Self { state: State::new(open), file: None }
    }

    /// In a file, with what it says already.
    pub(crate) fn at(path: &Path, open: &str) -> std::io::Result<Self> {
        let state = read(path, open)?;
        Ok(Self { state, file: Some(append_to(path)?) })
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Written before it counts: what is answered is in the file.
    pub(crate) fn add(&mut self, entry: &Entry) {
        if let Some(file) = &mut self.file {
            write(file, entry).expect("the ledger can be written to");
        }
        self.state.add(entry);
    }
}

/// What a ledger says; nothing if there is no such file.
pub(crate) fn read(path: &Path, open: &str) -> std::io::Result<State> {
    let mut state = State::new(open);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(state),
        Err(error) => return Err(error),
    };
    for line in text.lines() {
        let entry = serde_json::from_str(line).map_err(std::io::Error::other)?;
        state.add(&entry);
    }
    Ok(state)
}

/// Adds an entry from another process: lines are short enough that none is torn by another.
pub(crate) fn add(path: &Path, entry: &Entry) -> std::io::Result<()> {
    write(&mut append_to(path)?, entry)
}

fn append_to(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write(file: &mut File, entry: &Entry) -> std::io::Result<()> {
    let line = serde_json::to_string(entry).map_err(std::io::Error::other)?;
    file.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, key: &str) -> Entry {
        Entry::Event { action: action.to_owned(), key: key.to_owned() }
    }

    fn effect(what: &str, key: Option<&str>) -> Entry {
        let (what, key) = (what.to_owned(), key.map(str::to_owned));
        Entry::Effect { vendor: Vendor::Aws, what, key, applied: true }
    }

    #[test]
    fn pages_are_recognised_by_their_key() {
        let mut state = State::new("a");
        for action in ["trigger", "acknowledge", "resolve", "resolve"] {
            state.add(&event(action, "a"));
        }
        assert_eq!((state.events(), state.incidents(), state.pages()), (4, 1, 0), "it was open already");
        state.add(&event("trigger", "b"));
        state.add(&event("trigger", "b"));
        assert_eq!((state.pages(), state.duplicates()), (1, 0));
        state.add(&event("resolve", "b"));
        state.add(&event("trigger", "b"));
        assert_eq!((state.pages(), state.duplicates()), (2, 1), "open again, it rings again");
    }

    #[test]
    fn what_is_done_twice_is_a_duplicate_and_what_was_recognised_is_none() {
        let mut state = State::new("a");
        state.add(&effect("restart", None));
        state.add(&effect("clear_cache", Some("k")));
        let mut again = effect("clear_cache", Some("k"));
        if let Entry::Effect { applied, .. } = &mut again {
            *applied = false;
        }
        state.add(&again);
        state.add(&effect("scale", Some("9")));
        assert_eq!((state.duplicates(), state.tasks(), state.knows("k")), (0, 9, true));
        assert_eq!(state.recognised(), 1);
        state.add(&effect("restart", None));
        assert_eq!((state.duplicates(), state.applied("restart")), (1, 2));
    }

    #[test]
    fn a_ledger_is_read_again_as_it_was_written() {
        let path = std::env::temp_dir().join(format!("incident-agent-ledger-{}", std::process::id()));
        let mut ledger = Ledger::at(&path, "a").unwrap();
        ledger.add(&effect("restart", None));
        ledger.add(&Entry::Received { vendor: Vendor::PagerDuty });
        add(&path, &Entry::Killed { at: "restart:after".to_owned() }).unwrap();
        let state = read(&path, "a").unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((state.applied("restart"), state.received(Vendor::PagerDuty)), (1, 1));
        assert_eq!((state.looks(), state.killed()), (Some(0), &["restart:after".to_owned()][..]));
    }
}
