//! A thousand clients that are cut off at once.

use std::time::Duration;

use buttress_core::Jitter;
use storm_tests::goals;
use storm_tests::herd::{Herd, Herded};
use storm_tests::whole::herd_backoff;

fn run(jitter: Jitter) -> Herded {
    Herd::after(Duration::from_secs(10)).tail(Duration::from_secs(36)).run(&herd_backoff(jitter))
}

#[track_caller]
fn comes_back_quietly(run: &Herded) {
    let (tenth, second) = goals::HERD_AFTER;
    assert!(tenth.holds(run.peak_after()), "{} in 0.1 s", run.peak_after());
    assert!(second.holds(run.peak_second_after()), "{} in 1 s", run.peak_second_after());
    let served = run.all_served.expect("all are served").as_secs_f64();
    assert!(goals::HERD_SERVED.holds(served), "{served} s");
}

#[test]
fn without_jitter_the_herd_comes_back_as_one() {
    let run = run(Jitter::None);
    assert!(goals::HERD_UNJITTERED.holds(run.peak_during()), "{}", run.peak_during());
    assert!(goals::HERD_UNJITTERED.holds(run.peak_after()), "{}", run.peak_after());
    assert_eq!(run.all_served, None, "somebody always comes too late");
}

#[test]
fn full_jitter_spreads_the_herd_in_the_outage_and_after_it() {
    let run = run(Jitter::Full);
    assert!(goals::HERD_DURING.0.holds(run.peak_during()), "{}", run.peak_during());
    comes_back_quietly(&run);
}

#[test]
fn equal_jitter_spreads_the_herd_after_the_outage() {
    comes_back_quietly(&run(Jitter::Equal));
}

#[test]
fn decorrelated_jitter_keeps_the_herd_below_ordinary_traffic_in_the_outage() {
    let run = run(Jitter::Decorrelated);
    assert!(goals::HERD_DURING.1.holds(run.peak_during()), "{}", run.peak_during());
    comes_back_quietly(&run);
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let run = |seed| {
        let herd = Herd { clients: 100, ..Herd::after(Duration::from_secs(3)) };
        herd.tail(Duration::from_secs(5)).seed(seed).run(&herd_backoff(Jitter::Full))
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
