use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use buttress_checkpoint::{StepState, StepView, Timeline};
use buttress_store::{Cursor, Run, RunInfo, Status};
use serde_json::{Value, json};

use crate::Failure;
use crate::args::STATUSES;

pub(crate) fn show(run: &Run, json: bool) -> Result<String, Failure> {
    let timeline = Timeline::of(run).map_err(|mismatch| Failure::from(&mismatch))?;
    if json {
        let mut value = info(&run.info);
        value["steps"] = timeline.steps.iter().map(step).collect();
        value["unwinding"] = json!(timeline.unwinding);
        value["panic"] = json!(timeline.panic);
        value["output"] = timeline.output.as_deref().map_or(Value::Null, raw);
        value["resumes"] = timeline.open().map(|step| json!(step.id.name.as_ref())).collect();
        return Ok(format!("{value}\n"));
    }
    let RunInfo { id, name, version, .. } = &run.info;
    let mut text = format!("{}\n", plain(&format!("{id}: {name} {version}, {}", status(&run.info))));
    if !timeline.steps.is_empty() {
        let mut rows = vec![["", "STEP", "STATE", "ATTEMPTS RECORDED", "TOOK", "KEY"].map(str::to_owned)];
        rows.extend(timeline.steps.iter().map(row));
        text.push_str(&table(&rows));
    }
    for step in &timeline.steps {
        if let Some(error) = &step.error {
            let _ = writeln!(text, "{}", plain(&format!("{}: {error}", step.id)));
        }
    }
    match run.info.recoveries {
        0 => {}
        1 => text.push_str("taken over once since its last entry\n"),
        times => {
            let _ = writeln!(text, "taken over {times} times since its last entry");
        }
    }
    if let Some(panic) = &timeline.panic {
        let _ = writeln!(text, "panicked: {}", plain(panic));
    }
    if let Some(output) = &timeline.output {
        let _ = writeln!(text, "ended with {}", plain(output));
    } else if !run.info.status.kind().is_over() {
        let mut open = timeline.open().map(|step| step.id.to_string());
        let after = timeline.steps.last().map(|step| format!("after {}", step.id));
        let place = open.next().or(after).unwrap_or_else(|| "at the beginning".to_owned());
        let _ =
            writeln!(text, "goes on {}{}", if timeline.unwinding { "undoing, " } else { "" }, plain(&place));
    }
    Ok(text)
}

fn row(step: &StepView) -> [String; 6] {
    let mark = match step.state {
        StepState::Done => "✓",
        StepState::Failed => "✗",
        StepState::Undone => "↩",
        _ => "…",
    };
    let number = if step.id.occurrence > 0 { format!(" #{}", step.id.occurrence) } else { String::new() };
    let name = match step.id.kind.as_str() {
        "step" => format!("{}{number}", step.id.name),
        kind => format!("{} ({kind}){number}", step.id.name),
    };
    let attempts = if step.attempts == 0 { String::new() } else { step.attempts.to_string() };
    let took = step.took.map(short).unwrap_or_default();
    let key = step.key.as_deref().unwrap_or_default().to_owned();
    [mark.to_owned(), name, step.state.as_str().to_owned(), attempts, took, key]
}

fn step(step: &StepView) -> Value {
    let until = match step.state {
        StepState::Retrying(until) | StepState::Sleeping(until) => Some(seconds(until)),
        _ => None,
    };
    json!({
        "kind": step.id.kind.as_str(),
        "name": step.id.name.as_ref(),
        "occurrence": step.id.occurrence,
        "ordinal": step.id.ordinal,
        "state": step.state.as_str(),
        "until": until,
        "attempts": step.attempts,
        "took_seconds": step.took.map(|took| took.as_secs_f64()),
        "at": seconds(step.at),
        "key": step.key.as_deref(),
        "error": step.error.as_deref().map(raw),
    })
}

