//! What every layer has to keep, as far as a layer at which backpressure ends can.

mod support;

use buttress_core::Level;
use buttress_degrade::{ByKey, Chain, DegradeLayer, Degraded, LastGood, Rung};
use buttress_testkit::contract::{self, Subject};
use support::secs;
use tower::layer::layer_fn;
use tower::util::MapResponse;
use tower::{Layer, Service};

type Answer = Degraded<u64>;

fn layer() -> DegradeLayer<Chain<u64, Answer>> {
    // A rung that has nothing: what fails passes.
    let rung = Rung::answer("nothing", |_| None::<u64>).level(Level::Minimal);
    DegradeLayer::new("api", Chain::new().keep_requests().rung(rung)).unwrap()
}

/// The contract is about numbers.
fn numbers<L>(layer: L) -> impl Layer<Subject, Service = MapResponse<L::Service, fn(Answer) -> u64>>
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = Answer>,
{
    layer_fn(move |inner| MapResponse::new(layer.layer(inner), Degraded::into_inner as fn(Answer) -> u64))
}

#[tokio::test(start_paused = true)]
async fn a_chain_keeps_the_contract() {
    contract::check_always_ready(|| numbers(layer())).await;
    contract::check_always_ready(|| numbers(layer().leaked())).await;
    contract::check_always_ready(|| numbers(layer().budget(secs(60)).unwrap())).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_kept_passes_a_store_as_it_passes_a_chain() {
    let store = || LastGood::new(ByKey::new(|_: &u64| None));
    contract::check_always_ready(|| numbers(layer().last_good(store()).unwrap())).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_keeps_the_contract_of_those_who_share_calls() {
    let store = || {
        let store = LastGood::new(ByKey::new(|key: &u64| Some(key.to_string().into())));
        // Nothing is fresh, and nothing is served stale: each call asks.
        store.ttl(secs(0)).if_error(secs(0)).negative_ttl(secs(0))
    };
    contract::check_shared(|| numbers(layer().last_good(store()).unwrap())).await;
    // After a shutdown each calls for himself.
    let store = store();
    store.shutdown(secs(1)).await;
    contract::check_always_ready(|| numbers(layer().last_good(store.clone()).unwrap())).await;
}
