use std::time::Duration;

use redis::ScriptInvocation;

use super::codec::{self, number};
use super::fault::Failure;
use super::{Redis, TRIES};
use crate::error::{Fault, StoreError};
use crate::journal::{
    Acquired, Appended, Command, Created, Cursor, Entry, Flow, Hold, JournalStore, NewEntry, NewRun, Next,
    Page, Peek, Query, Renewed, Run, RunInfo, Wanted,
};
use crate::key::{Owner, RunId};
use crate::limits::PRUNED_ENTRIES;
use crate::run_row::{self, Append, RunRow};
use crate::stored;
use crate::time;

type Answer = Vec<Option<Vec<u8>>>;

/// A run as it was read, and what shows that nobody has written it since.
struct Read {
    row: RunRow,
    revision: Vec<u8>,
    now: i64,
}

/// What is written beside the row.
#[derive(Default)]
struct More<'a> {
    /// Of a run that is new.
    input: Option<&'a [u8]>,
    entries: Vec<Vec<u8>>,
}

impl JournalStore for Redis {
    async fn create(&self, run: &NewRun, lease: Option<Duration>) -> Result<Created, StoreError> {
        self.inner.limits.run(run)?;
        for _ in 0..TRIES {
            let now = match self.read_run("create", &run.id).await? {
                Ok(existing) => return Ok(existing.row.exists(run, lease, existing.now)),
                Err(now) => now,
            };
            let row = RunRow::new(run, lease, now);
            let more = More { input: Some(&run.input), entries: Vec::new() };
            if self.write_run("create", &row, b"", more).await? {
                return Ok(if lease.is_some() { Created::Held(row.hold()) } else { Created::Queued });
            }
        }
        Err(StoreError::new("redis", "create", Fault::Busy))
    }

    async fn acquire(&self, wanted: &Wanted) -> Result<Vec<Acquired>, StoreError> {
        self.inner.limits.wanted(wanted)?;
        let mut damaged = None;
        let mut due = match &wanted.id {
            Some(id) => self.read_run("acquire", id).await?.into_iter().collect(),
            None => {
                let mut due = Vec::new();
                for flow in &wanted.flows {
                    due.extend(self.due(flow, wanted, &mut damaged).await?);
                }
                due
            }
        };
        due.retain(|read: &Read| read.row.is_wanted(wanted, read.now));
        due.sort_by(|one, other| (one.row.due, &one.row.id).cmp(&(other.row.due, &other.row.id)));
        due.dedup_by(|one, other| one.row.id == other.row.id);
        let mut acquired = Vec::new();
        for Read { mut row, revision, now } in due {
            if acquired.len() >= wanted.max as usize {
                break;
            }
            row.acquire(wanted, now);
            match self.write_run("acquire", &row, &revision, More::default()).await {
                Ok(true) => acquired.push(Acquired { hold: row.hold(), info: row.info(now) }),
                // Others were faster.
                Ok(false) => {}
                Err(error) if acquired.is_empty() => return Err(error),
                // Those that are held already are not to wait for their leases.
                Err(_) => break,
            }
        }
        match damaged {
            // It is told of as soon as it keeps nobody from what is sound.
            Some(failure) if acquired.is_empty() => Err(failure.into_error("acquire")),
            _ => Ok(acquired),
        }
    }

    async fn append(
        &self,
        hold: &Hold,
        seq: u64,
        entries: &[NewEntry],
        next: &Next,
    ) -> Result<Appended, StoreError> {
        self.inner.limits.append(entries, next)?;
        for _ in 0..TRIES {
            let Ok(Read { mut row, revision, now }) = self.read_run("append", &hold.id).await? else {
                return Ok(Appended::Fenced);
            };
            match row.check_append(hold, seq, entries, next) {
                Append::Fenced => return Ok(Appended::Fenced),
                Append::Conflict => return Ok(Appended::Conflict { next: row.entries }),
                Append::Compare => {
                    let Some((row, _, _, stored)) = self.load_run("append", &hold.id).await? else {
                        continue;
                    };
                    let last = stored.get(seq as usize..).unwrap_or_default();
                    return Ok(run_row::repeated(&row, last, entries));
                }
                Append::Add => {
                    let written =
                        (seq..).zip(entries).map(|(seq, entry)| codec::write_entry(seq, now, entry));
                    let more = More { input: None, entries: written.collect() };
                    row.appended(entries, next, now);
                    if self.write_run("append", &row, &revision, more).await? {
                        let at = time::to_system(now);
                        return Ok(Appended::Applied { next: row.entries, at, cancel_requested: row.cancel });
                    }
                }
            }
        }
        Err(StoreError::new("redis", "append", Fault::Busy))
    }

