//! What tower and Buttress ask of every layer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::Mode;
use buttress_core::observe::Metrics;
use buttress_idempotency::{Config, Hash, HttpKeys, Idempotency, Keyed, OnPanic, new_key};
use buttress_store::Memory;
use buttress_testkit::contract;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower::{Layer, ServiceExt, service_fn};

fn idempotency() -> Idempotency<Memory> {
    let config = Config::new().on_panic(OnPanic::Release);
    Idempotency::new("layer", Memory::new(), config).unwrap()
}

/// Each call is one of its own.
fn keyed() -> Keyed<u64, u64> {
    Keyed::new(|_: &u64| Some(new_key().into()), |_, hash: Hash| hash)
}

#[tokio::test(start_paused = true)]
async fn the_layer_keeps_the_contract_and_carries_on_what_has_begun() {
    contract::check_detaching(|| idempotency().layer(keyed())).await;
}

#[tokio::test(start_paused = true)]
async fn inline_the_layer_keeps_the_contract_and_drops_what_is_dropped() {
    contract::check_local(|| idempotency().layer(keyed()).inline()).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_guarded_passes_by_the_contract() {
    let unkeyed = || Keyed::new(|_: &u64| None, |_, hash: Hash| hash);
    contract::check(|| idempotency().layer(unkeyed())).await;
    contract::check_local(|| idempotency().layer(unkeyed()).inline()).await;
    contract::check(|| {
        let idempotency = idempotency();
        idempotency.set_mode(Mode::Off);
        idempotency.layer(keyed())
    })
    .await;
}

#[test]
fn without_a_runtime_a_call_is_refused_and_nothing_panics() {
    let service = service_fn(|amount: u64| async move { Ok::<u64, std::io::Error>(amount) });
    let mut guarded = Box::pin(idempotency().layer(keyed()).layer(service).oneshot(1));
    let mut inline = Box::pin(idempotency().layer(keyed()).inline().layer(service).oneshot(1));
    for error in
        [buttress_testkit::clock::poll_once(&mut guarded), buttress_testkit::clock::poll_once(&mut inline)]
    {
        let std::task::Poll::Ready(Err(error)) = error else { panic!("{error:?}") };
        assert!(error.to_string().contains("no tokio runtime"), "{error}");
    }
}

/// What is counted, under the name of the guarded service.
#[test]
fn outcomes_are_counted_as_metrics() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let idempotency = Idempotency::new("charges", Memory::new(), Config::new()).unwrap();
            let idempotency = idempotency.observe(Arc::new(Metrics::new("charges")));
            let service = idempotency.layer(HttpKeys::http_default().required()).layer(service_fn(
                async |_: Request<_>| {
                    Ok::<_, Infallible>(Response::new(Full::<bytes::Bytes>::from("charged")))
                },
            ));
            for (key, body) in [("k1", "100"), ("k1", "100"), ("k1", "101"), ("", "100")] {
                let request = Request::post("/").header("idempotency-key", key);
                let request = request.body(Full::<bytes::Bytes>::from(body)).unwrap();
                let answer = service.clone().oneshot(request).await.unwrap();
                answer.into_body().collect().await.unwrap();
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
    });
    let mut counted: Vec<(String, u64)> = Vec::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let (kind, key) = key.into_parts();
        let label =
            |name| key.labels().find(|label| label.key() == name).map(|label| label.value().to_owned());
        if let (MetricKind::Counter, "idempotency_outcomes_total", DebugValue::Counter(count @ 1..)) =
            (kind, key.name(), value)
        {
            assert_eq!(label("service").as_deref(), Some("charges"));
            counted.push((label("outcome").unwrap(), count));
        }
    }
    counted.sort();
    let expected = [("executed", 1), ("invalid", 1), ("mismatch", 1), ("replayed", 1)];
    assert_eq!(counted, expected.map(|(outcome, count)| (outcome.to_owned(), count)));
}
