//! Chaos in a file.

mod rule;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use buttress_core::ConfigError;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::config::Config;
use crate::rule::Rule;
use crate::toxic::Toxic;
use crate::written::WrittenToxic;
use rule::WrittenRule;

/// The rules of layers and the toxics of proxies, each under a name, from one TOML file: what a test and a program share.
///
/// `version` is 1. `seed` is 0 unless it is given. Fields that are not known are refused. Times are written as people write
/// them: `1.5s`, `250ms`, `2m`; a number is milliseconds.
///
/// A rule of a layer has a `fault` with fields of its own:
///
/// | `fault` | fields |
/// |---|---|
/// | `pass`, `hang`, `panic`, `lose_answer`, `withhold_answer` | none |
/// | `latency`, `response_latency` | `latency`; optional: `jitter` |
/// | `error` | `kind`: `transient`, `throttled`, `conflict`, `unprocessed`, `timeout` or `permanent`; optional: `effect`: `unknown` or `not_sent` |
/// | `io_error` | `kind`: `connection_refused`, `connection_reset`, `connection_aborted`, `broken_pipe`, `timed_out` or `unexpected_eof` |
/// | `status` | `status`; optional: `headers`, `body` |
/// | `grpc` | `code`; optional: `message`, `headers` |
/// | `truncate` | `after`; optional: `end`: `error` or `silent` |
/// | `slow_body` | `bytes`, `pause` |
///
/// and what says which calls it meets, all optional: `from`, `until`, `every` ([`Window`](crate::Window)); `skip`, `first`,
/// `every_nth`, `rate`, `numbering`: `calls`, `per_key` or `key` ([`Rule`]); `delay`, `delay_jitter` ([`Rule::delayed`]);
/// and `when` with `key`, `method`, `path`, `path_prefix`, `authority` and `headers`.
///
/// A toxic of a proxy is written as in toxiproxy, with `from`, `until` and `every` on top.
///
/// # Examples
///
/// An outage that passes: down for five seconds, silent for seven; then a throttled page, and one whose answer is lost.
///
/// ```
/// use buttress_chaos::{ChaosLayer, ChaosSchedule};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let schedule = ChaosSchedule::parse(r#"
///     version = 1
///     seed = 7
///
///     [[layers.datadog]]
///     fault = "status"
///     status = 503
///     until = "5s"
///
///     [[layers.datadog]]
///     fault = "hang"
///     from = "5s"
///     until = "12s"
///
///     [[layers.pagerduty]]
///     fault = "status"
///     status = 429
///     headers = { retry-after = "3" }
///     first = 1
///
///     [[layers.pagerduty]]
///     fault = "lose_answer"
///     first = 1
/// "#)?;
/// let datadog = ChaosLayer::with_policy("datadog", schedule.config("datadog"), buttress_chaos::Http)?;
/// # let _ = datadog;
/// # Ok(())
/// # }
/// ```
///
/// A network that is slow all the time and, every minute, gone for five seconds; and a tenth of all writes that may or may
/// not have happened:
///
/// ```
/// # use buttress_chaos::ChaosSchedule;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let schedule = ChaosSchedule::parse(r#"
///     version = 1
///
///     [[proxies.postgres]]
///     type = "latency"
///     attributes = { latency = "20ms", jitter = "5ms" }
///
///     [[proxies.postgres]]
///     type = "timeout"
///     stream = "upstream"
///     from = "55s"
///     every = "1m"
///
///     [[layers.orders]]
///     fault = "lose_answer"
///     when = { method = "POST" }
///     numbering = "per_key"
///     rate = 0.1
/// "#)?;
/// assert_eq!(schedule.toxics("postgres").len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChaosSchedule {
    seed: u64,
    layers: BTreeMap<String, Vec<Rule>>,
    proxies: BTreeMap<String, Vec<Toxic>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File<R, T> {
    version: u64,
    #[serde(default)]
    seed: u64,
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    layers: BTreeMap<String, Vec<R>>,
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    proxies: BTreeMap<String, Vec<T>>,
}

/// The version that is read and written.
const VERSION: u64 = 1;

