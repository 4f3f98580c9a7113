//! Processes that call whether they get answers or not, and a server in trouble.

use std::time::Duration;

use storm_tests::goals;
use storm_tests::overload::{Figures, Overload};
use storm_tests::server::Trouble;
use storm_tests::stack::Strategy;
use storm_tests::whole::in_parallel;

/// Long enough for amplification, which is measured for a minute, and for what recovers to have recovered.
const TAIL: Duration = Duration::from_secs(60);

fn run(overload: Overload, strategy: &Strategy) -> Figures {
    Figures::of(&overload.tail(TAIL).run(strategy))
}

#[track_caller]
fn recovery(figures: &Figures) -> f64 {
    figures.recovery.expect("it recovers")
}

#[test]
fn the_default_policy_amplifies_a_fleet_of_any_size_alike() {
    let sizes = [(10, Strategy::default_policy()), (100, Strategy::default_policy())];
    let sizes = sizes.into_iter().chain([(1000, Strategy::default_policy()), (100, Strategy::no_retry())]);
    let runs: Vec<_> = sizes.flat_map(|size| [1, 2].map(|seed| (size.clone(), seed))).collect();
    let figures = in_parallel(&runs, |((processes, strategy), seed)| {
        run(Overload::of(Trouble::Stall).processes(*processes).seed(*seed), strategy)
    });
    let means: Vec<_> = figures.chunks(2).map(Figures::mean).collect();
    let (fleets, without) = (&means[..3], recovery(&means[3]));
    let quickest = fleets.iter().map(recovery).fold(f64::INFINITY, f64::min);
    for fleet in fleets {
        assert!(goals::AMPLIFICATION.holds(fleet.amplification), "{fleets:#?}");
        assert!(goals::PEAK.holds(fleet.peak), "{fleets:#?}");
        assert!(goals::RECOVERY.holds(recovery(fleet)), "{fleets:#?}");
        assert!(goals::RECOVERY_SPREAD.holds(recovery(fleet) / quickest), "{fleets:#?}");
        assert!(goals::RECOVERY_RATIO.holds(recovery(fleet) / without), "{without} s without: {fleets:#?}");
    }
}

#[test]
fn without_a_budget_a_stall_never_ends() {
    let figures = run(Overload::of(Trouble::Stall), &Strategy::without_budget());
    assert_eq!(figures.recovery, None);
    assert!(figures.amplification > 2.9, "{figures:?}");
}

#[test]
fn an_outage_with_errors_costs_the_half_second_that_the_budget_holds_and_no_time() {
    for processes in [10, 1000] {
        let figures = run(Overload::of(Trouble::Reject).processes(processes), &Strategy::default_policy());
        assert!(goals::PEAK.holds(figures.peak), "{processes} processes: {figures:?}");
        assert!(goals::AMPLIFICATION.holds(figures.amplification), "{processes} processes: {figures:?}");
        assert!(goals::NO_DELAY.holds(recovery(&figures)), "{processes} processes: {figures:?}");
    }
}

#[test]
fn a_server_with_little_to_spare_recovers_all_the_same() {
    let stall = Overload { outage: Duration::from_secs(5), ..Overload::of(Trouble::Stall).load(0.85) };
    let with = recovery(&run(stall.clone(), &Strategy::default_policy()));
    let without = recovery(&run(stall, &Strategy::no_retry()));
    assert!(goals::RECOVERY_RATIO_LOADED.holds(with / without), "{with} s, {without} s without retries");
}

#[test]
fn a_breaker_recovers_from_a_stall_sooner_than_callers_that_do_not_retry() {
    for trouble in [Trouble::Stall, Trouble::Brownout] {
        let (soon, lost, wasted) = goals::WITH_BREAKER;
        // All of the time after the outage, over which wasted work is counted.
        let figures = Figures::of(&Overload::of(trouble).run(&Strategy::default_policy().and_breaker()));
        assert!(soon.holds(recovery(&figures)), "{trouble:?}: {figures:?}");
        assert!(lost.holds(figures.lost), "{trouble:?}: {figures:?}");
        assert!(wasted.holds(figures.wasted), "{trouble:?}: {figures:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let strategy = Strategy::default_policy().and_breaker();
    let run = |seed| {
        let stall = Overload { outage: Duration::from_secs(3), ..Overload::of(Trouble::Stall) };
        stall.load(0.3).tail(Duration::from_secs(10)).seed(seed).run(&strategy)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
