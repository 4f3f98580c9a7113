use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;

use super::Memory;
use crate::error::{Fault, StoreError};
use crate::journal::{
    Acquired, Appended, Command, Created, Cursor, Entry, Hold, JournalStore, NewEntry, NewRun, Next, Page,
    Peek, Query, Renewed, Run, RunInfo, Wanted,
};
use crate::key::RunId;
use crate::limits::PRUNED_ENTRIES;
use crate::run_row::{self, Append, RunRow};
use crate::time;

/// The runs, and the orders in which they are looked for.
pub(super) struct Runs {
    runs: HashMap<RunId, Stored>,
    due: BTreeSet<(i64, RunId)>,
    over: BTreeSet<(i64, RunId)>,
    created: BTreeMap<(i64, RunId), ()>,
    /// Those that are not over, by their parent.
    children: BTreeSet<(RunId, RunId)>,
    max: usize,
}

struct Stored {
    row: RunRow,
    input: Bytes,
    entries: Vec<Entry>,
}

impl Runs {
    pub(super) fn new(max: usize) -> Self {
        Self {
            runs: HashMap::new(),
            due: BTreeSet::new(),
            over: BTreeSet::new(),
            created: BTreeMap::new(),
            children: BTreeSet::new(),
            max,
        }
    }

    fn index(&mut self, row: &RunRow) {
        if let Some(due) = row.due {
            self.due.insert((due, row.id.clone()));
        }
        if row.kind.is_over() {
            self.over.insert((row.changed, row.id.clone()));
        } else if let Some(parent) = &row.parent {
            self.children.insert((parent.clone(), row.id.clone()));
        }
    }

    fn unindex(&mut self, row: &RunRow) {
        if let Some(due) = row.due {
            self.due.remove(&(due, row.id.clone()));
        }
        self.over.remove(&(row.changed, row.id.clone()));
        if let Some(parent) = &row.parent {
            self.children.remove(&(parent.clone(), row.id.clone()));
        }
    }

    fn insert(&mut self, row: RunRow, input: Bytes) {
        self.index(&row);
        self.created.insert((row.created, row.id.clone()), ());
        self.runs.insert(row.id.clone(), Stored { row, input, entries: Vec::new() });
    }

    /// Changes a run, if there is one.
    fn change<T>(&mut self, id: &RunId, change: impl FnOnce(&mut RunRow, &mut Vec<Entry>) -> T) -> Option<T> {
        let old = self.runs.get(id)?.row.clone();
        self.unindex(&old);
        let stored = self.runs.get_mut(id)?;
        let result = change(&mut stored.row, &mut stored.entries);
        let new = stored.row.clone();
        self.index(&new);
        Some(result)
    }

    fn remove(&mut self, id: &RunId) {
        if let Some(Stored { row, .. }) = self.runs.remove(id) {
            self.unindex(&row);
            self.created.remove(&(row.created, row.id));
        }
    }

    fn has_children(&self, id: &RunId) -> bool {
        let first = (id.clone(), RunId::least());
        self.children.range(first..).next().is_some_and(|(parent, _)| parent == id)
    }
}

impl JournalStore for Memory {
    async fn create(&self, run: &NewRun, lease: Option<Duration>) -> Result<Created, StoreError> {
        self.inner.limits.run(run)?;
        let now = self.now();
        let mut runs = self.lock_runs();
        if let Some(stored) = runs.runs.get(&run.id) {
            return Ok(stored.row.exists(run, lease, now));
        }
        if runs.runs.len() >= runs.max {
            let full = StoreError::new("memory", "create", Fault::Full);
            return Err(full.detail(format!("it holds all of {} runs", runs.max)));
        }
        let row = RunRow::new(run, lease, now);
        let created = if lease.is_some() { Created::Held(row.hold()) } else { Created::Queued };
        runs.insert(row, run.input.clone());
        Ok(created)
    }

