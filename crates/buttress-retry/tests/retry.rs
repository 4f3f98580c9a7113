//! How often, when, and what comes out.

mod common;

use std::sync::{Arc, Mutex};

use buttress_core::observe::Severity;
use buttress_core::{
    Backoff, BoxError, ErrorRef, Event, Jitter, Kind, Mode, Reason, Refused, Stop, Verdict, classify_fn,
    error_verdict, find, observe_fn,
};
use buttress_retry::{Budget, Config};
use buttress_testkit::clock::{advance, poll_in_task};
use buttress_testkit::{Scripted, contract, err, hang, ok, panics, recorder};
use common::{every, exhausted, layer, ms};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_test::{assert_request_eq, mock};

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract() {
    contract::check(|| layer(every(0, ms(1)))).await;
    contract::check(|| layer(every(3, ms(1)))).await;
}

///
#[tokio::test(start_paused = true)]
async fn twelve_retries_are_thirteen_calls_and_one_attempt_is_one() {
    let (observer, events) = recorder();
    let script = Scripted::<u32>::new([err("down")]);
    let service = layer(every(12, ms(500))).observe(observer).layer(script.clone());
    let error = service.oneshot(()).await.unwrap_err();
    let exhausted = exhausted(&error);
    assert_eq!((script.calls(), exhausted.attempts, exhausted.stop), (13, 13, Stop::MaxRetries));
    let retries =
        events.lock().unwrap().iter().filter(|event| matches!(event, Event::Backoff { .. })).count();
    assert_eq!(retries, 12);

    for (retries, calls, waited) in [(2, 3, ms(1000)), (0, 1, ms(0))] {
        let script = Scripted::<u32>::new([err("down")]);
        let started = Instant::now();
        layer(every(retries, ms(500))).layer(script.clone()).oneshot(()).await.unwrap_err();
        assert_eq!((script.calls(), started.elapsed()), (calls, waited));
    }
}

/// R-02, through the layer
#[tokio::test(start_paused = true)]
async fn the_delays_are_those_of_the_backoff() {
    let (observer, events) = recorder();
    let backoff = Backoff::exponential(ms(1), 2.0, ms(10)).unwrap().jitter(Jitter::None);
    let layer = layer(every(6, ms(0)).backoff(backoff)).observe(observer);
    let started = Instant::now();
    layer.layer(Scripted::<u32>::new([err("down")])).oneshot(()).await.unwrap_err();
    assert_eq!(started.elapsed(), ms(1 + 2 + 4 + 8 + 10 + 10));
    let events = events.lock().unwrap();
    let delays = events.iter().filter_map(|event| match event {
        Event::Backoff { delay, .. } => Some(delay.as_millis()),
        _ => None,
    });
    assert_eq!(delays.collect::<Vec<_>>(), [1, 2, 4, 8, 10, 10]);
}

///
#[tokio::test(start_paused = true)]
async fn dropping_the_call_ends_it_wherever_it_is() {
    let retry = layer(every(5, ms(100)));
    let mut called = false;
    drop(retry.run(|| {
        called = true;
        async { Ok::<_, BoxError>(()) }
    }));
    assert!(!called, "before");

    let script = Scripted::<u32>::new([hang()]);
    let service = retry.layer(script.clone());
    let mut call = Box::pin(service.clone().oneshot(()));
    assert!(poll_in_task(&mut call).await.is_pending());
    drop(call);
    assert_eq!((script.calls(), script.counts().in_flight), (1, 0), "during the attempt");

    script.go_on_with([err("down")]);
    let mut call = Box::pin(service.oneshot(()));
    assert!(poll_in_task(&mut call).await.is_pending());
    assert_eq!(script.calls(), 2);
    drop(call);
    advance(ms(1000)).await;
    assert_eq!(script.calls(), 2, "during the delay");
}

