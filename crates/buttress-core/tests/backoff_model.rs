//! Schedules beside a naive model of them: textbook formulas in numbers that are wide enough.

use std::time::Duration;

use buttress_core::{Backoff, Delays, Jitter, Rng};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

#[derive(Clone, Copy, Debug)]
enum Growth {
    Constant,
    Linear,
    Exponential(f64),
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    growth: Growth,
    base: Duration,
    cap: Duration,
    jitter: Jitter,
    seed: u64,
}

impl Plan {
    fn backoff(&self) -> Backoff {
        let backoff = match self.growth {
            Growth::Constant => Backoff::constant(self.base),
            Growth::Linear => Backoff::linear(self.base, self.cap).unwrap(),
            Growth::Exponential(factor) => Backoff::exponential(self.base, factor, self.cap).unwrap(),
        };
        backoff.jitter(self.jitter).seed(self.seed)
    }
}

/// No more than 584 years are told apart.
fn nanos(duration: Duration) -> u128 {
    duration.as_nanos().min(u64::MAX.into())
}

/// One session.
#[derive(Clone, Debug)]
struct Model {
    growth: Growth,
    base: u128,
    cap: u128,
    jitter: Jitter,
    rng: Rng,
    retry: u128,
    previous: u128,
    /// Powers of fractions are not exact. What is drawn between them has to be, so they come from the schedule without
    /// its jitter, which is checked against the formula.
    powers: Delays,
}

impl Model {
    fn new(plan: &Plan) -> Self {
        let base = nanos(plan.base);
        let cap = match (plan.growth, plan.jitter) {
            (Growth::Constant, Jitter::Decorrelated) => base * 3,
            (Growth::Constant, Jitter::Spread { percent }) => base + half(base, percent),
            (Growth::Constant, _) => base,
            _ => nanos(plan.cap),
        };
        let (rng, cap) = (Rng::seeded(plan.seed), cap.min(u64::MAX.into()));
        let powers = plan.backoff().jitter(Jitter::None).delays();
        Self { growth: plan.growth, base, cap, jitter: plan.jitter, rng, retry: 0, previous: base, powers }
    }

    fn computed(&self) -> u128 {
        let uncapped = match self.growth {
            Growth::Constant => self.base,
            Growth::Linear => self.base.saturating_mul(self.retry + 1),
            Growth::Exponential(_) => self.powers.clone().nth(self.retry as usize).unwrap().as_nanos(),
        };
        uncapped.min(self.cap)
    }

    /// Between which bounds the next delay is drawn, the cap aside.
    fn bounds(&self) -> (u128, u128) {
        let computed = self.computed();
        match self.jitter {
            Jitter::None => (computed, computed),
            Jitter::Full => (0, computed),
            Jitter::Equal => (computed / 2, computed),
            Jitter::Decorrelated => (self.base, self.previous * 3),
            Jitter::Spread { percent } => {
                (computed - half(computed, percent), computed + half(computed, percent))
            }
            other => unreachable!("{other:?} is not drawn"),
        }
    }

    fn ceiling(&self) -> u128 {
        self.bounds().1.min(self.cap)
    }

    fn next(&mut self) -> u128 {
        let (low, high) = self.bounds();
        let high = u64::try_from(high).unwrap_or(u64::MAX);
        self.previous = u128::from(self.rng.between(low as u64, high)).min(self.cap);
        self.retry = (self.retry + 1).min(u64::MAX.into());
        self.previous
    }

    fn nth(&mut self, n: usize) -> u128 {
        if self.jitter == Jitter::Decorrelated {
            for _ in 0..n.min(64) {
                self.next();
            }
        } else {
            self.retry = (self.retry + n as u128).min(u64::MAX.into());
        }
        self.next()
    }

    /// Checks a power.
    fn check(&self) -> Result<(), TestCaseError> {
        let Growth::Exponential(factor) = self.growth else { return Ok(()) };
        let uncapped = self.base as f64 * (self.retry as f64 * factor.ln()).exp();
        let (real, expected) = (self.computed() as f64, uncapped.min(self.cap as f64));
        let allowed = 1.0 + expected * 1e-9;
        prop_assert!((real - expected).abs() <= allowed, "{real} ns beside {expected} ns in {self:?}");
        Ok(())
    }
}

fn half(of: u128, percent: u8) -> u128 {
    of * u128::from(percent.min(100)) / 100
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Next,
    Nth(usize),
    Restart,
    /// Somebody else draws from the session's generator.
    Draw(u64),
    /// A copy goes on where the original is.
    Clone,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Next),
        1 => (0..100_usize).prop_map(Step::Nth),
        1 => any::<usize>().prop_map(Step::Nth),
        1 => Just(Step::Nth(usize::MAX)),
        1 => Just(Step::Restart),
        1 => any::<u64>().prop_map(Step::Draw),
        1 => Just(Step::Clone),
    ]
}

