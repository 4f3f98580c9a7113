use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use buttress::core::{Capture, Captured, Seal};
use buttress::http::{Answer, HttpCapture, Incomplete, Recording, StoredResponse};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;

use super::body::{Broken, Facts, Got, Polled, Source, any_source};
use crate::draw::Draw;

/// What is stored is what was answered, and the caller learns of the end only when it is stored.
pub(super) fn capture(draw: &mut Draw) {
    let (source, facts) = any_source(draw);
    // Close to the length, most of the time.
    let cap = match draw.below(4) {
        0 => draw.below(10_000),
        _ => (facts.data.len() + draw.below(3)).saturating_sub(1),
    };
    let response = any_response(draw, source);
    let (status, headers) = (response.status(), response.headers().clone());
    let (live, recording) = HttpCapture::up_to(cap).capture(response);
    assert_eq!((live.status(), live.headers()), (status, &headers), "the live one is not changed");
    let outcome = watch(draw, live.into_body(), recording, &facts);

    let Some(record) = outcome else { return };
    // What is too large is not read to its end if nobody else reads it.
    assert!(!facts.fails || record.body.is_none(), "a body that failed is not stored");
    assert_eq!(record.status, status);
    for name in ["connection", "transfer-encoding", "date", "keep-alive"] {
        assert!(!record.headers.contains_key(name), "{name} is stored");
    }
    assert!(record.headers.get_all("x-kept").iter().eq(headers.get_all("x-kept")));
    let named = headers.get_all("connection").iter().any(|value| value.as_bytes().starts_with(b"x-hop"));
    assert_eq!(record.headers.contains_key("x-hop"), headers.contains_key("x-hop") && !named);
    if facts.conforming && record.body.is_some() {
        assert_eq!(record.trailers, facts.trailers);
    }
    restore(cap, &record, &facts);
}

/// Reads the live answer, waits for the record and keeps it sealed for some time, in any order. The record, if there is one.
fn watch(
    draw: &mut Draw,
    mut body: Answer<Source>,
    recording: Recording<Source>,
    facts: &Facts,
) -> Option<StoredResponse> {
    let mut recording = Some(recording);
    let (mut record, mut seal): (Option<StoredResponse>, Option<Seal>) = (None, None);
    let (mut got, mut sealed, mut over) = (Got::default(), true, false);
    let whole = |got: &Got| got.data == facts.data.len();
    // Who knows the length takes its last byte for the end.
    let length_is_known = facts.honest && facts.exact.is_some();
    for _ in 0..draw.below(40) {
        match draw.below(12) {
            0 => sealed &= seal.take().is_none(),
            1 if draw.one_in(8) => {
                // Nobody waits for the record any more.
                sealed &= recording.take().is_none() && record.is_some();
            }
            2..=4 => (record, seal) = poll(&mut recording, record, seal),
            _ if over => {}
            _ => match got.poll(&mut body, facts) {
                Polled::Frame | Polled::Pending => {
                    let untold = facts.conforming && length_is_known && !facts.data.is_empty();
                    assert!(
                        !sealed || !untold || facts.fails || !whole(&got),
                        "the last byte came too early"
                    );
                }
                Polled::End => {
                    assert!(!sealed, "the end came too early");
                    assert!(whole(&got) && !facts.fails);
                    over = true;
                }
                Polled::Failed(error) => {
                    assert!(facts.fails && error.is::<Broken>(), "{error}");
                    over = true;
                }
            },
        }
    }
    // The caller goes away, or reads on.
    if draw.one_in(4) {
        drop(body);
        return poll(&mut recording, record, seal).0;
    }
    for _ in 0..100 {
        (record, seal) = poll(&mut recording, record, seal);
        drop(seal.take());
        if over {
            assert!(
                facts.fails || recording.is_none() || record.is_some(),
                "read to its end and not recorded"
            );
            return record;
        }
        match got.poll(&mut body, facts) {
            Polled::Frame | Polled::Pending => {}
            Polled::End => {
                assert!(
                    whole(&got) && (!facts.conforming || got.is_all(facts)),
                    "an end before all was told"
                );
                over = true;
            }
            Polled::Failed(error) => {
                assert!(facts.fails && error.is::<Broken>(), "{error}");
                over = true;
            }
        }
    }
    panic!("no end in sight")
}

fn poll(
    recording: &mut Option<Recording<Source>>,
    record: Option<StoredResponse>,
    seal: Option<Seal>,
) -> (Option<StoredResponse>, Option<Seal>) {
    let Some(waiting) = recording else { return (record, seal) };
    match Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => (record, seal),
        Poll::Ready(Ok(Captured { record, seal, .. })) => {
            *recording = None;
            (Some(record), Some(seal))
        }
        Poll::Ready(Err(_)) => {
            *recording = None;
            (None, None)
        }
    }
}

fn restore(cap: usize, record: &StoredResponse, facts: &Facts) {
    let restored: Result<Response<Answer<Source>>, _> = HttpCapture::up_to(cap).restore(record);
    if facts.data.len() > cap {
        assert!(record.body.is_none() && restored.is_err_and(|error| error.is::<Incomplete>()));
        return;
    }
    let restored = restored.expect("it is complete");
    assert_eq!((restored.status(), restored.headers()), (record.status, &record.headers));
    let (mut body, mut got) = (restored.into_body(), Got::default());
    assert!(body.is_stored());
    assert_eq!(body.size_hint().exact(), Some(facts.data.len() as u64));
    assert!(got.finish(&mut body, facts).is_none());
    assert!(!facts.conforming || got.is_all(facts), "restored in part");
    assert!(body.is_end_stream());
}

fn any_response(draw: &mut Draw, source: Source) -> Response<Source> {
    let mut response = Response::new(source);
    *response.status_mut() = draw.pick(&[StatusCode::OK, StatusCode::CREATED, StatusCode::NOT_FOUND]);
    let fields = [
        ("connection", "x-hop, close"),
        ("connection", "x-hop"),
        ("connection", ",, ;x\u{e9}"),
        ("x-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("keep-alive", "timeout=5"),
        ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("x-kept", "a"),
        ("x-kept", "b"),
        ("set-cookie", "c"),
    ];
    for _ in 0..draw.below(8) {
        let (name, value) = draw.pick(&fields);
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header's value");
        response.headers_mut().append(HeaderName::from_static(name), value);
    }
    response
}