/// R-06, in an observer
#[tokio::test(start_paused = true)]
async fn a_call_that_its_observer_cancels_makes_no_further_attempt() {
    let script = Scripted::<u32>::new([err("down")]);
    let task: Arc<Mutex<Option<tokio::task::AbortHandle>>> = Arc::default();
    let abort = Arc::clone(&task);
    let observer = observe_fn(move |_, event| {
        if let Event::Backoff { .. } = event {
            abort.lock().unwrap().as_ref().unwrap().abort();
        }
    });
    let service = layer(every(5, ms(100))).observe(observer).layer(script.clone());
    let call = tokio::spawn(service.oneshot(()));
    *task.lock().unwrap() = Some(call.abort_handle());
    let started = Instant::now();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!((script.calls(), started.elapsed()), (1, ms(0)), "promptly");
}

///
#[tokio::test(start_paused = true)]
async fn an_error_that_is_not_retried_comes_out_as_it_is() {
    let policy = classify_fn(|outcome: Result<&u32, ErrorRef<'_>>| match outcome {
        Err(_) => Verdict::failure(Kind::Permanent),
        Ok(_) => Verdict::Success,
    });
    let script = Scripted::<u32>::new([err("no such method")]);
    let service = layer(every(5, ms(1))).policy(policy).layer(script.clone());
    let error = service.oneshot(()).await.unwrap_err();
    assert_eq!(script.calls(), 1);
    assert!(error.is::<buttress_testkit::ScriptError>(), "the same error, not wrapped: {error:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_retry_even_an_unhandled_error_tells_the_whole_story() {
    let policy = classify_fn(|outcome: Result<&u32, ErrorRef<'_>>| match outcome {
        Err(error) if error.to_string() == "bug" => Verdict::failure(Kind::Permanent),
        Err(error) => error_verdict(error),
        Ok(_) => Verdict::Success,
    });
    let service =
        layer(every(5, ms(1))).policy(policy).layer(Scripted::<u32>::new([err("down"), err("bug")]));
    let error = service.oneshot(()).await.unwrap_err();
    let exhausted = exhausted(&error);
    assert_eq!((exhausted.stop, exhausted.attempts), (Stop::NotRetryable, 2));
    assert_eq!(exhausted.source.to_string(), "bug");
}

///
#[tokio::test(start_paused = true)]
async fn attempts_are_reported_with_their_severity() {
    let (observer, events) = recorder();
    let policy = classify_fn(|outcome: Result<&u32, ErrorRef<'_>>| match outcome {
        Err(error) if error.to_string() == "bug" => Verdict::failure(Kind::Permanent),
        Err(error) => error_verdict(error),
        Ok(_) => Verdict::Success,
    });
    let script = Scripted::new([err("down").after(ms(30)), err("down"), ok(1), err("bug")]);
    let service = layer(every(1, ms(1))).policy(policy).observe(observer).layer(script);
    service.clone().oneshot(()).await.unwrap_err();
    service.clone().oneshot(()).await.unwrap();
    service.clone().oneshot(()).await.unwrap_err();
    let events = events.lock().unwrap();
    let attempts = events.iter().filter_map(|event| match event {
        Event::Attempt { number, severity, elapsed, .. } => Some((*number, *severity, *elapsed)),
        _ => None,
    });
    let attempts: Vec<_> = attempts.collect();
    assert_eq!(
        attempts,
        [
            (1, Severity::Warning, ms(30)),
            (2, Severity::Error, ms(0)),
            (1, Severity::Information, ms(0)),
            (1, Severity::Information, ms(0)),
        ]
    );
}

/// T-01
#[tokio::test(start_paused = true)]
async fn a_time_out_below_bounds_each_attempt_and_not_the_delay() {
    let slow = || ok(1).after(ms(100));
    let script = Scripted::new([slow(), slow(), ok(1)]);
    let attempt = tower::timeout::TimeoutLayer::new(ms(50));
    let service = layer(every(2, ms(0))).layer(attempt.layer(script.clone()));
    let started = Instant::now();
    service.oneshot(()).await.unwrap();
    assert_eq!((script.calls(), script.counts().dropped, started.elapsed()), (3, 2, ms(100)));

    let script = Scripted::<u32>::new([err("at once")]);
    let service = layer(every(2, ms(100))).layer(attempt.layer(script.clone()));
    let error = service.oneshot(()).await.unwrap_err();
    assert_eq!(script.calls(), 3);
    assert!(find::<tower::timeout::error::Elapsed>(&*error).is_none(), "a pending retry is not timed");
}

