//! What `fail_open` opens, and what it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use buttress_idempotency::{Config, Error, Idempotency, InFlight, Ran, RunError};
use buttress_store::Fault;
use tokio::time::sleep;

mod scripted;
use scripted::{Do, Scripted, Tried, Verb, run};

const SECOND: Duration = Duration::from_secs(1);

fn open(store: &Scripted, config: Config) -> Idempotency<Scripted> {
    Idempotency::new("test", store.clone(), config.fail_open()).unwrap()
}

/// Takes a second, and counts.
fn effect(
    effects: &Arc<AtomicUsize>,
) -> impl FnOnce(
    buttress_idempotency::Claim,
) -> std::pin::Pin<Box<dyn Future<Output = Result<u32, std::io::Error>> + Send>>
+ Send
+ use<> {
    let effects = Arc::clone(effects);
    move |_| {
        Box::pin(async move {
            sleep(SECOND).await;
            Ok(effects.fetch_add(1, SeqCst) as u32)
        })
    }
}

fn in_flight(tried: &Tried) -> bool {
    matches!(tried, Err(RunError::Idempotency(Error::InFlight { .. })))
}

/// IA-26: the store has named an owner, and then it fails.
#[tokio::test(start_paused = true)]
async fn beside_an_owner_that_the_store_has_named_nothing_is_done() {
    let waiting = Config::new().in_flight(InFlight::Wait(10 * SECOND));
    for fault in [Fault::Unavailable, Fault::Timeout] {
        let store = Scripted::new();
        let (one, other) = (open(&store, waiting.clone()), open(&store, waiting.clone()));
        store.script(move |verb, _| if verb == Verb::Wait { Do::Fail(fault) } else { Do::Pass });
        let effects = Arc::default();
        let (first, second) = tokio::join!(run(&one, effect(&effects)), run(&other, effect(&effects)));
        assert!(matches!(first, Ok(Ran::Executed(0))) && in_flight(&second), "{first:?} {second:?}");
        assert_eq!(effects.load(SeqCst), 1);
    }
}

/// IA-26: it was freed, and then the store fails: who knows what has happened in between.
#[tokio::test(start_paused = true)]
async fn after_an_owner_that_the_store_has_named_nothing_is_done_either() {
    let store = Scripted::new();
    let waiting = Config::new().in_flight(InFlight::Wait(10 * SECOND));
    let (one, other) = (open(&store, waiting.clone()), open(&store, waiting));
    store.script(|verb, number| match (verb, number) {
        (Verb::Claim, 3..) => Do::Fail(Fault::Unavailable),
        _ => Do::Pass,
    });
    let effects: Arc<AtomicUsize> = Arc::default();
    let failing = async |_| {
        sleep(SECOND).await;
        Err(scripted::not_sent())
    };
    let (first, second) = tokio::join!(run(&one, failing), run(&other, effect(&effects)));
    assert!(matches!(first, Err(RunError::Effect(_))), "{first:?}");
    assert!(matches!(second, Err(RunError::Idempotency(Error::Store(_)))), "{second:?}");
    assert_eq!(effects.load(SeqCst), 0);
}

/// IA-26: a row that cannot be read is a row all the same, and a store that would lose what it takes is no store that is down.
#[tokio::test(start_paused = true)]
async fn only_a_store_that_is_down_or_full_is_gone_around() {
    use Fault::{
        Busy, Closed, Corrupt, Full, Internal, Invalid, Misconfigured, Timeout, TooLarge, Unavailable,
        Version,
    };
    for (faults, ran) in [
        (&[Unavailable, Timeout, Busy, Full, Closed][..], 1),
        (&[Corrupt, Version, Misconfigured, TooLarge, Invalid, Internal], 0),
    ] {
        for fault in faults.iter().copied() {
            let store = Scripted::new();
            let idempotency = open(&store, Config::new());
            store.script(move |_, _| Do::Fail(fault));
            let effects: Arc<AtomicUsize> = Arc::default();
            let tried = run(&idempotency, effect(&effects)).await;
            assert_eq!((tried.is_ok(), effects.load(SeqCst)), (ran == 1, ran), "{fault:?}: {tried:?}");
        }
    }
}

/// IA-26, IA-3: at least one process does not do it twice at a time.
#[tokio::test(start_paused = true)]
async fn duplicates_of_a_call_that_runs_unprotected_find_it() {
    let store = Scripted::new();
    let idempotency = open(&store, Config::new());
    store.script(|_, _| Do::Fail(Fault::Unavailable));
    let effects = Arc::default();
    let (first, second) =
        tokio::join!(run(&idempotency, effect(&effects)), run(&idempotency, effect(&effects)));
    assert!(matches!(first, Ok(Ran::Executed(0))) && in_flight(&second), "{first:?} {second:?}");
    run(&idempotency, effect(&effects)).await.unwrap();
    assert_eq!(effects.load(SeqCst), 2, "once it is over it may be done again");
}

/// IA-37
#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_what_runs_unprotected_and_lets_none_begin() {
    let store = Scripted::new();
    let idempotency = open(&store, Config::new());
    store.script(|_, _| Do::Fail(Fault::Unavailable));
    let effects: Arc<AtomicUsize> = Arc::default();
    let first = tokio::spawn(run(&idempotency, effect(&effects)));
    sleep(SECOND / 2).await;
    assert_eq!(idempotency.shutdown(10 * SECOND).await, 0);
    assert_eq!(effects.load(SeqCst), 1);
    first.await.unwrap().unwrap();
    let refused = run(&idempotency, effect(&effects)).await;
    assert!(matches!(refused, Err(RunError::Idempotency(Error::ShuttingDown))), "{refused:?}");
}
