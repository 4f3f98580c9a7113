//! Chains of rungs over services that fail.

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use buttress_circuit_breaker::{CircuitBreakerLayer, Config, Trip};
use buttress_core::{
    BoxError, ErrorsAreFailures, Exhausted, Kind, Level, Reason, Refused, Stop, Verdict, classify_fn, find,
};
use buttress_degrade::{
    Cause, Chain, DegradationRegistry, DegradeLayer, Need, Rung, Shortfall, Source, Unanswered,
};
use buttress_retry::RetryLayer;
use buttress_testkit::clock::settle;
use buttress_testkit::{ScriptError, Scripted, err, hang, ok, panics};
use support::numbers::{Answer, Open, fixed};
use support::{Heard, ms, secs};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

/// F-01, what is handled.
#[tokio::test(start_paused = true)]
async fn a_failed_answer_or_error_is_replaced_and_any_other_passes() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let chain = Open::new().rung(Rung::answer("fixed", move |_| {
        count.fetch_add(1, Relaxed);
        Some(7)
    }));
    let policy = classify_fn(|outcome: Result<&u32, _>| match outcome {
        Ok(500..) => Verdict::failure(Kind::Transient),
        Ok(400..500) => Verdict::Rejected,
        Ok(_) => Verdict::Success,
        Err(error) if error.to_string() == "my fault" => Verdict::Rejected,
        Err(error) => buttress_core::error_verdict(error),
    });
    let service = Scripted::new([ok(500), err("reset"), ok(404), err("my fault"), ok(200)]);
    let service = DegradeLayer::new("prices", chain).unwrap().policy(policy).layer(service);
    let call = || service.clone().oneshot(1);
    for _ in 0..2 {
        let answer = call().await.unwrap();
        assert_eq!((answer.level(), answer.shortfalls()[0].component()), (Level::Minimal, "prices"));
        assert_eq!(answer.into_inner(), 7);
    }
    assert_eq!(asked.load(Relaxed), 2);
    let answer = call().await.unwrap();
    assert_eq!((answer.level(), answer.into_inner()), (Level::Full, 404));
    assert_eq!(call().await.unwrap_err().downcast_ref(), Some(&ScriptError("my fault")));
    assert_eq!(call().await.unwrap().into_inner(), 200);
    assert_eq!(asked.load(Relaxed), 2, "nothing else was asked");
}

/// F-01, what the fallback is told, and its own error.
#[tokio::test(start_paused = true)]
async fn a_rung_sees_the_outcome_and_its_own_error_is_found_beside_the_services() {
    let chain = Open::new().keep_requests().rung(Rung::answer_with("second", |fallen| {
        assert_eq!((fallen.request(), fallen.cause()), (Some(&42), Cause::Failed(Kind::Transient)));
        assert_eq!(fallen.error().unwrap().to_string(), "first");
        async { Err::<u32, _>(ScriptError("second")) }
    }));
    let service = DegradeLayer::new("prices", chain).unwrap().layer(Scripted::<u32>::new([err("first")]));
    let error = service.oneshot(42).await.unwrap_err();
    assert_eq!(find::<ScriptError>(&*error), Some(&ScriptError("first")));
    let unanswered = error.downcast_ref::<Unanswered>().unwrap();
    assert_eq!(unanswered.tried()[0].error().unwrap().to_string(), "second");
    assert_eq!(error.to_string(), "`prices` failed, and none of its fallbacks answered: `second` failed");
}

/// F-03, the rejection.
#[tokio::test(start_paused = true)]
async fn the_chain_sees_that_the_circuit_is_open_and_nothing_is_called() {
    let breaker = CircuitBreakerLayer::standard("prices");
    breaker.handle().isolate();
    let chain = Open::new().rung(Rung::answer("fixed", |fallen| {
        let refused = find::<Refused>(&**fallen.error()?)?;
        (refused.reason() == Reason::CircuitIsolated && fallen.cause() == Cause::Failed(Kind::Refused))
            .then_some(7)
    }));
    let inner = Scripted::new([ok(1)]);
    let service = ServiceBuilder::new()
        .layer(DegradeLayer::new("prices", chain).unwrap())
        .layer(breaker)
        .service(inner.clone());
    assert_eq!(service.oneshot(1).await.unwrap().into_inner(), 7);
    assert_eq!(inner.calls(), 0);
}

