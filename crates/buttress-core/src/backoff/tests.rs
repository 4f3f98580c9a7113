use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn millis(backoff: &Backoff, n: usize) -> Vec<u128> {
    backoff.delays().take(n).map(|delay| delay.as_millis()).collect()
}

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// R-02, the schedules.
#[test]
fn delays_without_jitter_follow_the_textbook() {
    assert_eq!(millis(&Backoff::constant(secs(1)), 3), [1000, 1000, 1000]);
    let linear = |base| Backoff::linear(base, secs(60)).unwrap().jitter(Jitter::None);
    assert_eq!(millis(&linear(secs(1)), 3), [1000, 2000, 3000]);
    assert_eq!(millis(&linear(secs(2)), 3), [2000, 4000, 6000]);
    let exponential = Backoff::exponential(secs(1), 2.0, secs(60)).unwrap().jitter(Jitter::None);
    assert_eq!(millis(&exponential, 3), [1000, 2000, 4000]);
}

#[test]
fn a_schedule_says_in_words_what_it_is_and_how_long_it_can_take() {
    let backoff = Backoff::exponential(secs(1), 3.0, secs(20)).unwrap();
    assert_eq!(backoff.to_string(), "1 s × 3 up to 20 s, full jitter");
    assert_eq!((backoff.longest(0), backoff.longest(4)), (secs(0), secs(1 + 3 + 9 + 20)));
    assert_eq!(Backoff::constant(secs(2)).longest(5000), secs(10_000));
    assert_eq!(Backoff::default().longest(u32::MAX).as_secs() / 1_000_000_000, 85);
    let backoff = Backoff::exponential(secs(1), 2.0, secs(20)).unwrap();
    assert_eq!(
        backoff.clone().jitter(Jitter::Spread { percent: 50 }).longest(2),
        Duration::from_millis(4500)
    );
    assert_eq!(backoff.jitter(Jitter::Decorrelated).longest(3), secs(3 + 9 + 20));
}

#[test]
fn a_closure_says_every_delay_and_the_cap_holds() {
    let backoff = Backoff::from_fn(secs(10), |retry| secs(u64::from(retry).pow(2)));
    assert_eq!(millis(&backoff, 5), [1000, 4000, 9000, 10_000, 10_000]);
    assert_eq!((backoff.base(), backoff.longest(3)), (secs(1), secs(14)));
    assert_eq!(backoff.to_string(), "1 s, 4 s, 9 s, and so on up to 10 s");
    let mut delays = backoff.delays();
    assert_eq!((delays.nth(2), delays.nth(usize::MAX)), (Some(secs(9)), Some(secs(10))));
    delays.restart();
    assert_eq!(delays.next(), Some(secs(1)));
    assert_eq!(Backoff::from_fn(secs(1), |_| Duration::MAX).delays().next(), Some(secs(1)));
    assert_eq!(backoff, backoff.clone());
    let mut asked = 0;
    let counted = Backoff::from_fn(Duration::MAX, |retry| {
        asked += 1;
        secs(retry.into())
    });
    assert_eq!((counted.delays().nth(99), counted.delays().nth(100)), (Some(secs(100)), Some(secs(100))));
    assert_eq!(asked, 100, "not while a call waits, or a layer holds a lock");
    let growing = Backoff::from_fn(secs(60), |retry| secs(3_u32.pow(retry).into()));
    assert_eq!(growing.delays().nth(50), Some(secs(60)), "it is not asked for what would overflow");
    let spread = backoff.jitter(Jitter::Full);
    assert!((0..100).all(|_| spread.delays().nth(1).unwrap() <= secs(4)));
}

#[test]
fn a_thousand_sessions_of_one_policy_have_distinct_first_delays() {
    let policy = Backoff::exponential(secs(1), 2.0, secs(60)).unwrap();
    let distinct =
        |policy: &Backoff| (0..1000).map(|_| policy.clone().delays().next()).collect::<HashSet<_>>().len();
    assert!(distinct(&policy) >= 999);
    assert!(distinct(&policy.seed(7)) >= 999, "a seed makes runs alike, not sessions");
}

