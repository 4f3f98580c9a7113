//! What is retried, after what delay, and who hears of it, said by closures.

mod common;

use std::sync::{Arc, Mutex};

use buttress_core::{
    Backoff, BoxError, ErrorRef, Hint, Kind, Mode, Replay, Stop, Verdict, classify_fn, error_verdict,
};
use buttress_retry::Budget;
use buttress_testkit::{Scripted, contract, err, ok};
use common::{every, exhausted, layer, ms};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

#[tokio::test(start_paused = true)]
async fn a_layer_with_a_closure_keeps_the_contract() {
    contract::check(|| layer(every(3, ms(1))).retry_if(|_: Result<&_, _>, verdict| verdict.is_failure()))
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_retried_if_the_closure_says_so_and_the_last_one_is_delivered() {
    let pending = |outcome: Result<&u32, ErrorRef<'_>>, _| outcome.is_ok_and(|job| *job == 0);
    let retry = layer(every(3, ms(100))).retry_if(pending);
    for (answers, calls, answer) in [(vec![ok(0), ok(0), ok(7)], 3, 7), (vec![ok(0)], 4, 0)] {
        let (script, started) = (Scripted::new(answers), Instant::now());
        assert_eq!(retry.layer(script.clone()).oneshot(()).await.unwrap(), answer);
        assert_eq!((script.calls(), started.elapsed()), (calls, ms(100) * (calls as u32 - 1)));
    }
    let mut calls = 0;
    let job = retry.run(|| {
        calls += 1;
        let job = u32::from(calls > 2);
        async move { Ok::<_, BoxError>(job) }
    });
    assert_eq!(job.await.unwrap(), 1, "the function form asks it too");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_the_closure_does_not_want_comes_out_as_it_is_and_is_not_paid_for() {
    let budget = Budget::ratio(0.0, 3).unwrap();
    let retry = layer(every(3, ms(100)).budget(budget.clone()));
    let retry = retry.retry_if(|outcome: Result<&u32, ErrorRef<'_>>, verdict: Verdict| {
        verdict.is_failure() && outcome.is_err_and(|error| error.to_string() != "no such job")
    });
    let script = Scripted::new([err("no such job")]);
    let error = retry.layer(script.clone()).oneshot(()).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), script.calls(), budget.tokens()), ("no such job", 1, 3.0));
    let script = Scripted::new([err("down"), err("no such job")]);
    let error = retry.layer(script.clone()).oneshot(()).await.unwrap_err();
    assert_eq!((exhausted(&error).stop, script.calls()), (Stop::NotRetryable, 2));
}

/// Replays, and knows that it must not.
#[derive(Clone)]
struct Once;

impl Replay<()> for Once {
    type Request = ();
    type Saved = ();

    fn is_repeatable(&self, (): &()) -> bool {
        false
    }

    fn once(&self, (): ()) {}

    fn record(&self, (): ()) {}

    fn keep(&self, (): &()) {}

    fn replay(&self, (): &mut ()) -> Option<()> {
        Some(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_closure_repeats_nothing_that_may_not_be_repeated_or_that_the_server_forbids() {
    let policy = classify_fn(|outcome: Result<&u32, ErrorRef<'_>>| match outcome {
        Ok(0) => Verdict::failure(Kind::Permanent).with_hint(Hint::DoNotRetry),
        Ok(1) => Verdict::failure(Kind::Permanent).not_sent(),
        Ok(_) => Verdict::Success,
        Err(error) => error_verdict(error),
    });
    let retry = layer(every(3, ms(100))).policy(policy).retry_if(|_: Result<&u32, _>, _| true);
    let calls = async |retry_once: bool, answer: u32| {
        let script = Scripted::new([ok(answer)]);
        let answered = match retry_once {
            true => retry.clone().replay(Once).layer(script.clone()).oneshot(()).await,
            false => retry.layer(script.clone()).oneshot(()).await,
        };
        assert_eq!(answered.unwrap(), answer);
        script.calls()
    };
    assert_eq!(calls(false, 0).await, 1, "the server forbids it");
    assert_eq!((calls(false, 2).await, calls(true, 2).await), (4, 1), "it may have had an effect");
    assert_eq!(calls(true, 1).await, 4, "it has had none");
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_is_told_of_each_retry_before_its_wait_and_of_nothing_else() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let config = every(2, ms(100)).on_retry({
        let heard = Arc::clone(&heard);
        move |attempt, verdict, delay| {
            heard.lock().unwrap().push((attempt, verdict, delay, Instant::now()));
            panic!("its own fault");
        }
    });
    let (retry, started) = (layer(config), Instant::now());
    retry.layer(Scripted::<u32>::new([ok(1)])).oneshot(()).await.unwrap();
    assert_eq!(heard.lock().unwrap().len(), 0, "nothing is retried");
    retry.layer(Scripted::<u32>::new([err("down")])).oneshot(()).await.unwrap_err();
    let down = Verdict::failure(Kind::Transient);
    let told = [(1, down, ms(100), started), (2, down, ms(100), started + ms(100))];
    assert_eq!(*heard.lock().unwrap(), told, "the third failure is the call's");
    retry.set_mode(Mode::Observe);
    retry.layer(Scripted::<u32>::new([err("down")])).oneshot(()).await.unwrap_err();
    assert_eq!(heard.lock().unwrap().len(), 2, "nothing is retried in this mode");
}

#[tokio::test(start_paused = true)]
async fn a_closure_says_how_long_each_wait_is_and_a_server_may_still_ask_for_more() {
    let throttled = classify_fn(|outcome: Result<&u32, ErrorRef<'_>>| match outcome {
        Ok(_) => Verdict::Success,
        Err(_) => Verdict::failure(Kind::Throttled).with_hint(Hint::RetryAfter(ms(5000))),
    });
    let retry = layer(every(3, ms(0)).backoff(Backoff::from_fn(ms(900), |retry| ms(400) * retry)));
    let (script, started) = (Scripted::<u32>::new([err("down")]), Instant::now());
    retry.layer(script.clone()).oneshot(()).await.unwrap_err();
    assert_eq!((script.calls(), started.elapsed()), (4, ms(400 + 800 + 900)));
    let started = Instant::now();
    retry.policy(throttled).layer(script).oneshot(()).await.unwrap_err();
    assert!(started.elapsed() >= ms(15_000), "{:?}", started.elapsed());
}
