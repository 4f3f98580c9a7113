//! What `Mode::Observe` leaves as it is.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use buttress_core::{IdempotencyResult as Is, Mode};
use buttress_idempotency::{Config, HttpKeys, Idempotency, OnUnknown, Ran, Reconciled};
use buttress_store::{ClaimStore, Memory};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};

mod scripted;
use scripted::{Log, run};

const SECOND: Duration = Duration::from_secs(1);

fn observing<St: ClaimStore>(store: St, config: Config) -> (Idempotency<St>, Log) {
    let log = Log::default();
    let idempotency = Idempotency::new("test", store, config).unwrap().observe(log.observer());
    idempotency.set_mode(Mode::Observe);
    (idempotency, log)
}

fn post() -> Request<Full<Bytes>> {
    Request::post("/charges").header("idempotency-key", "k").body(Full::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_earlier_attempt_is_unknown_is_carried_out() {
    for keys in [
        HttpKeys::default(),
        HttpKeys::default()
            .reconcile(async |_| Ok(Reconciled::Done(Response::new(Bytes::from_static(b"it was done"))))),
    ] {
        let config = Config::new().on_unknown(OnUnknown::Reject).hold_unknown(Duration::ZERO);
        let (idempotency, log) = observing(Memory::new(), config);
        let calls: Arc<AtomicUsize> = Arc::default();
        let count = Arc::clone(&calls);
        let service = idempotency.layer(keys).layer(service_fn(move |_: Request<_>| {
            let status = if count.fetch_add(1, SeqCst) == 0 { 503 } else { 201 };
            let response = Response::builder().status(status).body(Full::<Bytes>::from("own")).unwrap();
            std::future::ready(Ok::<_, Infallible>(response))
        }));
        for status in [503, 201] {
            let response = service.clone().oneshot(post()).await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "own");
        }
        assert_eq!(calls.load(SeqCst), 2);
        assert_eq!(log.take(), [Is::Unknown, Is::WouldRefuse, Is::Executed]);
    }
}

/// IA-10: not even where it would have got the answer of another.
#[tokio::test(start_paused = true)]
async fn a_call_that_outlived_its_lease_gets_its_own_answer() {
    let store = Memory::new();
    let config = Config::new().lease(SECOND).ceiling(SECOND);
    let (one, log) = observing(store.clone(), config.clone());
    let other = Idempotency::new("test", store, config).unwrap();
    let slow = async |_| {
        sleep(5 * SECOND).await;
        Ok(1)
    };
    let first = tokio::spawn(run(&one, slow));
    sleep(3 * SECOND).await;
    assert_eq!(run(&other, async |_| Ok(2)).await.unwrap(), Ran::Executed(2));
    assert_eq!(first.await.unwrap().unwrap(), Ran::Executed(1));
    assert_eq!(log.take(), [Is::Lost]);
}
