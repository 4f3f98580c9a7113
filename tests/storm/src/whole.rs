//! Everything at full size.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread::{available_parallelism, scope};
use std::time::Duration;

use buttress_core::{Backoff, Jitter};
use buttress_retry::{self as retry, Budget};

use crate::contention::{Wait, mean};
use crate::goals::{self, Goal};
use crate::herd::{Herd, Herded};
use crate::overload::{Figures, Overload};
use crate::report::Report;
use crate::server::Trouble;
use crate::stack::Strategy;

/// The means of the herd and of the overload are over so many seeds.
pub const SEEDS: u64 = 5;

/// Runs all three models.
pub fn run() -> Report {
    let mut report = Report::default();
    contention(&mut report);
    herd(&mut report);
    fleets(&mut report);
    troubles(&mut report);
    loads(&mut report);
    report
}

/// The delays of the herd: 1 s doubled to at most 32 s.
pub fn herd_backoff(jitter: Jitter) -> Backoff {
    let backoff = Backoff::exponential(Duration::from_secs(1), 2.0, Duration::from_secs(32));
    backoff.expect("a valid schedule").jitter(jitter)
}

fn contention(report: &mut Report) {
    let model = "contention, 100 clients";
    let means = in_parallel(&Wait::ALL, |wait| mean(100, *wait, goals::SEEDS));
    for (wait, mean) in Wait::ALL.iter().zip(means) {
        let (writes, millis) = goals::contention(*wait);
        let name = wait.to_string();
        report.check((model, &name), "writes", mean.writes, writes);
        report.check((model, &name), "time, ms", mean.millis, millis);
    }
    let jitters = [Jitter::Equal, Jitter::Full].map(Wait::Jittered);
    let many = in_parallel(&jitters, |wait| mean(190, *wait, 60).writes);
    let name = ("contention, 190 clients", "equal jitter");
    report.check(name, "writes, beside full jitter", many[0] / many[1], Goal::at_most(1.0));
}

fn herd(report: &mut Report) {
    let jitters = [Jitter::None, Jitter::Full, Jitter::Equal, Jitter::Decorrelated];
    for outage in [10, 30] {
        let runs: Vec<_> =
            jitters.iter().flat_map(|jitter| (1..=SEEDS).map(move |seed| (*jitter, seed))).collect();
        let herd = Herd::after(Duration::from_secs(outage));
        let results =
            in_parallel(&runs, |(jitter, seed)| herd.clone().seed(*seed).run(&herd_backoff(*jitter)));
        for (jitter, results) in jitters.into_iter().zip(results.chunks(SEEDS as usize)) {
            let model = format!("herd, {outage} s outage");
            let name = if jitter == Jitter::None { Wait::Exponential } else { Wait::Jittered(jitter) };
            let name: (&str, &str) = (&model, &name.to_string());
            let mean = |figure: fn(&Herded) -> f64| results.iter().map(figure).sum::<f64>() / SEEDS as f64;
            let (during, after) = match jitter {
                Jitter::None => (Some(goals::HERD_UNJITTERED), (goals::HERD_UNJITTERED, None)),
                Jitter::Full => {
                    (Some(goals::HERD_DURING.0), (goals::HERD_AFTER.0, Some(goals::HERD_AFTER.1)))
                }
                Jitter::Decorrelated => {
                    (Some(goals::HERD_DURING.1), (goals::HERD_AFTER.0, Some(goals::HERD_AFTER.1)))
                }
                _ => (None, (goals::HERD_AFTER.0, Some(goals::HERD_AFTER.1))),
            };
            report.check(name, "peak of 0.1 s in the outage", mean(Herded::peak_during), during);
            report.check(name, "peak of 0.1 s after it", mean(Herded::peak_after), after.0);
            report.check(name, "peak of 1 s after it", mean(Herded::peak_second_after), after.1);
            let served = mean(|run| run.all_served.map_or(f64::INFINITY, |served| served.as_secs_f64()));
            let goal = (jitter != Jitter::None).then_some(goals::HERD_SERVED);
            report.check(name, "all served, s", served, goal);
        }
    }
}

/// The same traffic from fleets of all sizes.
fn fleets(report: &mut Report) {
    let sizes = [10, 100, 1000];
    let strategies = [
        Strategy::no_retry(),
        Strategy::default_policy(),
        Strategy::with_budget("default with AWS 2.1 budget", Budget::aws_2_1),
        Strategy::new("background", retry::Config::background),
        Strategy::default_policy().and_breaker(),
    ];
    let base = Overload::of(Trouble::Stall);
    let runs: Vec<_> = sizes.iter().map(|size| base.clone().processes(*size)).collect();
    let figures = matrix(&runs, &strategies);
    for (size, figures) in sizes.iter().zip(&figures) {
        let model = format!("stall, {size} processes");
        for (strategy, figures) in strategies.iter().zip(figures) {
            let goal = (strategy.name() == "default").then_some(goals::AMPLIFICATION);
            report.check((&model, strategy.name()), "amplification", figures.amplification, goal);
            let recovery = figures.recovery.unwrap_or(f64::INFINITY);
            report.check((&model, strategy.name()), "recovery, s", recovery, None);
        }
        let ratio = recovery_ratio(&figures[1], &figures[0]);
        report.check((&model, "default"), "recovery, beside no retry", ratio, goals::RECOVERY_RATIO);
    }
    let recoveries = figures.iter().map(|figures| figures[1].recovery.unwrap_or(f64::INFINITY));
    let (low, high) = recoveries.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), recovery| {
        (low.min(recovery), high.max(recovery))
    });
    let name = ("stall, 10 to 1000 processes", "default");
    report.check(name, "slowest recovery beside quickest", high / low, goals::RECOVERY_SPREAD);
}

