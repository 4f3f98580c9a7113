//! Budgets under every interleaving of those who pay and earn: `cargo xtask loom`.

use buttress_core::sync::{model, thread};

use super::*;

/// Does the first in two other threads, the second in this one, and says how often each came to anything.
fn beside(budget: &Budget, one: fn(&Budget) -> bool, other: fn(&Budget) -> bool) -> (usize, bool) {
    let threads = [(); 2].map(|()| {
        let budget = budget.clone();
        thread::spawn(move || one(&budget))
    });
    let other = other(budget);
    (threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum(), other)
}

fn pay(budget: &Budget) -> bool {
    budget.pay(Kind::Transient, false).is_some()
}

fn earn(budget: &Budget) -> bool {
    budget.success(None);
    true
}

#[test]
fn of_three_who_want_the_last_token_one_gets_it() {
    for budget in [|| Budget::ratio(0.5, 1).unwrap(), Budget::standard as fn() -> Budget] {
        model(move || {
            let budget = budget();
            let (paid, other) = beside(&budget, pay, pay);
            assert_eq!(paid + usize::from(other), 1);
            assert_eq!(budget.tokens(), 0.0);
        });
    }
}

#[test]
fn what_is_earned_beside_a_payment_is_in_the_bucket_once() {
    model(|| {
        let budget = Budget::ratio(0.5, 2).unwrap();
        assert!(pay(&budget));
        let (_, paid) = beside(&budget, earn, pay);
        assert!(paid);
        assert_eq!(budget.tokens(), 1.0);
    });
}

#[test]
fn what_two_give_back_beside_a_payment_is_in_the_bucket_or_was_paid_with() {
    let adaptive = || Budget::adaptive(0.0, Duration::from_millis(500), 2).unwrap();
    for budget in [|| Budget::ratio(0.0, 2).unwrap(), adaptive as fn() -> Budget] {
        model(move || {
            let budget = budget();
            assert!(pay(&budget) && pay(&budget));
            let give_back = |budget: &Budget| {
                drop(budget.prepaid(Some(Paid(TOKEN))));
                true
            };
            let (_, paid) = beside(&budget, give_back, pay);
            assert_eq!(budget.tokens() + f64::from(u8::from(paid)), 2.0);
        });
    }
}

#[test]
fn what_several_earn_at_once_is_no_more_than_fits() {
    model(|| {
        let budget = Budget::ratio(0.4, 2).unwrap();
        assert!(pay(&budget));
        beside(&budget, earn, earn);
        assert_eq!(budget.tokens(), 2.0);
    });
}

#[test]
fn an_adaptive_budget_credits_each_success_once_whoever_settles() {
    model(|| {
        let budget = Budget::adaptive(0.5, Duration::from_millis(500), 3).unwrap();
        (0..3).for_each(|_| assert!(pay(&budget)));
        let settle = |budget: &Budget| {
            budget.success(None);
            budget.tokens() <= 1.5
        };
        let (settled, other) = beside(&budget, settle, settle);
        assert_eq!((settled, other), (2, true));
        assert_eq!(budget.tokens(), 1.5);
    });
}

#[test]
fn failures_beside_successes_neither_overdraw_nor_overfill_a_throttle() {
    model(|| {
        let budget = Budget::grpc_throttle(2, 1.0).unwrap();
        (0..2).for_each(|_| budget.failure());
        let fail = |budget: &Budget| {
            budget.failure();
            true
        };
        beside(&budget, fail, earn);
        assert!([0.0, 1.0].contains(&budget.tokens()), "{}", budget.tokens());
    });
}

#[test]
fn a_budget_that_shrinks_beside_those_who_pay_and_earn_holds_no_more_than_they_brought() {
    model(|| {
        let budget = Budget::ratio(0.5, 3).unwrap();
        let smaller = Budget::ratio(0.5, 1).unwrap();
        let shrunk = {
            let budget = budget.clone();
            thread::spawn(move || budget.become_like(&smaller))
        };
        let (earned, paid) = beside(&budget, earn, pay);
        shrunk.join().unwrap();
        assert_eq!((earned, paid), (2, true));
        // One half each, that were on their way when the size changed.
        assert!((0.0..=2.0).contains(&budget.tokens()), "{}", budget.tokens());
        earn(&budget);
        assert!(budget.tokens() <= 2.0 && budget.to_string().starts_with("1 tokens"));
    });
}
