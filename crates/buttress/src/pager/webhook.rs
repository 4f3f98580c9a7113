use buttress_core::{BoxError, ConfigError};
use buttress_heal::{BoxFuture, Incident, Pager};
use buttress_http::{ReplayBody, Vendor};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::Full;
use serde_json::json;
use tower_service::Service;

use super::post::Post;
use super::{date, report, summary, symptoms};

/// Posts incidents as JSON to a URL; any status of 200 to 299 means that it was taken.
///
/// ```json
/// {
///   "event": "trigger",
///   "key": "search-1764180000-1",
///   "service": "search",
///   "health": "critical",
///   "worst": "critical",
///   "began": "2026-11-26T18:00:00.000Z",
///   "recovered_after_seconds": null,
///   "summary": "search is critical: ping: connection refused",
///   "symptoms": { "ping": { "symptom": "connectivity", "evidence": "connection refused" } },
///   "incident": "the whole of it, as text"
/// }
/// ```
///
/// `event` is `trigger`, `update` or `resolve`. A repetition has the same `Idempotency-Key`, in a header.
#[derive(Clone, Debug)]
pub struct Webhook {
    post: Post,
}

impl Webhook {
    /// To this URL, over HTTPS, or plain where it says so.
    ///
    /// # Errors
    ///
    /// If it is no URL.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        Ok(Self { post: Post::with_hyper("webhook", url, Vendor::Generic)? })
    }

    /// The same over a client of one's own. It gets the stack of this module above it: hand over a client that does not
    /// retry.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn over<S, B>(client: S, url: &str) -> Result<Self, ConfigError>
    where
        S: Service<Request<ReplayBody<Full<Bytes>>>, Response = Response<B>, Error: Into<BoxError>>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        Ok(Self { post: Post::over(client, "webhook", url, Vendor::Generic)? })
    }

    /// Sends this header too, such as `Authorization`. It is marked as [sensitive](HeaderValue::set_sensitive).
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.post.add_header(name, value);
        self
    }

    async fn send(&self, kind: &'static str, incident: &Incident) -> Result<(), BoxError> {
        let event = json!({
            "event": kind,
            "key": incident.key(),
            "service": incident.service(),
            "health": incident.health().as_str(),
            "worst": incident.worst().as_str(),
            "began": date(incident.opened()),
            "recovered_after_seconds": incident.recovered_after().map(|after| after.as_secs_f64()),
            "summary": summary(incident),
            "symptoms": symptoms(incident),
            "incident": report(incident),
        });
        let key = format!("{kind} {} {}", incident.worst().as_str(), incident.key());
        let mut headers = HeaderMap::new();
        // A string of structured fields (RFC 8941), as draft-ietf-httpapi-idempotency-key-header has it.
        let quoted = format!("\"{}\"", key.replace(['"', '\\'], "_"));
        headers.insert("idempotency-key", HeaderValue::try_from(quoted)?);
        self.post.send(kind, key, headers, &event).await
    }
}

impl Pager for Webhook {
    fn trigger<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(self.send("trigger", incident))
    }

    fn update<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(self.send("update", incident))
    }

    fn resolve<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(self.send("resolve", incident))
    }
}
