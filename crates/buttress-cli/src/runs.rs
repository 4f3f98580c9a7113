use std::fmt::Write;
use std::time::Duration;

use buttress_checkpoint::{ForkError, prune, retry_from};
use buttress_store::{Command as Control, JournalStore, Query, RunId, RunInfo};
use serde_json::json;

use crate::args::Command;
use crate::{Failure, show};

pub(crate) async fn run<S: JournalStore>(store: &S, json: bool, command: Command) -> Result<String, Failure> {
    match command {
        Command::List { statuses, workflow, limit, after } => {
            let query = Query { statuses, name: workflow.map(Into::into), after, ..Query::default() };
            list(store, json, query, limit).await
        }
        Command::Show(id) => {
            let run = store.load(&id).await.map_err(|error| Failure::from(&error))?;
            let run = run.ok_or_else(|| none(&id))?;
            show::show(&run, json)
        }
        Command::Resume(id) => control(store, json, &id, Control::Resume).await,
        Command::Cancel { id, force } => {
            control(store, json, &id, if force { Control::Abandon } else { Control::Cancel }).await
        }
        Command::RetryFrom { id, step, occurrence, new, fresh_keys } => {
            let new = match new {
                Some(new) => new,
                None => free(store, &id).await?,
            };
            let forked = retry_from(store, &id, (&step, occurrence), &new, fresh_keys).await;
            forked.map_err(|error| match error {
                ForkError::NotFound => none(&id),
                error => Failure::from(&error),
            })?;
            Ok(if json {
                format!("{}\n", json!({ "id": new.as_str(), "from": id.as_str(), "step": step }))
            } else {
                format!("`{new}` begins, with what `{id}` had done before `{step}`\n")
            })
        }
        Command::Prune(age) => {
            let pruned = prune(store, age).await.map_err(|error| Failure::from(&error))?;
            Ok(if json {
                format!("{}\n", json!({ "pruned": pruned }))
            } else {
                format!("{pruned} runs deleted\n")
            })
        }
    }
}

fn none(id: &RunId) -> Failure {
    Failure::new(format!("there is no run `{id}`"))
}

async fn list<S: JournalStore>(
    store: &S,
    json: bool,
    mut query: Query,
    limit: usize,
) -> Result<String, Failure> {
    let mut runs: Vec<RunInfo> = Vec::new();
    let mut damaged: Vec<RunId> = Vec::new();
    while runs.len() < limit {
        query.limit = u32::try_from(limit - runs.len()).unwrap_or(1000).min(1000);
        let page = store.list(&query).await.map_err(|error| Failure::from(&error))?;
        runs.extend(page.runs);
        damaged.extend(page.damaged);
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    let next = query.after.as_ref().map(show::place);
    if json {
        let runs: Vec<_> = runs.iter().map(show::info).collect();
        let damaged: Vec<_> = damaged.iter().map(RunId::as_str).collect();
        return Ok(format!("{}\n", json!({ "runs": runs, "damaged": damaged, "next": next })));
    }
    if runs.is_empty() && damaged.is_empty() {
        return Ok("no runs\n".to_owned());
    }
    let mut rows = vec![["ID", "WORKFLOW", "STATUS", "ENTRIES", "AGE", "WORKER"].map(str::to_owned)];
    rows.extend(runs.iter().map(|info| {
        let age = info.now.duration_since(info.created).unwrap_or(Duration::ZERO);
        let name = format!("{} {}", info.name, info.version);
        [
            info.id.to_string(),
            name,
            show::in_list(info),
            info.entries.to_string(),
            show::short(age),
            info.worker.to_string(),
        ]
    }));
    rows.extend(
        damaged.iter().map(|id| [&*show::plain(id.as_str()), "", "damaged", "", "", ""].map(str::to_owned)),
    );
    let mut text = show::table(&rows);
    if let Some(next) = next {
        let _ = writeln!(text, "… and more: --after '{}'", show::plain(&next));
    }
    Ok(text)
}

async fn control<S: JournalStore>(
    store: &S,
    json: bool,
    id: &RunId,
    command: Control,
) -> Result<String, Failure> {
    let info =
        store.control(id, command).await.map_err(|error| Failure::from(&error))?.ok_or_else(|| none(id))?;
    if json {
        return Ok(format!("{}\n", show::info(&info)));
    }
    let mut text = String::new();
    let _ = writeln!(text, "`{}`: {}", show::plain(id.as_str()), show::plain(&show::status(&info)));
    Ok(text)
}

/// An identity for a run that continues this one.
async fn free<S: JournalStore>(store: &S, id: &RunId) -> Result<RunId, Failure> {
    for number in 2..1000 {
        let new = RunId::try_new(format!("{id}~{number}")).map_err(|error| Failure::from(&error))?;
        if store.peek(&new).await.map_err(|error| Failure::from(&error))?.is_none() {
            return Ok(new);
        }
    }
    Err(Failure::usage("there are too many runs that continue this one; choose an identity with `--as`"))
}
