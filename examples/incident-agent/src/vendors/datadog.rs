//! Datadog: `GET /api/v1/query` and `POST /api/v2/logs/events/search`.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use buttress::core::clock::wall;
use bytes::Bytes;
use http::request::Builder;
use http::{HeaderValue, Request};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Base, CallError, Client, Vendor, call, json_body, secret};
use crate::input::BadInput;

/// Where Datadog is, and the keys to it.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    base: Base,
    api_key: HeaderValue,
    app_key: HeaderValue,
}

impl Access {
    pub(crate) fn from_environment(
        base: Base,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BadInput> {
        let key = |variable| secret(variable, "--datadog-url", &environment).map(|secret| secret.header());
        Ok(Self { base, api_key: key("DD_API_KEY")?, app_key: key("DD_APP_KEY")? })
    }

    /// To the embedded server, which takes any keys, unless its chaos says otherwise.
    pub(crate) fn embedded(base: Base) -> Self {
        let (api_key, app_key) =
            (HeaderValue::from_static("embedded-1"), HeaderValue::from_static("embedded"));
        Self { base, api_key, app_key }
    }

    /// The key of today.
    pub(crate) fn api_key(&self) -> HeaderValue {
        self.api_key.clone()
    }

    /// Fetches the key of tomorrow: whoever keeps the embedded server's keys has a new one each time. Those of a real one come
    /// with the environment, which does not change.
    pub(crate) fn renew(&mut self) {
        let number =
            self.api_key.to_str().ok().and_then(|key| key.strip_prefix("embedded-")?.parse::<u32>().ok());
        if let Some(number) = number {
            let key = format!("embedded-{}", number + 1);
            self.api_key = HeaderValue::from_str(&key).expect("letters and digits are a header");
        }
    }

    /// Asks whether the key is taken.
    pub(crate) fn validation(&self) -> Request<Full<Bytes>> {
        let request = Request::get(self.base.at(VALIDATE)).header(KEY, &self.api_key);
        request.body(Full::default()).expect("all parts are valid")
    }
}

/// The header of the key.
pub(crate) const KEY: &str = "dd-api-key";
/// Where Datadog says whether it takes the key.
pub(crate) const VALIDATE: &str = "/api/v1/validate";

#[derive(Clone, Debug)]
pub(crate) struct Datadog {
    client: Client,
    access: Access,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Logs {
    /// How many events, [`PAGE`] at most.
    pub(crate) events: usize,
    /// The message that most of them have.
    pub(crate) commonest: Option<String>,
    /// How many speak of a cache.
    pub(crate) of_cache: usize,
}

/// How far back the agent looks.
const SECONDS: u64 = 15 * 60;
/// How many log events it reads.
const PAGE: usize = 50;

impl Datadog {
    pub(crate) fn new(client: Client, access: Access) -> Self {
        Self { client, access }
    }

    /// The latest value of a metrics query.
    pub(crate) async fn latest(&self, query: &str) -> Result<f64, CallError> {
        let to = wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let from = to.saturating_sub(SECONDS);
        let path = format!("/api/v1/query?from={from}&to={to}&query={}", encode(query));
        let request = self.keys(Request::get(self.access.base.at(&path))).body(Full::default());
        let answer: Timeseries =
            call(Vendor::Datadog, &self.client, request.expect("all parts are valid")).await?;
        let nothing = answer.error.clone().unwrap_or_else(|| format!("no values for `{query}`"));
        answer.latest().ok_or_else(|| CallError::Unreadable(Vendor::Datadog, nothing.into()))
    }

    /// What the latest log events say.
    pub(crate) async fn logs(&self, query: &str) -> Result<Logs, CallError> {
        let body = json!({
            "filter": { "query": query, "from": format!("now-{SECONDS}s"), "to": "now" },
            "sort": "-timestamp",
            "page": { "limit": PAGE },
        });
        let request = Request::post(self.access.base.at("/api/v2/logs/events/search"));
        let request = self.keys(request).header("content-type", "application/json").body(json_body(&body));
        let found: Search =
            call(Vendor::Datadog, &self.client, request.expect("all parts are valid")).await?;
        Ok(found.into())
    }

