//! A shop: `POST /charges`, each carried out once.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use buttress_core::BoxError;
use buttress_http::Problem;
use buttress_idempotency::{Claim, Config, HttpKeys, Idempotency};
use buttress_store::Sqlite;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

#[derive(Clone)]
struct Shop {
    bank: String,
    pause: Duration,
}

pub(crate) async fn serve(port: &str, store: &str, bank: &str, pause: u64) -> Result<(), BoxError> {
    // A short lease: so long is the key of a shop that was killed.
    let config = Config::new().lease(Duration::from_secs(2));
    let idempotency = Idempotency::new("charges", Sqlite::open(store).await?, config)?;
    let keys = HttpKeys::http_default().required().canonical_json();
    let shop = Shop { bank: bank.to_owned(), pause: Duration::from_millis(pause) };
    let app = Router::new().route("/charges", post(charge)).layer(idempotency.layer(keys)).with_state(shop);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn charge(
    State(shop): State<Shop>,
    Extension(claim): Extension<Claim>,
    Json(order): Json<Value>,
) -> Response {
    // The bank's key follows from the customer's: whoever takes over after a crash asks the bank with the same one.
    match book(&shop, &claim.derive("booking"), &order).await {
        Ok(booking) => {
            tokio::time::sleep(shop.pause).await;
            Json(json!({ "charged": order["amount"], "booking": booking["booking"] })).into_response()
        }
        Err(error) => Problem::from(error).into_response(),
    }
}

async fn book(shop: &Shop, key: &str, order: &Value) -> Result<Value, BoxError> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::post(format!("{}/bookings", shop.bank))
        .header("content-type", "application/json")
        .header("idempotency-key", key)
        .body(Full::from(order.to_string()))?;
    let answer = client.request(request).await?.into_body().collect().await?.to_bytes();
    Ok(serde_json::from_slice(&answer)?)
}