fn any_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (1..2000_u64).prop_map(Duration::from_nanos),
        (1..300_000_u64).prop_map(Duration::from_millis),
        (1..=u64::MAX).prop_map(Duration::from_nanos),
        (1..=u64::MAX).prop_map(Duration::from_secs),
        Just(Duration::MAX),
    ]
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let factor = prop_oneof![Just(1.0), Just(2.0), 1.0..4.0, 1.0..1.000_001, 1.0..f64::MAX];
    let growth =
        prop_oneof![Just(Growth::Constant), Just(Growth::Linear), factor.prop_map(Growth::Exponential),];
    let jitter = prop_oneof![
        Just(Jitter::None),
        Just(Jitter::Full),
        Just(Jitter::Equal),
        Just(Jitter::Decorrelated),
        any::<u8>().prop_map(|percent| Jitter::Spread { percent }),
    ];
    let plan = |(growth, a, b, jitter, seed): (_, Duration, Duration, _, _)| Plan {
        growth,
        base: a.min(b),
        cap: a.max(b),
        jitter,
        seed,
    };
    (growth, any_duration(), any_duration(), jitter, any::<u64>()).prop_map(plan)
}

fn compare(plan: &Plan, steps: &[Step]) -> Result<(), TestCaseError> {
    let backoff = plan.backoff();
    let mut model = Model::new(plan);
    let mut delays = backoff.delays_with(Rng::seeded(plan.seed));
    prop_assert_eq!((nanos(backoff.base()), nanos(backoff.cap())), (model.base, model.cap));
    prop_assert_eq!(backoff.spread(), plan.jitter);
    for step in steps {
        model.check()?;
        prop_assert_eq!(delays.ceiling().as_nanos(), model.ceiling());
        match *step {
            Step::Next => {
                let ceiling = delays.ceiling();
                let delay = delays.next().unwrap();
                prop_assert!(delay <= ceiling, "{delay:?} over {ceiling:?}");
                took(&mut model, delay, Model::next)?;
            }
            Step::Nth(n) => took(&mut model, delays.nth(n).unwrap(), |model| model.nth(n))?,
            Step::Restart => {
                delays.restart();
                (model.retry, model.previous) = (0, model.base);
            }
            Step::Draw(max) => {
                let drawn = delays.rng().up_to(Duration::from_nanos(max));
                prop_assert_eq!(drawn, Duration::from_nanos(model.rng.between(0, max)));
            }
            Step::Clone => took(&mut model.clone(), delays.clone().next().unwrap(), Model::next)?,
        }
    }
    Ok(())
}

fn took(
    model: &mut Model,
    real: Duration,
    next: impl FnOnce(&mut Model) -> u128,
) -> Result<(), TestCaseError> {
    let expected = next(model);
    prop_assert_eq!(real.as_nanos(), expected, "in {:?}", model);
    prop_assert!(expected <= model.cap, "{expected} ns is over the cap");
    Ok(())
}

/// The sum of the longest delays, one after the other.
fn longest(plan: &Plan, retries: u32) -> u128 {
    let mut model = Model::new(plan);
    (0..retries).fold(0, |sum, _| {
        model.previous = model.ceiling();
        model.retry += 1;
        sum + model.previous
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn delays_are_those_of_a_naive_model(plan in any_plan(), steps in prop::collection::vec(any_step(), 0..12)) {
        compare(&plan, &steps)?;
    }

    #[test]
    fn the_longest_wait_is_the_sum_of_the_longest_delays(plan in any_plan(), few in 0..12_u32, many in any::<u32>()) {
        let backoff = plan.backoff();
        let (real, expected) = (backoff.longest(few), longest(&plan, few));
        prop_assert_eq!(real.as_nanos(), expected);
        let waited = backoff.delays().take(few as usize).fold(Duration::ZERO, Duration::saturating_add);
        prop_assert!(waited <= real, "{waited:?} of {real:?}");
        // However many: no less than fewer of them, and no more than all at the cap.
        let all = backoff.longest(many);
        prop_assert!(all >= backoff.longest(many.min(few)) && all <= backoff.cap().saturating_mul(many));
    }

    #[test]
    fn a_seed_repeats_a_run_whose_sessions_all_differ(plan in any_plan(), sessions in 2..6_usize) {
        let run = || {
            let backoff = plan.backoff();
            let clone = backoff.clone();
            let session = |n| if n % 2 == 0 { backoff.delays() } else { clone.delays() };
            let drawn = |mut delays: Delays| (delays.rng().between(0, u64::MAX), delays.next());
            (0..sessions).map(session).map(drawn).collect::<Vec<_>>()
        };
        let first = run();
        prop_assert_eq!(&first, &run());
        for (n, (drawn, _)) in first.iter().enumerate() {
            prop_assert!(first[..n].iter().all(|(other, _)| other != drawn));
        }
    }
}

#[test]
fn the_model_itself_follows_the_textbook() {
    let (base, cap) = (Duration::from_secs(1), Duration::from_secs(10));
    let model = |growth, jitter| Model::new(&Plan { growth, base, cap, jitter, seed: 0 });
    let seconds = |growth| {
        let mut model = model(growth, Jitter::None);
        [(); 5].map(|()| model.next() / 1_000_000_000)
    };
    assert_eq!(seconds(Growth::Constant), [1; 5]);
    assert_eq!(seconds(Growth::Linear), [1, 2, 3, 4, 5]);
    assert_eq!(seconds(Growth::Exponential(3.0)), [1, 3, 9, 10, 10]);
    let spread = model(Growth::Linear, Jitter::Spread { percent: 20 });
    assert_eq!(spread.bounds(), (800_000_000, 1_200_000_000));
}
