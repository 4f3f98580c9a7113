use std::io;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::{ConfigError, Kind, Verdict};

use crate::fault::{Answer, Cut, Fault, FaultKind, Latency};
use crate::window::Window;

/// One fault, and the calls that it meets: those that fulfil everything that the rule asks for.
///
/// Without a selection it meets every call. The rules of a layer are tried in order, and the first that meets a call is the
/// only one that acts on it.
///
/// A rule *numbers* the calls that come to it: those that no earlier rule met, that satisfy its conditions, within its
/// window. [`skip`](Rule::skip), [`first`](Rule::first), [`every_nth`](Rule::every_nth) and [`rate`](Rule::rate) select by
/// that number, in this order. So rules in a row are a script: the first three calls get this, the two after them that.
///
/// ```
/// use buttress_chaos::Rule;
/// use buttress_core::Kind;
///
/// let script = [Rule::error(Kind::Transient).first(3), Rule::lose_answer().first(1), Rule::hang().rate(0.01)];
/// # let _ = script;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub(crate) fault: Fault,
    pub(crate) delay: Option<Latency>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) window: Window,
    pub(crate) numbering: Numbering,
    pub(crate) skip: u64,
    pub(crate) first: Option<u64>,
    pub(crate) every_nth: Option<u64>,
    pub(crate) rate: f64,
}

/// What a rule asks of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) field: Field,
    pub(crate) test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Is(String),
    BeginsWith(String),
}

/// A part of a request that a rule may look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// What [`KeyOf`](buttress_core::KeyOf) says: the authority for [`Http`](crate::Http), else what a closure takes.
    Key,
    /// The method of HTTP.
    Method,
    /// The path of the URI, without its query.
    Path,
    /// Host and port, from the URI or else from the `Host` header.
    Authority,
    /// The first header of this name, in lower case.
    Header(String),
}

/// How the calls that come to a rule are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbering {
    /// By their number, in the order in which `call` is called. Of concurrent calls it is open which gets which number, and
    /// so which of them is met; how many are met is not.
    #[default]
    Calls,
    /// By their key and their number among the calls with that key: whatever other keys do, and whatever the interleaving,
    /// the n-th call with a key meets the same fate. A rule keeps count of a million keys; a call with one beyond them is
    /// taken for its key's first.
    PerKey,
    /// By their key alone: all calls with a key meet the same fate, for as long as the seed is the same. Only
    /// [`rate`](Rule::rate) selects; it is the share of keys.
    Key,
}

