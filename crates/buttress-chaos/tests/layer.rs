//! The layer on a paused clock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use buttress_chaos::{ChaosLayer, Config, FaultKind, Injected, Latency, Mode, Numbering, Rule, Window};
use buttress_core::{Event, Kind, Plain, Verdict, error_verdict, find, key_by};
use buttress_testkit::clock::settle;
use buttress_testkit::{Scripted, contract, err, ok, recorder};
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};
use tower::{Layer, Service, ServiceExt};
use tower_test::{assert_request_eq, mock};

fn layer(rules: impl IntoIterator<Item = Rule>) -> ChaosLayer {
    ChaosLayer::new("api", Config::seeded(7).rules(rules).allow_in_release()).unwrap()
}

#[test]
fn a_release_build_refuses_it_unless_it_is_allowed() {
    let config = Config::seeded(7).rule(Rule::hang());
    let refused = ChaosLayer::new("api", config.clone()).err().map(|error| error.field());
    assert_eq!(refused, if cfg!(debug_assertions) { None } else { Some("allow_in_release") });
    assert!(ChaosLayer::new("api", config.allow_in_release()).is_ok());
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::test(start_paused = true)]
async fn the_contract_is_kept_with_and_without_rules() {
    contract::check(|| layer([])).await;
    contract::check(|| layer([Rule::hang().skip(1000)])).await;
    contract::check(|| layer([Rule::latency(Duration::ZERO)])).await;
}

#[tokio::test(start_paused = true)]
async fn latency_keeps_the_call_back_and_the_ready_instance_with_it() {
    let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(layer([Rule::latency(millis(100))]));
    assert_ready_ok!(service.poll_ready());
    let mut call = tokio_test::task::spawn(service.call("ping"));
    assert_pending!(call.poll());
    assert_pending!(handle.poll_request());
    tokio::time::advance(millis(99)).await;
    assert_pending!(call.poll());
    tokio::time::advance(millis(1)).await;
    assert!(call.is_woken());
    assert_pending!(call.poll());
    assert_request_eq!(handle, "ping").send_response("pong");
    assert_eq!(assert_ready_ok!(call.poll()), "pong");
}

#[tokio::test(start_paused = true)]
async fn response_latency_keeps_the_answer_back_and_not_the_call() {
    let rule = Rule::response_latency(millis(100));
    let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(layer([rule]));
    assert_ready_ok!(service.poll_ready());
    let mut call = tokio_test::task::spawn(service.call("ping"));
    assert_pending!(call.poll());
    assert_request_eq!(handle, "ping").send_response("pong");
    assert_pending!(call.poll());
    tokio::time::advance(millis(100)).await;
    assert_eq!(assert_ready_ok!(call.poll()), "pong");
}

#[tokio::test(start_paused = true)]
async fn jitter_is_drawn_for_each_call_and_stays_in_its_bounds() {
    let rule = Rule::latency(Latency::fixed(millis(100)).jitter(millis(40)));
    let service = layer([rule]).layer(Scripted::new([ok(1)]));
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        service.clone().oneshot(()).await.unwrap();
        times.push(start.elapsed());
    }
    // A timer of tokio is exact to the millisecond, and never early.
    assert!(times.iter().all(|time| (millis(60)..=millis(141)).contains(time)));
    times.sort();
    times.dedup();
    assert!(times.len() > 40, "{}", times.len());
}

