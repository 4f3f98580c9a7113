//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value, ValueExt};

use crate::crash::Crash;
use crate::problem::Problem;

pub(crate) const HELP: &str = "\
migration-agent applies SQL migrations to PostgreSQL or SQLite, each once, whatever is killed or cut off meanwhile.

Usage: migration-agent COMMAND [OPTIONS]

Commands:
  plan               what `up` would do: order, SQL that is not understood, and a rehearsal that is rolled back
  up                 apply what is pending, or go on with what was interrupted
  down N             undo the last N that were applied
  status             what is applied and what is pending
  verify             whether the files are still what was applied

Options:
  --database-url URL        sqlite:PATH or postgres://… [default: $DATABASE_URL, or sqlite:app.db]
  --migrations DIR          the files NNN_name.sql and NNN_name.down.sql [default: migrations]
  --to ID                   `up` and `plan`: no further than this one
  --lock-timeout TIME       how long a statement waits for a lock [default: 5s]
  --statement-timeout TIME  how long a statement may take [default: 5min]
  --retries N               how often a step is tried again when the connection fails or a lock is not had [default: 6]
  --lease TIME              after how long without a sign of life another agent takes over [default: 10s]
  --no-wait                 leave when another agent is at work
  --resume                  `up` and `down`: go on with a run that was halted
  --statsd HOST:PORT        tell this StatsD what happens
  --notify URL              tell this HTTP endpoint what happens, as JSON
  --history-copy FILE       the last good copy of the history [default: beside the SQLite file, or migration-history.json]
  --report FORMAT           text, or json: one object on standard output, the rest on standard error [default: text]
  --crash-at ID[:WHEN]      for rehearsals: end with SIGKILL before its SQL, during (not committed) or after [default: during]
  -h, --help                print this

Exit status: 0 done, or nothing to do; 1 the database refused a migration; 2 the arguments or files cannot be used;
3 files are not what was applied; 4 the database was not available until the retries ended: run it again; 5 another
agent is at work (--no-wait); 6 a person has to look; 130 interrupted.";

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Plan,
    Up,
    Down(usize),
    Status,
    Verify,
}

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) command: Command,
    pub(crate) database: String,
    pub(crate) migrations: PathBuf,
    pub(crate) to: Option<String>,
    pub(crate) lock_timeout: Duration,
    pub(crate) statement_timeout: Duration,
    pub(crate) retries: u32,
    pub(crate) lease: Duration,
    pub(crate) wait: bool,
    pub(crate) resume: bool,
    pub(crate) statsd: Option<String>,
    pub(crate) notify: Option<String>,
    pub(crate) history_copy: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) crash: Crash,
}

impl Command {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Up => "up",
            Self::Down(_) => "down",
            Self::Status => "status",
            Self::Verify => "verify",
        }
    }
}

/// Reads the arguments; `None` if they ask for help.
pub(crate) fn parse(mut parser: lexopt::Parser, database: Option<String>) -> Result<Option<Args>, Problem> {
    let mut args = Args::with(database.unwrap_or_else(|| "sqlite:app.db".to_owned()));
    let (mut command, mut number) = (None, None);
    while let Some(argument) = parser.next().map_err(|error| unusable(&error))? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long(option) => {
                let option = format!("--{option}");
                args.option(&option, &mut parser)?;
            }
            Value(value) if command.is_none() => command = Some(value.to_string_lossy().into_owned()),
            Value(value) if command.as_deref() == Some("down") && number.is_none() => {
                number = Some(value.parse().map_err(|error| unusable(&error))?);
            }
            other => return Err(unusable(&other.unexpected())),
        }
    }
    args.command = match (command.as_deref(), number) {
        (Some("plan"), _) => Command::Plan,
        (Some("up"), _) => Command::Up,
        (Some("down"), Some(number)) => Command::Down(number),
        (Some("down"), None) => {
            return Err(Problem::input("down: how many?").fix("`down 1` undoes the last one"));
        }
        (Some("status"), _) => Command::Status,
        (Some("verify"), _) => Command::Verify,
        (Some(other), _) => return Err(Problem::input(format!("{other} is no command")).fix(SEE_HELP)),
        (None, _) => return Err(Problem::input("there is no command").fix(SEE_HELP)),
    };
    Ok(Some(args))
}

