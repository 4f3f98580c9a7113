//! A shop whose parts fail now and then, and how it says so: `GET /` and `GET /health/degradation`.
//!
//! ```sh
//! cargo run -p buttress-degrade --example degradation
//! curl -i http://127.0.0.1:3000/
//! curl -s http://127.0.0.1:3000/health/degradation
//! ```

use std::error::Error;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Router, routing::get};
use buttress_core::{BoxError, Level, Rng};
use buttress_degrade::{
    ByKey, Chain, Component, DegradationRegistry, DegradeLayer, Degraded, Gather, Grade, LastGood, Need,
};
use serde_json::json;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

type Part = BoxCloneSyncService<String, Degraded<String>, BoxError>;

#[derive(Clone)]
struct Shop {
    registry: DegradationRegistry,
    prices: Part,
    reviews: Part,
}

/// A service that fails every other time, with the last good answer behind it.
fn part(component: Component, says: &'static str) -> Result<Part, BoxError> {
    let store = LastGood::new(ByKey::new(|item: &String| Some(item.as_str().into())))
        .ttl(Duration::ZERO)
        .while_revalidate(Duration::ZERO);
    let layer = DegradeLayer::new(component.name(), Chain::<String, Degraded<String>>::new())?
        .report_to(component)
        .last_good(store)?;
    let flaky = service_fn(move |item: String| async move {
        let fails = Rng::from_system().between(0, 1) == 0;
        if fails { Err(BoxError::from("connection reset")) } else { Ok(format!("{says} of {item}")) }
    });
    Ok(BoxCloneSyncService::new(layer.layer(flaky)))
}

/// One page of two parts: without prices there is none, without reviews there is.
async fn page(State(shop): State<Shop>) -> impl IntoResponse {
    let item = || "umbrella".to_owned();
    let page = Gather::new()
        .part("prices", Need::Required, shop.prices.oneshot(item()))
        .part("reviews", Need::Weight(1), shop.reviews.oneshot(item()))
        .soft_deadline(Duration::from_millis(200))
        .await;
    let status = if page.level() == Level::Failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let served = page.served();
    let parts = ["prices", "reviews"].map(|part| page.get(part).map(|answer| answer.get_ref().clone()));
    let body = json!({ "prices": parts[0], "reviews": parts[1] }).to_string();
    let mut response = (status, JSON, body).into_response();
    if let Some(served) = served {
        response.grade(served);
    }
    response
}

/// 200 while the level is acceptable, else 503; what it is in either case.
async fn degradation(State(shop): State<Shop>) -> impl IntoResponse {
    let levels = shop.registry.levels();
    let status = match shop.registry.check() {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let components = shop.registry.components();
    let components: serde_json::Map<_, _> =
        components.iter().map(|part| (part.name().to_owned(), part.level().as_u8().into())).collect();
    let body = json!({
        "instant": levels.instant.as_u8(),
        "declared": levels.declared.as_u8(),
        "components": components,
    });
    (status, JSON, body.to_string())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let registry = DegradationRegistry::new("shop").max_acceptable(Level::Moderate);
    let prices = part(registry.component("prices", Need::Required), "the price")?;
    let reviews = part(registry.component("reviews", Need::Weight(1)), "what people say")?;
    let declaring = registry.clone();
    tokio::spawn(async move { declaring.run().await });
    let app = Router::new().route("/", get(page)).route("/health/degradation", get(degradation));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}/ and /health/degradation", listener.local_addr()?);
    axum::serve(listener, app.with_state(Shop { registry, prices, reviews })).await?;
    Ok(())
}
