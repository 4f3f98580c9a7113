//! Budgets beside a naive model of each: plain numbers that are wide enough, in one thread, a step at a time.

use std::future::Future;
use std::time::Duration;

use buttress_core::Kind;
use proptest::prelude::*;
use proptest::sample;
use proptest::test_runner::TestCaseError;
use tokio::time::advance;

use super::{Budget, Paid};

const MILLION: u128 = 1_000_000;

#[derive(Clone, Copy, Debug)]
enum Plan {
    Unlimited,
    Ratio { millionths: u32, capacity: u32 },
    Aws20,
    Aws21,
    Grpc { max: u32, thousandths: u32 },
    Standard,
    Adaptive { millionths: u32, burst: Duration, at_least: u32 },
}

impl Plan {
    fn budget(self) -> Budget {
        let share = |millionths: u32| f64::from(millionths) / 1e6;
        match self {
            Self::Unlimited => Budget::unlimited(),
            Self::Ratio { millionths, capacity } => Budget::ratio(share(millionths), capacity).unwrap(),
            Self::Aws20 => Budget::aws_2_0(),
            Self::Aws21 => Budget::aws_2_1(),
            Self::Grpc { max, thousandths } => {
                Budget::grpc_throttle(max, f64::from(thousandths) / 1e3).unwrap()
            }
            Self::Standard => Budget::standard(),
            Self::Adaptive { millionths, burst, at_least } => {
                Budget::adaptive(share(millionths), burst, at_least).unwrap()
            }
        }
    }

    fn model(self) -> Model {
        let bucket = |capacity: u32, success: u128, costs: [u128; 3], refunds| Model::Bucket {
            tokens: u128::from(capacity) * MILLION,
            capacity: u128::from(capacity) * MILLION,
            success,
            costs: costs.map(|tokens| tokens * MILLION),
            refunds,
        };
        match self {
            Self::Unlimited => Model::Unlimited,
            Self::Ratio { millionths, capacity } => bucket(capacity, millionths.into(), [1, 1, 1], false),
            Self::Aws20 => bucket(500, MILLION, [5, 5, 10], true),
            Self::Aws21 => bucket(500, MILLION, [14, 5, 14], true),
            Self::Grpc { max, thousandths } => Model::Grpc {
                tokens: u128::from(max) * MILLION,
                max: u128::from(max) * MILLION,
                ratio: u128::from(thousandths) * 1000,
            },
            Self::Standard => Model::Adaptive(Traffic::new(100_000, Duration::from_millis(500), 1)),
            Self::Adaptive { millionths, burst, at_least } => {
                Model::Adaptive(Traffic::new(millionths, burst, at_least))
            }
        }
    }
}

/// Tokens are counted in millionths.
enum Model {
    Unlimited,
    /// Costs: of a retry, after throttling, after a time-out.
    Bucket {
        tokens: u128,
        capacity: u128,
        success: u128,
        costs: [u128; 3],
        refunds: bool,
    },
    Grpc {
        tokens: u128,
        max: u128,
        ratio: u128,
    },
    Adaptive(Traffic),
}

impl Model {
    fn success(&mut self, now: u64, paid: Option<u128>) {
        match self {
            Self::Unlimited => {}
            Self::Bucket { tokens, capacity, success, refunds, .. } => {
                let back = paid.filter(|_| *refunds).unwrap_or(*success);
                *tokens = (*tokens + back).min(*capacity);
            }
            Self::Grpc { tokens, max, ratio } => *tokens = (*tokens + *ratio).min(*max),
            Self::Adaptive(traffic) => traffic.success(now),
        }
    }

    fn failure(&mut self) {
        if let Self::Grpc { tokens, .. } = self {
            *tokens -= MILLION.min(*tokens);
        }
    }

    fn refund(&mut self, now: u64, paid: u128) {
        match self {
            Self::Unlimited | Self::Grpc { .. } => {}
            Self::Bucket { tokens, capacity, .. } => *tokens = (*tokens + paid).min(*capacity),
            Self::Adaptive(traffic) => {
                traffic.settle(now);
                traffic.tokens += paid;
            }
        }
    }

    /// What a retry costs, if there is as much.
    fn affords(&mut self, now: u64, kind: Kind) -> Option<u128> {
        let (tokens, cost) = match self {
            Self::Unlimited => (0, 0),
            Self::Bucket { tokens, costs, .. } => match kind {
                Kind::Throttled => (*tokens, costs[1]),
                Kind::Timeout => (*tokens, costs[2]),
                _ => (*tokens, costs[0]),
            },
            Self::Grpc { tokens, max, .. } => return (*tokens * 2 > *max).then_some(0),
            Self::Adaptive(traffic) => {
                traffic.settle(now);
                (traffic.tokens, MILLION)
            }
        };
        (tokens >= cost).then_some(cost)
    }

