//! Answers that do not come to their end, and stores that lose what they are told of them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use buttress_core::{BoxError, IdempotencyResult as Is, Mode};
use buttress_idempotency::{Config, Error, HttpKeys, Idempotency, Ran, RequestBody, RunError};
use buttress_store::{ClaimStore, Fault, Memory};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::channel::Sender;
use http_body_util::{BodyExt, Channel, Full};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt, service_fn};

mod scripted;
use scripted::{Do, Log, Scripted, Verb, run};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);

type Handler =
    BoxCloneService<Request<RequestBody<Full<Bytes>>>, Response<Channel<Bytes, BoxError>>, Infallible>;

fn post() -> Request<Full<Bytes>> {
    Request::post("/charges").header("idempotency-key", "k").body(Full::default()).unwrap()
}

/// A handler whose bodies come from the test, and how often it was called.
fn streaming() -> (Handler, mpsc::UnboundedReceiver<Sender<Bytes, BoxError>>, Arc<AtomicUsize>) {
    let (senders, receiver) = mpsc::unbounded_channel();
    let calls: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&calls);
    let service = service_fn(move |_| {
        count.fetch_add(1, SeqCst);
        let (sender, body) = Channel::new(4);
        senders.send(sender).unwrap();
        std::future::ready(Ok(Response::new(body)))
    });
    (BoxCloneService::new(service), receiver, calls)
}

fn guard<St: ClaimStore>(store: St, config: Config) -> (Idempotency<St>, Log) {
    let log = Log::default();
    (Idempotency::new("test", store, config).unwrap().observe(log.observer()), log)
}

/// IA-24: the effect is done. That nobody has the whole answer is no reason to repeat it.
#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_never_made_again() {
    for keys in [HttpKeys::stripe_v1(), HttpKeys::http_default(), HttpKeys::success_only()] {
        for read in [true, false] {
            let (handler, mut bodies, calls) = streaming();
            let (idempotency, log) = guard(Memory::new(), Config::new());
            let service = idempotency.layer(keys.clone()).layer(handler);
            let body = service.clone().oneshot(post()).await.unwrap().into_body();
            let mut sender = bodies.recv().await.unwrap();
            sender.send_data("half".into()).await.unwrap();
            sender.abort("the cursor is gone".into());
            if read {
                assert_eq!(body.collect().await.unwrap_err().to_string(), "the cursor is gone");
            } else {
                drop(body);
            }
            sleep(2 * LEASE).await;
            assert_eq!(log.take(), [Is::TooLarge]);
            let refused = service.oneshot(post()).await.unwrap();
            assert_eq!((refused.status().as_u16(), calls.load(SeqCst)), (409, 1), "read: {read}");
            assert!(!refused.headers().contains_key("retry-after"), "nothing more will come");
        }
    }
}

/// IA-24, IA-13: one that does not end by itself is not recorded beyond the ceiling.
#[tokio::test(start_paused = true)]
async fn an_answer_that_never_ends_is_never_made_again() {
    for (ceiling, reads) in [(600 * SECOND, true), (600 * SECOND, false), (LEASE, true)] {
        let (handler, mut bodies, calls) = streaming();
        let (idempotency, log) = guard(Memory::new(), Config::new().ceiling(ceiling));
        let service = idempotency.layer(HttpKeys::default()).layer(handler);
        let mut body = Some(service.clone().oneshot(post()).await.unwrap().into_body());
        let sender = bodies.recv().await.unwrap();
        if !reads {
            body = None;
        }
        sleep(ceiling + LEASE + SECOND).await;
        assert_eq!(log.take(), [Is::TooLarge]);
        let refused = service.oneshot(post()).await.unwrap();
        assert_eq!((refused.status().as_u16(), calls.load(SeqCst)), (409, 1), "{ceiling:?} {reads}");
        drop((body, sender));
    }
}

/// IA-37: and what a shutdown has to leave behind is not made again either.
#[tokio::test(start_paused = true)]
async fn what_the_service_of_an_answer_panics_over_is_never_made_again() {
    /// Fails in a way that no body should.
    #[derive(Debug)]
    struct Panics;
    impl http_body::Body for Panics {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
            panic!("in the body")
        }
    }
    let (idempotency, _) = guard(Memory::new(), Config::new());
    let calls: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&calls);
    let service = idempotency.layer(HttpKeys::default()).layer(service_fn(move |_: Request<_>| {
        count.fetch_add(1, SeqCst);
        std::future::ready(Ok::<_, Infallible>(Response::new(Panics)))
    }));
    // The rest of it is read by a task, which panics.
    drop(service.clone().oneshot(post()).await.unwrap());
    sleep(2 * LEASE).await;
    assert_eq!(service.oneshot(post()).await.unwrap().status(), 409);
    assert_eq!(calls.load(SeqCst), 1);
}

