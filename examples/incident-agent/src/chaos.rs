//! What goes wrong: what the embedded vendors do instead of answering, a schedule with rules for each, and where the agent is
//! killed.

use std::path::Path;

use buttress_chaos::{ChaosLayer, ChaosSchedule, Http};
use serde::{Deserialize, Serialize};

use crate::crash::Point;
use crate::input::{BadInput, list, read};
use crate::vendors::Vendor;

/// Rules for each vendor, one without rules answers as it should; and at which points the agent is killed, one after the other.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub(crate) struct Chaos {
    name: String,
    schedule: ChaosSchedule,
    killed: Vec<Point>,
}

/// What a file may say of the agent, after all that it says of the vendors.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfAgent {
    agent: Killed,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Killed {
    killed: Vec<String>,
}

/// Chaos as another process is told of it.
#[derive(Serialize, Deserialize)]
struct Written {
    name: String,
    toml: String,
}

impl From<Chaos> for Written {
    fn from(Chaos { name, schedule, killed }: Chaos) -> Self {
        let agent = Killed { killed: killed.iter().map(ToString::to_string).collect() };
        let agent = toml::to_string(&OfAgent { agent }).expect("points are text");
        Self { name, toml: format!("{}\n{agent}", schedule.to_toml()) }
    }
}

impl TryFrom<Written> for Chaos {
    type Error = BadInput;

    fn try_from(Written { name, toml }: Written) -> Result<Self, BadInput> {
        Self::parse(&name, &toml)
    }
}

/// The schedules that are built in, by name.
const BUNDLED: [(&str, &str); 9] = [
    ("none", "version = 1"),
    ("default", include_str!("../chaos/default.toml")),
    ("datadog-down", include_str!("../chaos/datadog-down.toml")),
    ("logs-slow", include_str!("../chaos/logs-slow.toml")),
    ("pagerduty-throttled", include_str!("../chaos/pagerduty-throttled.toml")),
    ("aws-lost-ack", include_str!("../chaos/aws-lost-ack.toml")),
    ("all-down", include_str!("../chaos/all-down.toml")),
    ("flapping", include_str!("../chaos/flapping.toml")),
    ("killed-ten-times", include_str!("../chaos/killed-ten-times.toml")),
];

impl Chaos {
    /// By name, or from a file.
    pub(crate) fn load(which: &Path) -> Result<Self, BadInput> {
        let bundled = |name: &str| BUNDLED.iter().find(|(bundled, _)| *bundled == name);
        if let Some((name, text)) = which.to_str().and_then(bundled) {
            return Self::parse(name, text);
        }
        let names = list(&BUNDLED.map(|(name, _)| name));
        let text = read(which, &format!("give {names}, or the path of a TOML file"))?;
        Self::parse(&which.display().to_string(), &text)
    }

    fn parse(file: &str, text: &str) -> Result<Self, BadInput> {
        // The lines of a schedule keep their numbers.
        let (text, of_agent) = text.find("\n[agent]\n").map_or((text, ""), |at| text.split_at(at));
        let killed = points(file, of_agent)?;
        let schedule = ChaosSchedule::parse(text).map_err(|error| {
            let line = error.line().map_or_else(String::new, |line| format!("line {line}: "));
            let problem = format!("{line}{}", error.reason());
            BadInput::new(file, problem, "correct that line; the README says what a schedule may hold")
        })?;
        let known = Vendor::ALL.map(Vendor::as_str);
        if let Some(layer) = schedule.layers().find(|layer| !known.contains(layer)) {
            let problem = format!("`layers.{layer}` is not known here");
            return Err(BadInput::new(file, problem, format!("use {}", list(&known))));
        }
        if let Some(proxy) = schedule.proxies().next() {
            let problem = format!("`proxies.{proxy}` is not known here");
            return Err(BadInput::new(file, problem, "remove it: there is no proxy before the vendors"));
        }
        let chaos = Self { name: file.to_owned(), schedule, killed };
        for vendor in Vendor::ALL {
            let bad =
                |error| BadInput::new(file, format!("`layers.{}`: {error}", vendor.as_str()), "correct it");
            chaos.build(vendor).map_err(bad)?;
        }
        Ok(chaos)
    }

