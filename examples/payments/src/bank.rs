//! A bank: books each key once, and writes every request into its ledger.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use buttress_core::BoxError;
use serde_json::{Value, json};

#[derive(Clone)]
struct Bank {
    ledger: PathBuf,
    booked: Arc<Mutex<HashMap<String, Value>>>,
}

pub(crate) async fn serve(ledger: PathBuf) -> Result<(), BoxError> {
    let bank = Bank { ledger, booked: Arc::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, Router::new().route("/bookings", post(book)).with_state(bank)).await?;
    Ok(())
}

async fn book(State(bank): State<Bank>, headers: HeaderMap, Json(charge): Json<Value>) -> Json<Value> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or("none").to_owned();
    let mut booked = bank.booked.lock().unwrap_or_else(PoisonError::into_inner);
    let known = booked.contains_key(&key);
    let number = booked.len() + 1;
    let booking = booked.entry(key.clone()).or_insert_with(|| json!({ "booking": number, "charge": charge }));
    let entry =
        json!({ "entry": if known { "repeated" } else { "booked" }, "key": key, "amount": charge["amount"] });
    let ledger = std::fs::OpenOptions::new().create(true).append(true).open(&bank.ledger);
    let written = ledger.and_then(|mut ledger| writeln!(ledger, "{entry}"));
    written.expect("the ledger can be written to");
    Json(booking.clone())
}
