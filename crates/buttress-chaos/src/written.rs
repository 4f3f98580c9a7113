//! Toxics and times as people and other programs write them.

use std::time::Duration;

use buttress_core::ConfigError;
use serde::{Deserialize, Serialize};

use crate::fault::Latency;
use crate::toxic::{Stream, Toxic, ToxicKind};
use crate::window::Window;

/// A time: text such as `1.5s` or `250ms`, or a number of milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "it must be a time such as \"1.5s\" or \"250ms\", or a whole number of milliseconds"
)]
pub(crate) enum Time {
    Millis(u64),
    Text(String),
}

impl Time {
    /// `field` is named if it is no time.
    pub(crate) fn read(&self, field: &'static str) -> Result<Duration, ConfigError> {
        match self {
            Self::Millis(millis) => Ok(Duration::from_millis(*millis)),
            Self::Text(text) => humantime::parse_duration(text).map_err(|error| {
                ConfigError::new(
                    field,
                    text,
                    format!("it must be a time such as \"1.5s\" or \"250ms\": {error}"),
                )
            }),
        }
    }
}

impl From<Duration> for Time {
    fn from(time: Duration) -> Self {
        Self::Text(humantime::format_duration(time).to_string())
    }
}

/// A time that may be missing.
pub(crate) fn time(value: Option<&Time>, field: &'static str) -> Result<Option<Duration>, ConfigError> {
    value.map(|value| value.read(field)).transpose()
}

/// What is written only if it is not zero.
pub(crate) fn some(time: Duration) -> Option<Time> {
    (!time.is_zero()).then(|| time.into())
}

/// `field` of a `kind` is missing.
pub(crate) fn missing(field: &'static str, kind: &str) -> ConfigError {
    ConfigError::new(field, None::<()>, format!("\"{kind}\" needs it"))
}

/// A window, as fields of what it belongs to.
pub(crate) fn window(
    from: Option<&Time>,
    until: Option<&Time>,
    every: Option<&Time>,
) -> Result<Window, ConfigError> {
    let from = time(from, "from")?.unwrap_or_default();
    Ok(Window { from, until: time(until, "until")?, every: time(every, "every")? })
}