    async fn acquire(&self, wanted: &Wanted) -> Result<Vec<Acquired>, StoreError> {
        self.inner.limits.wanted(wanted)?;
        let now = self.now();
        let mut runs = self.lock_runs();
        let due = runs.due.iter().take_while(|(due, _)| *due <= now);
        let due = due.filter(|(_, id)| runs.runs[id].row.is_wanted(wanted, now));
        let ids: Vec<RunId> = due.map(|(_, id)| id.clone()).take(wanted.max as usize).collect();
        let acquire = |id: &RunId| {
            runs.change(id, |row, _| {
                row.acquire(wanted, now);
                Acquired { hold: row.hold(), info: row.info(now) }
            })
        };
        Ok(ids.iter().filter_map(acquire).collect())
    }

    async fn append(
        &self,
        hold: &Hold,
        seq: u64,
        entries: &[NewEntry],
        next: &Next,
    ) -> Result<Appended, StoreError> {
        self.inner.limits.append(entries, next)?;
        let now = self.now();
        let mut runs = self.lock_runs();
        let appended =
            runs.change(&hold.id, |row, stored| match row.check_append(hold, seq, entries, next) {
                Append::Fenced => Appended::Fenced,
                Append::Conflict => Appended::Conflict { next: row.entries },
                Append::Compare => run_row::repeated(row, &stored[stored.len() - entries.len()..], entries),
                Append::Add => {
                    let at = time::to_system(now);
                    let numbered = (seq..).zip(entries);
                    stored.extend(numbered.map(|(seq, entry)| Entry { seq, at, entry: entry.clone() }));
                    row.appended(entries, next, now);
                    Appended::Applied { next: row.entries, at, cancel_requested: row.cancel }
                }
            });
        Ok(appended.unwrap_or(Appended::Fenced))
    }

    async fn renew(&self, hold: &Hold, lease: Duration) -> Result<Renewed, StoreError> {
        let now = self.now();
        let renewed = self.lock_runs().change(&hold.id, |row, _| row.renew(hold, lease, now));
        Ok(renewed.unwrap_or(Renewed::Fenced))
    }

    async fn load(&self, id: &RunId) -> Result<Option<Run>, StoreError> {
        let now = self.now();
        let runs = self.lock_runs();
        let run = |stored: &Stored| Run {
            info: stored.row.info(now),
            input: stored.input.clone(),
            entries: stored.entries.clone(),
        };
        Ok(runs.runs.get(id).map(run))
    }

    async fn peek(&self, id: &RunId) -> Result<Option<Peek>, StoreError> {
        let now = self.now();
        let runs = self.lock_runs();
        let peek = |Stored { row, entries, .. }: &Stored| Peek {
            info: row.info(now),
            last: entries.last().filter(|_| row.kind.is_over()).cloned(),
        };
        Ok(runs.runs.get(id).map(peek))
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        let now = self.now();
        let runs = self.lock_runs();
        let from =
            query.after.as_ref().map(|Cursor { created, id }| (time::from_system(*created), id.clone()));
        let older = match from {
            Some(from) => runs.created.range(..from),
            None => runs.created.range(..),
        };
        let infos = older.rev().map(|((_, id), ())| runs.runs[id].row.info(now));
        let page: Vec<RunInfo> =
            infos.filter(|info| query.matches(info)).take(query.page_size() + 1).collect();
        Ok(Page::of(page, query))
    }

    async fn control(&self, id: &RunId, command: Command) -> Result<Option<RunInfo>, StoreError> {
        let now = self.now();
        let control = |row: &mut RunRow| {
            row.control(command, now);
            row.info(now)
        };
        Ok(self.lock_runs().change(id, |row, _| control(row)))
    }

    async fn prune(&self, age: Duration, max: u32) -> Result<u64, StoreError> {
        let before = self.now().saturating_sub(time::micros(age));
        let mut runs = self.lock_runs();
        let over = runs.over.iter().take_while(|(changed, _)| *changed <= before).map(|(_, id)| id);
        let mut entries = 0;
        let few = |id: &&RunId| {
            let before = entries;
            entries += runs.runs[*id].row.entries;
            before < PRUNED_ENTRIES
        };
        let old = over.filter(|id| !runs.has_children(id)).take(max as usize).take_while(few);
        let old: Vec<RunId> = old.cloned().collect();
        for id in &old {
            runs.remove(id);
        }
        Ok(old.len() as u64)
    }
}