    /// The names of the monitors of a service that are alarmed.
    pub(crate) async fn alerts(&self, service: &str) -> Result<Vec<String>, CallError> {
        let tags = encode(&format!("service:{service}"));
        let request = Request::get(self.access.base.at(&format!("/api/v1/monitor?monitor_tags={tags}")));
        let request = self.keys(request).body(Full::default()).expect("all parts are valid");
        let monitors: Vec<Monitor> = call(Vendor::Datadog, &self.client, request).await?;
        let alarmed = monitors.into_iter().filter(|monitor| monitor.overall_state == "Alert");
        Ok(alarmed.map(|monitor| monitor.name).collect())
    }

    fn keys(&self, request: Builder) -> Builder {
        let Access { api_key, app_key, .. } = &self.access;
        request.header(KEY, api_key).header("dd-application-key", app_key)
    }
}

#[derive(Debug, Deserialize)]
struct Timeseries {
    error: Option<String>,
    #[serde(default)]
    series: Vec<Series>,
}

#[derive(Debug, Deserialize)]
struct Series {
    /// Milliseconds since 1970, and a value or `null`.
    pointlist: Vec<(f64, Option<f64>)>,
}

impl Timeseries {
    fn latest(&self) -> Option<f64> {
        let points = self.series.iter().flat_map(|series| &series.pointlist);
        let known = points.filter_map(|(at, value)| Some((at, (*value)?)));
        known.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, value)| value)
    }
}

#[derive(Debug, Deserialize)]
struct Monitor {
    name: String,
    #[serde(default)]
    overall_state: String,
}

#[derive(Debug, Deserialize)]
struct Search {
    #[serde(default)]
    data: Vec<LogEvent>,
}

#[derive(Debug, Deserialize)]
struct LogEvent {
    attributes: LogAttributes,
}

#[derive(Debug, Deserialize)]
struct LogAttributes {
    message: Option<String>,
}

impl From<Search> for Logs {
    fn from(search: Search) -> Self {
        let mut counts = BTreeMap::new();
        for message in search.data.iter().filter_map(|event| event.attributes.message.as_ref()) {
            *counts.entry(message).or_insert(0) += 1;
        }
        let of_cache = counts.iter().filter(|(message, _)| message.contains("cache"));
        let of_cache = of_cache.map(|(_, count)| count).sum();
        let commonest = counts.into_iter().max_by_key(|(_, count)| *count);
        let commonest = commonest.map(|(message, _)| message.clone());
        Self { events: search.data.len(), commonest, of_cache }
    }
}

/// Percent-encodes all but the characters that RFC 3986 § 2.3 calls unreserved.
pub(crate) fn encode(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (byte as char).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_value_is_that_of_the_latest_point_that_has_one() {
        let answer = json!({ "status": "ok", "res_type": "time_series", "series": [
            { "metric": "a", "pointlist": [[1000.0, 1.0], [3000.0, 3.0], [4000.0, null]] },
            { "metric": "b", "pointlist": [[2000.0, 2.0]] },
        ] });
        assert_eq!(serde_json::from_value::<Timeseries>(answer).unwrap().latest(), Some(3.0));
        let empty: Timeseries = serde_json::from_value(json!({ "status": "ok", "series": [] })).unwrap();
        assert_eq!(empty.latest(), None);
    }

    #[test]
    fn the_commonest_message_is_found() {
        let event = |message: &str| json!({ "id": "x", "type": "log", "attributes": { "message": message } });
        let search = json!({ "data": [event("a"), event("b cached"), event("b cached"), { "attributes": {} }], "meta": {} });
        let logs = Logs::from(serde_json::from_value::<Search>(search).unwrap());
        assert_eq!(logs, Logs { events: 4, commonest: Some("b cached".to_owned()), of_cache: 2 });
        let nothing: Search = serde_json::from_value(json!({ "data": [] })).unwrap();
        assert_eq!(Logs::from(nothing), Logs { events: 0, commonest: None, of_cache: 0 });
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encode("avg:a.b{c:d,e:f}"), "avg%3Aa.b%7Bc%3Ad%2Ce%3Af%7D");
        assert_eq!(encode("ü %"), "%C3%BC%20%25");
    }
}