/// A toxic in the words of toxiproxy's API, with a window on top.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenToxic {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) toxicity: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) every: Option<Time>,
    #[serde(default)]
    pub(crate) attributes: Attributes,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attributes {
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    average_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_variation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

pub(crate) const TOXICS: [(&str, &[&str]); 7] = [
    ("latency", &["latency", "jitter"]),
    ("bandwidth", &["rate"]),
    ("slow_close", &["delay"]),
    ("timeout", &["timeout"]),
    ("reset_peer", &["timeout"]),
    ("slicer", &["average_size", "size_variation", "delay"]),
    ("limit_data", &["bytes"]),
];

impl WrittenToxic {
    pub(crate) fn read(&self) -> Result<Toxic, ConfigError> {
        let kind = self.attributes.read(&self.kind)?;
        let stream = match self.stream.as_deref() {
            None | Some("downstream") => Stream::Downstream,
            Some("upstream") => Stream::Upstream,
            Some(other) => {
                return Err(ConfigError::new("stream", other, "it must be \"upstream\" or \"downstream\""));
            }
        };
        let window = window(self.from.as_ref(), self.until.as_ref(), self.every.as_ref())?;
        let toxicity = self.toxicity.unwrap_or(1.0);
        let toxic = Toxic { name: self.name.clone(), kind, stream, toxicity, window };
        toxic.check()?;
        Ok(toxic)
    }
}

impl Attributes {
    fn read(&self, kind: &str) -> Result<ToxicKind, ConfigError> {
        let Some((_, known)) = TOXICS.iter().find(|(name, _)| *name == kind) else {
            let kinds = TOXICS.map(|(name, _)| format!("\"{name}\"")).join(", ");
            return Err(ConfigError::new("type", kind, format!("it must be one of {kinds}")));
        };
        if let Some(field) = self.present().into_iter().find(|field| !known.contains(field)) {
            let rule = format!("\"{kind}\" has no such attribute, only {}", known.join(", "));
            return Err(ConfigError::new(field, "…", rule));
        }
        let needed = |value: Option<u64>, field| value.ok_or_else(|| missing(field, kind));
        let needed_time =
            |value: Option<&Time>, field| time(value, field)?.ok_or_else(|| missing(field, kind));
        Ok(match kind {
            "latency" => ToxicKind::Latency(Latency {
                time: needed_time(self.latency.as_ref(), "latency")?,
                jitter: time(self.jitter.as_ref(), "jitter")?.unwrap_or_default(),
            }),
            "bandwidth" => ToxicKind::Bandwidth { rate: needed(self.rate, "rate")? },
            "slow_close" => ToxicKind::SlowClose { delay: needed_time(self.delay.as_ref(), "delay")? },
            // As in toxiproxy, zero is never.
            "timeout" => {
                let timeout = time(self.timeout.as_ref(), "timeout")?.filter(|timeout| !timeout.is_zero());
                ToxicKind::Timeout { timeout }
            }
            "reset_peer" => {
                ToxicKind::ResetPeer { timeout: time(self.timeout.as_ref(), "timeout")?.unwrap_or_default() }
            }
            "slicer" => ToxicKind::Slicer {
                average_size: needed(self.average_size, "average_size")?,
                size_variation: self.size_variation.unwrap_or(0),
                // As in toxiproxy, a number is microseconds here.
                delay: match &self.delay {
                    Some(Time::Millis(micros)) => Duration::from_micros(*micros),
                    delay => time(delay.as_ref(), "delay")?.unwrap_or_default(),
                },
            },
            _ => ToxicKind::LimitData { bytes: needed(self.bytes, "bytes")? },
        })
    }

    fn present(&self) -> Vec<&'static str> {
        let present = [
            ("latency", self.latency.is_some()),
            ("jitter", self.jitter.is_some()),
            ("rate", self.rate.is_some()),
            ("delay", self.delay.is_some()),
            ("timeout", self.timeout.is_some()),
            ("average_size", self.average_size.is_some()),
            ("size_variation", self.size_variation.is_some()),
            ("bytes", self.bytes.is_some()),
        ];
        present.into_iter().filter(|(_, is_some)| *is_some).map(|(field, _)| field).collect()
    }
}

impl From<&Toxic> for WrittenToxic {
    fn from(toxic: &Toxic) -> Self {
        let mut attributes = Attributes::default();
        match toxic.kind {
            ToxicKind::Latency(Latency { time, jitter }) => {
                (attributes.latency, attributes.jitter) = (Some(time.into()), some(jitter));
            }
            ToxicKind::Bandwidth { rate } => attributes.rate = Some(rate),
            ToxicKind::SlowClose { delay } => attributes.delay = Some(delay.into()),
            ToxicKind::Timeout { timeout } => attributes.timeout = timeout.map(Time::from),
            ToxicKind::ResetPeer { timeout } => attributes.timeout = Some(timeout.into()),
            ToxicKind::Slicer { average_size, size_variation, delay } => {
                attributes.average_size = Some(average_size);
                attributes.size_variation = (size_variation > 0).then_some(size_variation);
                attributes.delay = some(delay);
            }
            ToxicKind::LimitData { bytes } => attributes.bytes = Some(bytes),
        }
        let Window { from, until, every } = toxic.window;
        Self {
            name: toxic.name.clone(),
            kind: toxic.kind.as_str().to_owned(),
            stream: Some(toxic.stream.as_str().to_owned()),
            toxicity: Some(toxic.toxicity),
            from: some(from),
            until: until.map(Time::from),
            every: every.map(Time::from),
            attributes,
        }
    }
}
