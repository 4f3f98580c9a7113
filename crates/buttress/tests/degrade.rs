//! A chain above a stack: what of the layer stays, and what the stack adds.
#![cfg(feature = "degrade")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::core::{Event, Observe, observe_fn};
use buttress::degrade::{Chain, DegradeLayer, Grade, HttpRules, LastGood, Level};
use buttress::http::{Answer, ReplayBody, StoredResponse, Vendor};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

type Body = Full<Bytes>;
type Given = Response<Answer<Body>>;

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Event>>>);

impl Heard {
    fn observer(&self) -> Arc<dyn Observe> {
        let heard = Arc::clone(&self.0);
        observe_fn(move |_, event| heard.lock().unwrap().push(event.clone()))
    }

    fn degraded(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|event| matches!(event, Event::Degraded { .. })).count()
    }
}

fn get() -> Request<Body> {
    Request::get("http://search.example/").body(Body::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_layer_keeps_its_patience_and_its_observer() {
    for (patience, after) in [(Some(50), 50), (None, 2000)] {
        let (own, of_the_stack) = (Heard::default(), Heard::default());
        let chain = Chain::<Request<Body>, Given>::new()
            .finally(Level::Minimal, "static", |_| StoredResponse::from(Response::new("sorry")));
        let mut degrade = DegradeLayer::new("search", chain).unwrap().observe(own.observer());
        if let Some(patience) = patience {
            degrade = degrade.patience(Duration::from_millis(patience)).unwrap();
        }
        let degrade = degrade.last_good(LastGood::new(HttpRules::private())).unwrap();
        let stack = buttress::http("search").silent().observe(of_the_stack.observer());
        let stack = stack.total(Duration::from_secs(2));
        let layer = stack.build_degrading(degrade).unwrap();
        let hangs = service_fn(|_: Request<ReplayBody<Body>>| {
            std::future::pending::<Result<Response<Body>, std::io::Error>>()
        });
        let start = Instant::now();
        let Ok(answer) = layer.layer(hangs).oneshot(get()).await;
        assert_eq!((answer.level(), start.elapsed().as_millis()), (Level::Minimal, after));
        assert_eq!((own.degraded(), of_the_stack.degraded()), (1, 1));
    }
}

/// A vendor's answers are as good as they are, whatever he says.
#[tokio::test(start_paused = true)]
async fn a_stack_for_a_vendor_does_not_believe_what_is_said_of_levels() {
    for (vendor, level) in [(Vendor::Generic, Level::Minimal), (Vendor::Datadog, Level::Full)] {
        let degrade = DegradeLayer::new("api", Chain::<Request<Body>, Given>::new()).unwrap();
        let layer = buttress::http("api").silent().vendor(vendor).build_degrading(degrade).unwrap();
        let service = layer.layer(service_fn(|_: Request<ReplayBody<Body>>| async {
            let response = Response::builder().header("buttress-degradation", "3; components=\"db\"");
            Ok::<_, std::io::Error>(response.body(Body::default()).unwrap())
        }));
        assert_eq!(service.oneshot(get()).await.unwrap().level(), level);
    }
}