#[test]
fn full_jitter_is_uniform() {
    // Kolmogorov and Smirnov, 1,000 sessions: the 0.1 % critical value is 1.95 / sqrt(1000).
    let policy = Backoff::exponential(secs(1), 2.0, secs(60)).unwrap().seed(42);
    let mut draws: Vec<f64> = (0..1000).map(|_| policy.delays().next().unwrap().as_secs_f64()).collect();
    draws.sort_by(f64::total_cmp);
    let distance = (0_u32..).zip(&draws).map(|(i, x)| (x - f64::from(i) / 1000.0).abs()).fold(0.0, f64::max);
    assert!(distance < 1.95 / 1000_f64.sqrt(), "{distance}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || Backoff::default().seed(3).delays().take(20).collect::<Vec<_>>();
    assert_eq!(run(), run());
}

/// AWS's simulator: `sleep = min(cap, uniform(base, 3 × sleep))`, with `sleep` at `base` before the first.
#[test]
fn decorrelated_jitter_is_that_of_aws() {
    let backoff = Backoff::exponential(secs(1), 2.0, secs(600)).unwrap().jitter(Jitter::Decorrelated).seed(9);
    let mut sums = [0.0; 5];
    for _ in 0..20_000 {
        let mut previous = secs(1);
        for (sum, delay) in sums.iter_mut().zip(backoff.delays()) {
            assert!(delay >= secs(1) && delay <= previous * 3, "{previous:?} then {delay:?}");
            *sum += delay.as_secs_f64() / 20_000.0;
            previous = delay;
        }
    }
    // The mean is half of base + 3 × the mean before: 2, 3.5, 5.75, 9.125, 14.1875 seconds.
    for (mean, expected) in sums.iter().zip([2.0, 3.5, 5.75, 9.125, 14.1875]) {
        assert!((mean / expected - 1.0_f64).abs() < 0.03, "{mean} beside {expected}");
    }
}

/// HD-8. Pekko's table of restarts; its own jitter makes 36 s of a cap of 30 s.
#[test]
fn restarts_are_delayed_as_by_pekko_and_jitter_above_never_exceeds_the_cap() {
    let delay = |restarts: usize, min, max, jitter: Jitter| {
        let backoff = Backoff::exponential(min, 2.0, max).unwrap().jitter(jitter);
        backoff.delays().nth(restarts).unwrap()
    };
    assert_eq!(delay(2, secs(5), secs(7), Jitter::None), secs(7));
    assert_eq!(delay(2, secs(5), secs(7 * 86_400), Jitter::None), secs(20));
    assert_eq!(delay(29, secs(5), secs(600), Jitter::None), secs(600));
    assert_eq!(delay(i32::MAX as usize, secs(5), secs(600), Jitter::None), secs(600));
    for _ in 0..1000 {
        let delay = |restarts, max| delay(restarts, secs(5), secs(max), Jitter::Above { percent: 20 });
        assert!((secs(20)..=secs(24)).contains(&delay(2, 600)));
        assert_eq!(delay(2, 7), secs(7));
        assert!((secs(20)..=secs(22)).contains(&delay(2, 22)));
    }
    let constant = Backoff::constant(secs(10)).jitter(Jitter::Above { percent: 20 });
    assert_eq!((constant.cap(), constant.to_string().as_str()), (secs(12), "10 s, up to 20 % more"));
}

#[test]
fn bad_schedules_are_errors_that_name_the_field() {
    let error = |result: Result<Backoff, ConfigError>| result.unwrap_err().to_string();
    assert!(error(Backoff::exponential(secs(1), 0.5, secs(2))).starts_with("`factor` is 0.5"));
    assert!(error(Backoff::exponential(secs(1), f64::NAN, secs(2))).starts_with("`factor` is NaN"));
    assert!(error(Backoff::exponential(secs(0), 2.0, secs(2))).starts_with("`base` is 0ns"));
    assert_eq!(error(Backoff::linear(secs(3), secs(2))), "`cap` is 2s, but must be at least the base of 3s");
}

fn any_jitter() -> impl Strategy<Value = Jitter> {
    prop_oneof![
        Just(Jitter::None),
        Just(Jitter::Full),
        Just(Jitter::Equal),
        Just(Jitter::Decorrelated),
        any::<u8>().prop_map(|percent| Jitter::Spread { percent }),
        any::<u8>().prop_map(|percent| Jitter::Above { percent }),
    ]
}

fn any_backoff() -> impl Strategy<Value = Backoff> {
    let durations = (1..=u64::MAX, 0..=u64::MAX);
    (durations, 1.0..1e9_f64, 0..3, any_jitter(), any::<u64>()).prop_map(
        |((base, more), factor, growth, jitter, seed)| {
            let (base, cap) = (Duration::from_nanos(base), Duration::from_nanos(base.saturating_add(more)));
            let backoff = match growth {
                0 => Backoff::constant(base),
                1 => Backoff::linear(base, cap).unwrap(),
                _ => Backoff::exponential(base, factor, cap).unwrap(),
            };
            backoff.jitter(jitter).seed(seed)
        },
    )
}

proptest! {
    #[test]
    fn no_delay_exceeds_the_cap_and_no_attempt_number_overflows(backoff in any_backoff(), skip in any::<u32>()) {
        let mut delays = backoff.delays();
        for n in [0, 1, 2, skip as usize, u32::MAX as usize, usize::MAX] {
            let ceiling = delays.clone().ceiling();
            let delay = delays.nth(n).unwrap();
            prop_assert!(delay <= backoff.cap(), "{delay:?} over {:?}", backoff.cap());
            if n == 0 {
                prop_assert!(delay <= ceiling);
            }
        }
    }
}