    async fn renew(&self, hold: &Hold, lease: Duration) -> Result<Renewed, StoreError> {
        for _ in 0..TRIES {
            let Ok(Read { mut row, revision, now }) = self.read_run("renew", &hold.id).await? else {
                return Ok(Renewed::Fenced);
            };
            let renewed = row.renew(hold, lease, now);
            if renewed == Renewed::Fenced || self.write_run("renew", &row, &revision, More::default()).await?
            {
                return Ok(renewed);
            }
        }
        Err(StoreError::new("redis", "renew", Fault::Busy))
    }

    async fn load(&self, id: &RunId) -> Result<Option<Run>, StoreError> {
        let Some((row, now, input, entries)) = self.load_run("load", id).await? else { return Ok(None) };
        if !entries.iter().map(|entry| entry.seq).eq(0..row.entries) {
            return Err(Failure::damaged("the journal").into_error("load"));
        }
        Ok(Some(Run { info: row.info(now), input: input.into(), entries }))
    }

    async fn peek(&self, id: &RunId) -> Result<Option<Peek>, StoreError> {
        let mut script = self.inner.scripts.peek.key(self.runs_key());
        script.arg(id.as_str());
        let answer = self.invoke("peek", &script).await?;
        let read = || {
            let [now, Some(row), last @ ..] = &answer[..] else { return Ok(None) };
            let row = codec::read_run(row)?;
            let mut last = last.first().and_then(Option::as_deref).map(codec::read_entry).transpose()?;
            if row.kind.is_over() {
                let entries = last.as_ref().map_or(0, |last| last.seq + 1);
                if entries != row.entries {
                    return Err(Failure::damaged("the journal"));
                }
            } else {
                last = None;
            }
            Ok(Some(Peek { info: row.info(number(now.as_deref())?), last }))
        };
        read().map_err(|failure: Failure| failure.into_error("peek"))
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        const CHUNK: usize = 200;
        let mut from = match &query.after {
            Some(Cursor { created, id }) => format!("({}", place(time::from_system(*created), id)),
            None => "+".to_owned(),
        };
        let mut infos: Vec<RunInfo> = Vec::new();
        while infos.len() <= query.page_size() {
            let mut script = self.inner.scripts.list.key(self.runs_key());
            script.arg(&from).arg(CHUNK);
            let answer = self.invoke("list", &script).await?;
            let failed = |failure: Failure| failure.into_error("list");
            let now = number(answer[0].as_deref()).map_err(failed)?;
            for pair in answer[1..].chunks_exact(2) {
                let [Some(place), Some(row)] = pair else { continue };
                from = format!("({}", String::from_utf8_lossy(place));
                let info = codec::read_run(row).map_err(failed)?.info(now);
                if query.matches(&info) {
                    infos.push(info);
                }
            }
            if answer.len() < 1 + 2 * CHUNK {
                break;
            }
        }
        infos.truncate(query.page_size() + 1);
        Ok(Page::of(infos, query))
    }

    async fn control(&self, id: &RunId, command: Command) -> Result<Option<RunInfo>, StoreError> {
        for _ in 0..TRIES {
            let Ok(Read { mut row, revision, now }) = self.read_run("control", id).await? else {
                return Ok(None);
            };
            if !row.control(command, now)
                || self.write_run("control", &row, &revision, More::default()).await?
            {
                return Ok(Some(row.info(now)));
            }
        }
        Err(StoreError::new("redis", "control", Fault::Busy))
    }

    async fn prune(&self, age: Duration, max: u32) -> Result<u64, StoreError> {
        let mut script = self.inner.scripts.prune.key(self.runs_key());
        script.arg(time::micros(age)).arg(max).arg(PRUNED_ENTRIES);
        let answer = self.invoke("prune", &script).await?;
        let pruned = number(answer.first().and_then(Option::as_deref));
        pruned.map_err(|failure| failure.into_error("prune"))
    }
}

impl Redis {
    /// What the keys of all journals begin with: one tag, since scripts need several of them at once.
    fn runs_key(&self) -> String {
        format!("{{{}:runs}}", self.inner.prefix)
    }

