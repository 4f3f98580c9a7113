use std::ffi::OsString;
use std::time::{Duration, UNIX_EPOCH};

use buttress_store::{Cursor, RunId, StatusKind};
use lexopt::{Arg, Parser, ValueExt};

use crate::Failure;

pub(crate) const HELP: &str = "\
buttress [--store URL] [--json] runs <command>
buttress --help | --version

  list [--status S]… [--workflow NAME] [--limit N] [--after PLACE]
                     the youngest runs first, a hundred unless told otherwise; S is running, sleeping, paused, parked,
                     done, failed or cancelled; if there are more it says after which place they come
  show ID            its steps with state, attempts, durations and keys, and where it goes on
  resume ID          lets a paused or parked run go on, and wakes one that sleeps
  cancel ID [--force]
                     stops a run before its next step, and undoes what can be undone; nothing if it is over;
                     with --force it is over at once, and nothing is undone: for a run whose code is gone
  retry-from ID STEP [--occurrence N] [--as NEW-ID] [--fresh-keys]
                     begins a run that has done what this one had before the step; a halted run is over then
  prune --older-than AGE
                     deletes runs that have been over for longer, e.g. 30d, 12h, 90m, 10s

The store is `sqlite:PATH`, `postgres://…` or `redis://…`, or what BUTTRESS_STORE says. The application may run meanwhile.
With --json each command prints one JSON value.
";

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Help,
    Version,
    Run { store: Option<String>, json: bool, command: Command },
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    List { statuses: Vec<StatusKind>, workflow: Option<String>, limit: usize, after: Option<Cursor> },
    Show(RunId),
    Resume(RunId),
    Cancel { id: RunId, force: bool },
    RetryFrom { id: RunId, step: String, occurrence: u32, new: Option<RunId>, fresh_keys: bool },
    Prune(Duration),
}

#[derive(Default)]
struct Options {
    statuses: Vec<StatusKind>,
    workflow: Option<String>,
    limit: Option<usize>,
    after: Option<Cursor>,
    occurrence: u32,
    new: Option<RunId>,
    fresh_keys: bool,
    force: bool,
    older_than: Option<Duration>,
}

pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, Failure> {
    let mut parser = Parser::from_args(arguments);
    let mut store = std::env::var("BUTTRESS_STORE").ok();
    let (mut json, mut options, mut words) = (false, Options::default(), Vec::new());
    let wrong = |error: lexopt::Error| Failure::usage(error.to_string());
    while let Some(argument) = parser.next().map_err(wrong)? {
        if let Arg::Value(word) = argument {
            words.push(word.string().map_err(wrong)?);
            continue;
        }
        let flag = match &argument {
            Arg::Long(name) => (*name).to_owned(),
            Arg::Short(name) => name.to_string(),
            Arg::Value(_) => String::new(),
        };
        match flag.as_str() {
            "json" => json = true,
            "fresh-keys" => options.fresh_keys = true,
            "force" => options.force = true,
            "h" | "help" => return Ok(Parsed::Help),
            "V" | "version" => return Ok(Parsed::Version),
            "store" | "status" | "workflow" | "limit" | "after" | "occurrence" | "as" | "older-than" => {
                let value = parser.value().and_then(ValueExt::string).map_err(wrong)?;
                match flag.as_str() {
                    "store" => store = Some(value),
                    "status" => options.statuses.push(status(&value)?),
                    "workflow" => options.workflow = Some(value),
                    "limit" => options.limit = Some(number("limit", &value)?),
                    "after" => options.after = Some(place(&value)?),
                    "occurrence" => options.occurrence = number("occurrence", &value)?,
                    "as" => options.new = Some(id(&value)?),
                    _ => options.older_than = Some(age(&value)?),
                }
            }
            other => {
                return Err(Failure::usage(format!("there is no option `{other}`; see `buttress --help`")));
            }
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match &words[..] {
        [] | ["help"] => Parsed::Help,
        words => Parsed::Run { store, json, command: command(words, options)? },
    })
}

fn command(words: &[&str], options: Options) -> Result<Command, Failure> {
    let Options { statuses, workflow, limit, after, occurrence, new, fresh_keys, force, older_than } =
        options;
    Ok(match words {
        ["runs", "list"] => Command::List { statuses, workflow, limit: limit.unwrap_or(100), after },
        ["runs", "show", run] => Command::Show(id(run)?),
        ["runs", "resume", run] => Command::Resume(id(run)?),
        ["runs", "cancel", run] => Command::Cancel { id: id(run)?, force },
        ["runs", "retry-from", run, step] => {
            Command::RetryFrom { id: id(run)?, step: (*step).to_owned(), occurrence, new, fresh_keys }
        }
        ["runs", "prune"] => Command::Prune(older_than.ok_or_else(|| {
            Failure::usage("prune what? `--older-than 30d` keeps what ended within the last 30 days")
        })?),
        _ => return Err(Failure::usage(format!("there is no command `{}`\n\n{HELP}", words.join(" ")))),
    })
}

fn id(text: &str) -> Result<RunId, Failure> {
    RunId::try_new(text).map_err(|error| Failure::usage(error.to_string()))
}

fn number<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| Failure::usage(format!("`--{what}` takes a number, and not `{text}`")))
}

