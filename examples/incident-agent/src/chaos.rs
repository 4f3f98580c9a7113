//! What the embedded vendors do instead of answering: a schedule with rules for each.

use std::path::Path;

use buttress_chaos::{ChaosLayer, ChaosSchedule, Http};

use crate::input::{BadInput, list, read};
use crate::vendors::Vendor;

/// Rules for each vendor; one without rules answers as it should.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chaos {
    name: String,
    schedule: ChaosSchedule,
}

/// The schedule of a run that names none.
const DEFAULT: &str = include_str!("../chaos/default.toml");

impl Chaos {
    /// `none`, `default`, or from a file.
    pub(crate) fn load(which: &Path) -> Result<Self, BadInput> {
        match which.to_str() {
            Some("none") => Ok(Self { name: "none".to_owned(), ..Self::default() }),
            Some("default") => {
                Ok(Self { name: "default".to_owned(), ..Self::parse("chaos/default.toml", DEFAULT)? })
            }
            _ => {
                let text = read(which, "give none, default, or the path of a TOML file")?;
                Self::parse(&which.display().to_string(), &text)
            }
        }
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

    /// What went into it: the file, or `none` or `default`.
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
    fn the_bundled_schedules_can_be_read() {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("chaos")).unwrap() {
            assert!(Chaos::load(&entry.unwrap().path()).unwrap().concerns(Vendor::Datadog));
        }
        let default = Chaos::load(Path::new("default")).unwrap();
        let words = default.describe(Vendor::Datadog).unwrap();
        assert_eq!(words, "answers 503 until 5 s; hangs from 5 s until 12 s");
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