/// Every kind of trouble, for a hundred processes.
fn troubles(report: &mut Report) {
    let fast = Backoff::exponential(Duration::from_millis(100), 2.0, Duration::from_secs(20));
    let fast = fast.expect("a valid schedule");
    let three = |name, jitter| Strategy::three_retries(name, &fast.clone().jitter(jitter));
    let strategies = [
        Strategy::no_retry(),
        three("3 retries, no jitter", Jitter::None),
        three("3 retries, full jitter", Jitter::Full),
        three("3 retries, equal jitter", Jitter::Equal),
        three("3 retries, decorrelated jitter", Jitter::Decorrelated),
        Strategy::without_budget(),
        Strategy::default_policy(),
        Strategy::with_budget("default with gRPC budget", || {
            Budget::grpc_throttle(10, 0.1).expect("a valid budget")
        }),
        Strategy::no_retry().and_breaker(),
        Strategy::default_policy().and_breaker(),
        Strategy::default_policy().and_standard_breaker(),
    ];
    let troubles = [("errors", Trouble::Reject), ("stall", Trouble::Stall), ("brownout", Trouble::Brownout)];
    let runs: Vec<_> = troubles.iter().map(|(_, trouble)| Overload::of(*trouble)).collect();
    for ((model, trouble), figures) in troubles.iter().zip(matrix(&runs, &strategies)) {
        for (strategy, figures) in strategies.iter().zip(&figures) {
            let (name, stall) = ((*model, strategy.name()), *trouble == Trouble::Stall);
            let default = strategy.name() == "default";
            let breaker = strategy.name() == "default and breaker" && *trouble != Trouble::Reject;
            let amplification = default.then_some(goals::AMPLIFICATION);
            let recovery = match trouble {
                _ if breaker => Some(goals::WITH_BREAKER.0),
                Trouble::Reject if default => Some(goals::NO_DELAY),
                Trouble::Stall if default => Some(goals::RECOVERY),
                _ => None,
            };
            let wasted = if breaker {
                Some(goals::WITH_BREAKER.2)
            } else {
                (default && stall).then_some(goals::WASTED)
            };
            report.check(name, "peak of 1 s", figures.peak, default.then_some(goals::PEAK));
            report.check(name, "amplification", figures.amplification, amplification);
            report.check(name, "recovery, s", figures.recovery.unwrap_or(f64::INFINITY), recovery);
            report.check(name, "lost, s of traffic", figures.lost, breaker.then_some(goals::WITH_BREAKER.1));
            report.check(name, "work wasted", figures.wasted, wasted);
        }
    }
}

/// A stall of a server that has less to spare.
fn loads(report: &mut Report) {
    let loads = [0.85, 0.9];
    let strategies =
        [Strategy::no_retry(), Strategy::default_policy(), Strategy::default_policy().and_breaker()];
    let base = Overload::of(Trouble::Stall);
    let runs: Vec<_> = loads.iter().map(|load| base.clone().load(*load)).collect();
    for (load, figures) in loads.iter().zip(matrix(&runs, &strategies)) {
        let model = format!("stall, {:.0} % load", load * 100.0);
        for (strategy, figures) in strategies.iter().zip(&figures) {
            report.check(
                (&model, strategy.name()),
                "recovery, s",
                figures.recovery.unwrap_or(f64::INFINITY),
                None,
            );
        }
        let ratio = recovery_ratio(&figures[1], &figures[0]);
        report.check((&model, "default"), "recovery, beside no retry", ratio, goals::RECOVERY_RATIO_LOADED);
    }
}

fn recovery_ratio(with: &Figures, without: &Figures) -> f64 {
    with.recovery.unwrap_or(f64::INFINITY) / without.recovery.unwrap_or(f64::INFINITY)
}

/// The means over the seeds: a line for each run, a column for each strategy.
fn matrix(runs: &[Overload], strategies: &[Strategy]) -> Vec<Vec<Figures>> {
    let cells: Vec<_> = runs
        .iter()
        .flat_map(|run| strategies.iter().map(move |strategy| (run, strategy)))
        .flat_map(|(run, strategy)| (1..=SEEDS).map(move |seed| (run.clone().seed(seed), strategy)))
        .collect();
    let figures = in_parallel(&cells, |(run, strategy)| Figures::of(&run.run(strategy)));
    let means: Vec<_> = figures.chunks(SEEDS as usize).map(Figures::mean).collect();
    means.chunks(strategies.len()).map(<[Figures]>::to_vec).collect()
}

/// Does the same to every item, on all cores, each simulation by itself on one.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    scope(|threads| {
        for _ in 0..available_parallelism().map_or(1, NonZeroUsize::get) {
            threads.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    let Some(item) = items.get(number) else { return };
                    let result = work(item);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
