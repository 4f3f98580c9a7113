#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod in_place;

use std::time::Duration;

use buttress::core::Backoff;
use buttress::retry::{Budget, Config};
use buttress::{HttpBuilder, HttpLayer};
use buttress_reqwest::StackMiddleware;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};

/// Five retries without a wait to speak of.
pub(crate) fn fast() -> Config {
    let backoff = Backoff::exponential(Duration::from_millis(20), 2.0, Duration::from_millis(40)).unwrap();
    Config::background().backoff(backoff).budget(Budget::unlimited())
}

pub(crate) fn stack() -> HttpBuilder {
    buttress::http("api").total(Duration::from_secs(120)).attempt(Duration::from_secs(3)).retry(fast())
}

pub(crate) fn client(builder: &HttpBuilder) -> (ClientWithMiddleware, HttpLayer) {
    let layer = builder.clone().build().unwrap();
    let client = ClientBuilder::new(reqwest::Client::new());
    let client = if in_place() {
        client.with(StackMiddleware::in_place(&layer))
    } else {
        client.with(StackMiddleware::new(&layer))
    };
    (client.build(), layer)
}

/// The tests of `middleware.rs` are part of those of `in_place.rs` too.
fn in_place() -> bool {
    module_path!().starts_with("in_place")
}

/// Waits until the server has noticed.
pub(crate) async fn until(noticed: impl Fn() -> bool) {
    for _ in 0..6000 {
        if noticed() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it was not noticed within a minute");
}
