//! The steps of a run: announced, timed and remembered.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use buttress::degrade::Level;
use serde::Serialize;

use crate::console::Tone;
use crate::timeline::{Timeline, millis};

/// What the agent does about an incident, in this order; it escalates where one of the others fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Name {
    Metrics,
    Context,
    Restart,
    Verify,
    Note,
    Resolve,
    Escalate,
}

impl Name {
    /// How many steps a full treatment has.
    pub(crate) const TREATMENT: usize = Self::Escalate as usize;

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Context => "context",
            Self::Restart => "restart",
            Self::Verify => "verify",
            Self::Note => "note",
            Self::Resolve => "resolve",
            Self::Escalate => "escalate",
        }
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Done,
    /// It failed, or brought only a part, and the agent went on all the same.
    Degraded,
    Failed,
    /// There was no need for it.
    Skipped,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) name: Name,
    pub(crate) status: Status,
    pub(crate) detail: String,
    pub(crate) elapsed_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Journal<'a> {
    timeline: &'a Timeline,
    steps: Vec<Step>,
}

impl<'a> Journal<'a> {
    pub(crate) fn new(timeline: &'a Timeline) -> Self {
        Self { timeline, steps: Vec::new() }
    }

    pub(crate) fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    /// A step that the rest depends on.
    pub(crate) async fn required<T, E: fmt::Display>(
        &mut self,
        name: Name,
        what: &str,
        work: impl Future<Output = Result<(T, String), E>>,
    ) -> Result<T, E> {
        self.step(name, what, work, Status::Failed).await
    }

    /// A step that the agent can do without.
    pub(crate) async fn optional<T, E: fmt::Display>(
        &mut self,
        name: Name,
        what: &str,
        work: impl Future<Output = Result<(T, String), E>>,
    ) -> Option<T> {
        self.step(name, what, work, Status::Degraded).await.ok()
    }

    /// A step that the agent can do without, and that may bring a part of what it is for.
    pub(crate) async fn partial<T>(
        &mut self,
        name: Name,
        what: &str,
        work: impl Future<Output = (T, Level, String)>,
    ) -> T {
        let start = self.begin(name, what);
        let (value, level, detail) = work.await;
        let status = if level.is_degraded() { Status::Degraded } else { Status::Done };
        let elapsed_ms = millis(self.timeline.elapsed() - start);
        self.end(Step { name, status, detail, elapsed_ms });
        value
    }

    /// Steps for which there is no need.
    pub(crate) fn skip(&mut self, names: &[Name], why: &str) {
        for &name in names {
            self.end(Step { name, status: Status::Skipped, detail: why.to_owned(), elapsed_ms: 0 });
        }
    }

    async fn step<T, E: fmt::Display>(
        &mut self,
        name: Name,
        what: &str,
        work: impl Future<Output = Result<(T, String), E>>,
        failure: Status,
    ) -> Result<T, E> {
        let start = self.begin(name, what);
        let (result, status, detail) = match work.await {
            Ok((value, detail)) => (Ok(value), Status::Done, detail),
            Err(error) => {
                let detail = error.to_string();
                (Err(error), failure, detail)
            }
        };
        let elapsed_ms = millis(self.timeline.elapsed() - start);
        self.end(Step { name, status, detail, elapsed_ms });
        result
    }

    fn begin(&self, name: Name, what: &str) -> Duration {
        let number = match name {
            Name::Escalate => String::new(),
            name => format!("{}/{} ", name as usize + 1, Name::TREATMENT),
        };
        self.timeline.say("agent", Tone::Heading, format_args!("{number}{}: {what}", name.as_str()));
        self.timeline.elapsed()
    }

    fn end(&mut self, step: Step) {
        let (tone, verb) = match step.status {
            Status::Done => (Tone::Good, ""),
            Status::Degraded => (Tone::Waiting, " is not complete, going on all the same"),
            Status::Failed => (Tone::Bad, " failed"),
            Status::Skipped => (Tone::Plain, " skipped"),
        };
        self.timeline.say("agent", tone, format_args!("    {}{verb}: {}", step.name.as_str(), step.detail));
        self.steps.push(step);
    }
}
