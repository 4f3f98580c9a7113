//! What the embedded vendors do instead of answering: a schedule with rules for each.

use std::path::Path;

use buttress_chaos::{ChaosLayer, ChaosSchedule, Http};
use serde::{Deserialize, Serialize};

use crate::input::{BadInput, list, read};
use crate::vendors::Vendor;

/// Rules for each vendor; one without rules answers as it should.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub(crate) struct Chaos {
    name: String,
    schedule: ChaosSchedule,
}

/// Chaos as another process is told of it.
#[derive(Serialize, Deserialize)]
struct Written {
    name: String,
    toml: String,
}

impl From<Chaos> for Written {
    fn from(Chaos { name, schedule }: Chaos) -> Self {
        Self { name, toml: schedule.to_toml() }
    }
}

impl TryFrom<Written> for Chaos {
    type Error = BadInput;

    fn try_from(Written { name, toml }: Written) -> Result<Self, BadInput> {
        Self::parse(&name, &toml)
    }
}

/// The schedules that are built in, by name.
const BUNDLED: [(&str, &str); 8] = [
    ("none", "version = 1"),
    ("default", include_str!("../chaos/default.toml")),
    ("datadog-down", include_str!("../chaos/datadog-down.toml")),
    ("logs-slow", include_str!("../chaos/logs-slow.toml")),
    ("pagerduty-throttled", include_str!("../chaos/pagerduty-throttled.toml")),
    ("aws-lost-ack", include_str!("../chaos/aws-lost-ack.toml")),
    ("all-down", include_str!("../chaos/all-down.toml")),
    ("flapping", include_str!("../chaos/flapping.toml")),
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
        let chaos = Self { name: file.to_owned(), schedule };
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
            assert!(Vendor::ALL.into_iter().any(|vendor| chaos.concerns(vendor)), "{name}");
            let told = serde_json::to_string(&chaos).unwrap();
            let heard: Chaos = serde_json::from_str(&told).unwrap();
            assert_eq!((heard.name, heard.schedule), (chaos.name, chaos.schedule));
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
        ] {
            let error = Chaos::parse("x.toml", text).unwrap_err().to_string();
            assert!(error.starts_with(expected) && error.contains("\n  fix: "), "{error}");
        }
    }
}
