//! PagerDuty's Events API v2, which recognises repetitions by their `dedup_key`.

use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Reply, World};
use crate::servers::ledger::Entry;

pub(super) fn reply(world: &World, head: &Parts, body: &[u8]) -> Reply {
    if (&head.method, head.uri.path()) != (&Method::POST, "/v2/enqueue") {
        return invalid(StatusCode::NOT_FOUND, "Not found");
    }
    let Ok(event) = serde_json::from_slice::<Value>(body) else {
        return invalid(StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    let action = event["event_action"].as_str().unwrap_or_default();
    if !event["routing_key"].is_string() || !["trigger", "acknowledge", "resolve"].contains(&action) {
        return invalid(StatusCode::BAD_REQUEST, "'routing_key' or 'event_action' is missing or invalid");
    }
    let payload = &event["payload"];
    if action == "trigger"
        && ["summary", "source", "severity"].iter().any(|field| !payload[field].is_string())
    {
        return invalid(StatusCode::BAD_REQUEST, "'payload' lacks 'summary', 'source' or 'severity'");
    }
    // Without a key every event is about an incident of its own.
    let generated = || format!("generated-{}", world.state().events() + 1);
    let key = event["dedup_key"].as_str().map_or_else(generated, str::to_owned);
    world.note(&Entry::Event { action: action.to_owned(), key: key.clone() });
    (StatusCode::ACCEPTED, json!({ "status": "success", "message": "Event processed", "dedup_key": key }))
}

fn invalid(status: StatusCode, error: &str) -> Reply {
    (status, json!({ "status": "invalid event", "message": "Event object is invalid", "errors": [error] }))
}
