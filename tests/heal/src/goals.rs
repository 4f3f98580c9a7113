//! What the figures must come to.

use std::fmt;
use std::time::Duration;

use crate::arms::Arm;
use crate::fault::Fault;
use crate::figures::{Figures, percentiles};
use crate::report::Report;

/// How strictly they are held to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// What is claimed, on a machine that does nothing else.
    Exact,
    /// What also holds while other programs take both cores: that it is detected, healed and escalated at all.
    Generous,
}

impl Bounds {
    /// By how much longer a supervisor waits for answers and for what it does.
    pub const fn slack(self) -> u32 {
        match self {
            Self::Exact => 1,
            Self::Generous => 8,
        }
    }

    /// For how much longer a fault lasts that has not been healed, and is watched.
    pub const fn patience(self) -> Duration {
        match self {
            Self::Exact => Duration::ZERO,
            Self::Generous => Duration::from_secs(LATE as u64),
        }
    }
}

/// Nothing takes that many seconds if it happens at all.
const LATE: f64 = 60.0;

/// One figure, and the most or least that it may be.
#[derive(Clone, Debug)]
pub struct Goal {
    what: String,
    limit: String,
    measured: String,
    /// Whether it is reached.
    pub holds: bool,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = if self.holds { "holds" } else { "**missed**" };
        write!(f, "| {} | {} | {} | {holds} |", self.what, self.limit, self.measured)
    }
}

/// All goals of what was measured.
pub fn of(report: &Report, bounds: Bounds) -> Vec<Goal> {
    let goals = Fault::ALL.into_iter().map(|fault| {
        let healed = report.of(fault, Arm::Healed);
        if healed.is_empty() { Vec::new() } else { healed_of(fault, &healed, bounds) }
    });
    let mut goals = goals.collect::<Vec<_>>().concat();
    let alone = report.of(Fault::Cut, Arm::Alone);
    if bounds == Bounds::Exact && !alone.is_empty() {
        let [median, ..] = rank(&alone, |figures| figures.first_answer);
        let holds = median.is_none_or(|seconds| seconds >= 1.0);
        let what = "cut: the first answer after it, for a client that is left alone, median, s".to_owned();
        goals.push(Goal { what, limit: "at least 1".to_owned(), measured: shown(median), holds });
    }
    goals
}

fn healed_of(fault: Fault, all: &[&Figures], bounds: Bounds) -> Vec<Goal> {
    let name = fault.name();
    let at_most = |what: &str, exact: f64, measured: Option<f64>| {
        let limit = if bounds == Bounds::Exact { exact } else { LATE };
        let holds = measured.is_some_and(|measured| measured <= limit);
        Goal {
            what: format!("{name}: {what}"),
            limit: format!("at most {limit}"),
            measured: shown(measured),
            holds,
        }
    };
    let each = |what: &str, is_so: &dyn Fn(&Figures) -> bool| {
        let count = all.iter().filter(|figures| is_so(figures)).count();
        let measured = format!("{count} of {}", all.len());
        Goal { what: format!("{name}: {what}"), limit: "all".to_owned(), measured, holds: count == all.len() }
    };
    let [_, p95, longest] = rank(all, |figures| figures.recovered);
    let [.., detected] = rank(all, |figures| figures.detected);
    let [.., first_answer] = rank(all, |figures| figures.first_answer);
    let failed_over = || each("failed over", &|figures| figures.failed_over);
    let mut goals = match fault {
        Fault::Kill => vec![at_most("recovered, p95, s", 1.0, p95)],
        Fault::Stop => vec![at_most("detected, at the latest, s", 2.0, detected), failed_over()],
        Fault::BlackHole | Fault::Unplug => vec![failed_over()],
        Fault::Cut => vec![at_most("first answer after it, at the latest, s", 0.1, first_answer)],
        Fault::Exhaust => vec![at_most("recovered, at the latest, s", 2.0, longest)],
        Fault::KillSession => vec![at_most("recovered, at the latest, s", 4.0, longest)],
        Fault::KillPostmaster => vec![at_most("recovered, at the latest, s", 8.0, longest)],
        Fault::FullDisk => vec![at_most("recovered, at the latest, s", 5.0, longest)],
        Fault::Password => vec![
            each("exactly one page", &|figures| figures.pages == 1),
            each("within five failed checks", &|figures| {
                figures.checks_until_page.is_some_and(|checks| checks <= 5)
            }),
            each("resolved once it is over", &|figures| figures.resolved == 1),
        ],
        Fault::Calm => vec![each("nothing was healed, and nobody called", &|figures| {
            let nothing = figures.detected.is_none() && figures.actions.is_empty() && figures.pages == 0;
            // On a machine that is too busy for the calls themselves it is no mistake.
            nothing || bounds == Bounds::Generous && figures.error_seconds > 0.0
        })],
    };
    // Where the time does not tell it from a recovery without help.
    if bounds == Bounds::Generous && matches!(fault, Fault::Cut | Fault::Exhaust | Fault::FullDisk) {
        goals.push(each("something was done against it", &|figures| !figures.actions.is_empty()));
    }
    goals
}

fn rank(all: &[&Figures], figure: fn(&Figures) -> Option<f64>) -> [Option<f64>; 3] {
    let values: Vec<_> = all.iter().map(|figures| figure(figures)).collect();
    percentiles(&values).unwrap_or_default()
}

fn shown(figure: Option<f64>) -> String {
    figure.map_or_else(|| "never".to_owned(), |figure| format!("{figure:.3}"))
}
