//! Where the agent is killed, if it is to be: to see that its run goes on afterwards, and that nothing happens twice.

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::input::{BadInput, list};
use crate::servers::ledger::{Entry, add};
use crate::steps::Name;

/// One side of what a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    /// It has begun, and has done nothing yet.
    Before,
    /// It has done all that it does, and nothing of that is recorded.
    After,
}

/// A point at which to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) step: Name,
    pub(crate) edge: Edge,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let edge = match self.edge {
            Edge::Before => "before",
            Edge::After => "after",
        };
        write!(f, "{}:{edge}", self.step.as_str())
    }
}

impl Point {
    /// `STEP`, `STEP:before` or `STEP:after`; what is said by `option`.
    pub(crate) fn parse(option: &str, text: &str) -> Result<Self, BadInput> {
        let (step, edge) = text.split_once(':').unwrap_or((text, "after"));
        let steps = list(&Name::ALL.map(Name::as_str));
        let Some(step) = Name::named(step) else {
            return Err(BadInput::new(option, format!("\"{step}\" is no step"), format!("use {steps}")));
        };
        let edge = match edge {
            "before" => Edge::Before,
            "after" => Edge::After,
            other => {
                let problem = format!("\"{other}\" is no side of a step");
                return Err(BadInput::new(
                    option,
                    problem,
                    format!("use {text0}:before or {text0}:after", text0 = step.as_str()),
                ));
            }
        };
        Ok(Self { step, edge })
    }
}

/// When to die, and how.
#[derive(Debug, Default)]
pub(crate) struct Crash {
    when: Mutex<When>,
    /// By a signal that cannot be caught, after a line in this ledger; else whoever holds the run is told to drop it.
    kills: Option<PathBuf>,
    struck: (Mutex<Option<Point>>, Notify),
}

#[derive(Debug, Default)]
enum When {
    #[default]
    Never,
    /// At these points, one after the other.
    At(VecDeque<Point>),
    /// At the point after so many others.
    In(u32),
}

impl Crash {
    /// Kills the process at this point.
    pub(crate) fn at(point: Point, ledger: PathBuf) -> Self {
        let when = Mutex::new(When::At(VecDeque::from([point])));
        Self { when, kills: Some(ledger), ..Self::default() }
    }

    /// Kills the process at the point that it comes to after so many others.
    pub(crate) fn after(points: u32, ledger: PathBuf) -> Self {
        Self { when: Mutex::new(When::In(points)), kills: Some(ledger), ..Self::default() }
    }

    /// Asks for the run to be dropped at each of these points.
    pub(crate) fn dropped_at(points: impl IntoIterator<Item = Point>) -> Self {
        Self { when: Mutex::new(When::At(points.into_iter().collect())), ..Self::default() }
    }

    /// Resolves when the run is to be dropped.
    pub(crate) async fn struck(&self) -> Point {
        let (point, notify) = &self.struck;
        loop {
            if let Some(point) = point.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return point;
            }
            notify.notified().await;
        }
    }

    /// The run comes to this point, and perhaps not further.
    pub(crate) async fn pass(&self, step: Name, edge: Edge) {
        let point = Point { step, edge };
        if !self.is_due(point) {
            return;
        }
        let Some(ledger) = &self.kills else {
            let (struck, notify) = &self.struck;
            *struck.lock().unwrap_or_else(PoisonError::into_inner) = Some(point);
            notify.notify_one();
            return pending().await;
        };
        add(ledger, &Entry::Killed { at: point.to_string() }).expect("the ledger can be written to");
        eprintln!("incident-agent: killed at {point}; the same `--run` goes on");
        kill();
    }

    fn is_due(&self, point: Point) -> bool {
        match &mut *self.when.lock().unwrap_or_else(PoisonError::into_inner) {
            When::Never => false,
            When::At(points) => points.front() == Some(&point) && points.pop_front().is_some(),
            When::In(0) => true,
            When::In(points) => {
                *points -= 1;
                false
            }
        }
    }
}

/// `SIGKILL`: nothing more runs, no destructor and no handler.
fn kill() -> ! {
    #[cfg(unix)]
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_step_and_a_side_of_it() {
        let parse = |text| Point::parse("--crash-at", text);
        assert_eq!(parse("restart").unwrap(), Point { step: Name::Restart, edge: Edge::After });
        assert_eq!(parse("clear_cache:before").unwrap().to_string(), "clear_cache:before");
        for (text, problem) in [("reboot", "\"reboot\" is no step"), ("scale:later", "\"later\" is no side")]
        {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--crash-at: {problem}")), "{error}");
        }
    }

    #[test]
    fn points_are_met_in_their_order_and_each_once() {
        let point = |text| Point::parse("", text).unwrap();
        let crash = Crash::dropped_at([point("restart:before"), point("restart:after")]);
        let met = ["restart:after", "restart:before", "restart:before", "restart:after"];
        assert_eq!(met.map(|text| crash.is_due(point(text))), [false, true, false, true]);
        let crash = Crash::after(1, PathBuf::new());
        assert_eq!(["note:before", "note:after"].map(|text| crash.is_due(point(text))), [false, true]);
    }
}
