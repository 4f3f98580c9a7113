//! PagerDuty's Events API v2, which recognises repetitions by their `dedup_key`.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Reply, World};

/// What has become of the events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paged {
    /// Open incidents, the one that this is all about among them.
    open: BTreeSet<String>,
    /// The incidents that events were about.
    seen: BTreeSet<String>,
    accepted: u64,
    /// How often somebody's telephone rang.
    rang: u64,
    /// The incidents for which it rang.
    rang_for: BTreeSet<String>,
}

impl Paged {
    pub(super) fn new(open: &str) -> Self {
        Self { open: BTreeSet::from([open.to_owned()]), ..Self::default() }
    }

    /// How many events were taken.
    pub(crate) fn sent(&self) -> u64 {
        self.accepted
    }

    /// How many incidents they were about.
    pub(crate) fn incidents(&self) -> u64 {
        self.seen.len() as u64
    }

    /// How often somebody was paged again for the same incident.
    pub(crate) fn duplicates(&self) -> u64 {
        self.rang - self.rang_for.len() as u64
    }

    fn take(&mut self, action: &str, key: Option<&str>) -> String {
        self.accepted += 1;
        // Without a key every event is about an incident of its own.
        let key = key.map_or_else(|| format!("generated-{}", self.accepted), str::to_owned);
        self.seen.insert(key.clone());
        match action {
            "trigger" if self.open.insert(key.clone()) => {
                self.rang += 1;
                self.rang_for.insert(key.clone());
            }
            "resolve" => {
                self.open.remove(&key);
            }
            _ => {}
        }
        key
    }
}

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
    let mut paged = world.paged.lock().unwrap_or_else(PoisonError::into_inner);
    let key = paged.take(action, event["dedup_key"].as_str());
    (StatusCode::ACCEPTED, json!({ "status": "success", "message": "Event processed", "dedup_key": key }))
}

fn invalid(status: StatusCode, error: &str) -> Reply {
    (status, json!({ "status": "invalid event", "message": "Event object is invalid", "errors": [error] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_recognised_by_their_key() {
        let mut paged = Paged::new("a");
        for action in ["trigger", "acknowledge", "resolve", "resolve"] {
            paged.take(action, Some("a"));
        }
        assert_eq!((paged.sent(), paged.incidents(), paged.rang), (4, 1, 0), "it was open already");
        paged.take("trigger", Some("b"));
        paged.take("trigger", Some("b"));
        assert_eq!((paged.rang, paged.duplicates()), (1, 0));
        paged.take("resolve", Some("b"));
        paged.take("trigger", Some("b"));
        assert_eq!((paged.rang, paged.duplicates()), (2, 1), "open again, it rings again");
        paged.take("trigger", None);
        paged.take("trigger", None);
        assert_eq!((paged.incidents(), paged.rang), (4, 4));
    }
}
