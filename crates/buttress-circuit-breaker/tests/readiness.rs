//! Services whose readiness says something: callers come through `poll_ready`, and some of them wait there.

mod common;

use buttress_circuit_breaker::{CircuitBreakerLayer, CircuitState::*, ProbeExpiry};
use buttress_core::{BoxError, Plain};
use buttress_testkit::clock::settle;
use buttress_testkit::{Scripted, err, hang, ok};
use common::*;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

/// Opens for a second after one failure; one good probe closes it.
fn layer() -> CircuitBreakerLayer<Plain> {
    CircuitBreakerLayer::new("test", consecutive(1).open_for(secs(1)).success_threshold(1)).unwrap()
}

fn layer_with(expiry: ProbeExpiry) -> CircuitBreakerLayer<Plain> {
    let config = consecutive(1).open_for(secs(1)).success_threshold(1);
    CircuitBreakerLayer::new("test", config.probe_lease(secs(1)).on_probe_expiry(expiry)).unwrap()
}

/// A call that fails, and after the open time a probe that hangs.
async fn fail_and_hang<S>(service: &S)
where
    S: Service<(), Response = u32, Error = BoxError, Future: Send> + Clone + Send + 'static,
{
    service.clone().oneshot(()).await.unwrap_err();
    advance(secs(1)).await;
    tokio::spawn(service.clone().oneshot(()));
    settle().await;
}

/// CB-17, through the service: callers that are refused before they call must not keep the probe's lease from ending.
#[tokio::test(start_paused = true)]
async fn a_hung_probe_reopens_a_circuit_that_is_only_called() {
    let layer = layer_with(ProbeExpiry::Reopen);
    let service = layer.layer(Scripted::new([err("down"), hang(), ok(1)]));
    fail_and_hang(&service).await;
    advance(secs(2)).await;
    service.clone().oneshot(()).await.unwrap_err();
    assert_eq!(layer.handle().state(), Open);
    advance(secs(1)).await;
    service.clone().oneshot(()).await.unwrap();
    assert_eq!(layer.handle().state(), Closed);
}

/// CB-17
#[tokio::test(start_paused = true)]
async fn a_hung_probe_closes_a_circuit_whose_service_is_busy_with_it() {
    let layer = layer_with(ProbeExpiry::Close);
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let script = Scripted::new([err("down"), hang(), ok(1)]);
    let service = ServiceBuilder::new().layer(layer.clone()).layer(limit).service(script);
    fail_and_hang(&service).await;
    advance(secs(5)).await;
    let mut call = tokio_test::task::spawn(service.clone().oneshot(()));
    assert!(call.poll().is_pending(), "closed: it waits for the slot");
    assert_eq!(layer.handle().state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_clones_take_a_moment_to_become_ready_is_probed_in_the_end() {
    let layer = layer();
    let service = layer.layer(Scripted::new([ok(1).ready_after(ms(1))]));
    layer.handle().open_for(secs(1));
    let mut refused = 0;
    while service.clone().oneshot(()).await.is_err() {
        refused += 1;
        assert!(refused < 10, "refused for ever");
        advance(secs(1)).await;
    }
    assert_eq!(layer.handle().state(), Closed);
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_gives_back_what_readiness_had_reserved() {
    let layer = layer();
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let service = ServiceBuilder::new().layer(layer.clone()).layer(limit).service(Scripted::new([ok(1)]));
    for isolate in [false, true] {
        let mut first = service.clone();
        ServiceExt::<()>::ready(&mut first).await.unwrap();
        if isolate {
            layer.handle().isolate()
        } else {
            layer.handle().open_for(secs(1))
        }
        first.call(()).await.unwrap_err();
        if isolate {
            layer.handle().close()
        } else {
            advance(secs(1)).await
        }
        service.clone().oneshot(()).await.expect("the slot is free, although `first` lives on");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_refused_for_want_of_readiness_does_not_queue_for_the_slot() {
    let layer = layer();
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let script = || Scripted::<u32>::new([ok(1)]);
    let service = ServiceBuilder::new().layer(layer.clone()).layer(limit.clone()).service(script());
    let mut saturating = limit.layer(script());
    let slot = ServiceExt::<()>::ready(&mut saturating).await.unwrap().call(());
    layer.handle().open_for(secs(1));
    advance(secs(1)).await;
    let mut first = service.clone();
    ServiceExt::<()>::ready(&mut first).await.unwrap().call(()).await.unwrap_err();
    slot.await.unwrap();
    service.clone().oneshot(()).await.expect("the slot is free: this call is the probe");
}