fn retry() -> RetryLayer {
    let config = buttress_retry::Config::user_facing().max_retries(2);
    RetryLayer::new("prices", config.budget(buttress_retry::Budget::unlimited())).unwrap()
}

/// F-03, retries exceeded; X-05.
#[tokio::test(start_paused = true)]
async fn a_fallback_over_a_retry_over_a_circuit_answers_after_three_calls() {
    let config = Config::only(Trip::ConsecutiveFailures(5));
    let breaker = CircuitBreakerLayer::new("prices", config).unwrap();
    let chain = Open::new().rung(Rung::answer("fixed", |fallen| {
        let exhausted = find::<Exhausted>(&**fallen.error()?)?;
        (exhausted.stop == Stop::MaxRetries).then_some(7)
    }));
    let inner = Scripted::<u32>::new([err("reset")]);
    let service = ServiceBuilder::new()
        .layer(DegradeLayer::new("prices", chain).unwrap())
        .layer(retry())
        .layer(breaker.clone())
        .service(inner.clone());
    assert_eq!(service.oneshot(1).await.unwrap().into_inner(), 7);
    assert_eq!(inner.calls(), 3);
    let handle = breaker.handle();
    assert_eq!(
        (handle.metrics().consecutive_failures, handle.state()),
        (3, buttress_circuit_breaker::CircuitState::Closed)
    );
}

/// HD-59.
#[tokio::test(start_paused = true)]
async fn the_eleventh_call_of_a_full_rung_goes_on_to_the_next_one_and_waits_for_nothing() {
    let replica = service_fn(|_: u64| async {
        tokio::time::sleep(ms(500)).await;
        Ok::<_, BoxError>(1)
    });
    let (chain, heard) = (Open::new(), Heard::default());
    let chain = chain.rung(Rung::alternate("replica", replica, ErrorsAreFailures)).rung(fixed(7));
    let layer = DegradeLayer::new("prices", chain).unwrap().observe(heard.observer());
    // The count is the layer's, whichever of its services is called.
    let calls: Vec<_> =
        (0..11).map(|_| tokio::spawn(layer.layer(Scripted::<u32>::new([err("down")])).oneshot(1))).collect();
    settle().await;
    let start = Instant::now();
    let mut answers = Vec::new();
    for call in calls {
        let answer = call.await.unwrap().unwrap();
        answers.push((answer.level(), answer.into_inner()));
    }
    assert_eq!(start.elapsed(), ms(500));
    assert_eq!(answers.iter().filter(|answer| **answer == (Level::Slight, 1)).count(), 10);
    assert_eq!(answers.iter().filter(|answer| **answer == (Level::Minimal, 7)).count(), 1);
    let full = "replica: has as many calls as it may have".to_owned();
    assert_eq!(heard.take().iter().filter(|event| **event == full).count(), 1);
    let answer = layer.layer(Scripted::<u32>::new([err("down")])).oneshot(1).await.unwrap();
    assert_eq!(answer.into_inner(), 1, "each place is given back");
}

