use std::time::Duration;

use redis::{Script, ScriptInvocation};

use super::codec::{self, RUN, number};
use super::{Redis, Value};
use crate::error::{Fault, StoreError};
use crate::failure::Failure;
use crate::journal::{
    Acquired, Appended, Command, Created, Cursor, Entry, Hold, JournalStore, NewEntry, NewRun, Next, Page,
    Peek, Query, Renewed, Run, RunInfo, Wanted,
};
use crate::key::RunId;
use crate::limits::PRUNED_ENTRIES;
use crate::run_row::{self, Append, RunRow};
use crate::stored;
use crate::time;

/// At how many runs of a workflow the server looks at once while others wait, and how many are listed at once.
const CHUNK: usize = 200;

/// What a script for runs gave.
struct Answer {
    verb: &'static str,
    done: bool,
    now: i64,
    rest: Vec<Value>,
}

impl Answer {
    /// The run that comes first, and what comes after it; `None` if there is none.
    fn run(&self) -> Result<Option<(RunRow, &[Value])>, StoreError> {
        let Some((run, rest)) = self.rest.split_at_checked(RUN) else { return Ok(None) };
        let run = codec::read_run(run).map_err(|failure| failure.into_error("redis", self.verb))?;
        Ok(Some((run, rest)))
    }

    /// Whether a run is to be cancelled, which comes alone.
    fn cancel_requested(&self) -> bool {
        self.rest.first().is_some_and(|cancel| cancel.as_deref() == Some(b"1"))
    }
}

impl JournalStore for Redis {
    async fn create(&self, run: &NewRun, lease: Option<Duration>) -> Result<Created, StoreError> {
        self.inner.limits.run(run)?;
        let mut script = self.of_run(&self.inner.scripts.create_run, &run.id);
        script.arg(lease.map_or_else(String::new, |lease| time::micros(lease).to_string()));
        script.arg(&*run.name).arg(run.version).arg(run.fingerprint.as_bytes());
        script.arg(run.parent.as_ref().map_or("", RunId::as_str));
        script.arg(&stored::owner(run.owner)[..]).arg(&*run.worker);
        script.arg([&run.input[..], &stored::body_sum(&run.input).to_le_bytes()].concat());
        let answer = self.ask("create", &script).await?;
        if let Some((existing, _)) = answer.run()? {
            return Ok(existing.exists(run, lease, answer.now));
        }
        let row = RunRow::new(run, lease, answer.now);
        Ok(if lease.is_some() { Created::Held(row.hold()) } else { Created::Queued })
    }

