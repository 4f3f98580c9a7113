//! Datadog, as far as the agent asks it.

use std::time::{Duration, UNIX_EPOCH};

use buttress::core::clock::wall;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Reply, World};
use crate::date::iso;
use crate::vendors::datadog::{VALIDATE, encode};

pub(super) fn reply(world: &World, head: &Parts, body: &[u8]) -> Reply {
    if head.uri.path() == VALIDATE {
        return (StatusCode::OK, json!({ "valid": true }));
    }
    if !head.headers.contains_key("dd-api-key") || !head.headers.contains_key("dd-application-key") {
        return errors(StatusCode::FORBIDDEN, "Forbidden");
    }
    match (&head.method, head.uri.path()) {
        (&Method::GET, "/api/v1/query") => query(world, head.uri.query().unwrap_or_default()),
        (&Method::POST, "/api/v2/logs/events/search") => match serde_json::from_slice::<Value>(body) {
            Ok(search) if search["filter"]["query"].is_string() => (StatusCode::OK, logs(world, &search)),
            _ => errors(StatusCode::BAD_REQUEST, "Invalid filter"),
        },
        (&Method::GET, "/api/v1/monitor") => (StatusCode::OK, monitors(world)),
        _ => errors(StatusCode::NOT_FOUND, "Not found"),
    }
}

fn errors(status: StatusCode, error: &str) -> Reply {
    (status, json!({ "errors": [error] }))
}

/// A point for each minute: bad, until the service has been restarted.
fn query(world: &World, parameters: &str) -> Reply {
    let parameter =
        |name| parameters.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name));
    let seconds = |name| parameter(name).and_then(|(_, value)| value.parse::<u64>().ok());
    let (Some(from), Some(to), Some((_, query))) = (seconds("from"), seconds("to"), parameter("query"))
    else {
        return errors(StatusCode::BAD_REQUEST, "from, to and query are required");
    };
    let incident = &world.incident;
    let known = query == encode(&incident.query);
    let value = world.measure();
    let points: Vec<Value> = (from..=to)
        .step_by(60)
        .enumerate()
        .map(|(minute, at)| {
            let ripple = [0.97, 1.02, 1.0, 0.99][minute % 4];
            json!([at as f64 * 1000.0, value * ripple])
        })
        .collect();
    let series = json!({
        "metric": incident.query, "display_name": incident.query, "expression": incident.query,
        "scope": format!("service:{}", incident.service), "tag_set": [], "aggr": "avg",
        "start": from * 1000, "end": to * 1000, "interval": 60, "length": points.len(),
        "query_index": 0, "unit": null, "pointlist": points,
    });
    let answer = json!({
        "status": "ok", "res_type": "time_series", "resp_version": 1, "query": incident.query,
        "from_date": from * 1000, "to_date": to * 1000, "group_by": [], "message": "",
        "series": if known { vec![series] } else { vec![] },
    });
    (StatusCode::OK, answer)
}

fn monitors(world: &World) -> Value {
    let state = if world.is_well() { "OK" } else { "Alert" };
    let monitor = |id: u64, name: String, state: &str| {
        json!({
            "id": id, "name": name, "overall_state": state, "type": "query alert",
            "query": world.incident.query, "tags": [format!("service:{}", world.incident.service)],
        })
    };
    let title = world.incident.title.clone();
    json!([monitor(8842107, title, state), monitor(8842108, "disk is nearly full".to_owned(), "OK")])
}

const MESSAGES: [&str; 3] = [
    "connection pool exhausted: 50 of 50 connections in use",
    "cache entry of the release before, computed anew",
    "connection pool exhausted: 50 of 50 connections in use",
];

fn logs(world: &World, search: &Value) -> Value {
    let limit = search["page"]["limit"].as_u64().unwrap_or(10).min(27);
    let now = wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let data: Vec<Value> = (0..limit)
        .map(|n| {
            let at = wall() - Duration::from_secs(n * 7);
            let attributes = json!({
                "service": world.incident.service, "status": "error",
                "host": format!("ip-10-0-3-{}", 17 + n % 4), "timestamp": iso(at),
                "message": MESSAGES[n as usize % MESSAGES.len()], "tags": ["env:prod"], "attributes": {},
            });
            json!({ "id": format!("AQ{:016x}{n:02}", now.as_millis()), "type": "log", "attributes": attributes })
        })
        .collect();
    json!({ "data": data, "meta": { "elapsed": 42, "status": "done" } })
}