/// HD-61.
#[tokio::test(start_paused = true)]
async fn what_the_caller_is_at_fault_for_is_not_masked() {
    let policy = classify_fn(|outcome: Result<&u32, _>| match outcome {
        Ok(_) => Verdict::Success,
        Err(_) => Verdict::Rejected,
    });
    let layer = DegradeLayer::new("prices", Open::new().rung(fixed(7))).unwrap().policy(policy);
    let error = layer.layer(Scripted::<u32>::new([err("bad request")])).oneshot(1).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&ScriptError("bad request")));
    // A closed chain has to answer. It does so by its last rung, which is told, and by no other.
    let closed = Open::new().rung(fixed(7)).finally(Level::Minimal, "sorry", |fallen| match fallen.cause() {
        Cause::Rejected => 400,
        _ => 503,
    });
    let layer = DegradeLayer::new("prices", closed).unwrap().policy(policy);
    let Ok(answer) = layer.layer(Scripted::<u32>::new([err("bad request")])).oneshot(1).await;
    assert_eq!(answer.into_inner(), 400);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_says_that_something_is_busy_is_an_answer_too() {
    let policy = classify_fn(|outcome: Result<&u32, _>| match outcome {
        Ok(_) => Verdict::Success,
        Err(_) => Verdict::failure(Kind::Conflict),
    });
    let heard = Heard::default();
    let layer = |chain| DegradeLayer::new("prices", chain).unwrap().policy(policy).observe(heard.observer());
    let busy = || Scripted::<u32>::new([err("busy")]);
    let error = layer(Open::new().rung(fixed(7))).layer(busy()).oneshot(1).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&ScriptError("busy")));
    assert!(heard.take().is_empty(), "the service has not failed");
    let closed = Open::new().rung(fixed(7)).finally(Level::Minimal, "sorry", |fallen| match fallen.cause() {
        Cause::Failed(Kind::Conflict) => 409,
        _ => 503,
    });
    let registry = DegradationRegistry::new("shop");
    let layer = DegradeLayer::new("prices", closed).unwrap().policy(policy).observe(heard.observer());
    let layer = layer.report_to(registry.component("prices", Need::Required));
    let Ok(answer) = layer.layer(busy()).oneshot(1).await;
    assert_eq!((answer.level(), answer.into_inner()), (Level::Minimal, 409));
    assert_eq!((heard.take(), registry.levels().instant), (Vec::new(), Level::Full), "nor has it here");
}

#[tokio::test(start_paused = true)]
async fn rungs_are_asked_in_the_order_of_their_levels_and_each_failure_is_told() {
    let heard = Heard::default();
    let slow = Scripted::<u32>::new([hang()]);
    let chain = Open::new()
        .rung(fixed(7))
        .rung(Rung::answer("reduced", |_| None::<u32>).level(Level::Moderate))
        .rung(Rung::alternate("slow", slow.clone(), ErrorsAreFailures).timeout(ms(100)))
        .rung(
            Rung::answer("skipped", |_| Some(1))
                .level(Level::Slight)
                .skip_if(|_| Some("is for paying customers")),
        );
    let layer = DegradeLayer::new("prices", chain).unwrap().observe(heard.observer());
    let start = Instant::now();
    let answer = layer.layer(Scripted::<u32>::new([err("down")])).oneshot(1).await.unwrap();
    assert_eq!((answer.level(), start.elapsed()), (Level::Minimal, ms(100)));
    let expected = [
        "slow: did not answer in time",
        "skipped: is for paying customers",
        "reduced: has no answer for this request",
        "3 of fixed",
    ];
    assert_eq!(heard.take(), expected);
    assert_eq!(slow.counts().dropped, 1);
    let (_, served) = answer.into_parts();
    assert_eq!(served.unwrap().source(), Source::Rung("fixed".into()));
}