pub(crate) const STATUSES: [(&str, StatusKind); 7] = [
    ("running", StatusKind::Running),
    ("sleeping", StatusKind::Sleeping),
    ("paused", StatusKind::Paused),
    ("parked", StatusKind::Parked),
    ("done", StatusKind::Done),
    ("failed", StatusKind::Failed),
    ("cancelled", StatusKind::Cancelled),
];

fn status(text: &str) -> Result<StatusKind, Failure> {
    let known = STATUSES.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind);
    let all = STATUSES.map(|(name, _)| name).join(", ");
    known.ok_or_else(|| Failure::usage(format!("there is no status `{text}`; there are {all}")))
}

/// As [`show::place`](crate::show::place) writes it.
fn place(text: &str) -> Result<Cursor, Failure> {
    let read = || {
        let (micros, run) = text.split_once(':')?;
        let created = UNIX_EPOCH.checked_add(Duration::from_micros(micros.parse().ok()?))?;
        Some(Cursor { created, id: RunId::try_new(run).ok()? })
    };
    read().ok_or_else(|| {
        Failure::usage(format!("`{text}` is no place; `runs list` prints one if there are more"))
    })
}

fn age(text: &str) -> Result<Duration, Failure> {
    let wrong = || Failure::usage(format!("`{text}` is no age; 30d, 12h, 90m and 10s are"));
    let unit = match text.chars().last() {
        Some('d') => 86_400,
        Some('h') => 3600,
        Some('m') => 60,
        Some('s') => 1,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    count.checked_mul(unit).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Parsed, Failure> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn parsed(line: &str) -> Result<Option<Command>, Failure> {
        Ok(match read(line)? {
            Parsed::Run { command, .. } => Some(command),
            Parsed::Help | Parsed::Version => None,
        })
    }

    #[test]
    fn commands_are_read_and_wrong_ones_refused_with_a_hint() {
        assert_eq!(
            parsed("runs prune --older-than 2d").unwrap(),
            Some(Command::Prune(Duration::from_secs(172_800)))
        );
        let list = parsed("runs list --status done --status failed --limit 5").unwrap();
        let statuses = vec![StatusKind::Done, StatusKind::Failed];
        assert_eq!(list, Some(Command::List { statuses, workflow: None, limit: 5, after: None }));
        let after = Some(Cursor { created: UNIX_EPOCH + Duration::from_micros(17), id: id("a:b").unwrap() });
        assert_eq!(after.as_ref().map(crate::show::place).unwrap(), "17:a:b");
        let list = parsed("runs list --after 17:a:b").unwrap();
        assert_eq!(list, Some(Command::List { statuses: Vec::new(), workflow: None, limit: 100, after }));
        assert_eq!(read("runs list --help").unwrap(), Parsed::Help);
        assert_eq!(read("-V").unwrap(), Parsed::Version);
        for wrong in [
            "runs prune",
            "runs prune --older-than soon",
            "runs lost",
            "runs list --status x",
            "runs list --after a",
            "runs list --after 1:",
            "runs list --limit -1",
            "runs show --depth",
        ] {
            assert!(parsed(wrong).unwrap_err().is_usage(), "{wrong}");
        }
    }
}
