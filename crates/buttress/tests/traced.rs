//! In a process of its own: `tracing` remembers for all threads whether anybody listens.
#![cfg(feature = "tracing")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use buttress::core::observe::Tracing;
use buttress::core::{Event, Observe};
use buttress::http::ReplayBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_traced_without_being_asked_for() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);
    let statuses = Arc::new(Mutex::new(vec![200, 503]));
    let client = tower::service_fn(move |_: Request<ReplayBody<Full<Bytes>>>| {
        let status = statuses.lock().unwrap().pop().unwrap();
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let api = buttress::http("api").build().unwrap().layer(client);
    api.oneshot(Request::get("http://api/").body(Full::default()).unwrap()).await.unwrap();
    // Not only workers have a store: a memory of good answers has one, too.
    let failed = Event::StoreFailed { error: "down".into(), lasts: false };
    Tracing.event("answers", &failed);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("buttress: will retry service=\"api\" retry=1"), "{text}");
    assert!(text.contains("buttress: the store failed service=\"answers\" error=\"down\""), "{text}");
}