#[tokio::test(start_paused = true)]
async fn no_rung_is_asked_for_a_caller_who_has_gone() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let chain = Open::new().rung(Rung::answer("fixed", move |_| {
        count.fetch_add(1, Relaxed);
        Some(7)
    }));
    let inner = Scripted::<u32>::new([err("down").after(ms(100))]);
    let service = DegradeLayer::new("prices", chain).unwrap().layer(inner.clone());
    for wait in [0, 50, 99] {
        let call = tokio::time::timeout(ms(wait), service.clone().oneshot(1)).await;
        assert!(call.is_err());
    }
    tokio::time::sleep(secs(1)).await;
    assert_eq!((asked.load(Relaxed), inner.counts().in_flight), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_call_below_is_dropped_before_a_rung_is_asked() {
    let inner = Scripted::<u32>::new([hang()]);
    let below = inner.clone();
    let chain = Open::new().rung(Rung::answer("fixed", move |_| {
        assert_eq!((below.counts().in_flight, below.counts().dropped), (0, 1));
        Some(7)
    }));
    let layer = DegradeLayer::new("prices", chain).unwrap().budget(ms(50)).unwrap();
    assert_eq!(layer.layer(inner).oneshot(1).await.unwrap().into_inner(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_panic_passes_and_the_next_call_is_answered() {
    let layer = DegradeLayer::new("prices", Open::new().rung(fixed(7))).unwrap();
    let service = layer.layer(Scripted::new([panics(), ok(1)]));
    assert!(tokio::spawn(service.clone().oneshot(1)).await.unwrap_err().is_panic());
    assert_eq!(service.oneshot(1).await.unwrap().into_inner(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_itself_that_it_is_degraded_stays_so_through_two_layers() {
    let inner = DegradeLayer::new("inner", Open::new().rung(fixed(7).level(Level::Moderate))).unwrap();
    let (heard, chain) = (Heard::default(), Open::new().rung(fixed(8)));
    let outer = DegradeLayer::new("outer", chain).unwrap().observe(heard.observer());
    let service = outer.layer(inner.layer(Scripted::<u32>::new([err("down")])));
    let answer = service.oneshot(1).await.unwrap();
    assert_eq!((answer.level(), *answer.get_ref()), (Level::Moderate, 7));
    assert_eq!(heard.take(), ["2 of upstream"]);
    // A rung whose own answer is worse than the rung.
    let worse = Scripted::<u32>::new([err("down")]);
    let worse = DegradeLayer::new("replica", Open::new().rung(fixed(7))).unwrap().layer(worse);
    let chain = Chain::<u64, Answer>::new().rung(Rung::alternate("replica", worse, ErrorsAreFailures));
    let service = DegradeLayer::new("outer", chain).unwrap().layer(Scripted::<u32>::new([err("down")]));
    let answer = service.oneshot(1).await.unwrap();
    let components: Vec<_> = answer.shortfalls().iter().map(Shortfall::component).collect();
    assert_eq!((answer.level(), components), (Level::Minimal, vec!["outer", "replica"]));
}

/// The type says that it cannot fail.
#[tokio::test(start_paused = true)]
async fn the_error_of_a_closed_chain_is_infallible() {
    fn infallible<S: Service<u64, Error = Infallible>>(_: &S) {}
    let chain = Open::new().finally(Level::Minimal, "static", |_| 7);
    let service =
        DegradeLayer::new("prices", chain).unwrap().leaked().layer(Scripted::<u32>::new([err("down")]));
    infallible(&service);
    let Ok(answer) = service.oneshot(1).await;
    assert_eq!(answer.level(), Level::Minimal);
}

#[tokio::test(start_paused = true)]
async fn a_failing_response_stays_what_it_is_where_nothing_answers() {
    let policy = classify_fn(|outcome: Result<&u32, _>| match outcome {
        Ok(500..) => Verdict::failure(Kind::Transient),
        Ok(_) => Verdict::Success,
        Err(error) => buttress_core::error_verdict(error),
    });
    let heard = Heard::default();
    let layer = DegradeLayer::new("prices", Open::new()).unwrap().policy(policy).observe(heard.observer());
    let answer = layer.layer(Scripted::new([ok(503)])).oneshot(1).await.unwrap();
    assert_eq!((answer.level(), answer.into_inner()), (Level::Failed, 503));
    assert_eq!(heard.take(), ["4 of none"]);
}

#[test]
fn a_bad_configuration_is_an_error_that_names_the_field() {
    let error = |rung| DegradeLayer::new("prices", Open::new().rung(rung)).unwrap_err().to_string();
    assert_eq!(
        error(fixed(7).at_most(0)),
        "`at_most` is 0, but must be at least 1, or the rung never answers"
    );
    assert!(error(fixed(7).timeout(ms(0))).starts_with("`timeout` is 0ns"));
    assert!(error(fixed(7).level(Level::Full)).starts_with("`level` is Full"));
    let closed = Open::new().finally(Level::Failed, "static", |_| 7);
    assert!(DegradeLayer::new("prices", closed).is_err());
    assert!(DegradeLayer::new("prices", Open::new()).unwrap().budget(ms(0)).is_err());
}