/// IA-27, IA-35: the store has lost the claim, and then the answer to the new one, or to what was recorded with it.
#[tokio::test(start_paused = true)]
async fn an_answer_is_recorded_although_the_claim_was_lost_and_had_again_unheard() {
    for lost in [Verb::Claim, Verb::Complete] {
        let store = Scripted::new();
        let (idempotency, log) = guard(store.clone(), Config::new());
        let forgetful = store.clone();
        let effect = async move |claim: buttress_idempotency::Claim| {
            let _ = forgetful.inner.release(claim.stored()).await.unwrap();
            forgetful.script(move |verb, number| match (verb, number) {
                // The first completion finds nothing to complete.
                (Verb::Complete, 1) => Do::Pass,
                (verb, ..4) if verb == lost => Do::FailAfter(10 * SECOND),
                (Verb::Claim, 4) if verb == lost => Do::Lose,
                _ => Do::Pass,
            });
            Ok(7)
        };
        let ran = run(&idempotency, effect).await.unwrap();
        assert_eq!(ran, Ran::Executed(7));
        // Nobody else has the key, for however long it takes.
        let other = guard(store.inner.clone(), Config::new()).0;
        sleep(LEASE).await;
        if lost == Verb::Complete {
            assert!(run(&other, async |_| Ok(8)).await.is_err() || log.take().contains(&Is::Recorded));
        }
        sleep(LEASE).await;
        assert_eq!(run(&other, async |_| Ok(9)).await.unwrap(), Ran::Replayed(7), "{lost:?}");
    }
}

/// The same, where the answer to the new claim is lost: it is one's own, and nobody else's.
#[tokio::test(start_paused = true)]
async fn a_claim_that_was_had_again_unheard_is_not_taken_for_anothers() {
    let store = Scripted::new();
    let (idempotency, log) = guard(store.clone(), Config::new());
    let forgetful = store.clone();
    let effect = async move |claim: buttress_idempotency::Claim| {
        let _ = forgetful.inner.release(claim.stored()).await.unwrap();
        forgetful.script(|verb, number| match (verb, number) {
            (Verb::Claim, 1) => Do::Lose,
            _ => Do::Pass,
        });
        Ok(7)
    };
    assert_eq!(run(&idempotency, effect).await.unwrap(), Ran::Executed(7));
    sleep(SECOND).await;
    assert_eq!(log.take(), [Is::Unrecorded, Is::Recorded]);
    assert_eq!(run(&idempotency, async |_| Ok(8)).await.unwrap(), Ran::Replayed(7));
}

/// IA-13: one renewal that hangs does not cost the lease.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_hangs_is_given_up_in_time_for_another() {
    let store = Scripted::new();
    store.script(|verb, number| match (verb, number) {
        (Verb::Renew, 1) => Do::Take(3600 * SECOND),
        _ => Do::Pass,
    });
    let (idempotency, _) = guard(store.clone(), Config::new().lease(2 * SECOND));
    let first = tokio::spawn(run(&idempotency, async |_| {
        sleep(10 * SECOND).await;
        Ok(1)
    }));
    let other = guard(store, Config::new()).0;
    for _ in 0..19 {
        sleep(SECOND / 2).await;
        let refused = run(&other, async |_| Ok(2)).await;
        assert!(matches!(refused, Err(RunError::Idempotency(Error::InFlight { .. }))), "{refused:?}");
    }
    assert_eq!(first.await.unwrap().unwrap(), Ran::Executed(1));
}

/// What is not guarded, or not guarded at the moment, is not collected.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_to_be_stored_is_not_held() {
    struct Counted(Arc<()>);
    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            let _ = &self.0;
            b"data"
        }
    }
    let get = || Request::get("/").body(Full::default()).unwrap();
    for (mode, request) in [(Mode::Off, post()), (Mode::Enforce, get())] {
        let (handler, mut bodies, _) = streaming();
        let (idempotency, _) = guard(Memory::new(), Config::new());
        idempotency.set_mode(mode);
        let service = idempotency.layer(HttpKeys::default()).layer(handler);
        let mut body = service.oneshot(request).await.unwrap().into_body();
        let (mut sender, alive) = (bodies.recv().await.unwrap(), Arc::new(()));
        sender.send_data(Bytes::from_owner(Counted(Arc::clone(&alive)))).await.unwrap();
        drop(body.frame().await.unwrap().unwrap());
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}

/// IA-27: nothing begins, and what is asked is not free for what the store says.
#[tokio::test(start_paused = true)]
async fn what_was_looked_up_and_cannot_be_recorded_is_said_to_be_unavailable() {
    let store = Scripted::new();
    let (idempotency, log) = guard(
        store.clone(),
        Config::new().on_unknown(buttress_idempotency::OnUnknown::Reject).hold_unknown(Duration::ZERO),
    );
    run(&idempotency, async |_| Err(std::io::Error::other("nobody knows"))).await.unwrap_err();
    store.script(|verb, _| if verb == Verb::Complete { Do::Fail(Fault::Unavailable) } else { Do::Pass });
    let refused = run(&idempotency, async |_| Ok(1)).await;
    assert!(matches!(refused, Err(RunError::Idempotency(Error::Store(_)))), "{refused:?}");
    sleep(LEASE).await;
    assert_eq!(log.take(), [Is::Unknown, Is::Unavailable]);
    store.script(|_, _| Do::Pass);
    let refused = run(&idempotency, async |_| Ok(1)).await;
    assert!(matches!(refused, Err(RunError::Idempotency(Error::Unknown))), "{refused:?}");
    assert_eq!(log.take(), [Is::Unknown]);
}