///
#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_is_asked_as_often_as_there_are_attempts() {
    let script = Scripted::new([ok(1)]);
    let limited = ServiceBuilder::new().load_shed().concurrency_limit(1).service(script.clone());
    let mut busy = limited.clone();
    let slot = ServiceExt::<()>::ready(&mut busy).await.unwrap().call(());
    let (observer, events) = recorder();
    // What sheds load is taken for a layer of ours where its errors are known (feature `tower`), and else for a passing failure.
    let service = layer(every(6, ms(10)).retry_refused(true)).observe(observer).layer(limited);
    let error = service.oneshot(()).await.unwrap_err();
    assert_eq!((exhausted(&error).attempts, script.calls()), (7, 1), "the one call is the slot's");
    assert_eq!(
        events.lock().unwrap().iter().filter(|event| matches!(event, Event::Attempt { .. })).count(),
        7
    );
    drop(slot);
}

#[tokio::test(start_paused = true)]
async fn what_a_layer_below_refused_is_not_retried_unless_told_to() {
    let refusing = || {
        tower::service_fn(|(): ()| async {
            Err::<(), _>(Refused::new("circuit breaker", "test".into(), Reason::CircuitOpen))
        })
    };
    let error = layer(every(2, ms(1))).layer(refusing()).oneshot(()).await.unwrap_err();
    assert!(error.is::<Refused>(), "as it is");
    let error = layer(every(2, ms(1)).retry_refused(true)).layer(refusing()).oneshot(()).await.unwrap_err();
    let exhausted = exhausted(&error);
    assert_eq!((exhausted.attempts, exhausted.safe_to_retry), (3, true), "nothing was ever sent");
    assert!(find::<Refused>(&*error).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_ends_retries_for_everybody_and_successes_fill_it() {
    let budget = Budget::ratio(0.5, 2).unwrap();
    let script = Scripted::<u32>::new([err("down")]);
    let service = layer(every(1, ms(1)).budget(budget.clone())).layer(script.clone());
    let mut stops = Vec::new();
    for _ in 0..3 {
        stops.push(exhausted(&service.clone().oneshot(()).await.unwrap_err()).stop);
    }
    assert_eq!(stops, [Stop::MaxRetries, Stop::MaxRetries, Stop::Budget]);
    script.go_on_with([ok(1), ok(1), err("down"), ok(1)]);
    for _ in 0..3 {
        service.clone().oneshot(()).await.unwrap();
    }
    assert_eq!(budget.tokens(), 0.5, "two successes paid for one retry, which succeeded");
}

/// what was paid for and never sent has cost the dependency nothing.
#[tokio::test(start_paused = true)]
async fn a_retry_whose_caller_goes_away_before_it_is_made_is_not_paid_for() {
    let layer = layer(every(3, ms(1000)).budget(Budget::ratio(0.0, 5).unwrap()));
    let service = layer.layer(Scripted::<u32>::new([err("down"), err("down"), err("down"), hang()]));
    let run = || {
        let layer = layer.clone();
        tokio::spawn(async move { layer.run(|| async { Err::<u32, _>("down") }).await })
    };
    let waiting =
        [tokio::spawn(service.clone().oneshot(())), tokio::spawn(service.clone().oneshot(())), run()];
    tokio::time::sleep(ms(500)).await;
    assert_eq!(layer.budget().tokens(), 2.0);
    for call in waiting {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    assert_eq!(layer.budget().tokens(), 5.0);

    let under_way = tokio::spawn(service.oneshot(()));
    tokio::time::sleep(ms(1500)).await;
    under_way.abort();
    assert!(under_way.await.unwrap_err().is_cancelled());
    assert_eq!(layer.budget().tokens(), 4.0, "the second attempt was made");
}

#[tokio::test(start_paused = true)]
async fn observing_tells_what_it_would_do_and_changes_nothing() {
    let (observer, events) = recorder();
    let script = Scripted::<u32>::new([err("down")]);
    let retry = layer(every(3, ms(7)).mode(Mode::Observe)).observe(observer);
    let service = retry.layer(script.clone());
    let error = service.clone().oneshot(()).await.unwrap_err();
    assert!(error.is::<buttress_testkit::ScriptError>());
    assert_eq!(script.calls(), 1);
    assert!(events.lock().unwrap().contains(&Event::WouldRetry { delay: ms(7) }));

    events.lock().unwrap().clear();
    retry.set_mode(Mode::Off);
    service.clone().oneshot(()).await.unwrap_err();
    assert!(events.lock().unwrap().is_empty());
    retry.set_mode(Mode::Enforce);
    service.oneshot(()).await.unwrap_err();
    assert_eq!(script.calls(), 6);
}

#[tokio::test(start_paused = true)]
async fn observing_takes_nothing_from_a_budget_that_others_share() {
    let budget = Budget::ratio(0.0, 3).unwrap();
    let watching = layer(every(2, ms(1)).budget(budget.clone()).mode(Mode::Observe));
    for _ in 0..3 {
        watching.layer(Scripted::<u32>::new([err("down")])).oneshot(()).await.unwrap_err();
    }
    assert_eq!(budget.tokens(), 3.0);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_drives_its_own_instance_ready() {
    let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(layer(every(2, ms(10))));
    tokio_test::assert_ready_ok!(service.poll_ready());
    let mut call = tokio_test::task::spawn(service.call("ping"));
    assert_request_eq!(handle, "ping").send_error("down");
    handle.allow(0);
    tokio_test::assert_pending!(call.poll());
    advance(ms(10)).await;
    tokio_test::assert_pending!(call.poll());
    tokio_test::assert_pending!(handle.poll_request(), "the clone is not ready");
    handle.allow(1);
    tokio_test::assert_pending!(call.poll());
    assert_request_eq!(handle, "ping").send_response("pong");
    assert_eq!(tokio_test::assert_ready_ok!(call.poll()), "pong");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_not_retried() {
    let script = Scripted::<u32>::new([panics()]);
    let service = layer(every(3, ms(1))).layer(script.clone());
    assert!(tokio::spawn(service.oneshot(())).await.unwrap_err().is_panic());
    assert_eq!(script.calls(), 1);
}

#[test]
fn without_a_timer_a_retry_is_a_typed_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let service = layer(every(3, ms(1))).layer(Scripted::<u32>::new([err("down")]));
    let error = runtime.block_on(service.oneshot(())).unwrap_err();
    assert!(find::<buttress_core::NoTimer>(&*error).is_some(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_calls_that_failed_together_do_not_come_back_together() {
    let backoff = Backoff::exponential(ms(1000), 2.0, ms(5000)).unwrap();
    let retry = layer(every(1, ms(0)).backoff(backoff));
    let times = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&times);
    let service = retry.layer(tower::service_fn(move |(): ()| {
        record.lock().unwrap().push(Instant::now());
        async { Err::<(), _>("down") }
    }));
    let calls: Vec<_> = (0..1000).map(|_| tokio::spawn(service.clone().oneshot(()))).collect();
    for call in calls {
        call.await.unwrap().unwrap_err();
    }
    let times = times.lock().unwrap();
    let first = times[0];
    let tenth = |n| times[1000..].iter().filter(|at| (**at - first).as_millis() / 100 == n).count();
    for n in 0..10 {
        assert!((60..=150).contains(&tenth(n)), "tenth {n}: {}", tenth(n));
    }
}

#[test]
fn services_and_futures_cross_threads() {
    fn check<T: Send + 'static>(_: &T) {}
    let mut service = layer(Config::user_facing())
        .layer(tower::service_fn(|n: u32| std::future::ready(Ok::<_, BoxError>(n))));
    check(&service);
    check(&service.call(1));
}
