//! Breakers by key: what is kept, and what is forgotten.

mod common;

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use buttress_circuit_breaker::KeyedCircuitBreakerLayer;
use buttress_core::{ErrorsAreFailures, Event, KeyBy, Plain, key_by};
use common::*;
use tower::{Layer, Service, ServiceExt, service_fn};

type ByString = KeyBy<Plain, fn(&String) -> Option<Cow<'_, str>>>;

struct Keyed {
    layer: KeyedCircuitBreakerLayer<ByString>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Keyed {
    fn new(max_keys: usize) -> Self {
        let key: fn(&String) -> Option<Cow<'_, str>> = |key| Some(key.as_str().into());
        let policy = key_by(Plain::<ErrorsAreFailures>::default(), key);
        let (observer, events) = recorder();
        let layer = KeyedCircuitBreakerLayer::new("hosts", consecutive(1), policy).unwrap();
        Self { layer: layer.max_keys(max_keys.try_into().unwrap()).observe(observer), events }
    }

    /// A failure of this key, which opens its circuit.
    async fn fail(&self, key: &str) {
        let service = self.layer.layer(service_fn(|_: String| async { Err::<(), _>("down") }));
        service.oneshot(key.to_owned()).await.unwrap_err();
    }

    fn evicted(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let key = |event: &Event| match event {
            Event::Evicted { key } => Some(key.to_string()),
            _ => None,
        };
        events.iter().filter_map(key).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn an_isolated_key_outlives_those_that_are_merely_open() {
    let hosts = Keyed::new(3);
    for key in ["isolated", "a", "b"] {
        hosts.fail(key).await;
    }
    hosts.layer.get("isolated").unwrap().isolate();
    hosts.fail("c").await;
    assert_eq!(hosts.evicted(), ["a"]);
    assert!(hosts.layer.get("isolated").is_some());
}

/// The table is in shards; a full one takes room that others leave.
#[tokio::test(start_paused = true)]
async fn no_open_circuit_is_forgotten_while_there_is_room() {
    let hosts = Keyed::new(256);
    for n in 0..256 {
        hosts.fail(&format!("host{n}")).await;
    }
    assert_eq!((hosts.evicted().len(), hosts.layer.handles().len()), (0, 256));
    for n in 0..256 {
        hosts.fail(&format!("another{n}")).await;
    }
    assert_eq!((hosts.evicted().len(), hosts.layer.handles().len()), (256, 256));
}

/// A closed circuit goes before an open one, whichever shard they are in.
#[tokio::test(start_paused = true)]
async fn no_open_circuit_is_forgotten_while_another_is_closed() {
    let hosts = Keyed::new(256);
    let good = hosts.layer.layer(service_fn(|_: String| async { Ok::<_, &str>(()) }));
    for n in 0..200 {
        good.clone().oneshot(format!("good{n}")).await.unwrap();
    }
    for n in 0..256 {
        hosts.fail(&format!("bad{n}")).await;
    }
    assert_eq!((hosts.evicted().len(), hosts.layer.handles().len()), (0, 256));
    hosts.layer.get("bad7").unwrap().isolate();
    for n in 0..255 {
        hosts.fail(&format!("another{n}")).await;
    }
    assert!(hosts.layer.get("bad7").is_some(), "an isolated one goes last of all");
    assert_eq!(hosts.layer.handles().len(), 256);
}

#[tokio::test(start_paused = true)]
async fn stale_results_are_those_of_the_key() {
    let hosts = Keyed::new(3);
    hosts.fail("good").await;
    let slow = |_: String| async {
        tokio::time::sleep(secs(1)).await;
        Err::<(), _>("down")
    };
    let call = hosts.layer.layer(service_fn(slow)).ready().await.unwrap().call("bad".into());
    hosts.layer.get("bad").unwrap().isolate();
    call.await.unwrap_err();
    let stale = |key| hosts.layer.get(key).unwrap().metrics().stale;
    assert_eq!((stale("good"), stale("bad")), (0, 1));
}
