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
use crate::report::{Cell, Report, Table};
use crate::server::Trouble;
use crate::stack::Strategy;

/// The means of the herd and of the overload are over so many seeds.
pub const SEEDS: u64 = 5;

/// Runs all three models.
pub fn run() -> Report {
    Report(vec![contention(), herd(), fleets(), troubles(), loads()])
}

/// The delays of the herd: 1 s doubled to at most 32 s.
pub fn herd_backoff(jitter: Jitter) -> Backoff {
    let backoff = Backoff::exponential(Duration::from_secs(1), 2.0, Duration::from_secs(32));
    backoff.expect("a valid schedule").jitter(jitter)
}

fn contention() -> Table {
    let mut table = Table::new("contention", &["writes", "time, ms"]);
    let means = in_parallel(&Wait::ALL, |wait| mean(100, *wait, goals::SEEDS));
    for (wait, mean) in Wait::ALL.iter().zip(means) {
        let (writes, millis) = goals::contention(*wait);
        let cells = vec![Cell::new(mean.writes, writes), Cell::new(mean.millis, millis)];
        table.add("100 clients", wait.to_string(), cells);
    }
    let [full, equal] = [Jitter::Full, Jitter::Equal].map(Wait::Jittered);
    let many = in_parallel(&[full, equal], |wait| mean(190, *wait, 60));
    // With so many clients the order of the two is reversed.
    let goals = [None, Some(Goal::at_most(many[0].writes))];
    for ((wait, mean), goal) in [full, equal].iter().zip(&many).zip(goals) {
        let cells = vec![Cell::new(mean.writes, goal), Cell::new(mean.millis, None)];
        table.add("190 clients", wait.to_string(), cells);
    }
    table
}

fn herd() -> Table {
    let figures = &["peak of 0.1 s in it", "peak of 0.1 s after it", "peak of 1 s after it", "all served, s"];
    let mut table = Table::new("herd", figures);
    let jitters = [Jitter::None, Jitter::Full, Jitter::Equal, Jitter::Decorrelated];
    for outage in [10, 30] {
        let runs: Vec<_> =
            jitters.iter().flat_map(|jitter| (1..=SEEDS).map(move |seed| (*jitter, seed))).collect();
        let herd = Herd::after(Duration::from_secs(outage));
        let results =
            in_parallel(&runs, |(jitter, seed)| herd.clone().seed(*seed).run(&herd_backoff(*jitter)));
        for (jitter, results) in jitters.into_iter().zip(results.chunks(SEEDS as usize)) {
            let mean = |figure: fn(&Herded) -> f64| results.iter().map(figure).sum::<f64>() / SEEDS as f64;
            let during = match jitter {
                Jitter::None => Some(goals::HERD_UNJITTERED),
                Jitter::Full => Some(goals::HERD_DURING.0),
                Jitter::Decorrelated => Some(goals::HERD_DURING.1),
                _ => None,
            };
            let (after, second, served) = match jitter {
                Jitter::None => (goals::HERD_UNJITTERED, None, None),
                _ => (goals::HERD_AFTER.0, Some(goals::HERD_AFTER.1), Some(goals::HERD_SERVED)),
            };
            let cells = vec![
                Cell::new(mean(Herded::peak_during), during),
                Cell::new(mean(Herded::peak_after), after),
                Cell::new(mean(Herded::peak_second_after), second),
                Cell::new(mean(Herded::seconds_until_all_were_served), served),
            ];
            let name = if jitter == Jitter::None { Wait::Exponential } else { Wait::Jittered(jitter) };
            table.add(format!("{outage} s outage"), name.to_string(), cells);
        }
    }
    table
}