    fn pay(&mut self, cost: u128) {
        match self {
            Self::Unlimited | Self::Grpc { .. } => {}
            Self::Bucket { tokens, .. } => *tokens -= cost,
            Self::Adaptive(traffic) => traffic.tokens -= cost,
        }
    }

    fn tokens(&mut self, now: u64) -> f64 {
        match self {
            Self::Unlimited => f64::INFINITY,
            Self::Bucket { tokens, .. } | Self::Grpc { tokens, .. } => *tokens as f64 / 1e6,
            Self::Adaptive(traffic) => {
                traffic.settle(now);
                traffic.tokens as f64 / 1e6
            }
        }
    }
}

/// A bucket that follows the traffic. It is looked at when a retry asks, and every 256th success.
struct Traffic {
    share: u128,
    burst: Duration,
    at_least: u128,
    tokens: u128,
    successes: u64,
    uncredited: u128,
    /// Successes a second: an average that forgets with a time constant of ten seconds.
    rate: f64,
    unrated: u64,
    rated_at: u64,
    /// Since when fewer are in hand than there should be at least; each minute that has become a token moves it on.
    low_since: u64,
}

impl Traffic {
    fn new(millionths: u32, burst: Duration, at_least: u32) -> Self {
        let at_least = u128::from(at_least) * MILLION;
        Self {
            share: millionths.into(),
            burst,
            at_least,
            tokens: at_least,
            successes: 0,
            uncredited: 0,
            rate: 0.0,
            unrated: 0,
            rated_at: 0,
            low_since: 0,
        }
    }

    fn success(&mut self, now: u64) {
        self.successes += 1;
        self.uncredited += 1;
        self.unrated += 1;
        if self.successes % 256 == 0 {
            self.settle(now);
        }
    }

