//! The command line, and the keys that come with it in the environment.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::{Long, Short, ValueExt};

use crate::clients::Pace;
use crate::crash::Point;
use crate::input::BadInput;
use crate::vendors::{Base, Vendor, aws, datadog, pagerduty, service};

pub(crate) const HELP: &str = "\
incident-agent handles an incident over HTTP while the vendors that it needs are failing: with Buttress, and then the
same without, to compare.

Usage: incident-agent [OPTIONS]

Options:
  --incident FILE      the incident: the body of a PagerDuty v3 webhook [default: a bundled one]
  --chaos SCHEDULE     what the embedded vendors suffer: none, default, datadog-down, logs-slow, pagerduty-throttled,
                       aws-lost-ack, all-down, flapping, killed-ten-times, or a TOML FILE [default: default]
  --run NAME           the run to begin, or to go on with [default: a new one]
  --store URL          where its journal is: sqlite:PATH, postgres://… or redis://… [default: a file in its folder]
  --crash-at POINT     dies by SIGKILL at STEP, STEP:before or STEP:after (what it does, and before that is recorded);
                       steps are gather, analyse, restart, clear_cache, scale, verify, note, resolve, escalate
  --crash-loop N       dies N times at random, and goes on each time
  --report FORMAT      text; json: one object on standard output, the timeline on standard error; svg FILE: draws the
                       timeline as well [default: text]
  --seed N             draws the same delays and the same crashes each time
  --folder DIR         where the ledgers of the embedded vendors are kept [default: in the system's temporary folder]
  --datadog-url URL    ask this Datadog; needs DD_API_KEY and DD_APP_KEY in the environment
  --aws-url URL        ask this ECS; needs AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION (and takes
                       AWS_SESSION_TOKEN)
  --service-url URL    ask this service about itself; needs SERVICE_TOKEN
  --pagerduty-url URL  tell this PagerDuty; needs PAGERDUTY_ROUTING_KEY
  -h, --help           print this

Vendors without a URL are embedded servers on this machine. With a URL of your own there is no run without Buttress,
since it would act on your systems a second time.

Exit status: 0 if the incident was handled, 1 if not, 2 if the input cannot be used.";

/// What to do.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) incident: Option<PathBuf>,
    pub(crate) chaos: PathBuf,
    pub(crate) report: Format,
    pub(crate) svg: Option<PathBuf>,
    pub(crate) crash_loop: Option<u32>,
    pub(crate) options: Options,
}

/// What a run is about, beside its incident.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) run: String,
    store: Option<String>,
    folder: PathBuf,
    pub(crate) crash_at: Option<Point>,
    /// Dies at the point after so many others: what `--crash-loop` tells its processes.
    pub(crate) crash_in: Option<u32>,
    pub(crate) seed: Option<u64>,
    pub(crate) targets: Targets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

/// The vendors that are real; the others are embedded.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    pub(crate) datadog: Option<datadog::Access>,
    pub(crate) aws: Option<aws::Access>,
    pub(crate) service: Option<service::Access>,
    pub(crate) pagerduty: Option<pagerduty::Access>,
}

impl Targets {
    pub(crate) fn is_real(&self, vendor: Vendor) -> bool {
        match vendor {
            Vendor::Datadog => self.datadog.is_some(),
            Vendor::Aws => self.aws.is_some(),
            Vendor::Service => self.service.is_some(),
            Vendor::PagerDuty => self.pagerduty.is_some(),
        }
    }

    pub(crate) fn all_embedded(&self) -> bool {
        !Vendor::ALL.iter().any(|vendor| self.is_real(*vendor))
    }

    pub(crate) fn pace(&self, vendor: Vendor) -> Pace {
        if self.is_real(vendor) { Pace::Production } else { Pace::Demonstration }
    }
}

impl Options {
    fn new() -> Self {
        // Short enough to be typed, and new each time.
        let key = buttress::idempotency::new_key();
        Self {
            run: format!("run-{}", &key[key.len() - 8..]),
            store: None,
            folder: std::env::temp_dir().join("incident-agent"),
            crash_at: None,
            crash_in: None,
            seed: None,
            targets: Targets::default(),
        }
    }

    /// Whether this process is to die at some point.
    pub(crate) fn has_a_point(&self) -> bool {
        self.crash_at.is_some() || self.crash_in.is_some()
    }

    /// What belongs to this run.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.join(&self.run)
    }

    /// Where its journal is.
    pub(crate) fn store_url(&self) -> String {
        let default = || format!("sqlite:{}", self.folder().join("journal.db").display());
        self.store.clone().unwrap_or_else(default)
    }
}

