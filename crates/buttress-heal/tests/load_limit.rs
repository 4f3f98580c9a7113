//! Shedding load: what is let through, when, and what becomes of the rest.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::{BoxError, Event, Reason, Refused, find, observe_fn};
use buttress_heal::LoadLimit;
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Calls that never end, as many as get through.
fn fill(limit: &LoadLimit, calls: usize) -> (Vec<impl Sized + use<>>, Vec<BoxError>) {
    let service = limit.layer(service_fn(|()| pending::<Result<(), BoxError>>()));
    let (mut under_way, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..calls {
        let mut call = task::spawn(service.clone().oneshot(()));
        match call.poll() {
            std::task::Poll::Pending => under_way.push(call),
            std::task::Poll::Ready(outcome) => refused.push(outcome.unwrap_err()),
        }
    }
    (under_way, refused)
}

#[tokio::test(start_paused = true)]
async fn as_many_as_the_maximum_are_let_through_and_the_next_one_is_refused_at_once() {
    let limit = LoadLimit::new("search", 3).unwrap();
    let (under_way, refused) = fill(&limit, 5);
    assert_eq!((under_way.len(), refused.len(), limit.under_way()), (3, 2, 3));
    let refusal = find::<Refused>(&*refused[0]).unwrap();
    assert_eq!((refusal.name(), refusal.reason()), ("search", Reason::Overloaded));
    assert_eq!(refusal.retry_after(), None, "nobody knows when one of them will end");
    drop(under_way);
    assert_eq!(limit.under_way(), 0, "a call whose caller goes away makes room");
    assert_eq!(fill(&limit, 5).0.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_halved_rises_evenly_and_says_when_there_will_be_room() {
    let limit = LoadLimit::new("search", 100).unwrap().restore_within(secs(50));
    assert_eq!((limit.halve(), limit.limit()), (50, 50));
    let (under_way, refused) = fill(&limit, 60);
    assert_eq!(under_way.len(), 50);
    assert_eq!(find::<Refused>(&*refused[0]).unwrap().retry_after(), Some(secs(1)));
    advance(secs(1)).await;
    assert_eq!(limit.limit(), 51);
    advance(secs(24)).await;
    assert_eq!(limit.limit(), 75);
    assert_eq!((limit.halve(), limit.halve()), (37, 18), "of what it is by then");
    advance(secs(49)).await;
    assert_eq!(limit.limit(), 98);
    advance(secs(1)).await;
    assert_eq!(limit.limit(), 100);
    assert_eq!(fill(&limit, 60).0.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn it_is_never_halved_below_its_minimum_and_can_be_restored_at_once() {
    let limit = LoadLimit::new("search", 10).unwrap();
    for _ in 0..10 {
        limit.halve();
    }
    assert_eq!(limit.limit(), 1);
    limit.restore();
    assert_eq!(limit.limit(), 10);
    let limit = LoadLimit::new("search", 10).unwrap().at_least(4).unwrap();
    assert_eq!((limit.halve(), limit.halve()), (5, 4));
    advance(secs(86_400 * 365)).await;
    assert_eq!(limit.limit(), 10);
    let at_once = LoadLimit::new("search", 10).unwrap().restore_within(Duration::ZERO);
    at_once.halve();
    advance(Duration::from_nanos(1)).await;
    assert_eq!(at_once.limit(), 10);
    let never = LoadLimit::new("search", 10).unwrap().restore_within(Duration::MAX);
    never.halve();
    advance(secs(86_400 * 365)).await;
    assert_eq!(never.limit(), 5);
    let refused = &fill(&never, 6).1[0];
    assert!(find::<Refused>(&**refused).unwrap().retry_after() > Some(secs(86_400 * 365)));
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_under_way_when_load_is_shed_go_on() {
    let limit = LoadLimit::new("search", 4).unwrap();
    let (under_way, _) = fill(&limit, 4);
    assert_eq!(limit.halve(), 2);
    assert_eq!((under_way.len(), limit.under_way(), fill(&limit, 1).1.len()), (4, 4, 1));
    drop(under_way);
    assert_eq!(fill(&limit, 4).0.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn readiness_is_that_of_the_service_and_a_refusal_keeps_none_of_it() {
    let limit = LoadLimit::new("search", 1).unwrap();
    let (service, mut handle) = mock::pair::<u8, u8>();
    let mut first = task::spawn(limit.layer(service.clone()));
    let mut second = limit.layer(service);
    handle.allow(2);
    assert_ready_ok!(first.enter(|cx, mut service| service.poll_ready(cx)));
    let mut call = task::spawn(first.call(1));
    assert_pending!(call.poll());
    second.ready().await.unwrap();
    assert_ready_err!(task::spawn(second.call(2)).poll());
    let (request, response) = handle.next_request().await.unwrap();
    assert_eq!(request, 1);
    response.send_response(10);
    assert_eq!(assert_ready_ok!(call.poll()), 10);
    assert_eq!(limit.under_way(), 0, "over before its future is dropped");
    // The refused clone is made ready anew.
    assert_pending!(handle.poll_request());
    second.ready().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn clones_and_layers_of_one_limit_share_it_and_each_refusal_is_reported() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let observer =
        observe_fn(move |service, event| sink.lock().unwrap().push((service.to_owned(), event.clone())));
    let limit = LoadLimit::new("search", 2).unwrap().observe(observer);
    let (_one, _) = fill(&limit, 1);
    let (_two, refused) = fill(&limit.clone(), 2);
    assert_eq!(refused.len(), 1);
    assert_eq!(*events.lock().unwrap(), [("search".to_owned(), Event::Refused(Reason::Overloaded))]);
}

#[test]
fn a_limit_without_room_is_an_error_that_says_so() {
    let error = LoadLimit::new("search", 0).unwrap_err().to_string();
    assert_eq!(error, "`max` is 0, but must be at least 1, or nothing is ever let through");
    let error = LoadLimit::new("search", 5).unwrap().at_least(6).unwrap_err().to_string();
    assert_eq!(error, "`at_least` is 6, but must be 1 to the maximum of 5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_is_never_exceeded_by_callers_on_several_threads() {
    let limit = LoadLimit::new("search", 4).unwrap();
    let gauge = limit.clone();
    let service = limit.layer(service_fn(move |()| {
        let gauge = gauge.clone();
        async move {
            assert!(gauge.under_way() <= 4);
            tokio::task::yield_now().await;
            Ok::<_, BoxError>(())
        }
    }));
    let callers = (0..16).map(|_| {
        let mut service = service.clone();
        tokio::spawn(async move {
            let mut done = 0;
            for _ in 0..500 {
                done += u32::from(service.ready().await.unwrap().call(()).await.is_ok());
            }
            done
        })
    });
    let mut done = 0;
    for caller in callers.collect::<Vec<_>>() {
        done += caller.await.unwrap();
    }
    assert!(done >= 2000 && limit.under_way() == 0, "{done}");
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract_of_layers() {
    buttress_testkit::contract::check(|| LoadLimit::new("search", 10).unwrap()).await;
}