    fn settle(&mut self, now: u64) {
        let elapsed = (now - self.rated_at) as f64 / 1e9;
        if elapsed >= 0.001 {
            let old = (-elapsed / 10.0).exp();
            self.rate = self.rate * old + self.unrated as f64 / elapsed * (1.0 - old);
            (self.unrated, self.rated_at) = (0, now);
        }
        let burst = self.rate * self.burst.as_secs_f64() * 1e6;
        let most = if burst > 1e18 { u128::MAX } else { burst as u128 };
        self.tokens = (self.tokens + self.uncredited * self.share).min(most.max(self.at_least));
        self.uncredited = 0;
        while self.tokens < self.at_least && now - self.low_since >= MINUTE {
            self.tokens = (self.tokens + MILLION).min(self.at_least);
            self.low_since += MINUTE;
        }
        if self.tokens >= self.at_least {
            self.low_since = now;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many calls succeed at once.
    Succeed(u32),
    /// A call that has paid succeeds.
    Recover(sample::Index),
    /// One that has paid makes no use of it.
    Refund(sample::Index),
    Fail(u32),
    Pay {
        kind: Kind,
        rehearse: bool,
    },
    /// Nanoseconds.
    Wait(u64),
    /// Not after every step: whether somebody looks must not change what follows.
    Look,
}

fn any_step() -> impl Strategy<Value = Step> {
    let kind = sample::select(vec![Kind::Transient, Kind::Throttled, Kind::Timeout]);
    let wait = prop_oneof![
        0..10_000_000_u64,
        (0..5000_u64).prop_map(|millis| millis * MILLI),
        (0..200_u64).prop_map(|secs| secs * 1000 * MILLI),
        Just(MINUTE),
        (0..10 * YEAR),
    ];
    prop_oneof![
        4 => prop_oneof![1..20_u32, 200..600_u32].prop_map(Step::Succeed),
        1 => any::<sample::Index>().prop_map(Step::Recover),
        1 => any::<sample::Index>().prop_map(Step::Refund),
        2 => (1..20_u32).prop_map(Step::Fail),
        8 => (kind, 0..4_u8).prop_map(|(kind, n)| Step::Pay { kind, rehearse: n == 0 }),
        5 => wait.prop_map(Step::Wait),
        2 => Just(Step::Look),
    ]
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let millionths = || prop_oneof![0..=1_000_000_u32, (0..=100_u32).prop_map(|percent| percent * 10_000)];
    let burst = prop_oneof![
        (0..20_000_u64).prop_map(Duration::from_millis),
        Just(Duration::ZERO),
        Just(Duration::MAX),
    ];
    let ratio = |(millionths, capacity)| Plan::Ratio { millionths, capacity };
    let adaptive = |(millionths, burst, at_least)| Plan::Adaptive { millionths, burst, at_least };
    prop_oneof![
        1 => Just(Plan::Unlimited),
        4 => (millionths(), prop_oneof![0..30_u32, Just(u32::MAX)]).prop_map(ratio),
        2 => Just(Plan::Aws20),
        2 => Just(Plan::Aws21),
        4 => (1..=1000_u32, 1..=2000_u32).prop_map(|(max, thousandths)| Plan::Grpc { max, thousandths }),
        3 => Just(Plan::Standard),
        6 => (millionths(), burst, prop_oneof![0..6_u32, Just(u32::MAX)]).prop_map(adaptive),
    ]
}

async fn compare(plan: Plan, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (budget, mut model) = (plan.budget(), plan.model());
    let mut now = 0;
    let mut open: Vec<(Paid, u128)> = Vec::new();
    let (mut successes, mut retries) = (0_u64, 0_u64);
    for step in steps {
        match step {
            Step::Succeed(calls) => {
                for _ in 0..calls {
                    budget.success(None);
                    model.success(now, None);
                }
                successes += u64::from(calls);
            }
            Step::Recover(which) if !open.is_empty() => {
                let (paid, cost) = open.swap_remove(which.index(open.len()));
                budget.success(Some(paid));
                model.success(now, Some(cost));
                successes += 1;
            }
            Step::Refund(which) if !open.is_empty() => {
                let (paid, cost) = open.swap_remove(which.index(open.len()));
                budget.refund(Some(paid));
                model.refund(now, cost);
                retries -= 1;
            }
            Step::Recover(_) | Step::Refund(_) => {}
            Step::Fail(calls) => {
                for _ in 0..calls {
                    budget.failure();
                    model.failure();
                }
            }
            Step::Pay { kind, rehearse } => {
                let (real, expected) = (budget.pay(kind, rehearse), model.affords(now, kind));
                prop_assert_eq!(real.map(|paid| u128::from(paid.0)), expected, "{:?} at {}", plan, now);
                if let (Some(paid), Some(cost), false) = (real, expected, rehearse) {
                    model.pay(cost);
                    open.push((paid, cost));
                    retries += 1;
                }
            }
            Step::Wait(nanos) => {
                advance(Duration::from_nanos(nanos)).await;
                now += nanos;
            }
            Step::Look => prop_assert_eq!(budget.tokens(), model.tokens(now)),
        }
    }
    prop_assert_eq!(budget.tokens(), model.tokens(now));
    // Without a look at how it is counted: a share of what succeeded, what was in hand, and one a minute.
    if let Plan::Adaptive { millionths, at_least, .. } = plan {
        let earned = u128::from(successes) * u128::from(millionths) / MILLION;
        let most = earned + u128::from(at_least) + u128::from(now / MINUTE);
        prop_assert!(u128::from(retries) <= most, "{retries} retries, of {most}");
    }
    Ok(())
}

const MILLI: u64 = 1_000_000;
const MINUTE: u64 = 60_000 * MILLI;
const YEAR: u64 = 365 * 24 * 60 * MINUTE;

fn on_a_paused_clock<F>(test: F) -> F::Output
where
    F: Future,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(test)
}

fn drain(budget: &Budget) -> u32 {
    std::iter::from_fn(|| budget.pay(Kind::Transient, false)).count() as u32
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_budget_does_what_a_naive_model_does(plan in any_plan(), steps in prop::collection::vec(any_step(), 0..32)) {
        on_a_paused_clock(compare(plan, steps))?;
    }
}

proptest! {
    // Each of these is ten thousand calls.
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_share_is_exact_to_one_in_ten_thousand(share in 0.0..=1.0_f64, millis in 1..20_u64) {
        let expected = (share * 10_000.0).round() as u32;
        let ratio = Budget::ratio(share, 10_000).unwrap();
        drain(&ratio);
        (0..10_000).for_each(|_| ratio.success(None));
        prop_assert!(drain(&ratio).abs_diff(expected) <= 1, "a bucket");

        let throttle = Budget::grpc_throttle(1000, share.max(0.001)).unwrap();
        (0..500).for_each(|_| throttle.failure());
        (0..1000).for_each(|_| throttle.success(None));
        // A6: 0.5466 is 0.546.
        let thousandths = (share.max(0.001) * 1000.0 + 1e-6).floor();
        prop_assert_eq!(throttle.tokens(), (500.0 + thousandths).min(1000.0));

        // Where the burst is no limit.
        let retries = on_a_paused_clock(async move {
            let adaptive = Budget::adaptive(share, Duration::from_secs(86_400), 0).unwrap();
            for _ in 0..100 {
                (0..100).for_each(|_| adaptive.success(None));
                advance(Duration::from_millis(millis)).await;
            }
            drain(&adaptive)
        });
        prop_assert!(retries.abs_diff(expected) <= 1, "{retries} retries, of {expected}");
    }
}