    /// The run, or the server's time if there is none.
    async fn read_run(&self, verb: &'static str, id: &RunId) -> Result<Result<Read, i64>, StoreError> {
        let mut script = self.inner.scripts.read.key(self.runs_key());
        script.arg(id.as_str());
        let answer = self.invoke(verb, &script).await?;
        let read = || -> Result<Result<Read, i64>, Failure> {
            let now = number(answer.first().and_then(Option::as_deref))?;
            let [_, Some(revision), Some(row)] = &answer[..] else { return Ok(Err(now)) };
            Ok(Ok(Read { row: codec::read_run(row)?, revision: revision.clone(), now }))
        };
        read().map_err(|failure| failure.into_error(verb))
    }

    /// The run, the server's time, its input and its entries.
    async fn load_run(
        &self,
        verb: &'static str,
        id: &RunId,
    ) -> Result<Option<(RunRow, i64, Vec<u8>, Vec<Entry>)>, StoreError> {
        let mut script = self.inner.scripts.load.key(self.runs_key());
        script.arg(id.as_str());
        let answer: Answer = self.invoke(verb, &script).await?;
        let read = || {
            let [now, Some(row), Some(input), entries @ ..] = &answer[..] else { return Ok(None) };
            let (input, sum) = input.split_last_chunk::<8>().ok_or_else(|| Failure::damaged("the input"))?;
            if stored::body_sum(input) != i64::from_le_bytes(*sum) {
                return Err(Failure::damaged("the input"));
            }
            let entries = entries.iter().flatten().map(|entry| codec::read_entry(entry));
            let entries = entries.collect::<Result<_, Failure>>()?;
            Ok(Some((codec::read_run(row)?, number(now.as_deref())?, input.to_vec(), entries)))
        };
        read().map_err(|failure: Failure| failure.into_error(verb))
    }

    /// Whether it was written: not if somebody else has since it was read.
    async fn write_run(
        &self,
        verb: &'static str,
        row: &RunRow,
        revision: &[u8],
        more: More<'_>,
    ) -> Result<bool, StoreError> {
        let mut script: ScriptInvocation<'_> = self.inner.scripts.write.key(self.runs_key());
        // Different from all that were there before, even of a run that was pruned and begun anew.
        let next = stored::owner(Owner::random());
        script.arg(row.id.as_str()).arg(revision).arg(&next[..]).arg(codec::write_run(row)).arg(&*row.name);
        script.arg(row.due.map_or_else(String::new, |due| due.to_string()));
        script.arg(if row.kind.is_over() { row.changed.to_string() } else { String::new() });
        script.arg(row.parent.as_ref().map_or("", RunId::as_str));
        match more.input {
            Some(input) => {
                let sum = stored::body_sum(input).to_le_bytes();
                script.arg(place(row.created, &row.id)).arg([input, &sum].concat())
            }
            None => script.arg("").arg(""),
        };
        for entry in more.entries {
            script.arg(entry);
        }
        let answer = self.invoke(verb, &script).await?;
        Ok(answer.first().is_some_and(|written| written.as_deref() == Some(b"1")))
    }

    /// The runs of a workflow that are due and wanted, as many as are asked for; damaged ones are passed over.
    async fn due(
        &self,
        flow: &Flow,
        wanted: &Wanted,
        damaged: &mut Option<Failure>,
    ) -> Result<Vec<Read>, StoreError> {
        const CHUNK: usize = 100;
        let (mut due, mut seen) = (Vec::new(), 0);
        while due.len() < wanted.max as usize {
            let mut script = self.inner.scripts.due.key(self.runs_key());
            script.arg(&*flow.name).arg(seen).arg(CHUNK);
            let answer = self.invoke("acquire", &script).await?;
            let failed = |failure: Failure| failure.into_error("acquire");
            let now = number(answer[0].as_deref()).map_err(failed)?;
            for pair in answer[1..].chunks_exact(2) {
                let [Some(revision), Some(row)] = pair else { continue };
                match codec::read_run(row) {
                    Ok(row) if row.is_wanted(wanted, now) => {
                        due.push(Read { row, revision: revision.clone(), now });
                    }
                    Ok(_) => {}
                    Err(failure) => *damaged = Some(failure),
                }
            }
            seen += CHUNK;
            if answer.len() < 1 + 2 * CHUNK {
                break;
            }
        }
        Ok(due)
    }
}

/// Where a run stands in the list: sixteen digits of the time, a colon, and its identity.
fn place(created: i64, id: &RunId) -> String {
    format!("{:016}:{id}", created.max(0))
}
