//! PagerDuty: `POST /v2/enqueue` of the Events API v2.

use buttress::RequestExt;
use http::Request;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Base, CallError, Client, Secret, Vendor, call, json_body, secret};
use crate::input::BadInput;

/// Where PagerDuty takes events, and for which integration.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    base: Base,
    routing_key: Secret,
}

impl Access {
    pub(crate) fn from_environment(
        base: Base,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BadInput> {
        let routing_key = secret("PAGERDUTY_ROUTING_KEY", "--pagerduty-url", environment)?;
        Ok(Self { base, routing_key })
    }

    /// To the embedded server, which takes any key.
    pub(crate) fn embedded(base: Base) -> Self {
        Self { base, routing_key: Secret::embedded() }
    }
}

#[derive(Clone)]
pub(crate) struct PagerDuty {
    client: Client,
    access: Access,
}

/// What is told about an incident.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// Somebody has to look: opens an incident unless one with this key is open.
    Trigger,
    /// It is being worked on.
    Acknowledge,
    /// It is over.
    Resolve,
}

impl PagerDuty {
    pub(crate) fn new(client: Client, access: Access) -> Self {
        Self { client, access }
    }

    /// Tells about the incident with this key. PagerDuty knows a repetition by the key, so this may be sent again when
    /// its answer was lost: nobody is paged twice.
    pub(crate) async fn tell(&self, event: Event, dedup_key: &str, payload: &Value) -> Result<(), CallError> {
        let body = json!({
            "routing_key": self.access.routing_key.expose(),
            "event_action": match event {
                Event::Trigger => "trigger",
                Event::Acknowledge => "acknowledge",
                Event::Resolve => "resolve",
            },
            "dedup_key": dedup_key,
            "payload": payload,
            "client": "incident-agent",
        });
        let request =
            Request::post(self.access.base.at("/v2/enqueue")).header("content-type", "application/json");
        let request = request.body(json_body(&body)).expect("all parts are valid");
        let Accepted { .. } =
            call(Vendor::PagerDuty, &self.client, request.with_idempotency_key(dedup_key)).await?;
        Ok(())
    }
}

/// Whatever else the answer has, an event that was taken has this.
#[derive(Deserialize)]
struct Accepted {
    #[serde(rename = "dedup_key")]
    _dedup_key: String,
}
