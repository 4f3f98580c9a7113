//! The layer in a stack.

mod common;

use std::sync::Arc;
use std::task::Poll;

use buttress_circuit_breaker::{
    CircuitBreakerLayer, CircuitState::*, Config, KeyedCircuitBreakerLayer, Permit, Reason, Refused,
};
use buttress_core::{BoxError, ErrorsAreFailures, Event, Plain, Settle, Verdict, Watch, find, key_by};
use buttress_testkit::{Scripted, contract, err, ok};
use common::*;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_test::{assert_request_eq, mock};

fn reason(error: &BoxError) -> Reason {
    find::<Refused>(&**error).expect("refused by the breaker").reason()
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract() {
    contract::check(|| CircuitBreakerLayer::standard("test")).await;
    contract::check(|| {
        let policy = key_by(Plain::<ErrorsAreFailures>::default(), |_: &u64| Some("all".into()));
        KeyedCircuitBreakerLayer::new("test", Config::standard(), policy).unwrap()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_is_ready_without_asking_the_service_and_refuses_in_call() {
    let layer = CircuitBreakerLayer::new("test", consecutive(1).open_for(secs(1))).unwrap();
    let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(layer.clone());
    tokio_test::assert_ready_ok!(service.poll_ready());
    let call = service.call("ping");
    assert_request_eq!(handle, "ping").send_error("down");
    call.await.unwrap_err();

    handle.allow(0);
    tokio_test::assert_ready_ok!(service.poll_ready());
    // What was said of this call holds, even if a probe comes due in between.
    advance(secs(1)).await;
    assert_eq!(reason(&service.call("ping").await.unwrap_err()), Reason::CircuitOpen);
    assert_eq!(layer.handle().metrics().refused, 1);
}

/// CB-30
#[tokio::test(start_paused = true)]
async fn a_probe_whose_service_is_not_ready_is_not_consumed() {
    let layer =
        CircuitBreakerLayer::new("test", consecutive(1).open_for(secs(1)).success_threshold(1)).unwrap();
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let script = Scripted::new([ok(1)]);
    let service = ServiceBuilder::new().layer(layer.clone()).layer(limit.clone()).service(script.clone());

    // Another user of the same dependency holds the only slot.
    let mut saturating = limit.layer(Scripted::new([ok(1)]));
    let slot = ServiceExt::<()>::ready(&mut saturating).await.unwrap().call(());
    layer.handle().open_for(secs(1));
    for _ in 0..5 {
        let error = service.clone().oneshot(()).await.unwrap_err();
        assert_eq!(reason(&error), Reason::CircuitOpen, "however saturated the service is");
    }
    advance(secs(1)).await;
    let error = service.clone().oneshot(()).await.unwrap_err();
    assert_eq!(
        (reason(&error), script.calls()),
        (Reason::CircuitOpen, 0),
        "a probe is due, the service is not ready"
    );
    assert_eq!(layer.handle().metrics().refused, 6);

    slot.await.unwrap();
    service.clone().oneshot(()).await.unwrap();
    assert_eq!((layer.handle().state(), script.calls()), (Closed, 1), "the next call was the probe");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_to_become_ready_has_failed() {
    #[derive(Clone)]
    struct Broken;
    impl Service<()> for Broken {
        type Response = ();
        type Error = BoxError;
        type Future = std::future::Ready<Result<(), BoxError>>;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Err("connection gone".into()))
        }
        fn call(&mut self, (): ()) -> Self::Future {
            unreachable!("never ready")
        }
    }
    let layer = CircuitBreakerLayer::new("test", consecutive(2)).unwrap();
    let service = layer.layer(Broken);
    for _ in 0..2 {
        assert_eq!(service.clone().oneshot(()).await.unwrap_err().to_string(), "connection gone");
    }
    assert_eq!(reason(&service.oneshot(()).await.unwrap_err()), Reason::CircuitOpen);
}

/// CB-33
#[tokio::test(start_paused = true)]
async fn keys_are_isolated_and_clones_share() {
    let key = key_by(Plain::<ErrorsAreFailures>::default(), |key: &&'static str| Some((*key).into()));
    let layer = KeyedCircuitBreakerLayer::new("hosts", consecutive(3), key).unwrap();
    let service = layer.layer(tower::service_fn(|key: &'static str| async move {
        if key == "a" { Err("down") } else { Ok(key) }
    }));
    for _ in 0..3 {
        service.clone().oneshot("a").await.unwrap_err();
    }
    let refused = service.clone().oneshot("a").await.unwrap_err();
    assert_eq!(find::<Refused>(&*refused).unwrap().name(), "hosts/a");
    assert_eq!(service.clone().oneshot("b").await.unwrap(), "b");
    assert_eq!((layer.get("a").unwrap().state(), layer.get("b").unwrap().state()), (Open, Closed));
    assert!(layer.get("c").is_none());
    assert_eq!(layer.handles().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_keyed_call_gives_back_what_readiness_had_reserved() {
    let key = key_by(Plain::<ErrorsAreFailures>::default(), |(): &()| None);
    let layer = KeyedCircuitBreakerLayer::new("hosts", consecutive(1), key).unwrap();
    let mut service = ServiceBuilder::new()
        .layer(layer.clone())
        .layer(GlobalConcurrencyLimitLayer::new(1))
        .service(Scripted::new([err("down"), ok(1)]));
    let mut other = service.clone();
    service.ready().await.unwrap().call(()).await.unwrap_err();
    assert_eq!(reason(&service.ready().await.unwrap().call(()).await.unwrap_err()), Reason::CircuitOpen);
    // The first instance lives on; had it kept its slot, this one could never become ready.
    assert!(matches!(tokio_test::task::spawn(other.ready()).poll(), Poll::Ready(Ok(_))));
    drop(service);
}

#[tokio::test(start_paused = true)]
async fn the_memory_of_keys_is_bounded_and_open_circuits_go_last() {
    let (observer, events) = recorder();
    let key = key_by(Plain::<ErrorsAreFailures>::default(), |key: &String| Some(key.as_str().into()));
    let layer = KeyedCircuitBreakerLayer::new("hosts", consecutive(1), key).unwrap();
    let layer = layer.max_keys(3.try_into().unwrap()).observe(observer);
    let service = layer.layer(tower::service_fn(|key: String| async move {
        if key.starts_with("bad") { Err("down") } else { Ok(()) }
    }));
    let call = async |key: &str| drop(service.clone().oneshot(key.to_owned()).await);
    for key in ["bad1", "good", "bad2"] {
        call(key).await;
        advance(secs(1)).await;
    }
    for n in 0..100 {
        call(&format!("other{n}")).await;
    }
    assert_eq!(layer.handles().len(), 3);
    assert!(layer.get("bad1").is_some() && layer.get("bad2").is_some() && layer.get("good").is_none());
    call("bad3").await;
    let evicted = || {
        let events = events.lock().unwrap();
        let evicted = events.iter().filter_map(|event| match event {
            Event::Evicted { key } => Some(key.to_string()),
            _ => None,
        });
        evicted.collect::<Vec<_>>()
    };
    assert!(evicted().is_empty(), "a closed circuit made room");
    call("bad4").await;
    assert_eq!(evicted(), ["bad1"], "the one that was open longest");
    assert!(layer.get("bad4").is_some());
}

#[tokio::test(start_paused = true)]
async fn many_keys_are_all_found_again() {
    let key = key_by(Plain::<ErrorsAreFailures>::default(), |key: &String| Some(key.as_str().into()));
    let layer = KeyedCircuitBreakerLayer::new("hosts", consecutive(1), key).unwrap();
    let layer = layer.max_keys(1000.try_into().unwrap());
    let service = layer.layer(tower::service_fn(|_: String| async { Ok::<_, BoxError>(()) }));
    for n in 0..20_000 {
        let key = format!("host{n}");
        service.clone().oneshot(key.clone()).await.unwrap();
        assert!(layer.get(&key).is_some(), "{key}");
    }
    let handles = layer.handles();
    assert!(handles.len() <= 1008 && handles.len() >= 1000, "{}", handles.len());
    assert!(handles.iter().all(|(key, _)| layer.get(key).is_some()));
}

/// Settles when the response is dropped: what a body does.
#[derive(Clone)]
struct WithBody;

struct Body<G>(Option<(G, Verdict)>);

impl<G> Body<G>
where
    G: Settle,
{
    fn end(mut self) {
        let (mut permit, verdict) = self.0.take().unwrap();
        permit.settle(verdict);
    }
}

impl Watch<u32> for WithBody {
    type Response<G: Settle> = Body<G>;

    fn watch<G: Settle>(&self, _: u32, permit: &mut G, verdict: Verdict) -> Body<G> {
        Body(Some((std::mem::take(permit), verdict)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_lasts_as_long_as_its_body() {
    let config = consecutive(1).open_for(secs(1)).success_threshold(1);
    let layer = CircuitBreakerLayer::new("test", config).unwrap().watch(WithBody);
    let service = layer.layer(Scripted::new([ok(1)]));
    layer.handle().open_for(secs(1));
    advance(secs(1)).await;
    let body: Body<Permit> = service.clone().oneshot(()).await.unwrap();
    assert_eq!(layer.handle().state(), HalfOpen);
    let error = service.clone().oneshot(()).await.err().unwrap();
    assert_eq!(reason(&error), Reason::ProbesInFlight);
    drop(body);
    assert_eq!(layer.handle().state(), HalfOpen, "an abandoned body is not a success");
    service.clone().oneshot(()).await.unwrap().end();
    assert_eq!(layer.handle().state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn one_layer_applied_twice_and_a_worker_of_its_own_share_the_circuit() {
    let layer = CircuitBreakerLayer::new("test", consecutive(1)).unwrap();
    let first = layer.layer(Scripted::<u32>::new([err("down")]));
    let second = layer.layer(Scripted::new([ok(1)])).per_worker().per_worker();
    first.oneshot(()).await.unwrap_err();
    assert_eq!(reason(&second.clone().oneshot(()).await.unwrap_err()), Reason::CircuitOpen);
    layer.handle().close();
    assert_eq!(second.oneshot(()).await.unwrap(), 1);
}

#[test]
fn services_futures_and_handles_cross_threads() {
    fn check<T: Send + Sync + 'static>(_: &T) {}
    let layer = CircuitBreakerLayer::standard(Arc::<str>::from("test"));
    check(&layer);
    check(&layer.handle());
    let mut service = layer.layer(tower::service_fn(|(): ()| std::future::ready(Ok::<_, BoxError>(()))));
    check(&service);
    check(&service.call(()));
}
