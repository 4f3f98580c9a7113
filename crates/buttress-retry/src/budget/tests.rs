use super::*;
use proptest::prelude::*;
use tokio::time::advance;

fn drain(budget: &Budget) -> u32 {
    let mut retries = 0;
    while budget.pay(Kind::Transient, false).is_some() {
        retries += 1;
    }
    retries
}

#[test]
fn every_percentage_is_exact_to_one_in_ten_thousand() {
    for percent in 0..=100_u32 {
        let budget = Budget::ratio(f64::from(percent) / 100.0, 20_000).unwrap();
        drain(&budget);
        (0..10_000).for_each(|_| budget.success(None));
        let retries = drain(&budget);
        assert!(retries.abs_diff(percent * 100) <= 1, "{percent} %: {retries} retries for 10,000 successes");
    }
}

#[tokio::test(start_paused = true)]
async fn the_standard_budget_is_a_tenth_of_successes_with_half_a_second_of_traffic_in_hand() {
    let budget = Budget::standard();
    assert_eq!(drain(&budget), 1, "at first one retry is possible");
    // 100 successes a second for a minute.
    for _ in 0..6000 {
        budget.success(None);
        advance(Duration::from_millis(10)).await;
    }
    let retries = drain(&budget);
    assert!((49..=51).contains(&retries), "half a second's worth: {retries}");
    (0..1000).for_each(|_| budget.success(None));
    // All at once: still cut to the burst, whose rate a flood in no time does not raise.
    let retries = drain(&budget);
    assert!((49..=51).contains(&retries), "{retries}");
}

#[tokio::test(start_paused = true)]
async fn a_week_of_idleness_costs_nothing_and_leaves_one_retry() {
    let budget = Budget::standard();
    for _ in 0..6000 {
        budget.success(None);
        advance(Duration::from_millis(10)).await;
    }
    advance(Duration::from_secs(7 * 86_400)).await;
    assert_eq!(drain(&budget), 1);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_not_credited() {
    let budget = Budget::adaptive(0.1, Duration::from_millis(500), 3).unwrap();
    assert_eq!(drain(&budget), 3);
    for _ in 0..1000 {
        budget.failure();
        advance(Duration::from_millis(10)).await;
    }
    assert_eq!(drain(&budget), 0, "ten seconds of failures");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_process_gets_a_retry_a_minute_and_no_more_than_it_keeps_in_hand() {
    let budget = Budget::adaptive(0.1, Duration::from_millis(500), 3).unwrap();
    assert_eq!(drain(&budget), 3);
    advance(Duration::from_secs(59)).await;
    assert_eq!(drain(&budget), 0);
    advance(Duration::from_secs(1)).await;
    assert_eq!(drain(&budget), 1);
    advance(Duration::from_secs(150)).await;
    assert_eq!(drain(&budget), 2);
    advance(Duration::from_secs(86_400)).await;
    assert_eq!(drain(&budget), 3);
    // It was full a second ago, and so the next minute begins now.
    advance(Duration::from_secs(181)).await;
    assert_eq!(drain(&budget), 3);
    advance(Duration::from_secs(59)).await;
    assert_eq!(drain(&budget), 0);
}

#[test]
fn the_buckets_of_aws_charge_and_refund_as_specified() {
    let budget = Budget::aws_2_1();
    let paid = budget.pay(Kind::Transient, false).unwrap();
    assert_eq!(budget.tokens(), 486.0);
    budget.pay(Kind::Timeout, false).unwrap();
    budget.pay(Kind::Throttled, false).unwrap();
    assert_eq!(budget.tokens(), 467.0);
    budget.success(Some(paid));
    assert_eq!(budget.tokens(), 481.0, "the last retry's cost comes back");
    budget.success(None);
    assert_eq!(budget.tokens(), 482.0);
    (0..1000).for_each(|_| budget.success(None));
    assert_eq!(budget.tokens(), 500.0, "no more than it holds");
    assert_eq!(drain(&budget), 35);

    let budget = Budget::aws_2_0();
    budget.pay(Kind::Timeout, false).unwrap();
    budget.pay(Kind::Transient, false).unwrap();
    assert_eq!(budget.tokens(), 485.0);
    assert_eq!(drain(&budget), 97);
    assert!(budget.pay(Kind::Throttled, false).is_none());
}

#[test]
fn grpc_throttling_follows_a6() {
    let budget = Budget::grpc_throttle(10, 0.5).unwrap();
    for allowed in [true, true, true, true, false, false] {
        budget.failure();
        assert_eq!(budget.pay(Kind::Transient, false).is_some(), allowed, "{}", budget.tokens());
    }
    budget.success(None);
    budget.success(None);
    assert!(budget.pay(Kind::Transient, false).is_none(), "5 is not more than half of 10");
    budget.success(None);
    assert!(budget.pay(Kind::Transient, false).is_some());
    (0..100).for_each(|_| budget.failure());
    assert_eq!(budget.tokens(), 0.0);
    let budget = Budget::grpc_throttle(10, 1.001).unwrap();
    (0..10).for_each(|_| budget.failure());
    budget.success(None);
    assert_eq!(budget.tokens(), 1.001, "three decimals");
    budget.rejected(None);
    assert_eq!(budget.tokens(), 1.001, "nothing but OK is credited");
    let budget = Budget::grpc_throttle(10, 0.5466).unwrap();
    (0..10).for_each(|_| budget.failure());
    budget.success(None);
    assert_eq!(budget.tokens(), 0.546, "and no more than three");
    assert!(Budget::grpc_throttle(0, 0.1).is_err() && Budget::grpc_throttle(1001, 0.1).is_err());
    assert!(Budget::grpc_throttle(10, 0.0).is_err() && Budget::grpc_throttle(10, f64::NAN).is_err());
}

#[test]
fn a_bad_share_is_an_error_with_the_rule() {
    let message = Budget::ratio(1.5, 1).unwrap_err().to_string();
    assert_eq!(message, "`share` is 1.5, but must be between 0 and 1");
    assert!(Budget::adaptive(f64::NAN, Duration::ZERO, 1).is_err());
}

#[test]
fn an_unlimited_budget_always_pays() {
    let budget = Budget::unlimited();
    assert!((0..100_000).all(|_| budget.pay(Kind::Transient, false).is_some()));
    assert!(budget.tokens().is_infinite());
}

proptest! {
    #[test]
    fn a_bucket_never_exceeds_its_size_nor_what_was_put_in(
        steps in prop::collection::vec(any::<bool>(), 0..500),
        capacity in 0..50_u32,
        percent in 0..=100_u32,
    ) {
        let budget = Budget::ratio(f64::from(percent) / 100.0, capacity).unwrap();
        // A naive one in hundredths.
        let mut tokens = capacity * 100;
        for success in steps {
            if success {
                budget.success(None);
                tokens = (tokens + percent).min(capacity * 100);
            } else {
                let expected = tokens >= 100;
                prop_assert_eq!(budget.pay(Kind::Transient, false).is_some(), expected);
                tokens -= if expected { 100 } else { 0 };
            }
        }
    }
}
