//! The service that is ill, as far as its operators ask it.

use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::json;

use super::{Reply, World};
use crate::vendors::Vendor;

pub(super) fn reply(world: &World, head: &Parts) -> Reply {
    if !head.headers.contains_key("x-operator-token") {
        return (StatusCode::FORBIDDEN, json!({ "message": "operators only" }));
    }
    match (&head.method, head.uri.path()) {
        (&Method::GET, "/admin/metric") => (StatusCode::OK, json!({ "value": world.measure() })),
        (&Method::POST, "/admin/cache/clear") => {
            let key = head.headers.get("idempotency-key").and_then(|key| key.to_str().ok());
            world.effect(Vendor::Service, "clear_cache", key);
            (StatusCode::OK, json!({ "cleared": 1_204 }))
        }
        _ => (StatusCode::NOT_FOUND, json!({ "message": "Not found" })),
    }
}
