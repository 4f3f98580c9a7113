use std::fmt;
use std::sync::Arc;

use buttress_core::observe::Health;
use buttress_core::{BoxError, ConfigError};
use buttress_heal::{BoxFuture, Incident, Pager};
use buttress_http::{ReplayBody, Vendor};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::Full;
use serde_json::json;
use tower_service::Service;

use super::post::Post;
use super::{date, report, summary, symptoms};

/// PagerDuty's Events API v2.
///
/// The incident's key is the `dedup_key`, by which PagerDuty knows a repetition: it adds it to the open incident and calls
/// nobody again. An update is such a repetition, with the new severity and what has happened since. It opens the incident
/// anew if somebody has resolved it by hand meanwhile: it has got worse.
///
/// | health | severity |
/// |---|---|
/// | critical | `critical` |
/// | unhealthy | `error` |
/// | degraded | `warning` |
///
/// The whole incident, as text, is in the event's details. Clones share the connections, the circuit and the pauses.
#[derive(Clone)]
pub struct PagerDuty {
    post: Post,
    routing_key: Arc<str>,
    source: Option<Arc<str>>,
}

/// Where events are taken in the US service region.
const EVENTS: &str = "https://events.pagerduty.com/v2/enqueue";

impl PagerDuty {
    /// For the integration with this key (32 characters), over HTTPS.
    ///
    /// # Errors
    ///
    /// If the key is empty or has characters that no key has.
    pub fn new(routing_key: impl Into<Arc<str>>) -> Result<Self, ConfigError> {
        Self::of(Post::with_hyper("pagerduty", EVENTS, Vendor::PagerDuty)?, routing_key.into())
    }

    /// The same over a client of one's own, such as one that goes through a proxy. It gets the stack of this module above
    /// it: hand over a client that does not retry.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn over<S, B>(client: S, routing_key: impl Into<Arc<str>>) -> Result<Self, ConfigError>
    where
        S: Service<Request<ReplayBody<Full<Bytes>>>, Response = Response<B>, Error: Into<BoxError>>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        Self::of(Post::over(client, "pagerduty", EVENTS, Vendor::PagerDuty)?, routing_key.into())
    }

    fn of(mut post: Post, routing_key: Arc<str>) -> Result<Self, ConfigError> {
        if routing_key.is_empty() || !routing_key.chars().all(|letter| letter.is_ascii_alphanumeric()) {
            let rule = "must be the 32 letters and digits of an integration of the Events API v2";
            return Err(ConfigError::new("routing_key", format_args!("[not shown]"), rule));
        }
        post.hide(Arc::clone(&routing_key));
        Ok(Self { post, routing_key, source: None })
    }

    /// Another endpoint, such as `https://events.eu.pagerduty.com/v2/enqueue`, that of the EU service region.
    ///
    /// # Errors
    ///
    /// If it is no URL.
    pub fn url(mut self, url: &str) -> Result<Self, ConfigError> {
        self.post.set_url(url)?;
        Ok(self)
    }

    /// Which machine it is that calls, such as its host name. Default: the name of the service that is ill.
    #[must_use]
    pub fn source(self, source: impl Into<Arc<str>>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    async fn tell(&self, kind: &'static str, incident: &Incident) -> Result<(), BoxError> {
        let event = json!({
            "routing_key": &*self.routing_key,
            "event_action": "trigger",
            "dedup_key": dedup_key(incident)?,
            "client": "buttress",
            "payload": {
                "summary": summary(incident),
                "source": self.source.as_deref().unwrap_or(incident.service()),
                "severity": match incident.health() {
                    Health::Critical => "critical",
                    Health::Unhealthy => "error",
                    Health::Degraded => "warning",
                    Health::Healthy => "info",
                },
                "timestamp": date(incident.opened()),
                "component": incident.service(),
                "custom_details": { "symptoms": symptoms(incident), "incident": report(incident) },
            },
        });
        let key = format!("{kind} {} {}", incident.worst().as_str(), incident.key());
        self.post.send(kind, key, HeaderMap::new(), &event).await
    }
}

fn dedup_key(incident: &Incident) -> Result<&str, BoxError> {
    let key = incident.key();
    if key.is_empty() || key.chars().count() > 255 {
        return Err(format!("PagerDuty takes keys of 1 to 255 characters: `{key}`").into());
    }
    Ok(key)
}

impl Pager for PagerDuty {
    fn trigger<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(self.tell("trigger", incident))
    }

    fn update<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(self.tell("update", incident))
    }

    fn resolve<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async move {
            let event = json!({
                "routing_key": &*self.routing_key,
                "event_action": "resolve",
                "dedup_key": dedup_key(incident)?,
            });
            let key = format!("resolve {}", incident.key());
            self.post.send("resolve", key, HeaderMap::new(), &event).await
        })
    }
}

/// Without the key.
impl fmt::Debug for PagerDuty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("PagerDuty");
        debug.field("post", &self.post).field("source", &self.source).finish_non_exhaustive()
    }
}
