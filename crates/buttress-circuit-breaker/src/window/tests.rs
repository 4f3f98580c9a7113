use super::*;
use crate::ratio::Ratio;
use proptest::prelude::*;
use std::time::Duration;

fn window(span: Span) -> (Tally, Window) {
    let rule = RateRule { window: span, at_least: Ratio::percent(50), minimum_calls: 1 };
    let tally = Tally::default();
    tally.begin(Some(&rule));
    (tally, Window::new(&rule))
}

const SECOND: u64 = 1_000_000_000;

/// CB-02
#[test]
fn a_time_window_forgets_bucket_by_bucket() {
    let (tally, mut window) = window(Span::Time(Duration::from_secs(10)));
    let mut now = 0;
    let mut reads = Vec::new();
    for i in 0..5 {
        window.record(&tally, if i < 2 { Mark::Bad } else { Mark::Good }, now);
        window.record(&tally, Mark::Good, now);
        now += 2 * SECOND;
        reads.push(window.totals(&tally, now));
    }
    let totals = |calls, bad| Totals { calls, bad };
    assert_eq!(
        [reads[0], reads[1], reads[3], reads[4]],
        [totals(2, 1), totals(4, 2), totals(8, 2), totals(8, 1)]
    );
    assert_eq!(window.totals(&tally, now + 2 * SECOND), totals(6, 0));
}

#[test]
fn a_bucket_serves_again_after_any_idle_time() {
    let (tally, mut window) = window(Span::Time(Duration::from_secs(10)));
    let mut now = 0;
    for idle in [1, 10, 11, 3600, 7 * 86_400, 400 * 86_400] {
        window.record(&tally, Mark::Bad, now);
        assert_eq!(window.totals(&tally, now).bad, window.totals(&tally, now).calls, "idle {idle} s");
        now += idle * SECOND;
    }
}

#[test]
fn a_bucket_that_was_taken_over_takes_its_bad_calls_along() {
    let (tally, mut window) = window(Span::Time(Duration::from_secs(10)));
    window.record(&tally, Mark::Bad, 0);
    window.record(&tally, Mark::Good, 5 * SECOND);
    assert!(tally.good(|| 10 * SECOND));
    // Asked by somebody who read the clock a second ago.
    assert_eq!(window.totals(&tally, 9 * SECOND), Totals { calls: 1, bad: 0 });
}

#[test]
fn a_full_clean_window_is_not_written() {
    let (tally, mut window) = window(Span::Calls(3));
    for _ in 0..5 {
        assert!(tally.good(|| unreachable!("a window over calls needs no clock")));
    }
    window.record(&tally, Mark::Bad, 0);
    assert!(!tally.good(|| 0), "dirty");
    assert_eq!(window.totals(&tally, 0), Totals { calls: 3, bad: 1 });
    (0..3).for_each(|_| window.record(&tally, Mark::Good, 0));
    assert!(tally.good(|| 0), "clean again");
}

#[test]
fn a_window_takes_memory_for_the_calls_that_it_holds_and_none_while_it_is_clean() {
    let (tally, mut window) = window(Span::Calls(100_000));
    let bytes = |window: &Window| {
        let Window::Calls(ring) = window else { unreachable!() };
        std::mem::size_of_val(&*ring.marks).max(ring.marks.capacity())
    };
    assert_eq!(bytes(&window), 0);
    assert!(tally.good(|| 0));
    window.record(&tally, Mark::Bad, 0);
    assert!((2..=16).contains(&bytes(&window)), "{} bytes for two calls", bytes(&window));
    window.reset(&tally);
    assert_eq!(bytes(&window), 0);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Call(Mark),
    Wait(u64),
    Reset,
}

fn any_step() -> impl Strategy<Value = Step> {
    let mark = prop_oneof![4 => Just(Mark::Good), 2 => Just(Mark::Bad), 1 => Just(Mark::Abandoned)];
    prop_oneof![
        20 => mark.prop_map(Step::Call),
        4 => (0..3 * SECOND).prop_map(Step::Wait),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #[test]
    fn a_period_is_the_quotient(now: u64, width in prop_oneof![2..1000_u64, 2..u64::MAX], near in 0..3_u64) {
        let multiple = (now / width * width).wrapping_add(near).wrapping_sub(1);
        for now in [now, multiple, u64::MAX] {
            let width = Width { width, inverse: inverse(width), first: 0 };
            prop_assert_eq!(width.period(now), now / width.width);
        }
    }

    /// Beside a plain list of all calls with their times.
    #[test]
    fn both_windows_agree_with_a_naive_one(steps in prop::collection::vec(any_step(), 0..200), size in 1..20_u32) {
        let spans = [Span::Calls(size), Span::Time(Duration::from_secs(10))];
        for span in spans {
            let (tally, mut window) = window(span);
            let mut calls: Vec<(u64, Mark)> = Vec::new();
            let mut now = 0;
            for step in &steps {
                match *step {
                    Step::Call(mark) => {
                        calls.push((now, mark));
                        // Good calls take the way without a lock whenever that is open to them.
                        let is_clean = window.is_clean(&tally, now);
                        if !(mark == Mark::Good && is_clean && tally.good(|| now)) {
                            window.record(&tally, mark, now);
                        }
                    }
                    Step::Wait(time) => now += time,
                    Step::Reset => {
                        calls.clear();
                        window.reset(&tally);
                    }
                }
                let live: Vec<Mark> = match span {
                    Span::Calls(size) => calls.iter().rev().take(size as usize).map(|call| call.1).collect(),
                    Span::Time(_) => {
                        let live = |at: u64| now / SECOND - at / SECOND < BUCKETS;
                        calls.iter().filter(|call| live(call.0)).map(|call| call.1).collect()
                    }
                };
                let count = |mark| live.iter().filter(|&&other| other == mark).count() as u64;
                let (good, bad, abandoned) = (count(Mark::Good), count(Mark::Bad), count(Mark::Abandoned));
                let expected = if good > 0 {
                    Totals { calls: good + bad, bad }
                } else {
                    Totals { calls: bad + abandoned, bad: bad + abandoned }
                };
                prop_assert_eq!(window.totals(&tally, now), expected);
                prop_assert_eq!(window.is_clean(&tally, now), bad + abandoned == 0);
            }
        }
    }
}
