use super::*;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use buttress_core::BoxError;
use buttress_idempotency::{OnPanic, OnUnknown, Outcome, Reconciled};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Channel};
use tower::{Layer, ServiceExt, service_fn};

/// What the second call sees: how often the handler was called, and whether it was replayed.
type Second = (usize, bool);

const KEPT: Second = (1, true);
const FREE: Second = (2, false);
const HELD: Second = (1, false);

type Table = &'static [(u16, Second)];

const HTTP_DEFAULT: Table = &[
    (200, KEPT),
    (302, KEPT),
    (400, KEPT),
    (402, KEPT),
    (404, KEPT),
    (408, FREE),
    (409, FREE),
    (425, FREE),
    (429, FREE),
    (500, KEPT),
    (501, KEPT),
    (502, HELD),
    (503, HELD),
    (504, HELD),
];

const STRIPE_V1: Table = &[(201, KEPT), (402, KEPT), (409, KEPT), (429, KEPT), (500, KEPT), (503, KEPT)];

const SUCCESS_ONLY: Table =
    &[(201, KEPT), (302, KEPT), (402, FREE), (409, FREE), (429, FREE), (500, FREE), (503, FREE)];

/// IA-30
pub async fn each_preset_stores_what_its_table_says<St: ClaimStore>(store: St) {
    let presets = [
        ("default", HttpKeys::http_default(), HTTP_DEFAULT),
        ("stripe", HttpKeys::stripe_v1(), STRIPE_V1),
        ("success", HttpKeys::success_only(), SUCCESS_ONLY),
    ];
    for (name, preset, table) in presets {
        for (status, expected) in table {
            let key = format!("{name} {status}");
            let rig = Rig::new(&store, config(), preset.clone(), Handler::answering([*status]));
            assert_eq!(rig.post(&key, "100").await.seen(), (*status, false));
            let second = rig.post(&key, "100").await;
            assert_eq!((rig.handler.calls(), second.is_replayed()), *expected, "{key}: {second:?}");
            if *expected == HELD {
                assert_eq!(second.seen(), (409, false), "{key}");
            }
        }
    }
}

/// IA-30: what is unknown is held, and no longer than that.
pub async fn an_unknown_answer_is_made_again_once_the_lease_is_over<St: ClaimStore>(store: St) {
    let rig = Rig::new(&store, short(), HttpKeys::default(), Handler::answering([503]));
    assert_eq!(rig.post("k1", "100").await.seen(), (503, false));
    assert_eq!(rig.post("k1", "100").await.seen(), (201, false));
    let claims = rig.handler.claims();
    assert_eq!((claims[0].unfinished(), claims[1].unfinished()), (0, 1));
}

/// IA-30: a 409 that *was* the answer.
pub async fn a_closure_decides_where_the_preset_is_wrong<St: ClaimStore>(store: St) {
    let keys = HttpKeys::default()
        .judge(|status, _| (status == StatusCode::CONFLICT).then_some(Outcome::Definitive));
    let rig = Rig::new(&store, config(), keys, Handler::answering([409]));
    rig.post("k1", "100").await;
    assert_eq!(rig.post("k1", "100").await.seen(), (409, true));
}

/// IA-23: a stream that is not to be recorded passes, and holds no key for as long as it runs.
pub async fn a_stream_that_is_not_to_be_recorded_passes<St: ClaimStore>(store: St) {
    let keys = HttpKeys::default().judge(|_, headers| {
        headers
            .get("content-type")
            .is_some_and(|kind| kind == "text/event-stream")
            .then_some(Outcome::NotExecuted)
    });
    let rig = Rig::new(&store, config(), keys, Handler::open());
    let senders: Arc<Mutex<Vec<_>>> = Arc::default();
    let open = Arc::clone(&senders);
    let service = rig.layer.layer(service_fn(move |_: Request<_>| {
        let (sender, body) = Channel::<Bytes, BoxError>::new(4);
        open.lock().unwrap().push(sender);
        async {
            Ok::<_, Infallible>(
                Response::builder().header("content-type", "text/event-stream").body(body).unwrap(),
            )
        }
    }));
    let mut streams = Vec::new();
    for number in 0..2 {
        let answer = service.clone().oneshot(post("k1", "100")).await.unwrap();
        assert!(!answer.headers().contains_key("idempotent-replayed"));
        let mut body = answer.into_body();
        senders.lock().unwrap()[number].try_send(Frame::data(Bytes::from_static(b"data: 1\n\n"))).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
        streams.push(body);
    }
    assert_eq!(rig.log.take(), [Is::Released; 2]);
}

