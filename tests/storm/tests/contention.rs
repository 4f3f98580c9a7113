//! Clients that contend for one row, as in "Exponential Backoff And Jitter".

use buttress_core::Jitter;
use storm_tests::contention::{Wait, contend, mean};
use storm_tests::goals;

/// Fewer than `cargo xtask storm` takes, for the sake of builds without optimization.
const SEEDS: u32 = 16;

#[track_caller]
fn check(wait: Wait) {
    let (writes, millis) = goals::contention(wait);
    let (writes, millis) = (writes.with_runs(SEEDS, goals::SEEDS), millis.with_runs(SEEDS, goals::SEEDS));
    let mean = mean(100, wait, SEEDS);
    assert!(writes.holds(mean.writes), "{wait}: {} writes, not {writes}", mean.writes);
    assert!(millis.holds(mean.millis), "{wait}: {} ms, not {millis}", mean.millis);
}

#[test]
fn without_waiting_it_takes_most_writes_and_least_time() {
    check(Wait::None);
}

#[test]
fn without_jitter_it_takes_an_age() {
    check(Wait::Exponential);
}

#[test]
fn equal_jitter_costs_what_it_costs_in_the_article() {
    check(Wait::Jittered(Jitter::Equal));
}

#[test]
fn full_jitter_costs_what_it_costs_in_the_article() {
    check(Wait::Jittered(Jitter::Full));
}

#[test]
fn decorrelated_jitter_costs_what_it_costs_in_the_article() {
    check(Wait::Jittered(Jitter::Decorrelated));
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    for wait in Wait::ALL {
        assert_eq!(contend(20, wait, 7), contend(20, wait, 7), "{wait}");
        assert_ne!(contend(20, wait, 7), contend(20, wait, 8), "{wait}");
    }
}