fn raw(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

pub(crate) fn info(info: &RunInfo) -> Value {
    let (reason, until) = match &info.status {
        Status::Paused(reason) | Status::Parked(reason) => (Some(reason.as_ref()), None),
        Status::Sleeping { until } => (None, Some(seconds(*until))),
        _ => (None, None),
    };
    json!({
        "id": info.id.as_str(),
        "workflow": info.name.as_ref(),
        "version": info.version,
        "status": word(info),
        "reason": reason,
        "until": until,
        "cancel_requested": info.cancel_requested,
        "parent": info.parent.as_ref().map(buttress_store::RunId::as_str),
        "worker": info.worker.as_ref(),
        "lease_seconds": info.lease.map(|lease| lease.as_secs_f64()),
        "recoveries": info.recoveries,
        "entries": info.entries,
        "created": seconds(info.created),
        "changed": seconds(info.changed),
    })
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn word(info: &RunInfo) -> &'static str {
    let kind = info.status.kind();
    STATUSES.iter().find(|(_, known)| *known == kind).map_or("", |(name, _)| name)
}

/// Where a list goes on after a run, as `--after` takes it.
pub(crate) fn place(cursor: &Cursor) -> String {
    let micros = cursor.created.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    format!("{micros}:{}", cursor.id)
}

/// One line without what a terminal would obey, such as what others gave as names and reasons.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for char in text.chars() {
        // Control characters, and those that change the direction of what follows.
        if char.is_control() || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            plain.extend(char.escape_default());
        } else {
            plain.push(char);
        }
    }
    plain
}

/// The status in words.
pub(crate) fn status(info: &RunInfo) -> String {
    status_with(info, usize::MAX)
}

/// The status in words, and of its reason no more than fits into a column.
pub(crate) fn in_list(info: &RunInfo) -> String {
    status_with(info, 40)
}

fn status_with(info: &RunInfo, reason_chars: usize) -> String {
    let mut text = match &info.status {
        Status::Paused(reason) | Status::Parked(reason) => {
            let more = if reason.chars().nth(reason_chars).is_some() { "…" } else { "" };
            let reason: String = reason.chars().take(reason_chars).collect();
            format!("{}: {reason}{more}", word(info))
        }
        Status::Sleeping { until } => {
            format!("sleeping for {}", short(until.duration_since(info.now).unwrap_or_default()))
        }
        Status::Running if info.lease.is_none() => "running, waits for a worker".to_owned(),
        _ => word(info).to_owned(),
    };
    if info.cancel_requested && !info.status.kind().is_over() {
        text.push_str(", to be cancelled");
    }
    text
}

pub(crate) fn short(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds @ 1..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// Columns, each as wide as its widest cell.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| plain(cell))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", line.trim_end());
        text
    })
}

#[cfg(test)]
mod tests {
    use buttress_store::{Fingerprint, RunId};

    use super::*;

    fn run(status: Status, recoveries: u32) -> Run {
        let info = RunInfo {
            id: RunId::try_new("order-42").unwrap(),
            name: "order".into(),
            version: 1,
            fingerprint: Fingerprint::new([0; 32]),
            parent: None,
            status,
            cancel_requested: true,
            epoch: 3,
            worker: "host".into(),
            lease: None,
            recoveries,
            entries: 0,
            created: UNIX_EPOCH,
            changed: UNIX_EPOCH,
            now: UNIX_EPOCH,
        };
        Run { info, input: Default::default(), entries: Vec::new() }
    }

    #[test]
    fn a_long_reason_is_cut_in_a_list_and_whole_where_the_run_is_shown() {
        let reason = "expected step `charge` and found step `ship`, ü".repeat(9);
        let run = run(Status::Paused(reason.clone().into()), 0);
        let listed = in_list(&run.info);
        assert!(
            listed.chars().count() <= 66 && listed.starts_with("paused: expected step `charge`"),
            "{listed}"
        );
        assert!(listed.ends_with("…, to be cancelled"), "{listed}");
        assert!(show(&run, false).unwrap().contains(&reason));
        let short = self::run(Status::Parked("see why".into()), 0);
        assert_eq!(in_list(&short.info), "parked: see why, to be cancelled");
    }

    #[test]
    fn attempts_that_a_crash_cut_off_are_not_recorded_and_that_is_said() {
        let taken = |times| show(&run(Status::Running, times), false).unwrap();
        assert!(!taken(0).contains("taken over"));
        assert!(taken(2).contains("taken over 2 times since its last entry"), "{}", taken(2));
        assert!(taken(1).contains("taken over once since its last entry"), "{}", taken(1));
    }

    #[test]
    fn what_others_wrote_neither_breaks_the_line_nor_reaches_the_terminal() {
        let name = "a\u{1b}[2J\nb\u{9b}\u{202e}ü✓";
        let rows = [[name.to_owned(), "x".to_owned()], ["long enough".to_owned(), "y".to_owned()]];
        let table = table(&rows);
        assert_eq!(table.lines().count(), 2, "{table:?}");
        assert!(table.starts_with("a\\u{1b}[2J\\nb\\u{9b}\\u{202e}ü✓  x\n"), "{table}");
    }
}
