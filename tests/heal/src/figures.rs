//! What one injection came to.
//!
//! Times are seconds. A call belongs to the time for which it was meant, not to that at which it was made or ended.
//!
//! * *Detected*: from the injection until the supervisor holds the client for ill.
//! * *Recovered*: from the first failed call until the first of [`RUN`] good calls in a row; 0 if none failed; `None` is never,
//!   and counts as longer than all others, and not as nothing.
//! * *First good answer*: from the end of a fault until a call is answered, whenever that call was made.
//! * *Error seconds*: the failed calls, times the time between two calls.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::journal::Mark;
use crate::load::Calls;

/// So many good calls in a row are a recovery.
pub const RUN: usize = 100;

/// When a fault began and ended, after the start of the load.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The time between two calls.
    pub every: Duration,
    /// When it was injected.
    pub injected: Duration,
    /// When what it had done was undone; the same moment, if it was over as soon as it was done.
    pub over: Duration,
}

/// What one injection came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Until it was detected.
    pub detected: Option<f64>,
    /// Until it was recovered from.
    pub recovered: Option<f64>,
    /// From the end of the fault until an answer.
    pub first_answer: Option<f64>,
    /// Until the supervisor held it for over: the symptoms had been gone for long enough.
    pub over: Option<f64>,
    /// How long calls failed in all.
    pub error_seconds: f64,
    /// Whether another target than the first answered.
    pub failed_over: bool,
    /// What the supervisor tried.
    pub actions: Vec<String>,
    /// How often in a row a check, the one that failed most often, had failed when a human was called.
    pub checks_until_page: Option<usize>,
    /// How often a human was called.
    pub pages: usize,
    /// How often a human was told that all is well again.
    pub resolved: usize,
}

impl Figures {
    /// The figures of calls that began at `start`, beside what the supervisor did.
    pub fn of(calls: &Calls, start: Instant, journal: &[(Instant, Mark)], span: Span) -> Self {
        let mut figures = Self::of_calls(calls, span);
        let mut failed_checks = BTreeMap::<&str, usize>::new();
        for (at, mark) in journal.iter().filter(|(at, _)| *at >= start + span.injected) {
            let after = (*at - (start + span.injected)).as_secs_f64();
            match mark {
                Mark::CheckFailed(check) => *failed_checks.entry(check).or_default() += 1,
                Mark::CheckPassed(check) => drop(failed_checks.remove(&**check)),
                Mark::Detected => {
                    figures.detected.get_or_insert(after);
                }
                Mark::Acted(action) => figures.actions.push(action.clone()),
                Mark::Paged => {
                    figures.pages += 1;
                    figures
                        .checks_until_page
                        .get_or_insert(failed_checks.values().copied().max().unwrap_or(0));
                }
                Mark::Resolved => figures.resolved += 1,
                Mark::Over => {
                    figures.over.get_or_insert(after);
                }
            }
        }
        figures
    }

    fn of_calls(calls: &Calls, span: Span) -> Self {
        let Span { every, injected, over } = span;
        // A call that was made before the fault and failed after it counts, too.
        let failed =
            |number: &usize| calls[*number].is_some_and(|ended| ended.by.is_none() && ended.at >= injected);
        let first_failed = (0..calls.len()).find(failed);
        let since = |number: usize| {
            let first = meant_for(first_failed.unwrap_or(0), every);
            meant_for(number, every).saturating_sub(first).as_secs_f64()
        };
        let answers = calls.iter().flatten().filter(|ended| ended.by.is_some());
        let first_answer = answers.clone().map(|ended| ended.at).filter(|at| *at >= over).min();
        Self {
            recovered: first_failed.map_or(Some(0.0), |first| good_run(calls, first).map(since)),
            first_answer: first_answer.map(|at| (at - over).as_secs_f64()),
            error_seconds: (0..calls.len()).filter(failed).count() as f64 * every.as_secs_f64(),
            failed_over: answers.clone().any(|ended| ended.by != Some(0)),
            ..Self::default()
        }
    }
}

/// For when a call was meant.
fn meant_for(number: usize, every: Duration) -> Duration {
    every * u32::try_from(number).unwrap_or(u32::MAX)
}

/// The first call of the first run of good ones that is long enough, from this number on.
pub fn good_run(calls: &Calls, from: usize) -> Option<usize> {
    let mut length = 0;
    for (number, call) in calls.iter().enumerate().skip(from) {
        length = if call.is_some_and(|ended| ended.by.is_some()) { length + 1 } else { 0 };
        if length == RUN {
            return Some(number + 1 - RUN);
        }
    }
    None
}

/// Whether all is well: the last calls that have ended were good ones, so many of them and since this time.
pub fn is_well(calls: &Calls, every: Duration, since: Duration) -> bool {
    let from = (since.as_nanos() / every.as_nanos()) as usize;
    // Calls that have just been made are still under way.
    let ended = calls.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    ended >= from + RUN
        && calls[ended - RUN..ended].iter().all(|call| call.is_some_and(|ended| ended.by.is_some()))
}

