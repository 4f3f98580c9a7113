//! A chain above a stack: what of the layer stays, and what the stack adds.
#![cfg(feature = "degrade")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::circuit_breaker::CircuitState;
use buttress::core::{Event, Observe, observe_fn};
use buttress::degrade::{Chain, DegradeLayer, Grade, HttpRules, LastGood, Level};
use buttress::http::{Answer, ReplayBody, StoredResponse, Vendor};
use buttress::retry::Config;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::Instant;
use tower::util::BoxCloneService;
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

/// Four failures, and one that hangs for longer than the chain waits.
#[tokio::test(start_paused = true)]
async fn a_circuit_beneath_a_chain_hears_of_all_that_fails() {
    for (budget, stored) in [(None, false), (Some(1), false), (None, true), (Some(1), true)] {
        let chain = Chain::<Request<Body>, Given>::new()
            .finally(Level::Minimal, "static", |_| StoredResponse::from(Response::new("sorry")));
        let mut degrade = DegradeLayer::new("search", chain).unwrap();
        if let Some(secs) = budget {
            degrade = degrade.budget(Duration::from_secs(secs)).unwrap();
        }
        let mut calls = 0;
        let answer = Arc::new(Mutex::new(move || {
            calls += 1;
            (calls < 5).then(|| Response::builder().status(503).body(Body::default()))
        }));
        let server = service_fn(move |_: Request<ReplayBody<Body>>| {
            let answer = answer.lock().unwrap()();
            async { if let Some(answer) = answer { answer } else { std::future::pending().await } }
        });
        let stack = buttress::http("search").silent().retry(Config::user_facing().max_retries(0));
        let (circuit, service) = if stored {
            let degrade = degrade.last_good(LastGood::new(HttpRules::private())).unwrap();
            let layer = stack.build_degrading(degrade).unwrap();
            (layer.stack().circuit_breaker().handle(), BoxCloneService::new(layer.layer(server)))
        } else {
            let layer = stack.build_degrading(degrade).unwrap();
            (layer.stack().circuit_breaker().handle(), BoxCloneService::new(layer.layer(server)))
        };
        for _ in 0..5 {
            assert_eq!(circuit.state(), CircuitState::Closed);
            let Ok(answer) = service.clone().oneshot(get()).await;
            assert_eq!(answer.level(), Level::Minimal);
        }
        // A call for the store ends beside its caller's.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(circuit.state(), CircuitState::Open, "budget: {budget:?}, with a store: {stored}");
    }
}
