//! When a call runs out of time, and what it is told.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use buttress_core::{BoxError, Carried, Carry, Elapsed, Event, Mode, NoTimer, Reason, Refused, find};
use buttress_deadline::DeadlineLayer;
use buttress_testkit::clock::advance;
use buttress_testkit::{Scripted, contract, err, hang, ok, recorder};
use tokio::time::{Instant, timeout};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceExt, service_fn};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn attempt(limit: Duration) -> DeadlineLayer {
    DeadlineLayer::attempt("test", limit).unwrap()
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract() {
    contract::check(|| attempt(ms(60_000))).await;
    contract::check(|| DeadlineLayer::total("test", ms(60_000)).unwrap().carry(InRequest)).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_is_dropped_and_says_how_long_it_had() {
    let script = Scripted::new([hang(), ok(1).after(ms(49)), err("down").after(ms(49))]);
    let service = attempt(ms(50)).layer(script.clone());
    let started = Instant::now();
    let error = service.clone().oneshot(()).await.unwrap_err();
    assert_eq!(find::<Elapsed>(&*error).unwrap().limit(), ms(50));
    assert_eq!((started.elapsed(), script.counts().dropped), (ms(50), 1));
    assert_eq!(service.clone().oneshot(()).await.unwrap(), 1);
    assert_eq!(service.oneshot(()).await.unwrap_err().to_string(), "down");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_readiness_does_not_count() {
    let service = attempt(ms(50)).layer(Scripted::new([ok(1).ready_after(ms(1000)).after(ms(49))]));
    assert_eq!(service.oneshot(()).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_with_the_last_moment_counts() {
    let service = attempt(ms(50)).layer(Scripted::new([ok(1).after(ms(50))]));
    assert_eq!(service.oneshot(()).await.unwrap(), 1);
}

/// Requests of one's own: the deadline is a field.
#[derive(Clone)]
struct InRequest;

#[derive(Debug, Default)]
struct Job {
    carried: Option<Carried>,
}

impl Carry<Job> for InRequest {
    const ACTIVE: bool = true;
    fn carried<'a>(&self, job: &'a Job) -> Option<&'a Carried> {
        job.carried.as_ref()
    }
    fn carry(&self, job: &mut Job, change: impl FnOnce(&mut Carried)) {
        change(job.carried.get_or_insert_default());
    }
}

/// For the contract check, whose requests can carry nothing.
impl Carry<u64> for InRequest {
    const ACTIVE: bool = true;
    fn carried<'a>(&self, _: &'a u64) -> Option<&'a Carried> {
        None
    }
    fn carry(&self, _: &mut u64, _: impl FnOnce(&mut Carried)) {}
}

fn job(change: impl FnOnce(&mut Carried)) -> Job {
    let mut job = Job::default();
    InRequest.carry(&mut job, change);
    job
}

type Seen = Arc<Mutex<Vec<Option<Duration>>>>;

/// Hangs; records how much time each request still has.
fn hanging()
-> (impl Service<Job, Response = (), Error = BoxError, Future: Send> + Clone + Send + 'static, Seen) {
    let seen = Seen::default();
    let record = Arc::clone(&seen);
    let service = tower::service_fn(move |job: Job| {
        let deadline = job.carried.and_then(|carried| carried.deadline);
        record.lock().unwrap().push(deadline.map(|deadline| deadline - Instant::now()));
        std::future::pending::<Result<(), BoxError>>()
    });
    (service, seen)
}

#[tokio::test(start_paused = true)]
async fn the_earlier_deadline_counts_and_travels_on() {
    for (carried, own, limit) in [(None, 100, 100), (Some(40), 100, 40), (Some(500), 100, 100)] {
        let (inner, seen) = hanging();
        let layer = DeadlineLayer::attempt("test", ms(own)).unwrap().carry(InRequest);
        let start = Instant::now();
        let request = job(|c| c.deadline = carried.map(|after| start + ms(after)));
        let error = layer.layer(inner).oneshot(request).await.unwrap_err();
        assert_eq!(find::<Elapsed>(&*error).unwrap().limit(), ms(limit));
        assert_eq!((start.elapsed(), seen.lock().unwrap()[0]), (ms(limit), Some(ms(limit))));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_only_obeys_adds_nothing_to_a_request_that_brings_nothing() {
    let (inner, seen) = hanging();
    let service = DeadlineLayer::attempt("test", ms(100)).unwrap().obey(InRequest).layer(inner);
    let start = Instant::now();
    service.clone().oneshot(Job::default()).await.unwrap_err();
    assert_eq!((start.elapsed(), seen.lock().unwrap()[0]), (ms(100), None));
    let brought = job(|carried| carried.max_retries = Some(3));
    service.clone().oneshot(brought).await.unwrap_err();
    assert_eq!(
        seen.lock().unwrap()[1],
        Some(ms(100)),
        "where there is something already, the deadline travels too"
    );
    let brought = job(|carried| carried.deadline = Some(Instant::now() + ms(40)));
    let error = service.oneshot(brought).await.unwrap_err();
    assert_eq!(find::<Elapsed>(&*error).unwrap().limit(), ms(40));
}

#[tokio::test(start_paused = true)]
async fn an_inner_deadline_is_clamped_by_an_outer_one() {
    let (inner, seen) = hanging();
    let total = DeadlineLayer::total("test", ms(100)).unwrap().carry(InRequest);
    let attempt = DeadlineLayer::attempt("test", ms(500)).unwrap().carry(InRequest);
    let start = Instant::now();
    total.layer(attempt.layer(inner)).oneshot(Job::default()).await.unwrap_err();
    assert_eq!((start.elapsed(), seen.lock().unwrap()[0]), (ms(100), Some(ms(100))));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_refuses_without_a_call() {
    let (inner, seen) = hanging();
    let service = DeadlineLayer::attempt("test", ms(100)).unwrap().carry(InRequest).layer(inner);
    let request = job(|carried| carried.deadline = Some(Instant::now()));
    let error = service.oneshot(request).await.unwrap_err();
    assert_eq!(find::<Refused>(&*error).unwrap().reason(), Reason::DeadlinePassed);
    assert!(seen.lock().unwrap().is_empty());
}

/// The service that was refused lives on, idle, with what it had reserved.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_gives_back_what_readiness_had_reserved() {
    let answer = tower::service_fn(|_: Job| std::future::ready(Ok::<_, BoxError>(())));
    let inner = ConcurrencyLimitLayer::new(1).layer(answer);
    let mut service = DeadlineLayer::total("test", ms(1000)).unwrap().carry(InRequest).layer(inner);
    let mut other = service.clone();
    for _ in 0..3 {
        let late = job(|carried| carried.deadline = Some(Instant::now()));
        let call = service.ready().await.unwrap().call(late);
        let ready = tokio::time::timeout(ms(100), other.ready()).await;
        assert!(ready.is_ok(), "still reserved");
        other.call(Job::default()).await.unwrap();
        assert!(find::<Refused>(&*call.await.unwrap_err()).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_may_bring_a_limit_of_its_own_for_the_whole_or_for_each_attempt() {
    let total = DeadlineLayer::total("test", ms(100)).unwrap();
    for (layer, waits) in [(total, ms(900)), (attempt(ms(100)), ms(700))] {
        let (inner, _) = hanging();
        let start = Instant::now();
        let request =
            job(|carried| (carried.time_limit, carried.attempt_limit) = (Some(ms(900)), Some(ms(700))));
        layer.carry(InRequest).layer(inner).oneshot(request).await.unwrap_err();
        assert_eq!(start.elapsed(), waits);
    }
}

#[tokio::test(start_paused = true)]
async fn observing_goes_by_the_requests_own_limit_and_carries_nothing() {
    let (observer, events) = recorder();
    let layer = attempt(ms(50)).observe(observer);
    layer.set_mode(Mode::Observe);
    let (inner, seen) = hanging();
    let request = job(|carried| carried.attempt_limit = Some(ms(500)));
    let call = tokio::spawn(layer.carry(InRequest).layer(inner).oneshot(request));
    advance(ms(499)).await;
    assert!(events.lock().unwrap().is_empty());
    advance(ms(1)).await;
    assert_eq!(*events.lock().unwrap(), [Event::Elapsed { limit: ms(500), enforced: false }]);
    assert_eq!(*seen.lock().unwrap(), [None]);
    call.abort();
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_carried_deadline_starts_at_call() {
    let (inner, _) = hanging();
    let mut service = DeadlineLayer::attempt("test", ms(100)).unwrap().carry(InRequest).layer(inner);
    let call = service.ready().await.unwrap().call(Job::default());
    advance(ms(60)).await;
    let polled = Instant::now();
    call.await.unwrap_err();
    assert_eq!(polled.elapsed(), ms(40));
}

#[tokio::test(start_paused = true)]
async fn observing_reports_once_and_cuts_nothing_off() {
    let (observer, events) = recorder();
    let layer = attempt(ms(50)).observe(observer);
    layer.set_mode(Mode::Observe);
    let service = layer.layer(Scripted::new([ok(1).after(ms(500))]));
    assert_eq!(service.clone().oneshot(()).await.unwrap(), 1);
    assert_eq!(*events.lock().unwrap(), [Event::Elapsed { limit: ms(50), enforced: false }]);
    layer.set_mode(Mode::Off);
    assert_eq!(service.clone().oneshot(()).await.unwrap(), 1);
    assert_eq!(events.lock().unwrap().len(), 1);
    layer.set_mode(Mode::Enforce);
    service.oneshot(()).await.unwrap_err();
    assert_eq!(events.lock().unwrap()[1], Event::Elapsed { limit: ms(50), enforced: true });
}

#[tokio::test(start_paused = true)]
async fn the_longest_limit_there_is_never_ends() {
    let service =
        attempt(Duration::MAX).layer(Scripted::new([ok(1).after(Duration::from_secs(86_400 * 365))]));
    assert_eq!(service.oneshot(()).await.unwrap(), 1);
}

#[test]
fn without_a_timer_a_call_that_has_to_wait_is_a_typed_error_and_no_other() {
    let service = |inner| {
        attempt(ms(50)).layer(tower::service_fn(move |ready: bool| async move {
            if ready { Ok::<_, BoxError>(inner) } else { std::future::pending().await }
        }))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(service(1).oneshot(false)).unwrap_err();
    assert!(find::<NoTimer>(&*error).is_some(), "{error}");
    let mut call = Box::pin(service(1).oneshot(true));
    assert!(matches!(buttress_testkit::clock::poll_once(&mut call), std::task::Poll::Ready(Ok(1))));
}

#[test]
fn a_limit_of_zero_is_an_error() {
    let message = DeadlineLayer::total("test", Duration::ZERO).unwrap_err().to_string();
    assert_eq!(message, "`limit` is 0ns, but must be longer than zero, or no call can succeed");
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_changed_for_all_clones_and_a_call_whose_time_is_running_keeps_its_own() {
    let layer = attempt(ms(50));
    let service = layer.layer(Scripted::<u32>::new([hang(), hang(), hang()]));
    let clone = service.clone();
    let started = Instant::now();
    let mut running = tokio_test::task::spawn(service.clone().oneshot(()));
    tokio_test::assert_pending!(running.poll());
    layer.set_limit(ms(20)).unwrap();
    let error = clone.oneshot(()).await.unwrap_err();
    assert_eq!((find::<Elapsed>(&*error).unwrap().limit(), started.elapsed()), (ms(20), ms(20)));
    let error = running.await.unwrap_err();
    assert_eq!((find::<Elapsed>(&*error).unwrap().limit(), started.elapsed()), (ms(50), ms(50)));

    let error = layer.set_limit(Duration::ZERO).unwrap_err();
    assert_eq!((error.field(), layer.limit()), ("limit", ms(20)), "a bad limit changes nothing");
    service.oneshot(()).await.unwrap_err();
    assert_eq!(started.elapsed(), ms(70));
}

#[tokio::test(start_paused = true)]
async fn a_changed_limit_travels_with_the_requests_that_follow() {
    let layer = DeadlineLayer::total("test", ms(50)).unwrap().carry(InRequest);
    layer.set_limit(ms(80)).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let service = layer.layer(tower::service_fn(move |job: Job| {
        record.lock().unwrap().push(job.carried.and_then(|carried| carried.deadline));
        async { Ok::<_, std::io::Error>(()) }
    }));
    service.oneshot(Job::default()).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [Some(Instant::now() + ms(80))]);
}

/// What the service itself waits for says nothing to a deadline that leans: it may be let go of in the same poll.
#[tokio::test(start_paused = true)]
async fn a_deadline_leans_on_no_other_than_the_one_below_it() {
    let below = attempt(ms(20));
    let service = service_fn(move |()| {
        let below = below.clone();
        poll_fn(move |cx| {
            let mut call = pin!(below.run(pending::<Result<(), BoxError>>()));
            let _let_go_of = call.as_mut().poll(cx);
            Poll::<Result<(), BoxError>>::Pending
        })
    });
    for mode in [Mode::Enforce, Mode::Observe, Mode::Off] {
        let layer = attempt(ms(30));
        layer.set_mode(mode);
        let total = DeadlineLayer::total("test", ms(100)).unwrap().lean();
        let started = Instant::now();
        let call = total.layer(layer.layer(service.clone())).oneshot(());
        let error = timeout(ms(1000), call).await.expect("it is woken").unwrap_err();
        let limit = if mode == Mode::Enforce { ms(30) } else { ms(100) };
        assert_eq!(
            (find::<Elapsed>(&*error).unwrap().limit(), started.elapsed()),
            (limit, limit),
            "{mode:?}"
        );
    }
}