/// Reads the arguments; `None` if they ask for help. Keys are taken from the environment only for vendors that are real.
pub(crate) fn parse(
    mut parser: lexopt::Parser,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Args>, BadInput> {
    let mut args = Args {
        incident: None,
        chaos: PathBuf::from("default"),
        report: Format::Text,
        svg: None,
        crash_loop: None,
        options: Options::new(),
    };
    while let Some(argument) = parser.next().map_err(|error| unusable(&error))? {
        let option = match argument {
            Short('h') | Long("help") => return Ok(None),
            Long(option) => format!("--{option}"),
            other => return Err(unusable(&other.unexpected())),
        };
        let mut value = || parser.value().map_err(|error| unusable(&error));
        let Args { options, .. } = &mut args;
        match option.as_str() {
            "--incident" => args.incident = Some(value()?.into()),
            "--chaos" => args.chaos = value()?.into(),
            "--report" => match text(value()?)?.as_str() {
                "svg" => args.svg = Some(value()?.into()),
                format => args.report = Format::parse(format)?,
            },
            "--crash-loop" => args.crash_loop = Some(number(&option, value()?)?),
            "--run" => options.run = run_name(text(value()?)?)?,
            "--store" => options.store = Some(store(text(value()?)?)?),
            "--folder" => options.folder = value()?.into(),
            "--seed" => options.seed = Some(number(&option, value()?)?),
            "--crash-at" => options.crash_at = Some(Point::parse(&option, &text(value()?)?)?),
            "--crash-in" => options.crash_in = Some(number(&option, value()?)?),
            _ => target(&option, value, &mut options.targets, &environment)?,
        }
    }
    Ok(Some(args))
}

/// An option that makes a vendor real.
fn target(
    option: &str,
    mut value: impl FnMut() -> Result<OsString, BadInput>,
    targets: &mut Targets,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<(), BadInput> {
    let mut base = || Base::parse(option, &text(value()?)?);
    match option {
        "--datadog-url" => {
            targets.datadog = Some(datadog::Access::from_environment(base()?, environment)?);
        }
        "--aws-url" => targets.aws = Some(aws::Access::from_environment(base()?, environment)?),
        "--service-url" => {
            targets.service = Some(service::Access::from_environment(base()?, environment)?);
        }
        "--pagerduty-url" => {
            targets.pagerduty = Some(pagerduty::Access::from_environment(base()?, environment)?);
        }
        _ => return Err(BadInput::new(option, "is not an option", SEE_HELP)),
    }
    Ok(())
}

impl Format {
    fn parse(text: &str) -> Result<Self, BadInput> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(BadInput::new(
                "--report",
                format!("\"{other}\" is no format"),
                "use text, json or svg FILE",
            )),
        }
    }
}

/// It names a folder.
fn run_name(name: String) -> Result<String, BadInput> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(fits) {
        let fix = "use 1 to 64 letters, digits, `-`, `_` or `.`, and no `.` at the beginning";
        return Err(BadInput::new("--run", format!("\"{name}\" cannot be the name of a run"), fix));
    }
    Ok(name)
}

fn store(url: String) -> Result<String, BadInput> {
    const SCHEMES: [&str; 5] = ["sqlite", "postgres", "postgresql", "redis", "valkey"];
    if url.split_once(':').is_some_and(|(scheme, _)| SCHEMES.contains(&scheme)) {
        return Ok(url);
    }
    Err(BadInput::new("--store", "is the URL of no store", "give sqlite:PATH, postgres://… or redis://…"))
}

const SEE_HELP: &str = "run with --help to see the options";

fn text(value: OsString) -> Result<String, BadInput> {
    value.string().map_err(|error| unusable(&error))
}

fn number<N: std::str::FromStr>(option: &str, value: OsString) -> Result<N, BadInput> {
    let text = text(value)?;
    text.parse().map_err(|_| BadInput::new(option, format!("\"{text}\" is no number"), "give a whole number"))
}

fn unusable(error: &lexopt::Error) -> BadInput {
    BadInput::new("arguments", error, SEE_HELP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Option<Args>, BadInput> {
        let environment = |name: &str| (name != "DD_APP_KEY").then(|| format!("the-{name}"));
        parse(lexopt::Parser::from_args(arguments), environment)
    }

    #[test]
    fn without_arguments_all_is_embedded_and_the_default_is_run() {
        let args = parsed(&[]).unwrap().unwrap();
        assert!(args.incident.is_none() && args.options.targets.all_embedded());
        assert_eq!((args.chaos, args.report), (PathBuf::from("default"), Format::Text));
        assert!(parsed(&["--chaos", "none", "-h"]).unwrap().is_none());
    }

    #[test]
    fn a_url_makes_a_vendor_real() {
        let args = parsed(&["--aws-url=https://ecs.eu-west-1.amazonaws.com"]).unwrap().unwrap();
        assert_eq!(
            Vendor::ALL.map(|vendor| args.options.targets.is_real(vendor)),
            [false, true, false, false]
        );
        assert_eq!(args.options.targets.pace(Vendor::Aws), Pace::Production);
    }

    #[test]
    fn every_mistake_is_named_with_its_fix() {
        for (arguments, expected) in [
            (&["--speed", "9"][..], "--speed: is not an option"),
            (&["incident.json"][..], "arguments: unexpected argument \"incident.json\""),
            (&["--chaos"][..], "arguments: missing argument for option '--chaos'"),
            (&["--report", "xml"][..], "--report: \"xml\" is no format"),
            (&["--aws-url", "ecs"][..], "--aws-url: \"ecs\" does not begin with"),
            (
                &["--datadog-url", "https://api.datadoghq.com"][..],
                "DD_APP_KEY: is not set, and --datadog-url",
            ),
        ] {
            let error = parsed(arguments).unwrap_err().to_string();
            assert!(error.starts_with(expected) && error.contains("\n  fix: "), "{error}");
            assert!(!error.contains("the-DD_API_KEY"), "{error}");
        }
    }
}
