//! The incident, as PagerDuty's v3 webhooks tell of it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::input::{BadInput, Node, parse, read};

/// What the agent has to know of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Incident {
    /// PagerDuty's id.
    pub(crate) id: String,
    /// The key by which PagerDuty recognises events about the same incident.
    pub(crate) key: String,
    pub(crate) title: String,
    /// The service that is ill, by PagerDuty's name.
    pub(crate) service: String,
    pub(crate) cluster: String,
    pub(crate) ecs_service: String,
    /// What Datadog is asked for the metric that raised the alarm.
    pub(crate) query: String,
    pub(crate) logs_query: String,
    /// Above this the metric is bad.
    pub(crate) threshold: f64,
    pub(crate) unit: String,
}

/// The incident of a run that names none.
const DEFAULT: &str = include_str!("../incidents/checkout-latency.json");
const DEFAULT_NAME: &str = "incidents/checkout-latency.json";

impl Incident {
    /// From this file, or the bundled one.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self, BadInput> {
        match file {
            Some(file) => {
                Self::from_json(&file.display().to_string(), &read(file, "give the path of a JSON file")?)
            }
            None => Self::from_json(DEFAULT_NAME, DEFAULT),
        }
    }

    fn from_json(file: &str, text: &str) -> Result<Self, BadInput> {
        let value = parse(file, text)?;
        let event = Node::root(file, &value)
            .field("event", "give the body of a PagerDuty v3 webhook: {\"event\": {\"event_type\": …}}")?;
        let kind = event.field("event_type", "add \"event_type\": \"incident.triggered\"")?;
        if kind.text()? != "incident.triggered" {
            let problem = format!("is \"{}\"", kind.text()?);
            return Err(kind.bad(problem, "give the webhook of an \"incident.triggered\" event"));
        }
        let data = event.field("data", "add the incident as \"data\"")?;
        let text = |key, fix| data.field(key, fix)?.text().map(str::to_owned);
        let service = data.field("service", "add the service, with its name as \"summary\"")?;
        let fix = "add the alert's custom details as \"body\": {\"details\": {…}}";
        let details = data.field("body", fix)?.field("details", fix)?;
        let detail = |key, fix| details.field(key, fix)?.text().map(str::to_owned);
        Ok(Self {
            id: text("id", "add PagerDuty's id of the incident, such as \"Q0CHK4LAT7N1E2\"")?,
            key: text("incident_key", "add the incident's deduplication key")?,
            title: text("title", "add the incident's title")?,
            service: service.field("summary", "add the service's name")?.text()?.to_owned(),
            cluster: detail("ecs_cluster", "add the name of the ECS cluster")?,
            ecs_service: detail("ecs_service", "add the name of the ECS service to restart")?,
            query: detail("datadog_query", "add the Datadog metrics query that raised the alarm")?,
            logs_query: detail("logs_query", "add a Datadog log search, such as \"status:error\"")?,
            threshold: threshold(&details)?,
            unit: detail("unit", "add the metric's unit, such as \"ms\" or \"%\"")?,
        })
    }

    /// A value of the metric, with its unit: at most two decimals.
    pub(crate) fn reading(&self, value: f64) -> String {
        format!("{} {}", (value * 100.0).round() / 100.0, self.unit)
    }
}

fn threshold(details: &Node<'_>) -> Result<f64, BadInput> {
    let fix = "add the value above which the metric is bad, as a positive number";
    let node = details.field("threshold", fix)?;
    let threshold = node.number()?;
    if threshold > 0.0 { Ok(threshold) } else { Err(node.bad(format!("is {threshold}"), fix)) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn checkout() -> Incident {
        Incident::load(None).unwrap()
    }

    /// The error of the bundled payload with this text in place of that.
    fn error(from: &str, to: &str) -> String {
        assert!(DEFAULT.contains(from), "{from}");
        Incident::from_json("x.json", &DEFAULT.replace(from, to)).unwrap_err().to_string()
    }

    #[test]
    fn the_bundled_incidents_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("incidents");
        let mut services: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| Incident::load(Some(&entry.unwrap().path())).unwrap().service)
            .collect();
        services.sort();
        assert_eq!(services, ["checkout-api", "ingest-worker", "payments"]);
        let checkout = checkout();
        assert_eq!((checkout.cluster.as_str(), checkout.threshold), ("shop-prod", 800.0));
        assert_eq!(checkout.reading(1234.567), "1234.57 ms");
    }

    #[test]
    fn every_mistake_is_named_with_its_path() {
        for (from, to, expected) in [
            ("\"event\":", "\"message\":", "x.json: `event` is missing"),
            (
                "incident.triggered",
                "incident.resolved",
                "x.json: `event.event_type` is \"incident.resolved\"",
            ),
            ("\"incident_key\"", "\"key\"", "x.json: `event.data.incident_key` is missing"),
            ("\"title\": \"checkout-api: p95", "\"name\": \"", "x.json: `event.data.title` is missing"),
            ("\"body\"", "\"text\"", "x.json: `event.data.body` is missing"),
            ("\"ecs_cluster\"", "\"cluster\"", "x.json: `event.data.body.details.ecs_cluster` is missing"),
            (": 800,", ": \"800\",", "x.json: `event.data.body.details.threshold` is a string"),
            (": 800,", ": -1,", "x.json: `event.data.body.details.threshold` is -1"),
            ("\"unit\": \"ms\"", "\"unit\": 1", "x.json: `event.data.body.details.unit` is a number"),
        ] {
            let error = error(from, to);
            assert!(error.starts_with(expected) && error.contains("\n  fix: "), "{error}");
        }
    }
}