    /// Whether somebody has chosen it.
    pub(crate) fn is_own(&self) -> bool {
        !matches!(self.name.as_str(), "none" | "default")
    }

    /// What went into it: the file, or the name of one that is built in.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the agent is killed, in this order.
    pub(crate) fn killed(&self) -> &[Point] {
        &self.killed
    }

    /// Whether it has something for this vendor to do.
    pub(crate) fn concerns(&self, vendor: Vendor) -> bool {
        !self.schedule.rules(vendor.as_str()).is_empty()
    }

    /// What a vendor does, in words; `None` if it has no rules.
    pub(crate) fn describe(&self, vendor: Vendor) -> Option<String> {
        let rules = self.schedule.rules(vendor.as_str());
        let words = rules.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        (!rules.is_empty()).then_some(words)
    }

    /// The rules of one vendor, from their beginning.
    pub(crate) fn layer(&self, vendor: Vendor) -> ChaosLayer<Http> {
        self.build(vendor).expect("rules are checked when they are read")
    }

    /// Only embedded vendors have it, so a release build may, too.
    fn build(&self, vendor: Vendor) -> Result<ChaosLayer<Http>, buttress::ConfigError> {
        ChaosLayer::http(vendor.as_str(), self.schedule.config(vendor.as_str()).allow_in_release())
    }
}

fn points(file: &str, of_agent: &str) -> Result<Vec<Point>, BadInput> {
    if of_agent.is_empty() {
        return Ok(Vec::new());
    }
    let bad = |error: toml::de::Error| {
        BadInput::new(
            file,
            format!("`agent`: {}", error.message()),
            "give `killed`, a list of STEP:before or STEP:after",
        )
    };
    let OfAgent { agent } = toml::from_str(of_agent).map_err(bad)?;
    agent.killed.iter().map(|point| Point::parse(&format!("{file}: `agent.killed`"), point)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_that_ships_is_built_in_and_can_be_read() {
        let folder = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("chaos")).unwrap();
        let mut files: Vec<_> = folder.map(|file| file.unwrap().path()).collect();
        files.sort();
        let stems: Vec<_> = files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect();
        let mut bundled = BUNDLED.map(|(name, _)| name)[1..].to_vec();
        bundled.sort_unstable();
        assert_eq!(stems, bundled);
        for name in stems {
            let chaos = Chaos::load(Path::new(name)).unwrap();
            let concerns = Vendor::ALL.into_iter().any(|vendor| chaos.concerns(vendor));
            assert!(concerns || !chaos.killed().is_empty(), "{name}");
            let told = serde_json::to_string(&chaos).unwrap();
            let heard: Chaos = serde_json::from_str(&told).unwrap();
            assert_eq!(
                (heard.name, heard.schedule, heard.killed),
                (chaos.name, chaos.schedule, chaos.killed)
            );
        }
        assert!(!Chaos::load(Path::new("none")).unwrap().concerns(Vendor::Datadog));
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        for (text, expected) in [
            ("version = 1\n[[layers.gcp]]\nfault = \"hang\"", "x.toml: `layers.gcp` is not known here"),
            ("version = 1\n[[proxies.aws]]\ntype = \"timeout\"", "x.toml: `proxies.aws` is not known here"),
            (
                "version = 1\n[[layers.aws]]\nfault = \"fog\"",
                "x.toml: line 3: in `layers.aws[0]`, `fault` is \"fog\"",
            ),
            (
                "version = 1\n[[layers.aws]]\nfault = \"status\"\nstatus = 99",
                "x.toml: `layers.aws`: `status` is 99",
            ),
            ("{}", "x.toml: line 1: "),
            ("version = 1\n[agent]\nkilled = [\"reboot\"]", "x.toml: `agent.killed`: \"reboot\" is no step"),
            ("version = 1\n[agent]\nshot = []", "x.toml: `agent`: unknown field `shot`"),
        ] {
            let error = Chaos::parse("x.toml", text).unwrap_err().to_string();
            assert!(error.starts_with(expected) && error.contains("\n  fix: "), "{error}");
        }
    }
}
