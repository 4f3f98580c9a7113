//! Rules as a schedule writes them.

use std::collections::BTreeMap;
use std::io;

use buttress_core::{ConfigError, Effect, Kind, Verdict};
use serde::{Deserialize, Serialize};

use crate::fault::{Answer, Code, Cut, Fault, FaultKind, Latency};
use crate::rule::{Condition, Field, Numbering, Rule, Test};
use crate::window::Window;
use crate::written::{Time, missing, some, time, window};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenRule {
    fault: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_jitter: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effect: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    every: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    numbering: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skip: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    every_nth: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    // Tables come last in TOML.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<When>,
}

/// The conditions of a rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct When {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
}

/// The faults, and the fields that belong to each.
const FAULTS: [(&str, &[&str]); 13] = [
    ("pass", &[]),
    ("latency", &["latency", "jitter"]),
    ("response_latency", &["latency", "jitter"]),
    ("error", &["kind", "effect"]),
    ("io_error", &["kind"]),
    ("status", &["status", "headers", "body"]),
    ("grpc", &["code", "message", "headers"]),
    ("hang", &[]),
    ("panic", &[]),
    ("lose_answer", &[]),
    ("withhold_answer", &[]),
    ("truncate", &["after", "end"]),
    ("slow_body", &["bytes", "pause"]),
];

const KINDS: [(&str, Kind); 6] = [
    ("transient", Kind::Transient),
    ("throttled", Kind::Throttled),
    ("conflict", Kind::Conflict),
    ("unprocessed", Kind::Unprocessed),
    ("timeout", Kind::Timeout),
    ("permanent", Kind::Permanent),
];

const EFFECTS: [(&str, Effect); 2] = [("unknown", Effect::Unknown), ("not_sent", Effect::NotSent)];

const IO: [(&str, io::ErrorKind); 6] = [
    ("connection_refused", io::ErrorKind::ConnectionRefused),
    ("connection_reset", io::ErrorKind::ConnectionReset),
    ("connection_aborted", io::ErrorKind::ConnectionAborted),
    ("broken_pipe", io::ErrorKind::BrokenPipe),
    ("timed_out", io::ErrorKind::TimedOut),
    ("unexpected_eof", io::ErrorKind::UnexpectedEof),
];

const CUTS: [(&str, Cut); 2] = [("error", Cut::Error), ("silent", Cut::Silent)];

const NUMBERINGS: [(&str, Numbering); 3] =
    [("calls", Numbering::Calls), ("per_key", Numbering::PerKey), ("key", Numbering::Key)];

/// The value of a word.
fn word<T: Copy>(field: &'static str, word: &str, known: &[(&str, T)]) -> Result<T, ConfigError> {
    let found = known.iter().find(|(name, _)| *name == word);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<_> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        ConfigError::new(field, word, format!("it must be one of {}", known.join(", ")))
    })
}