/// IA-29
pub async fn a_panic_is_never_stored<St: ClaimStore>(store: St) {
    for (on_panic, key) in [(OnPanic::Lapse, "lapse"), (OnPanic::Release, "release")] {
        let config = config().on_panic(on_panic);
        let rig = Rig::new(&store, config, HttpKeys::default(), Handler::open());
        rig.handler.panics(true);
        assert!(tokio::spawn(rig.start(post(key, "100"))).await.unwrap_err().is_panic());
        rig.handler.panics(false);
        match on_panic {
            OnPanic::Release => assert_eq!(rig.post_until_free(key, "100").await.seen(), (201, false)),
            _ => assert_eq!(rig.post(key, "100").await.status, 409, "until its lease ends"),
        }
        assert_eq!(rig.post("another", key).await.status, if key == "lapse" { 201 } else { 422 });
    }
    let rig = Rig::new(&store, short(), HttpKeys::default(), Handler::open());
    rig.handler.panics(true);
    assert!(tokio::spawn(rig.start(post("k1", "100"))).await.unwrap_err().is_panic());
    rig.handler.panics(false);
    assert_eq!(rig.post("k1", "100").await.seen(), (201, false), "once its lease is over");
}

fn unknown_at_first<St: ClaimStore>(store: &St, config: Config, keys: HttpKeys) -> Rig<St> {
    Rig::new(store, config.hold_unknown(Duration::ZERO), keys, Handler::answering([503]))
}

/// IA-9: what a crash, a time-out or a lost connection leaves.
pub async fn an_unknown_effect_is_repeated_or_rejected<St: ClaimStore>(store: St) {
    let rerun = unknown_at_first(&store, config(), HttpKeys::default());
    rerun.post("rerun", "100").await;
    assert_eq!(rerun.post("rerun", "100").await.seen(), (201, false));
    assert_eq!(rerun.handler.claims()[1].unfinished(), 1);

    let config = config().on_unknown(OnUnknown::Reject);
    let reject = unknown_at_first(&store, config, HttpKeys::default());
    reject.post("reject", "100").await;
    for _ in 0..2 {
        let refused = reject.post("reject", "100").await;
        assert_eq!((refused.status.as_u16(), refused.retry_after(), reject.handler.calls()), (409, None, 1));
    }
}

/// IA-9: somebody looks what has happened.
pub async fn an_unknown_effect_is_looked_up<St: ClaimStore>(store: St) {
    let looking = |found: fn() -> Result<Reconciled<Response<Bytes>>, BoxError>| {
        let keys = HttpKeys::default().reconcile(move |claim| async move {
            assert_eq!(claim.unfinished(), 1);
            found()
        });
        unknown_at_first(&store, config(), keys)
    };
    let done = looking(|| Ok(Reconciled::Done(Response::new(Bytes::from_static(b"it was done")))));
    done.post("done", "100").await;
    for _ in 0..2 {
        let found = done.post("done", "100").await;
        assert_eq!((found.seen(), &found.body[..]), ((200, true), &b"it was done"[..]));
    }
    assert_eq!(done.handler.calls(), 1);

    let not_done = looking(|| Ok(Reconciled::NotDone));
    not_done.post("not done", "100").await;
    assert_eq!(not_done.post("not done", "100").await.seen(), (201, false));

    let unknown = looking(|| Ok(Reconciled::Unknown));
    unknown.post("unknown", "100").await;
    for _ in 0..2 {
        assert_eq!(unknown.post("unknown", "100").await.status, 409);
    }
    assert_eq!(unknown.handler.calls(), 1);

    let failed = looking(|| Err("the bank does not answer".into()));
    failed.post("failed", "100").await;
    for _ in 0..2 {
        assert_eq!(failed.post("failed", "100").await.status, 503);
    }
    assert_eq!(failed.handler.calls(), 1, "it is not carried out before somebody could look");
}