    async fn acquire(&self, wanted: &Wanted) -> Result<Vec<Acquired>, StoreError> {
        self.inner.limits.wanted(wanted)?;
        let (mut passed, mut damaged) = (0, false);
        loop {
            let mut script = self.inner.scripts.acquire_runs.key(self.runs_key());
            script.arg(&stored::owner(wanted.owner)[..]).arg(&*wanted.worker).arg(time::micros(wanted.lease));
            script.arg(wanted.max).arg(wanted.id.as_ref().map_or("", RunId::as_str)).arg(passed).arg(CHUNK);
            for flow in &wanted.flows {
                script.arg(&*flow.name).arg(flow.versions.start()).arg(flow.versions.end());
            }
            let answer = self.ask("acquire", &script).await?;
            let (more, runs) =
                answer.rest.split_first().ok_or_else(|| disagree().into_error("redis", "acquire"))?;
            let mut acquired = Vec::with_capacity(runs.len() / RUN);
            for run in runs.chunks_exact(RUN) {
                let run = codec::read_run(run).map_err(|failure| failure.into_error("redis", "acquire"))?;
                acquired.push(Acquired { hold: run.hold(), info: run.info(answer.now) });
            }
            damaged |= answer.done;
            // Only where so many are due of versions that are not wanted.
            if acquired.is_empty() && more.as_deref() == Some(b"1") {
                passed += CHUNK;
                continue;
            }
            // It is told of as soon as it keeps nobody from what is sound.
            if acquired.is_empty() && damaged {
                return Err(Failure::damaged("a run that is due").into_error("redis", "acquire"));
            }
            return Ok(acquired);
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
        let (code, reason, sleep) = stored::next(next);
        let mut script = self.of_hold(&self.inner.scripts.append, hold);
        script.arg(seq).arg(code).arg(reason).arg(sleep);
        for (seq, entry) in (seq..).zip(entries) {
            script.arg(codec::write_entry(seq, entry));
        }
        let answer = self.ask("append", &script).await?;
        if answer.done {
            let (next, at) = (seq + entries.len() as u64, time::to_system(answer.now));
            return Ok(Appended::Applied { next, at, cancel_requested: answer.cancel_requested() });
        }
        let Some((row, stored)) = answer.run()? else { return Ok(Appended::Fenced) };
        let failed = |failure: Failure| failure.into_error("redis", "append");
        match row.check_append(hold, seq, entries, next) {
            Append::Fenced => Ok(Appended::Fenced),
            Append::Conflict => Ok(Appended::Conflict { next: row.entries }),
            Append::Compare => Ok(run_row::repeated(&row, &read_entries(stored).map_err(failed)?, entries)),
            Append::Add => Err(failed(disagree())),
        }
    }

    async fn renew(&self, hold: &Hold, lease: Duration) -> Result<Renewed, StoreError> {
        let mut script = self.of_hold(&self.inner.scripts.renew_run, hold);
        script.arg(time::micros(lease));
        let answer = self.ask("renew", &script).await?;
        if !answer.done {
            return Ok(Renewed::Fenced);
        }
        Ok(Renewed::Held { cancel_requested: answer.cancel_requested() })
    }

    async fn load(&self, id: &RunId) -> Result<Option<Run>, StoreError> {
        let answer = self.ask("load", &self.of_run(&self.inner.scripts.load, id)).await?;
        let Some((row, [input, entries @ ..])) = answer.run()? else { return Ok(None) };
        let read = || {
            let input = input.as_deref().unwrap_or_default();
            let (input, sum) = input.split_last_chunk::<8>().ok_or_else(|| Failure::damaged("the input"))?;
            if stored::body_sum(input) != i64::from_le_bytes(*sum) {
                return Err(Failure::damaged("the input"));
            }
            let entries = read_entries(entries)?;
            if !entries.iter().map(|entry| entry.seq).eq(0..row.entries) {
                return Err(Failure::damaged("the journal"));
            }
            Ok(Run { info: row.info(answer.now), input: input.to_vec().into(), entries })
        };
        read().map(Some).map_err(|failure: Failure| failure.into_error("redis", "load"))
    }

    async fn peek(&self, id: &RunId) -> Result<Option<Peek>, StoreError> {
        let answer = self.ask("peek", &self.of_run(&self.inner.scripts.peek, id)).await?;
        let Some((row, last)) = answer.run()? else { return Ok(None) };
        let failed = |failure: Failure| failure.into_error("redis", "peek");
        let last = read_entries(last).map_err(failed)?.pop();
        let entries = last.as_ref().map_or(0, |last| last.seq + 1);
        if row.kind.is_over() && entries != row.entries {
            return Err(failed(Failure::damaged("the journal")));
        }
        Ok(Some(Peek { info: row.info(answer.now), last }))
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        let mut from = match &query.after {
            Some(Cursor { created, id }) => format!("({}", place(time::from_system(*created), id)),
            None => "+".to_owned(),
        };
        let mut listed = Vec::new();
        while listed.len() <= query.page_size() {
            let mut script = self.inner.scripts.list.key(self.runs_key());
            script.arg(&from).arg(CHUNK);
            let answer = self.ask("list", &script).await?;
            let runs = answer.rest.chunks_exact(1 + RUN);
            let last = runs.len() < CHUNK;
            for run in runs {
                let at = std::str::from_utf8(run[0].as_deref().unwrap_or_default()).unwrap_or_default();
                from = format!("({at}");
                match codec::read_run(&run[1..]) {
                    Ok(row) if query.matches(&row.info(answer.now)) => listed.push(Ok(row.info(answer.now))),
                    Ok(_) => {}
                    Err(failure) => {
                        let place = placed(at).ok_or_else(|| failure.into_error("redis", "list"))?;
                        listed.push(Err(place));
                    }
                }
            }
            if last {
                break;
            }
        }
        Ok(Page::with_damaged(listed, query))
    }

    async fn control(&self, id: &RunId, command: Command) -> Result<Option<RunInfo>, StoreError> {
        let mut script = self.of_run(&self.inner.scripts.control, id);
        script.arg(match command {
            Command::Resume => 0,
            Command::Cancel => 1,
            Command::Abandon => 2,
        });
        let answer = self.ask("control", &script).await?;
        Ok(answer.run()?.map(|(row, _)| row.info(answer.now)))
    }

    async fn prune(&self, age: Duration, max: u32) -> Result<u64, StoreError> {
        let mut script = self.inner.scripts.prune.key(self.runs_key());
        script.arg(time::micros(age)).arg(max).arg(PRUNED_ENTRIES);
        let answer = self.invoke("prune", &script).await?;
        let pruned = number(answer.first().and_then(Option::as_deref));
        pruned.map_err(|failure| failure.into_error("redis", "prune"))
    }
}

impl Redis {
    /// What the keys of all journals begin with: one tag, since scripts need several of them at once.
    fn runs_key(&self) -> String {
        format!("{{{}:runs}}", self.inner.prefix)
    }

    fn of_run<'a>(&self, script: &'a Script, id: &RunId) -> ScriptInvocation<'a> {
        let mut script = script.key(self.runs_key());
        script.arg(id.as_str());
        script
    }

    fn of_hold<'a>(&self, script: &'a Script, hold: &Hold) -> ScriptInvocation<'a> {
        let mut script = self.of_run(script, &hold.id);
        script.arg(&stored::owner(hold.owner)[..]).arg(hold.epoch);
        script
    }

    async fn ask(&self, verb: &'static str, script: &ScriptInvocation<'_>) -> Result<Answer, StoreError> {
        let mut answer = self.invoke(verb, script).await?;
        let rest = answer.split_off(answer.len().min(2));
        let failed = |failure: Failure| failure.into_error("redis", verb);
        let outcome: u8 = number(answer.first().and_then(Option::as_deref)).map_err(failed)?;
        let now = number(answer.get(1).and_then(Option::as_deref)).map_err(failed)?;
        if outcome == 2 {
            return Err(failed(Failure::damaged("the run")));
        }
        Ok(Answer { verb, done: outcome == 1, now, rest })
    }
}

fn read_entries(values: &[Value]) -> Result<Vec<Entry>, Failure> {
    values.iter().flatten().map(|value| codec::read_entry(value)).collect()
}

/// A script saw the run as this process does, and decided otherwise: it is not of this release.
fn disagree() -> Failure {
    Failure::new(Fault::Internal, "the script and this process disagree about the run")
}

/// Where a run stands in the list: sixteen digits of the time, a colon, and its identity.
fn place(created: i64, id: &RunId) -> String {
    format!("{:016}:{id}", created.max(0))
}

/// What stands at such a place.
fn placed(place: &str) -> Option<Cursor> {
    let (created, id) = place.split_once(':')?;
    Some(Cursor { created: time::to_system(created.parse().ok()?), id: RunId::try_new(id).ok()? })
}