/// Median, 95th percentile and maximum by the nearest rank; what never came is longer than all.
pub fn percentiles(values: &[Option<f64>]) -> Option<[Option<f64>; 3]> {
    let mut sorted: Vec<f64> = values.iter().map(|value| value.unwrap_or(f64::INFINITY)).collect();
    sorted.sort_by(f64::total_cmp);
    let rank = |share: f64| (share * sorted.len() as f64).ceil() as usize;
    let at = |share: f64| sorted.get(rank(share).max(1) - 1).copied().filter(|value| value.is_finite());
    (!sorted.is_empty()).then(|| [at(0.5), at(0.95), at(1.0)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Ended;

    const TICK: Duration = Duration::from_millis(10);

    /// Each call ends 2 ms after the time that it was meant for; `.` is good, `x` fails, `b` is answered by the second target.
    fn calls(pattern: &str) -> Calls {
        let call = |(number, how): (usize, char)| {
            let by = match how {
                '.' => Some(0),
                'b' => Some(1),
                _ => None,
            };
            Some(Ended { at: meant_for(number, TICK) + Duration::from_millis(2), by })
        };
        pattern.chars().enumerate().map(call).collect()
    }

    fn good(count: usize) -> String {
        ".".repeat(count)
    }

    fn span(injected: u32, over: u32) -> Span {
        Span { every: TICK, injected: TICK * injected, over: TICK * over }
    }

    #[test]
    fn a_recovery_lasts_from_the_first_failed_call_to_the_first_of_a_hundred_good_ones() {
        let calls = calls(&format!("{}xxx{}x{}", good(10), good(99), good(100)));
        let figures = Figures::of_calls(&calls, span(8, 8));
        assert_eq!(figures.recovered, Some(1.03), "ninety-nine in a row are none");
        assert!((figures.error_seconds - 0.04).abs() < 1e-9);
        assert_eq!(figures.first_answer, Some(0.002));
        assert!(!figures.failed_over);
    }

    #[test]
    fn who_never_recovers_is_told_apart_from_who_never_failed() {
        assert_eq!(Figures::of_calls(&calls(&format!("..x{}", good(99))), span(1, 1)).recovered, None);
        assert_eq!(Figures::of_calls(&calls(&good(20)), span(1, 1)).recovered, Some(0.0));
        let before = calls(&format!("x{}", good(20)));
        assert_eq!(Figures::of_calls(&before, span(3, 3)).recovered, Some(0.0), "that was before the fault");
    }

    #[test]
    fn a_call_that_was_under_way_when_the_fault_came_counts() {
        let mut calls = calls(&good(110));
        calls[2] = Some(Ended { at: Duration::from_secs(1), by: None });
        let figures = Figures::of_calls(&calls, span(5, 5));
        assert_eq!(figures.recovered, Some(0.01));
    }

    #[test]
    fn the_first_answer_counts_from_the_end_of_the_fault_whenever_its_call_was_made() {
        let mut calls = calls("..xxxxxxx");
        calls[4] = Some(Ended { at: Duration::from_millis(95), by: Some(1) });
        let figures = Figures::of_calls(&calls, span(2, 9));
        assert!((figures.first_answer.unwrap() - 0.005).abs() < 1e-9);
        assert!(figures.failed_over);
    }

    #[test]
    fn what_never_came_is_longer_than_all_others() {
        let mut values: Vec<_> = (1..=19).map(|n| Some(f64::from(n))).collect();
        assert_eq!(percentiles(&values), Some([Some(10.0), Some(19.0), Some(19.0)]));
        values.push(None);
        assert_eq!(percentiles(&values), Some([Some(10.0), Some(19.0), None]));
        assert_eq!(percentiles(&[]), None);
        assert_eq!(percentiles(&[Some(3.0)]), Some([Some(3.0); 3]));
    }

    #[test]
    fn all_is_well_after_a_hundred_good_calls_since_the_fault() {
        let mut calls = calls(&format!("{}x{}", good(50), good(99)));
        assert!(!is_well(&calls, TICK, TICK * 20));
        calls.push(calls[0]);
        assert!(is_well(&calls, TICK, TICK * 20));
        calls.push(None);
        assert!(is_well(&calls, TICK, TICK * 20), "one is under way");
        assert!(!is_well(&calls, TICK, TICK * 60));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_supervisor_did_before_the_fault_is_not_counted() {
        let start = Instant::now();
        let at = |tick: u32| start + TICK * tick;
        let failed = |check: &str| Mark::CheckFailed(check.to_owned());
        let journal = [
            (at(1), failed("a")),
            (at(3), failed("a")),
            (at(3), Mark::CheckPassed("a".to_owned())),
            (at(4), failed("a")),
            (at(4), failed("b")),
            (at(5), Mark::Detected),
            (at(6), Mark::Acted("reset".to_owned())),
            (at(7), failed("a")),
            (at(8), Mark::Paged),
            (at(9), Mark::Detected),
            (at(9), Mark::Resolved),
            (at(10), Mark::Over),
        ];
        let figures = Figures::of(&calls(&good(20)), start, &journal, span(3, 3));
        assert_eq!(figures.detected, Some(0.02));
        assert_eq!((figures.actions.len(), figures.pages, figures.resolved), (1, 1, 1));
        assert_eq!((figures.checks_until_page, figures.over), (Some(2), Some(0.07)));
    }
}