/// The word of a value.
fn name<T: Copy + PartialEq>(value: T, known: &[(&'static str, T)]) -> Option<String> {
    known.iter().find(|(_, known)| *known == value).map(|(name, _)| (*name).to_owned())
}

impl WrittenRule {
    pub(super) fn read(&self) -> Result<Rule, ConfigError> {
        if self.fault.is_empty() {
            let known: Vec<_> = FAULTS.iter().map(|(name, _)| *name).collect();
            return Err(ConfigError::new("fault", "", format!("it must be one of {}", known.join(", "))));
        }
        let known = word("fault", &self.fault, &FAULTS)?;
        if let Some(field) = self.present().into_iter().find(|field| !known.contains(field)) {
            let rule = match known {
                [] => format!("fault \"{}\" has no field of its own", self.fault),
                known => format!("fault \"{}\" has only {}", self.fault, known.join(", ")),
            };
            return Err(ConfigError::new(field, "set", rule));
        }
        let delay = time(self.delay.as_ref(), "delay")?;
        if delay.is_none() && self.delay_jitter.is_some() {
            return Err(missing("delay", "delay_jitter"));
        }
        let jitter = time(self.delay_jitter.as_ref(), "delay_jitter")?.unwrap_or_default();
        let numbering =
            self.numbering.as_deref().map(|text| word("numbering", text, &NUMBERINGS)).transpose()?;
        let rule = Rule {
            fault: self.fault()?,
            delay: delay.map(|delay| Latency::fixed(delay).jitter(jitter)),
            conditions: self.when.as_ref().map_or_else(Vec::new, When::read),
            window: window(self.from.as_ref(), self.until.as_ref(), self.every.as_ref())?,
            numbering: numbering.unwrap_or_default(),
            skip: self.skip.unwrap_or(0),
            first: self.first,
            every_nth: self.every_nth,
            rate: self.rate.unwrap_or(1.0),
        };
        rule.check()?;
        Ok(rule)
    }

    fn fault(&self) -> Result<Fault, ConfigError> {
        let fault = self.fault.as_str();
        let kind = || self.kind.as_deref().ok_or_else(|| missing("kind", fault));
        Ok(match fault {
            "latency" => Fault::Latency(self.latency()?),
            "response_latency" => Fault::ResponseLatency(self.latency()?),
            "error" => {
                let verdict = Verdict::failure(word("kind", kind()?, &KINDS)?);
                match self.effect.as_deref().map(|text| word("effect", text, &EFFECTS)).transpose()? {
                    Some(Effect::NotSent) => Fault::Error(verdict.not_sent()),
                    Some(Effect::Unknown) | None => Fault::Error(verdict),
                }
            }
            "io_error" => Fault::Io(word("kind", kind()?, &IO)?),
            "status" => {
                let answer = Answer::status(self.status.ok_or_else(|| missing("status", fault))?);
                self.respond(answer.body(self.body.clone().unwrap_or_default()))
            }
            "grpc" => {
                let code = self.code.ok_or_else(|| missing("code", fault))?;
                self.respond(Answer::grpc(code, self.message.clone().unwrap_or_default()))
            }
            "hang" => Fault::Hang,
            "panic" => Fault::Panic,
            "lose_answer" => Fault::LoseAnswer,
            "withhold_answer" => Fault::WithholdAnswer,
            "truncate" => Fault::Truncate {
                after: self.after.ok_or_else(|| missing("after", fault))?,
                end: self
                    .end
                    .as_deref()
                    .map(|text| word("end", text, &CUTS))
                    .transpose()?
                    .unwrap_or_default(),
            },
            "slow_body" => Fault::SlowBody {
                bytes: self.bytes.ok_or_else(|| missing("bytes", fault))?,
                pause: time(self.pause.as_ref(), "pause")?.ok_or_else(|| missing("pause", fault))?,
            },
            _ => Fault::Pass,
        })
    }

    fn latency(&self) -> Result<Latency, ConfigError> {
        let latency =
            time(self.latency.as_ref(), "latency")?.ok_or_else(|| missing("latency", &self.fault))?;
        Ok(Latency::fixed(latency).jitter(time(self.jitter.as_ref(), "jitter")?.unwrap_or_default()))
    }

    fn respond(&self, answer: Answer) -> Fault {
        let headers = self.headers.iter();
        Fault::Respond(headers.fold(answer, |answer, (name, value)| answer.header(name, value)).into())
    }

    /// The fields that belong to a fault and are set.
    fn present(&self) -> Vec<&'static str> {
        let present = [
            ("latency", self.latency.is_some()),
            ("jitter", self.jitter.is_some()),
            ("kind", self.kind.is_some()),
            ("effect", self.effect.is_some()),
            ("status", self.status.is_some()),
            ("code", self.code.is_some()),
            ("message", self.message.is_some()),
            ("body", self.body.is_some()),
            ("headers", !self.headers.is_empty()),
            ("after", self.after.is_some()),
            ("end", self.end.is_some()),
            ("bytes", self.bytes.is_some()),
            ("pause", self.pause.is_some()),
        ];
        present.into_iter().filter(|(_, is_set)| *is_set).map(|(field, _)| field).collect()
    }
}

impl When {
    fn read(&self) -> Vec<Condition> {
        let is = |field: Field, value: &String| Condition { field, test: Test::Is(value.clone()) };
        let mut conditions = Vec::new();
        conditions.extend(self.key.as_ref().map(|key| is(Field::Key, key)));
        conditions.extend(self.method.as_ref().map(|method| is(Field::Method, method)));
        conditions.extend(self.path.as_ref().map(|path| is(Field::Path, path)));
        conditions.extend(
            self.path_prefix
                .as_ref()
                .map(|prefix| Condition { field: Field::Path, test: Test::BeginsWith(prefix.clone()) }),
        );
        conditions.extend(self.authority.as_ref().map(|authority| is(Field::Authority, authority)));
        conditions.extend(
            self.headers.iter().map(|(name, value)| is(Field::Header(name.to_ascii_lowercase()), value)),
        );
        conditions
    }

    fn of(conditions: &[Condition]) -> Option<Self> {
        let mut when = Self::default();
        for Condition { field, test } in conditions {
            match (field, test.clone()) {
                (Field::Key, Test::Is(value)) => when.key = Some(value),
                (Field::Method, Test::Is(value)) => when.method = Some(value),
                (Field::Path, Test::Is(value)) => when.path = Some(value),
                (Field::Path, Test::BeginsWith(value)) => when.path_prefix = Some(value),
                (Field::Authority, Test::Is(value)) => when.authority = Some(value),
                (Field::Header(name), Test::Is(value)) => {
                    when.headers.insert(name.clone(), value);
                }
                // Nothing that is read makes these.
                (_, Test::BeginsWith(_)) => {}
            }
        }
        (!conditions.is_empty()).then_some(when)
    }
}

impl From<&Rule> for WrittenRule {
    fn from(rule: &Rule) -> Self {
        let Window { from, until, every } = rule.window;
        let kind = rule.fault.kind().map_or("pass", FaultKind::as_str);
        let mut written = Self {
            fault: kind.to_owned(),
            delay: rule.delay.map(|delay| delay.time.into()),
            delay_jitter: rule.delay.and_then(|delay| some(delay.jitter)),
            from: some(from),
            until: until.map(Time::from),
            every: every.map(Time::from),
            numbering: name(rule.numbering, &NUMBERINGS).filter(|_| rule.numbering != Numbering::Calls),
            skip: (rule.skip > 0).then_some(rule.skip),
            first: rule.first,
            every_nth: rule.every_nth,
            rate: (rule.rate < 1.0).then_some(rule.rate),
            when: When::of(&rule.conditions),
            ..Self::default()
        };
        written.write(&rule.fault);
        written
    }
}

impl WrittenRule {
    fn write(&mut self, fault: &Fault) {
        match fault {
            Fault::Latency(latency) | Fault::ResponseLatency(latency) => {
                (self.latency, self.jitter) = (Some(latency.time.into()), some(latency.jitter));
            }
            Fault::Error(Verdict::Failure { kind, effect, .. }) => {
                (self.kind, self.effect) = (name(*kind, &KINDS), name(*effect, &EFFECTS));
            }
            Fault::Io(kind) => self.kind = name(*kind, &IO),
            Fault::Respond(answer) => {
                match &answer.code {
                    Code::Status(status) => self.status = Some(*status),
                    Code::Grpc(code, message) => {
                        self.code = Some(*code);
                        self.message = Some(message.clone()).filter(|message| !message.is_empty());
                    }
                }
                self.headers.extend(answer.headers.iter().cloned());
                self.body = Some(answer.body.clone()).filter(|body| !body.is_empty());
            }
            Fault::Truncate { after, end } => (self.after, self.end) = (Some(*after), name(*end, &CUTS)),
            Fault::SlowBody { bytes, pause } => {
                (self.bytes, self.pause) = (Some(*bytes), Some((*pause).into()));
            }
            _ => {}
        }
    }
}