#[tokio::test(start_paused = true)]
async fn errors_are_found_in_the_chain_and_judged_as_asked() {
    let rules = [
        Rule::error(Kind::Throttled).first(1),
        Rule::new(buttress_chaos::Fault::Error(Verdict::failure(Kind::Transient).not_sent())).first(1),
        Rule::io_error(std::io::ErrorKind::ConnectionRefused).first(1),
        Rule::io_error(std::io::ErrorKind::TimedOut).first(1),
        Rule::lose_answer().first(1),
    ];
    let script = Scripted::new([ok(1)]);
    let service = layer(rules).layer(script.clone());
    let mut seen = Vec::new();
    for _ in 0..5 {
        let error = service.clone().oneshot(()).await.unwrap_err();
        let injected = find::<Injected>(&*error).unwrap();
        assert_eq!(injected.name(), "api");
        seen.push((injected.kind(), error_verdict(&*error)));
    }
    let transient = Verdict::failure(Kind::Transient);
    let expected = [
        (FaultKind::Error, Verdict::failure(Kind::Throttled)),
        (FaultKind::Error, transient.not_sent()),
        (FaultKind::IoError, transient.not_sent()),
        (FaultKind::IoError, Verdict::failure(Kind::Timeout)),
        (FaultKind::LoseAnswer, transient),
    ];
    assert_eq!(seen, expected);
    assert_eq!(script.calls(), 1, "only the call whose answer was lost");
    assert_eq!(service.oneshot(()).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_lost_after_the_work_was_done() {
    let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(layer([Rule::lose_answer()]));
    assert_ready_ok!(service.poll_ready());
    let mut call = tokio_test::task::spawn(service.call("charge"));
    assert_pending!(call.poll());
    assert_request_eq!(handle, "charge").send_response("charged");
    let error = assert_ready_err!(call.poll());
    assert!(find::<Injected>(&*error).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_service_inside_is_not_hidden_by_a_fault_of_the_answer() {
    for rule in [Rule::lose_answer(), Rule::withhold_answer(), Rule::response_latency(millis(5))] {
        let service = layer([rule]).layer(Scripted::<u8>::new([err("its own")]));
        let error = service.oneshot(()).await.unwrap_err();
        assert_eq!(error.to_string(), "its own");
    }
}

#[tokio::test(start_paused = true)]
async fn what_hangs_hangs_for_ever_and_can_be_dropped() {
    for (rule, calls) in [(Rule::hang(), 0), (Rule::withhold_answer(), 1)] {
        let script = Scripted::new([ok(1)]);
        let service = layer([rule.first(1)]).layer(script.clone());
        let mut call = tokio_test::task::spawn(service.clone().oneshot(()));
        assert_pending!(call.poll());
        tokio::time::advance(Duration::from_secs(86_400 * 365)).await;
        assert_pending!(call.poll());
        drop(call);
        settle().await;
        assert_eq!((script.calls(), script.counts().in_flight), (calls, 0));
        assert_eq!(service.oneshot(()).await.unwrap(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_real_one_and_harms_nobody_else() {
    let service = layer([Rule::panic().first(1)]).layer(Scripted::new([ok(1)]));
    let mut call = tokio_test::task::spawn(service.clone().oneshot(()));
    let panic = catch_unwind(AssertUnwindSafe(|| call.poll().is_ready())).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("chaos `api` injected this fault: panic"));
    drop(call);
    assert_eq!(service.oneshot(()).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn any_fault_can_be_delayed() {
    let rules =
        [Rule::error(Kind::Transient).delayed(millis(200)).first(1), Rule::pass().delayed(millis(70))];
    let layer = layer(rules);
    let service = layer.layer(Scripted::new([ok(1)]));
    let start = Instant::now();
    service.clone().oneshot(()).await.unwrap_err();
    assert_eq!(start.elapsed(), millis(200));
    service.oneshot(()).await.unwrap();
    assert_eq!(start.elapsed(), millis(270));
    let handle = layer.handle();
    let counted = [FaultKind::Error, FaultKind::Latency].map(|kind| handle.injected(kind));
    assert_eq!((counted, handle.injected_total()), ([1, 1], 2));
}

#[tokio::test(start_paused = true)]
async fn windows_follow_the_paused_clock() {
    let window = Window::always().from(millis(1000)).until(millis(2000)).every(millis(5000));
    let service = layer([Rule::error(Kind::Transient).within(window)]).layer(Scripted::new([ok(1)]));
    let mut failed = Vec::new();
    for half_second in 0..20 {
        if service.clone().oneshot(()).await.is_err() {
            failed.push(half_second);
        }
        tokio::time::advance(millis(500)).await;
    }
    assert_eq!(failed, [2, 3, 12, 13]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_it_is_delayed_is_never_made() {
    let script = Scripted::new([ok(1)]);
    let mut service = layer([Rule::latency(millis(100)).first(1)]).layer(script.clone());
    for polls in 0..2 {
        ServiceExt::<()>::ready(&mut service).await.unwrap();
        let mut call = tokio_test::task::spawn(service.call(()));
        for _ in 0..polls {
            assert_pending!(call.poll());
        }
        drop(call);
        tokio::time::advance(millis(200)).await;
        settle().await;
        assert_eq!(script.calls(), 0);
        service = layer([Rule::latency(millis(100)).first(1)]).layer(script.clone());
    }
}

/// A service with one slot, which is reserved when it is ready.
#[tokio::test(start_paused = true)]
async fn nothing_stays_reserved_for_a_call_that_is_not_made() {
    let inner = tower::ServiceBuilder::new().concurrency_limit(1).service(Scripted::new([ok(1)]));
    let service = layer([Rule::hang().first(1)]).layer(inner);
    let mut first = service.clone();
    ServiceExt::<()>::ready(&mut first).await.unwrap();
    let mut hanging = tokio_test::task::spawn(first.call(()));
    assert_pending!(hanging.poll());
    let mut second = tokio_test::task::spawn(service.oneshot(()));
    assert_eq!(assert_ready_ok!(second.poll()), 1);
}

#[tokio::test(start_paused = true)]
async fn it_is_switched_off_and_on_and_watched() {
    let (observer, events) = recorder();
    let layer = layer([Rule::error(Kind::Transient)]).observe(observer);
    let (handle, service) = (layer.handle(), layer.layer(Scripted::new([ok(1)])));
    assert!(service.clone().oneshot(()).await.is_err());
    handle.set_mode(Mode::Off);
    assert!(service.clone().oneshot(()).await.is_ok());
    handle.set_mode(Mode::Observe);
    assert!(service.clone().oneshot(()).await.is_ok());
    assert_eq!(handle.injected(FaultKind::Error), 2);
    let injected = |enforced| Event::Injected { fault: "error", enforced };
    assert_eq!(*events.lock().unwrap(), [injected(true), injected(false)]);
}

#[tokio::test(start_paused = true)]
async fn rules_are_swapped_while_calls_run() {
    let layer = layer([Rule::hang().first(1)]);
    let (handle, service) = (layer.handle(), layer.layer(Scripted::new([ok(1)])));
    let mut hanging = tokio_test::task::spawn(service.clone().oneshot(()));
    assert_pending!(hanging.poll());
    handle.set_rules([Rule::error(Kind::Transient).first(1)]).unwrap();
    assert!(service.clone().oneshot(()).await.is_err());
    assert!(service.clone().oneshot(()).await.is_ok());
    assert_pending!(hanging.poll());
    handle.restart();
    assert!(service.clone().oneshot(()).await.is_err());
    assert_eq!(handle.set_rules([Rule::hang().rate(-1.0)]).unwrap_err().field(), "rate");
    assert_eq!(handle.set_rules([Rule::status(503)]).unwrap_err().field(), "fault");
    assert!(service.oneshot(()).await.is_ok(), "the rules stayed");
}

#[tokio::test(start_paused = true)]
async fn what_the_protocol_does_not_know_is_refused_when_it_is_built() {
    let refused = |rule| ChaosLayer::new("api", Config::seeded(7).rule(rule).allow_in_release()).unwrap_err();
    assert!(refused(Rule::status(503)).to_string().contains("use `Http`, or `respond_with`"));
    assert_eq!(refused(Rule::truncate(1, buttress_chaos::Cut::Error)).field(), "fault");
    assert_eq!(refused(Rule::hang().when(buttress_chaos::Field::Path, "/")).field(), "condition");
    assert_eq!(refused(Rule::hang().numbered(Numbering::PerKey)).field(), "numbering");
}

/// Sixteen tasks on four threads call at random; the n-th call with a key always meets the same fate.
#[test]
fn the_same_seed_gives_the_same_faults_however_calls_interleave() {
    let fates = || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
        let policy = key_by(Plain::<()>::default(), |key: &String| Some(key.as_str().into()));
        let rules = [
            Rule::error(Kind::Transient).rate(0.3).numbered(Numbering::PerKey),
            Rule::lose_answer().rate(0.5).numbered(Numbering::PerKey),
        ];
        let layer =
            ChaosLayer::with_policy("api", Config::seeded(42).rules(rules).allow_in_release(), policy)
                .unwrap();
        let served = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&served);
        let service = layer.layer(tower::service_fn(move |_: String| {
            count.fetch_add(1, Relaxed);
            std::future::ready(Ok::<_, std::io::Error>(()))
        }));
        let fates = runtime.block_on(async {
            let tasks: Vec<_> = (0..16)
                .map(|key| {
                    let service = service.clone();
                    tokio::spawn(async move {
                        let mut fates = Vec::new();
                        for _ in 0..50 {
                            let outcome = service.clone().oneshot(format!("key-{key}")).await;
                            fates.push(outcome.err().map(|error| find::<Injected>(&*error).unwrap().kind()));
                            tokio::task::yield_now().await;
                        }
                        fates
                    })
                })
                .collect();
            let mut fates = Vec::new();
            for task in tasks {
                fates.push(task.await.unwrap());
            }
            fates
        });
        (fates, served.load(Relaxed))
    };
    let first = fates();
    for _ in 0..20 {
        assert_eq!(fates(), first);
    }
    let failed = first.0.iter().flatten().filter(|fate| fate.is_some()).count();
    assert!((450..600).contains(&failed), "about two thirds of 800: {failed}");
}

#[tokio::test(start_paused = true)]
async fn the_function_form_makes_its_future_only_if_the_call_is_passed_on() {
    let layer = layer([Rule::error(Kind::Transient).first(1), Rule::latency(millis(50)).first(1)]);
    let made = AtomicUsize::new(0);
    let call = || {
        made.fetch_add(1, Relaxed);
        std::future::ready(Ok::<_, std::io::Error>(7))
    };
    assert!(layer.run(call).await.is_err());
    assert_eq!(made.load(Relaxed), 0);
    let start = Instant::now();
    assert_eq!(layer.run(call).await.unwrap(), 7);
    assert_eq!((start.elapsed(), made.load(Relaxed)), (millis(50), 1));
}

#[test]
fn without_a_timer_latency_is_a_typed_error() {
    let service = layer([Rule::latency(millis(1))]).layer(Scripted::new([ok(1)]));
    let mut call = tokio_test::task::spawn(service.oneshot(()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(async { assert_ready!(call.poll()).unwrap_err() });
    assert!(error.is::<buttress_core::NoTimer>(), "{error}");
}