/// The same traffic from fleets of all sizes.
fn fleets() -> Table {
    let mut table = Table::new("stall, fleets", &["amplification", "recovery, s", "beside no retry"]);
    let sizes = [10, 100, 1000];
    let strategies = [
        Strategy::no_retry(),
        Strategy::default_policy(),
        Strategy::default_policy().and_breaker(),
        Strategy::new("background", retry::Config::background),
        Strategy::with_budget("default with AWS 2.1 budget", Budget::aws_2_1),
    ];
    let base = Overload::of(Trouble::Stall);
    let runs: Vec<_> = sizes.iter().map(|size| base.clone().processes(*size)).collect();
    let figures = matrix(&runs, &strategies);
    let recoveries = figures.iter().map(|figures| figures[1].seconds_to_recovery());
    let quickest = recoveries.fold(f64::INFINITY, f64::min);
    for (size, figures) in sizes.iter().zip(&figures) {
        for (strategy, of) in strategies.iter().zip(figures) {
            let default = strategy.name() == "default";
            let spread = default.then_some(goals::RECOVERY_SPREAD.times(quickest));
            let cells = vec![
                Cell::new(of.amplification, default.then_some(goals::AMPLIFICATION)),
                Cell::new(of.seconds_to_recovery(), spread),
                Cell::new(ratio(of, &figures[0]), default.then_some(goals::RECOVERY_RATIO)),
            ];
            table.add(format!("{size} processes"), strategy.name(), cells);
        }
    }
    table
}

/// Every kind of trouble, for a hundred processes.
fn troubles() -> Table {
    let figures = &["peak of 1 s", "amplification", "recovery, s", "lost, s of traffic", "work wasted"];
    let mut table = Table::new("trouble", figures);
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
    for ((name, trouble), figures) in troubles.iter().zip(matrix(&runs, &strategies)) {
        for (strategy, figures) in strategies.iter().zip(&figures) {
            let default = strategy.name() == "default";
            let breaker = strategy.name() == "default and breaker" && *trouble != Trouble::Reject;
            let recovery = match trouble {
                _ if breaker => Some(goals::WITH_BREAKER.0),
                Trouble::Reject if default => Some(goals::NO_DELAY),
                Trouble::Stall if default => Some(goals::RECOVERY),
                _ => None,
            };
            let wasted = match trouble {
                _ if breaker => Some(goals::WITH_BREAKER.2),
                Trouble::Stall if default => Some(goals::WASTED),
                _ => None,
            };
            let cells = vec![
                Cell::new(figures.peak, default.then_some(goals::PEAK)),
                Cell::new(figures.amplification, default.then_some(goals::AMPLIFICATION)),
                Cell::new(figures.seconds_to_recovery(), recovery),
                Cell::new(figures.lost, breaker.then_some(goals::WITH_BREAKER.1)),
                Cell::new(figures.wasted, wasted),
            ];
            table.add(*name, strategy.name(), cells);
        }
    }
    table
}

/// A stall of a server that has less to spare.
fn loads() -> Table {
    let mut table = Table::new("stall, load", &["recovery, s", "beside no retry"]);
    let loads = [0.85, 0.9];
    let strategies =
        [Strategy::no_retry(), Strategy::default_policy(), Strategy::default_policy().and_breaker()];
    let base = Overload::of(Trouble::Stall);
    let runs: Vec<_> = loads.iter().map(|load| base.clone().load(*load)).collect();
    for (load, figures) in loads.iter().zip(matrix(&runs, &strategies)) {
        for (strategy, of) in strategies.iter().zip(&figures) {
            let goal = (strategy.name() == "default").then_some(goals::RECOVERY_RATIO_LOADED);
            let cells =
                vec![Cell::new(of.seconds_to_recovery(), None), Cell::new(ratio(of, &figures[0]), goal)];
            table.add(format!("{:.0} %", load * 100.0), strategy.name(), cells);
        }
    }
    table
}

/// How much longer recovery takes with it than without.
fn ratio(with: &Figures, without: &Figures) -> f64 {
    with.seconds_to_recovery() / without.seconds_to_recovery()
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
pub fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
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
