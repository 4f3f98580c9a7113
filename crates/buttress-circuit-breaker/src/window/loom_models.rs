//! Windows under every interleaving of those who count: `cargo xtask loom`.

use std::sync::Arc;
use std::time::Duration;

use buttress_core::sync::{Mutex, model, thread};

use super::*;
use crate::ratio::Ratio;

/// A window as a circuit holds it, half of it under the circuit's lock.
struct Both {
    tally: Tally,
    window: Mutex<Window>,
}

impl Both {
    fn new(window: Span) -> Arc<Self> {
        let rule = RateRule { window, at_least: Ratio::percent(50), minimum_calls: 1 };
        let tally = Tally::default();
        tally.begin(Some(&rule));
        Arc::new(Self { tally, window: Mutex::new(Window::new(&rule)) })
    }

    fn good(&self, now: u64) {
        if !self.tally.good(|| now) {
            self.record(Mark::Good, now);
        }
    }

    fn record(&self, mark: Mark, now: u64) {
        self.window.lock().unwrap().record(&self.tally, mark, now);
    }

    fn totals(&self, now: u64) -> Totals {
        self.window.lock().unwrap().totals(&self.tally, now)
    }

    /// Does both at once.
    fn beside(self: &Arc<Self>, one: impl FnOnce(&Self) + 'static, other: impl FnOnce(&Self)) {
        let both = Arc::clone(self);
        let thread = thread::spawn(move || one(&both));
        other(self);
        thread.join().unwrap();
    }
}

const SECOND: u64 = 1_000_000_000;
const TEN_SECONDS: Span = Span::Time(Duration::from_secs(10));

#[test]
fn good_calls_beside_a_bad_one_are_in_the_last_calls_once_each() {
    model(|| {
        let window = Both::new(Span::Calls(8));
        window.beside(
            |window| (0..3).for_each(|_| window.good(0)),
            |window| {
                window.record(Mark::Bad, 0);
                window.good(0);
            },
        );
        assert_eq!(window.totals(0), Totals { calls: 5, bad: 1 });
    });
}

#[test]
fn a_window_that_turns_bad_and_good_again_loses_no_call() {
    model(|| {
        let window = Both::new(Span::Calls(3));
        window.beside(
            |window| window.good(0),
            // However the other call falls, the bad one is the fourth last at the end.
            |window| {
                window.record(Mark::Bad, 0);
                (0..3).for_each(|_| window.good(0));
            },
        );
        assert_eq!(window.totals(0), Totals { calls: 3, bad: 0 });
        // And what is counted is right from there on.
        window.record(Mark::Bad, 0);
        assert_eq!(window.totals(0), Totals { calls: 3, bad: 1 });
        (0..2).for_each(|_| window.good(0));
        assert_eq!(window.totals(0), Totals { calls: 3, bad: 1 });
        window.good(0);
        assert_eq!(window.totals(0), Totals { calls: 3, bad: 0 });
    });
}

#[test]
fn a_time_window_has_every_call_of_a_bucket_once() {
    model(|| {
        let window = Both::new(TEN_SECONDS);
        window.beside(
            |window| (0..2).for_each(|_| window.good(SECOND)),
            |window| {
                window.record(Mark::Bad, SECOND);
                window.good(SECOND);
            },
        );
        assert_eq!(window.totals(SECOND), Totals { calls: 4, bad: 1 });
    });
}

#[test]
fn a_bucket_is_taken_over_from_an_older_period_once() {
    model(|| {
        let window = Both::new(TEN_SECONDS);
        window.record(Mark::Bad, 0);
        let now = 10 * SECOND;
        window.beside(move |window| window.good(now), move |window| window.record(Mark::Bad, now));
        assert_eq!(window.totals(now), Totals { calls: 2, bad: 1 });
    });
}

#[test]
fn who_read_the_clock_before_the_bucket_was_taken_over_takes_no_call_from_it() {
    model(|| {
        let window = Both::new(TEN_SECONDS);
        let now = 10 * SECOND;
        window.beside(
            move |window| window.good(now),
            move |window| {
                window.good(0);
                window.good(now);
            },
        );
        let calls = window.totals(now).calls;
        assert!(calls == 2 || calls == 3, "the late call counts late, or is forgotten: {calls}");
    });
}

#[test]
fn who_read_the_clock_before_the_bucket_was_taken_over_sees_no_bad_call_without_its_good_ones() {
    model(|| {
        let window = Both::new(TEN_SECONDS);
        window.record(Mark::Bad, 0);
        window.good(0);
        window.good(5 * SECOND);
        window.beside(
            |window| window.good(10 * SECOND),
            |window| {
                let seen = window.totals(9 * SECOND);
                let (before, after) = (Totals { calls: 3, bad: 1 }, Totals { calls: 1, bad: 0 });
                assert!(seen == before || seen == after, "{seen:?}");
            },
        );
    });
}

#[test]
fn a_window_that_begins_anew_beside_good_calls_counts_right_from_there_on() {
    for (from, to) in
        [(Span::Calls(8), Span::Calls(2)), (TEN_SECONDS, Span::Calls(2)), (Span::Calls(8), TEN_SECONDS)]
    {
        model(move || {
            let window = Both::new(from);
            window.good(0);
            let rule = RateRule { window: to, at_least: Ratio::percent(50), minimum_calls: 1 };
            window.beside(
                |window| (0..2).for_each(|_| window.good(0)),
                |window| {
                    let mut kept = window.window.lock().unwrap();
                    window.tally.begin(Some(&rule));
                    *kept = Window::new(&rule);
                },
            );
            // Those that end beside the change are in the new window or not, and never twice.
            let known = window.totals(0);
            assert!(known.calls <= 2 && known.bad == 0, "{known:?}");
            window.record(Mark::Bad, 0);
            window.good(0);
            let calls = if to == Span::Calls(2) { 2 } else { known.calls + 2 };
            assert_eq!(window.totals(0), Totals { calls, bad: 1 });
        });
    }
}
