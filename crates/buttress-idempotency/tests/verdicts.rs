//! What errors of this crate mean to the layers around it.

use std::convert::Infallible;
use std::time::Duration;

use buttress_core::{BoxError, Effect, Hint, Judged, Kind, Verdict, error_verdict, find};
use buttress_idempotency::{
    Config, Error, Hash, Idempotency, IdempotencyKeyLayer, KeyTooOld, Keyed, Ran, RunError,
};
use buttress_store::{Fault, Memory, ScopedKey};
use http::Request;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, service_fn};

mod scripted;
use scripted::{Do, Scripted, Verb};

const REFUSED: Verdict = Verdict::failure(Kind::Refused);

/// (key, content)
type Call = (&'static str, u32);

fn guard(
    store: &Scripted,
    config: Config,
) -> (
    Idempotency<Scripted>,
    impl Service<Call, Response = u32, Error = BoxError, Future: Send> + Clone + Send + 'static,
) {
    let keyed =
        Keyed::new(|call: &Call| Some(call.0.into()), |call, hash: Hash| hash.part(call.1.to_be_bytes()));
    let idempotency = Idempotency::new("test", store.clone(), config).unwrap();
    let service = idempotency.layer(keyed.required()).layer(service_fn(async |call: Call| {
        sleep(Duration::from_secs(1)).await;
        Ok::<_, Infallible>(call.1)
    }));
    (idempotency, service)
}

fn after(seconds: u64) -> Hint {
    Hint::RetryAfter(Duration::from_secs(seconds))
}

/// The mistake of a caller opens no circuit, and is not made again; what was refused for now may be asked for again, and when.
#[tokio::test(start_paused = true)]
async fn an_error_says_whose_fault_it_is_and_when_to_ask_again() {
    let store = Scripted::new();
    let (idempotency, service) = guard(&store, Config::new().retry_after(Duration::from_secs(7)));
    service.clone().oneshot(("k", 1)).await.unwrap();

    let mismatch = service.clone().oneshot(("k", 2)).await.unwrap_err();
    assert!(matches!(find(&*mismatch), Some(Error::Mismatch)));
    assert_eq!(mismatch.to_string(), Error::Mismatch.to_string(), "it reads as it is");
    assert_eq!(error_verdict(&*mismatch), Verdict::Rejected);
    let invalid = service.clone().oneshot(("", 2)).await.unwrap_err();
    assert_eq!(error_verdict(&*invalid), Verdict::Rejected, "{invalid}");

    let first = tokio::spawn(service.clone().oneshot(("slow", 1)));
    tokio::task::yield_now().await;
    let in_flight = service.clone().oneshot(("slow", 1)).await.unwrap_err();
    assert_eq!(error_verdict(&*in_flight), REFUSED.with_hint(after(7)));
    first.await.unwrap().unwrap();

    store.script(|verb, _| if verb == Verb::Claim { Do::Fail(Fault::Unavailable) } else { Do::Pass });
    let down = service.clone().oneshot(("other", 1)).await.unwrap_err();
    assert_eq!(error_verdict(&*down), REFUSED.with_hint(after(1)));
    assert!(find::<buttress_store::StoreError>(&*down).is_some(), "its cause is there");
    store.script(|verb, _| if verb == Verb::Claim { Do::Fail(Fault::Corrupt) } else { Do::Pass });
    let corrupt = service.clone().oneshot(("other", 1)).await.unwrap_err();
    assert_eq!(error_verdict(&*corrupt), REFUSED, "nobody knows when");

    idempotency.shutdown(Duration::ZERO).await;
    let closing = service.clone().oneshot(("other", 1)).await.unwrap_err();
    assert_eq!(error_verdict(&*closing), REFUSED.with_hint(after(1)));
}

#[test]
fn what_may_have_been_done_is_not_said_to_be_refused() {
    let retry_after = Duration::from_secs(7);
    assert_eq!(Error::Lost { retry_after }.verdict(), Verdict::failure(Kind::Transient).with_hint(after(7)));
    for error in [Error::Unknown, Error::AnswerTooLarge, Error::Unreadable("damaged".into())] {
        let Verdict::Failure { kind, effect, hint } = error.verdict() else { panic!("{error} is a failure") };
        assert_eq!((kind, effect, hint), (Kind::Permanent, Effect::Unknown, Hint::DoNotRetry), "{error}");
    }
    assert_eq!(Error::KeyMissing.verdict(), Verdict::Rejected);
}

#[tokio::test]
async fn an_error_of_a_function_has_its_verdict_too() {
    let in_flight =
        || RunError::<std::io::Error>::Idempotency(Error::InFlight { retry_after: Duration::from_secs(7) });
    assert_eq!(in_flight().verdict(), REFUSED.with_hint(after(7)));
    let boxed = in_flight().into_boxed();
    assert_eq!(error_verdict(&*boxed), REFUSED.with_hint(after(7)));
    assert_eq!(boxed.to_string(), in_flight().to_string());
    let refused = RunError::Effect(scripted::not_sent());
    assert_eq!(refused.verdict(), Verdict::failure(Kind::Transient).not_sent());
}

#[tokio::test]
async fn a_key_that_is_not_sent_is_a_mistake_of_its_caller() {
    let send = async |layer: IdempotencyKeyLayer<_>, key: Option<&str>| {
        let service = layer.layer(service_fn(async |_: Request<()>| Ok::<_, Infallible>(())));
        let mut request = Request::post("https://api.example.com/").body(()).unwrap();
        if let Some(key) = key {
            request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        }
        service.oneshot(request).await.unwrap_err()
    };
    let none = send(IdempotencyKeyLayer::http().made_by(String::new), None).await;
    assert_eq!(error_verdict(&*none), Verdict::Rejected, "{none}");
    let layer = IdempotencyKeyLayer::http().max_key_age(Duration::from_secs(60)).unwrap();
    let old = send(layer, Some("018b4f2e-7c00-7000-8000-000000000000")).await;
    assert!(find::<KeyTooOld>(&*old).is_some());
    assert_eq!(error_verdict(&*old), Verdict::Rejected);
}

/// IA-30: an effect that knows that it has not happened, such as one whose transaction was rolled back.
#[tokio::test]
async fn an_effect_can_say_that_it_has_not_happened() {
    let idempotency = Idempotency::new("test", Memory::new(), Config::new()).unwrap();
    let run = |answer: Result<u32, Judged>| {
        let key = ScopedKey::try_new("", "k").unwrap();
        idempotency.run(key, Hash::new().fingerprint(), async move |_| answer)
    };
    let rolled_back = Judged::new(Verdict::failure(Kind::Transient).not_sent(), "rolled back");
    assert!(matches!(run(Err(rolled_back)).await, Err(RunError::Effect(_))));
    assert_eq!(run(Ok(7)).await.unwrap(), Ran::Executed(7));
}