impl Args {
    fn with(database: String) -> Self {
        Self {
            command: Command::Status,
            database,
            migrations: PathBuf::from("migrations"),
            to: None,
            lock_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(300),
            retries: 6,
            lease: Duration::from_secs(10),
            wait: true,
            resume: false,
            statsd: None,
            notify: None,
            history_copy: None,
            json: false,
            crash: Crash::default(),
        }
    }

    fn option(&mut self, option: &str, parser: &mut lexopt::Parser) -> Result<(), Problem> {
        match option {
            "--no-wait" => self.wait = false,
            "--resume" => self.resume = true,
            _ if !TAKES_A_VALUE.contains(&option) => {
                return Err(Problem::input(format!("{option} is no option")).fix(SEE_HELP));
            }
            _ => {
                let value = parser.value().and_then(ValueExt::string).map_err(|error| unusable(&error))?;
                self.set(option, value)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, option: &str, value: String) -> Result<(), Problem> {
        let wrong = |why: String| Problem::input(format!("{option} {value}: {why}")).fix(SEE_HELP);
        let time = || duration(&value).map_err(wrong);
        match option {
            "--migrations" => self.migrations = value.into(),
            "--to" => self.to = Some(value),
            "--lock-timeout" => self.lock_timeout = time()?,
            "--statement-timeout" => self.statement_timeout = time()?,
            "--retries" => self.retries = value.parse().map_err(|_| wrong("is no number".to_owned()))?,
            "--lease" => self.lease = time()?,
            "--statsd" => self.statsd = Some(value),
            "--notify" => self.notify = Some(value),
            "--history-copy" => self.history_copy = Some(value.into()),
            "--report" => {
                self.json = match &*value {
                    "text" => false,
                    "json" => true,
                    _ => return Err(wrong("is no format: text or json".to_owned())),
                }
            }
            "--crash-at" => self.crash = Crash::parse(&value).map_err(wrong)?,
            _ => self.database = value,
        }
        Ok(())
    }
}

const TAKES_A_VALUE: [&str; 12] = [
    "--database-url",
    "--migrations",
    "--to",
    "--lock-timeout",
    "--statement-timeout",
    "--retries",
    "--lease",
    "--statsd",
    "--notify",
    "--history-copy",
    "--report",
    "--crash-at",
];

const SEE_HELP: &str = "run with --help to see the commands and options";

fn unusable(error: &lexopt::Error) -> Problem {
    Problem::input(error.to_string()).fix(SEE_HELP)
}

/// A time such as `500ms`, `5s` or `10min`, longer than zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("is no time: {error}"))?;
    if time.is_zero() { Err("must be longer than zero".to_owned()) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Option<Args>, Problem> {
        parse(lexopt::Parser::from_args(arguments), None)
    }

    #[test]
    fn a_command_and_its_options() {
        let args = parsed(&["down", "2", "--database-url", "sqlite:x.db", "--lease=2s", "--no-wait"])
            .unwrap()
            .unwrap();
        assert_eq!((args.command, &*args.database, args.wait), (Command::Down(2), "sqlite:x.db", false));
        assert_eq!((args.lease, args.retries), (Duration::from_secs(2), 6));
        assert!(parsed(&["up", "--help"]).unwrap().is_none());
    }

    #[test]
    fn every_mistake_is_named_with_its_fix() {
        for (arguments, expected) in [
            (&[][..], "there is no command"),
            (&["drop"], "drop is no command"),
            (&["down"], "down: how many?"),
            (&["up", "3"], "unexpected argument \"3\""),
            (&["up", "--speed", "9"], "--speed is no option"),
            (&["up", "--lease", "0s"], "--lease 0s: must be longer than zero"),
            (&["up", "--report", "xml"], "--report xml: is no format"),
            (&["up", "--crash-at", "3:later"], "--crash-at 3:later: "),
            (&["up", "--to"], "missing argument for option '--to'"),
        ] {
            let error = parsed(arguments).unwrap_err().to_string();
            assert!(error.starts_with(expected) && error.contains("\n  fix: "), "{error}");
        }
    }

    #[test]
    fn every_option_is_in_the_help() {
        assert!(TAKES_A_VALUE.iter().chain(&["--no-wait", "--resume"]).all(|option| HELP.contains(option)));
    }
}
