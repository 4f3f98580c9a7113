//! The command line, and the keys that come with it in the environment.

use std::path::PathBuf;

use lexopt::prelude::{Long, Short, ValueExt};

use crate::clients::Pace;
use crate::input::BadInput;
use crate::vendors::{Base, Vendor, aws, datadog, pagerduty};

pub(crate) const HELP: &str = "\
incident-agent handles an incident over HTTP while the vendors that it needs are failing: with Buttress, and then the
same without, to compare.

Usage: incident-agent [OPTIONS]

Options:
  --incident FILE      the incident: the body of a PagerDuty v3 webhook [default: a bundled one]
  --chaos SCHEDULE     what the embedded vendors suffer: none, default, or a TOML FILE [default: default]
  --report FORMAT      text, or json: one object on standard output, the timeline on standard error [default: text]
  --datadog-url URL    ask this Datadog; needs DD_API_KEY and DD_APP_KEY in the environment
  --aws-url URL        ask this ECS; needs AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION (and takes
                       AWS_SESSION_TOKEN)
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
    pub(crate) pagerduty: Option<pagerduty::Access>,
}

impl Targets {
    pub(crate) fn is_real(&self, vendor: Vendor) -> bool {
        match vendor {
            Vendor::Datadog => self.datadog.is_some(),
            Vendor::Aws => self.aws.is_some(),
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

/// Reads the arguments; `None` if they ask for help. Keys are taken from the environment only for vendors that are real.
pub(crate) fn parse(
    mut parser: lexopt::Parser,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Args>, BadInput> {
    let mut args = Args {
        incident: None,
        chaos: PathBuf::from("default"),
        report: Format::Text,
        targets: Targets::default(),
    };
    while let Some(argument) = parser.next().map_err(|error| unusable(&error))? {
        let option = match argument {
            Short('h') | Long("help") => return Ok(None),
            Long(option) => format!("--{option}"),
            other => return Err(unusable(&other.unexpected())),
        };
        let mut value = || parser.value().map_err(|error| unusable(&error));
        let text = |value: std::ffi::OsString| value.string().map_err(|error| unusable(&error));
        let mut base = || Base::parse(&option, &text(value()?)?);
        match option.as_str() {
            "--incident" => args.incident = Some(value()?.into()),
            "--chaos" => args.chaos = value()?.into(),
            "--report" => args.report = format(&text(value()?)?)?,
            "--datadog-url" => {
                args.targets.datadog = Some(datadog::Access::from_environment(base()?, &environment)?);
            }
            "--aws-url" => args.targets.aws = Some(aws::Access::from_environment(base()?, &environment)?),
            "--pagerduty-url" => {
                args.targets.pagerduty = Some(pagerduty::Access::from_environment(base()?, &environment)?);
            }
            _ => return Err(BadInput::new(&option, "is not an option", SEE_HELP)),
        }
    }
    Ok(Some(args))
}

fn format(text: &str) -> Result<Format, BadInput> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        other => Err(BadInput::new("--report", format!("\"{other}\" is no format"), "use text or json")),
    }
}

const SEE_HELP: &str = "run with --help to see the options";

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
        assert!(args.incident.is_none() && args.targets.all_embedded());
        assert_eq!((args.chaos, args.report), (PathBuf::from("default"), Format::Text));
        assert!(parsed(&["--chaos", "none", "-h"]).unwrap().is_none());
    }

    #[test]
    fn a_url_makes_a_vendor_real() {
        let args = parsed(&["--aws-url=https://ecs.eu-west-1.amazonaws.com"]).unwrap().unwrap();
        assert_eq!(Vendor::ALL.map(|vendor| args.targets.is_real(vendor)), [false, true, false]);
        assert_eq!(args.targets.pace(Vendor::Aws), Pace::Production);
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