impl Rule {
    /// A rule that injects this fault into every call.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            delay: None,
            conditions: Vec::new(),
            window: Window::always(),
            numbering: Numbering::Calls,
            skip: 0,
            first: None,
            every_nth: None,
            rate: 1.0,
        }
    }

    /// [`Fault::Pass`]: shields the calls that it meets from the rules after it.
    pub fn pass() -> Self {
        Self::new(Fault::Pass)
    }

    /// [`Fault::Latency`]
    pub fn latency(latency: impl Into<Latency>) -> Self {
        Self::new(Fault::Latency(latency.into()))
    }

    /// [`Fault::ResponseLatency`]
    pub fn response_latency(latency: impl Into<Latency>) -> Self {
        Self::new(Fault::ResponseLatency(latency.into()))
    }

    /// [`Fault::Error`] of this kind, with an unknown effect (none for [`Kind::Refused`] and [`Kind::Unprocessed`]).
    pub fn error(kind: Kind) -> Self {
        Self::new(Fault::Error(Verdict::failure(kind)))
    }

    /// [`Fault::Io`]: a refused connection, say, or a broken one.
    pub fn io_error(kind: io::ErrorKind) -> Self {
        Self::new(Fault::Io(kind))
    }

    /// [`Fault::Respond`] with this status.
    pub fn status(status: u16) -> Self {
        Self::respond(Answer::status(status))
    }

    /// [`Fault::Respond`] with this gRPC code.
    pub fn grpc(code: u8, message: impl Into<String>) -> Self {
        Self::respond(Answer::grpc(code, message))
    }

    /// [`Fault::Respond`]
    pub fn respond(answer: Answer) -> Self {
        Self::new(Fault::Respond(Arc::new(answer)))
    }

    /// [`Fault::Hang`]
    pub fn hang() -> Self {
        Self::new(Fault::Hang)
    }

    /// [`Fault::Panic`]
    pub fn panic() -> Self {
        Self::new(Fault::Panic)
    }

    /// [`Fault::LoseAnswer`]
    pub fn lose_answer() -> Self {
        Self::new(Fault::LoseAnswer)
    }

    /// [`Fault::WithholdAnswer`]
    pub fn withhold_answer() -> Self {
        Self::new(Fault::WithholdAnswer)
    }

    /// [`Fault::Truncate`]
    pub fn truncate(after: u64, end: Cut) -> Self {
        Self::new(Fault::Truncate { after, end })
    }

    /// [`Fault::SlowBody`]
    pub fn slow_body(bytes: u64, pause: Duration) -> Self {
        Self::new(Fault::SlowBody { bytes, pause })
    }

    /// Waits so long before the fault, whichever it is.
    #[must_use]
    pub fn delayed(self, delay: impl Into<Latency>) -> Self {
        Self { delay: Some(delay.into()), ..self }
    }

    /// Only requests whose field is exactly this.
    #[must_use]
    pub fn when(mut self, field: Field, is: impl Into<String>) -> Self {
        self.conditions.push(Condition { field, test: Test::Is(is.into()) });
        self
    }

    /// Only requests whose field begins with this.
    #[must_use]
    pub fn when_begins(mut self, field: Field, with: impl Into<String>) -> Self {
        self.conditions.push(Condition { field, test: Test::BeginsWith(with.into()) });
        self
    }

    /// Only within this window.
    #[must_use]
    pub fn within(self, window: Window) -> Self {
        Self { window, ..self }
    }

    /// Tells calls apart like this.
    #[must_use]
    pub fn numbered(self, numbering: Numbering) -> Self {
        Self { numbering, ..self }
    }

    /// Lets the first so many calls go by.
    #[must_use]
    pub fn skip(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// Only the first so many calls, counted from those that were skipped.
    #[must_use]
    pub fn first(self, first: u64) -> Self {
        Self { first: Some(first), ..self }
    }

    /// Only every so many-th call, counted from those that were skipped: for 3 the third, the sixth …
    #[must_use]
    pub fn every_nth(self, nth: u64) -> Self {
        Self { every_nth: Some(nth), ..self }
    }

    /// Only with this probability, 0 to 1, drawn from the seed and from the call's number or key.
    #[must_use]
    pub fn rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// The fault.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// How it is counted; `None` if it does nothing.
    pub fn kind(&self) -> Option<FaultKind> {
        self.fault.kind().or(self.delay.map(|_| FaultKind::Latency))
    }

    /// Whether the call of this number, counted from 0, is selected; chance aside.
    pub(crate) fn selects(&self, number: u64) -> bool {
        let Some(number) = number.checked_sub(self.skip) else { return false };
        self.first.is_none_or(|first| number < first)
            && self.every_nth.is_none_or(|nth| (number + 1) % nth == 0)
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.window.check()?;
        if !(0.0..=1.0).contains(&self.rate) {
            return Err(ConfigError::new("rate", self.rate, "a probability lies between 0 and 1"));
        }
        for (field, value) in [("first", self.first), ("every_nth", self.every_nth)] {
            if value == Some(0) {
                return Err(ConfigError::new(field, 0, "it must be at least 1, or the rule meets nothing"));
            }
        }
        if self.numbering == Numbering::Key && (self.skip, self.first, self.every_nth) != (0, None, None) {
            let rule = "calls that are told apart by their key alone are selected by `rate` only";
            return Err(ConfigError::new("numbering", self.numbering, rule));
        }
        match &self.fault {
            Fault::Error(verdict) if !verdict.is_failure() => {
                Err(ConfigError::new("error", verdict, "an error must be judged a failure"))
            }
            Fault::SlowBody { bytes: 0, .. } => {
                Err(ConfigError::new("bytes", 0, "it must be at least 1, or the body never ends"))
            }
            Fault::Respond(answer) => answer.check(),
            _ => Ok(()),
        }
    }
}

impl Answer {
    fn check(&self) -> Result<(), ConfigError> {
        match self.code {
            crate::Code::Grpc(code @ 17.., _) => {
                Err(ConfigError::new("grpc", code, "the status codes of gRPC are 0 to 16"))
            }
            crate::Code::Grpc(..) if !self.body.is_empty() => {
                Err(ConfigError::new("body", &self.body, "a trailers-only response of gRPC has no body"))
            }
            _ => Ok(()),
        }
    }
}
