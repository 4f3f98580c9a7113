//! Calls with one key at one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use buttress_idempotency::{Config, Error, Idempotency, InFlight, Ran, RunError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

mod scripted;
use scripted::{Do, Scripted, Tried, Verb, not_sent, run, run_with};

const SECOND: Duration = Duration::from_secs(1);

fn waiting(store: &Scripted) -> Idempotency<Scripted> {
    let config = Config::new().in_flight(InFlight::Wait(60 * SECOND));
    Idempotency::new("test", store.clone(), config).unwrap()
}

fn in_flight(tried: &Tried) -> bool {
    matches!(tried, Err(RunError::Idempotency(Error::InFlight { .. })))
}

/// Runs so many calls at once, each of which fails and says that nothing was done.
async fn herd(idempotency: &Idempotency<Scripted>, calls: usize) -> (Vec<Tried>, usize) {
    let effects: Arc<AtomicUsize> = Arc::default();
    let mut herd = JoinSet::new();
    for _ in 0..calls {
        let effects = Arc::clone(&effects);
        herd.spawn(run(idempotency, async move |_| {
            effects.fetch_add(1, SeqCst);
            sleep(SECOND).await;
            Err(not_sent())
        }));
    }
    (herd.join_all().await, effects.load(SeqCst))
}

/// IA-3: one of those who waited tries again; where that comes to nothing either, the others are told to come back.
#[tokio::test(start_paused = true)]
async fn a_call_that_leaves_no_answer_is_tried_once_more_and_not_by_each_that_waited() {
    let idempotency = waiting(&Scripted::new());
    let began = Instant::now();
    let (tried, effects) = herd(&idempotency, 5_000).await;
    assert_eq!((effects, tried.iter().filter(|tried| in_flight(tried)).count()), (2, 4_998));
    assert!(began.elapsed() < 3 * SECOND, "{:?}", began.elapsed());
    let again = run(&idempotency, async |_| Ok(7)).await.unwrap();
    assert_eq!(again, Ran::Executed(7), "the key is free");
}

/// IA-3, IA-26
#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_not_asked_by_each_that_waited() {
    let store = Scripted::new();
    store.script(|_, _| Do::FailAfter(SECOND));
    let (tried, effects) = herd(&waiting(&store), 100).await;
    assert!(tried.iter().all(Result::is_err));
    assert_eq!((effects, store.count(Verb::Claim)), (0, 2));
}

/// IA-3: a caller that goes away is no attempt.
#[tokio::test(start_paused = true)]
async fn a_call_whose_caller_goes_away_before_it_begins_is_led_by_the_next() {
    let store = Scripted::new();
    let idempotency = waiting(&store);
    let hangs = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&hangs);
    store.script(move |_, _| if flag.load(SeqCst) { Do::Take(3600 * SECOND) } else { Do::Pass });
    let calls: Vec<_> =
        (0..5).map(|number| tokio::spawn(run(&idempotency, async move |_| Ok(number)))).collect();
    for (number, call) in calls[..4].iter().enumerate() {
        sleep(SECOND).await;
        hangs.store(number < 3, SeqCst);
        call.abort();
    }
    let last = calls.into_iter().next_back().unwrap();
    assert_eq!(last.await.unwrap().unwrap(), Ran::Executed(4));
}

/// IA-3: a waiter that goes away passes the lead on, at whatever moment.
#[tokio::test(start_paused = true)]
async fn a_waiter_that_was_handed_the_lead_and_goes_away_hands_it_on() {
    let idempotency = waiting(&Scripted::new());
    let failing = async |_| {
        sleep(SECOND).await;
        Err(not_sent())
    };
    let first = tokio::spawn(run(&idempotency, failing));
    tokio::task::yield_now().await;
    let mut second = Box::pin(run(&idempotency, async |_| Ok(2)));
    assert!(buttress_testkit::clock::poll_once(&mut second).is_pending());
    let third = tokio::spawn(run(&idempotency, async |_| Ok(3)));
    tokio::task::yield_now().await;
    first.await.unwrap().unwrap_err();
    // It has the lead by now, and is never polled again.
    drop(second);
    assert_eq!(third.await.unwrap().unwrap(), Ran::Executed(3));
}

/// IA-5: whose key it is, the store decides, and not who asks first.
#[tokio::test(start_paused = true)]
async fn a_wrong_duplicate_does_not_make_the_right_one_fail() {
    let store = Scripted::new();
    let idempotency = waiting(&store);
    run_with(&idempotency, "k", "right", async |_| Ok(1)).await.unwrap();
    store.script(|_, _| Do::Take(SECOND));
    let (wrong, right) = tokio::join!(
        run_with(&idempotency, "k", "wrong", async |_| Ok(2)),
        run_with(&idempotency, "k", "right", async |_| Ok(3)),
    );
    assert!(matches!(wrong, Err(RunError::Idempotency(Error::Mismatch))), "{wrong:?}");
    assert_eq!(right.unwrap(), Ran::Replayed(1));
}

/// IA-5: while it is under way, too.
#[tokio::test(start_paused = true)]
async fn a_wrong_duplicate_of_a_call_under_way_is_a_mismatch() {
    let idempotency = waiting(&Scripted::new());
    let slow = async |_| {
        sleep(SECOND).await;
        Ok(1)
    };
    let (right, wrong) = tokio::join!(
        run_with(&idempotency, "k", "right", slow),
        run_with(&idempotency, "k", "wrong", async |_| Ok(2)),
    );
    assert_eq!(right.unwrap(), Ran::Executed(1));
    assert!(matches!(wrong, Err(RunError::Idempotency(Error::Mismatch))), "{wrong:?}");
}