impl ChaosSchedule {
    /// Reads a schedule.
    ///
    /// # Errors
    ///
    /// With the line and the field, if it is not TOML, has a field that is not known or lacks one, or breaks a rule.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: Spanned<u64>,
        }
        let syntax = |error| ScheduleError::syntax(text, &error);
        let Versioned { version } = toml::from_str(text).map_err(syntax)?;
        if *version.get_ref() != VERSION {
            let rule = format!("this build reads version {VERSION}");
            let error = ConfigError::new("version", *version.get_ref(), rule);
            return Err(ScheduleError::rule(text, "version", version.span(), &error));
        }
        let file: File<Spanned<WrittenRule>, Spanned<WrittenToxic>> = toml::from_str(text).map_err(syntax)?;
        Ok(Self {
            seed: file.seed,
            layers: read_all(text, "layers", file.layers, WrittenRule::read)?,
            proxies: read_all(text, "proxies", file.proxies, WrittenToxic::read)?,
        })
    }

    /// Reads a schedule from a file.
    ///
    /// # Errors
    ///
    /// As for [`parse`](ChaosSchedule::parse), with the file's name; and if the file cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ScheduleError> {
        let path = path.as_ref();
        let named = |error: ScheduleError| ScheduleError { file: Some(path.display().to_string()), ..error };
        let text = std::fs::read_to_string(path).map_err(|error| named(ScheduleError::unreadable(error)))?;
        Self::parse(&text).map_err(named)
    }

    /// The schedule as TOML, which reads as the same schedule. Comments are lost.
    pub fn to_toml(&self) -> String {
        let layers =
            self.layers.iter().map(|(name, rules)| (name, rules.iter().map(WrittenRule::from).collect()));
        let proxies =
            self.proxies.iter().map(|(name, toxics)| (name, toxics.iter().map(WrittenToxic::from).collect()));
        let layers = layers.map(|(name, rules)| (name.clone(), rules)).collect();
        let proxies = proxies.map(|(name, toxics)| (name.clone(), toxics)).collect();
        let file = File::<WrittenRule, WrittenToxic> { version: VERSION, seed: self.seed, layers, proxies };
        toml::to_string(&file).expect("what was read from TOML can be written as TOML")
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The names of the layers that have rules.
    pub fn layers(&self) -> impl Iterator<Item = &str> {
        self.layers.keys().map(String::as_str)
    }

    /// The names of the proxies that have toxics.
    pub fn proxies(&self) -> impl Iterator<Item = &str> {
        self.proxies.keys().map(String::as_str)
    }

    /// The rules of one layer; none if it has none.
    pub fn rules(&self, layer: &str) -> &[Rule] {
        self.layers.get(layer).map_or(&[], Vec::as_slice)
    }

    /// The configuration of one layer: its rules, and the seed.
    pub fn config(&self, layer: &str) -> Config {
        Config::seeded(self.seed).rules(self.rules(layer).iter().cloned())
    }

    /// The toxics of one proxy, for [`ProxyHandle::replace`](crate::ProxyHandle::replace); none if it has none.
    pub fn toxics(&self, proxy: &str) -> &[Toxic] {
        self.proxies.get(proxy).map_or(&[], Vec::as_slice)
    }
}

fn read_all<W, R>(
    text: &str,
    table: &str,
    written: BTreeMap<String, Vec<Spanned<W>>>,
    read: impl Fn(&W) -> Result<R, ConfigError>,
) -> Result<BTreeMap<String, Vec<R>>, ScheduleError> {
    let mut all = BTreeMap::new();
    for (name, items) in written {
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let place = || format!("{table}.{name}[{index}]");
            let refused = |error| ScheduleError::rule(text, &place(), item.span(), &error);
            list.push(read(item.get_ref()).map_err(refused)?);
        }
        all.insert(name, list);
    }
    Ok(all)
}

/// A schedule that cannot be used: where, and why.
#[derive(Debug)]
pub struct ScheduleError {
    file: Option<String>,
    line: Option<usize>,
    why: String,
}

impl ScheduleError {
    /// The line, counted from 1, if it is known.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// What is wrong, without the place.
    pub fn reason(&self) -> &str {
        &self.why
    }

    #[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
    fn unreadable(error: std::io::Error) -> Self {
        Self { file: None, line: None, why: format!("cannot be read: {error}") }
    }

    fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let line = error.span().map(|span| line_at(text, span.start));
        Self { file: None, line, why: error.message().to_owned() }
    }

    fn rule(text: &str, place: &str, span: Range<usize>, error: &ConfigError) -> Self {
        let line = Some(line_of(text, span, error.field()));
        Self { file: None, line, why: format!("in `{place}`, {error}") }
    }
}

/// The line, counted from 1, of a place in a text.
fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The line of a field of the table that begins in this span, or else that of the table.
fn line_of(text: &str, span: Range<usize>, field: &str) -> usize {
    let first = line_at(text, span.start);
    let is_field = |line: &str| {
        line.trim_start().strip_prefix(field).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let lines = text.lines().zip(1..).skip(first - 1);
    let mut table = lines.take_while(|(line, row)| *row == first || !line.trim_start().starts_with("[["));
    table.find(|(line, _)| is_field(line)).map_or(first, |(_, row)| row)
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file.as_deref().unwrap_or("chaos schedule"))?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.why)
    }
}

impl Error for ScheduleError {}
