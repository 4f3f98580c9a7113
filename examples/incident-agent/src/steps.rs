//! The steps of a run: announced, timed, and recorded in its journal.

use std::fmt;
use std::future::Future;

use buttress::checkpoint::{Cx, Step as Recording, StepError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::console::Tone;
use crate::crash::{Crash, Edge};
use crate::timeline::{Timeline, What, millis};

/// What the agent does about an incident, in this order; it escalates where one of the others fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Name {
    Gather,
    Analyse,
    Restart,
    ClearCache,
    Scale,
    Verify,
    Note,
    Resolve,
    Escalate,
}

impl Name {
    pub(crate) const ALL: [Self; 9] = [
        Self::Gather,
        Self::Analyse,
        Self::Restart,
        Self::ClearCache,
        Self::Scale,
        Self::Verify,
        Self::Note,
        Self::Resolve,
        Self::Escalate,
    ];

    /// How many steps a full treatment has.
    pub(crate) const TREATMENT: usize = Self::Escalate as usize;

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Gather => "gather",
            Self::Analyse => "analyse",
            Self::Restart => "restart",
            Self::ClearCache => "clear_cache",
            Self::Scale => "scale",
            Self::Verify => "verify",
            Self::Note => "note",
            Self::Resolve => "resolve",
            Self::Escalate => "escalate",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == name)
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Done,
    /// It failed, or brought only a part, and the agent went on all the same.
    Degraded,
    Failed,
    /// There was no need for it.
    Skipped,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) name: Name,
    pub(crate) status: Status,
    pub(crate) detail: String,
    pub(crate) elapsed_ms: u64,
}

/// What a step has come to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Found<T> {
    pub(crate) value: T,
    pub(crate) detail: String,
    /// Whether it is only a part of what was wanted.
    is_partial: bool,
    elapsed_ms: u64,
}

impl<T> Found<T> {
    pub(crate) fn whole(value: T, detail: impl Into<String>) -> Self {
        Self { value, detail: detail.into(), is_partial: false, elapsed_ms: 0 }
    }

    /// Only a part of what was wanted, if so.
    pub(crate) fn partial(self, is_partial: bool) -> Self {
        Self { is_partial, ..self }
    }
}

/// Why the agent cannot go on by itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stuck {
    pub(crate) why: String,
    /// Whether it may be tried again, with the key that it had.
    pub(crate) again: bool,
    elapsed_ms: u64,
}

impl Stuck {
    /// To try again is of no use.
    pub(crate) fn for_good(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: false, elapsed_ms: 0 }
    }

    /// It may be tried again, if so.
    pub(crate) fn again(self, again: bool) -> Self {
        Self { again, ..self }
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// The run's journal, and the list of its steps.
pub(crate) struct Journal<'a> {
    cx: &'a Cx,
    timeline: &'a Timeline,
    crash: &'a Crash,
    steps: Vec<Step>,
}

/// What a step failing means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// The rest depends on it.
    Required,
    /// The agent can do without.
    Optional,
}

impl<'a> Journal<'a> {
    pub(crate) fn new(cx: &'a Cx, timeline: &'a Timeline, crash: &'a Crash) -> Self {
        Self { cx, timeline, crash, steps: Vec::new() }
    }

    pub(crate) fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    /// A step, to be awaited: its body is entered unless its result is recorded. Then comes [`ended`](Self::ended).
    pub(crate) fn step<'s, T, F, Fut>(
        &self,
        name: Name,
        weight: Weight,
        what: &'s str,
        mut body: F,
    ) -> Recording<'s, Found<T>, Stuck>
    where
        'a: 's,
        T: Serialize + DeserializeOwned + Send + 's,
        F: FnMut() -> Fut + Send + 's,
        Fut: Future<Output = Result<Found<T>, Stuck>> + Send + 's,
    {
        let (timeline, crash) = (self.timeline, self.crash);
        self.cx.step(name.as_str(), move || {
            let work = body();
            async move {
                let start = begin(timeline, name, what);
                crash.pass(name, Edge::Before).await;
                let mut result = work.await;
                crash.pass(name, Edge::After).await;
                let elapsed_ms = millis(timeline.elapsed() - start);
                match &mut result {
                    Ok(found) => found.elapsed_ms = elapsed_ms,
                    Err(stuck) => stuck.elapsed_ms = elapsed_ms,
                }
                let step = summed_up(name, weight, &result);
                tell(timeline, &step);
                result
            }
        })
    }

    /// Notes how a step has ended.
    pub(crate) fn ended<T>(
        &mut self,
        name: Name,
        weight: Weight,
        result: Result<Found<T>, StepError<Stuck>>,
    ) -> Result<T, String> {
        let result = result.map_err(|error| match error {
            StepError::Failed(stuck) => stuck,
            other => Stuck::for_good(other.to_string()),
        });
        self.steps.push(summed_up(name, weight, &result));
        result.map(|found| found.value).map_err(|stuck| stuck.why)
    }

    /// Steps for which there is no need.
    pub(crate) fn skip(&mut self, names: &[Name], why: &str) {
        for &name in names {
            let step = Step { name, status: Status::Skipped, detail: why.to_owned(), elapsed_ms: 0 };
            tell(self.timeline, &step);
            self.steps.push(step);
        }
    }
}

fn summed_up<T>(name: Name, weight: Weight, result: &Result<Found<T>, Stuck>) -> Step {
    let (status, detail, elapsed_ms) = match (result, weight) {
        (Ok(Found { is_partial: false, detail, elapsed_ms, .. }), _) => (Status::Done, detail, elapsed_ms),
        (Ok(Found { detail, elapsed_ms, .. }), _) => (Status::Degraded, detail, elapsed_ms),
        (Err(stuck), Weight::Optional) => (Status::Degraded, &stuck.why, &stuck.elapsed_ms),
        (Err(stuck), Weight::Required) => (Status::Failed, &stuck.why, &stuck.elapsed_ms),
    };
    Step { name, status, detail: detail.clone(), elapsed_ms: *elapsed_ms }
}

fn begin(timeline: &Timeline, name: Name, what: &str) -> std::time::Duration {
    let number = match name {
        Name::Escalate => String::new(),
        name => format!("{}/{} ", name as usize + 1, Name::TREATMENT),
    };
    timeline.remember(What::Began(name));
    timeline.say("agent", Tone::Heading, format_args!("{number}{}: {what}", name.as_str()));
    timeline.elapsed()
}

fn tell(timeline: &Timeline, step: &Step) {
    let (tone, verb) = match step.status {
        Status::Done => (Tone::Good, ""),
        Status::Degraded => (Tone::Waiting, " is not complete, going on all the same"),
        Status::Failed => (Tone::Bad, " failed"),
        Status::Skipped => (Tone::Plain, " skipped"),
    };
    timeline.remember(What::Ended(step.name, step.status));
    timeline.say("agent", tone, format_args!("    {}{verb}: {}", step.name.as_str(), step.detail));
}
