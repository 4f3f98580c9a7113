//! Pagers that call a human when a supervisor cannot mend its service: PagerDuty, and a webhook for everything else.
//!
//! Each has a small stack of its own, with nothing in common with the service that is ill: a deadline of 8 s (a supervisor
//! gives a pager 10 s), jittered retries within it, a circuit breaker, and a pause for all incidents where the pager asks
//! for one (`Retry-After`). It says what it has to say once for each call. A supervisor calls again until that has got
//! through, however long the pager is down, and a resolve is not lost; repetitions carry the same key and call nobody
//! twice.
//!
//! ```
//! use buttress::heal::PageBudget;
//! use buttress::pager::PagerDuty;
//!
//! # fn main() -> Result<(), buttress::BoxError> {
//! # let key = "0123456789abcdef0123456789abcdef";
//! // One for all supervisors of the process: at most 10 pages an hour.
//! let pager = PageBudget::new(PagerDuty::new(key)?.source("checkout-7"));
//! # Ok(())
//! # }
//! ```

mod pagerduty;
mod post;
mod webhook;

pub use pagerduty::PagerDuty;
pub use webhook::Webhook;

use std::time::SystemTime;

use buttress_heal::Incident;
use serde_json::{Map, Value, json};

/// In characters. PagerDuty takes 1,024 of a summary, and 512 KB of a whole event.
const SUMMARY: usize = 1024;
const EVIDENCE: usize = 2000;
const REPORT: usize = 60_000;

/// One line: what is ill, how ill, and why.
fn summary(incident: &Incident) -> String {
    let mut text = format!("{} is {}", incident.service(), incident.health().as_str());
    for (at, (check, _, evidence)) in incident.symptoms().enumerate() {
        text.push_str(if at == 0 { ": " } else { "; " });
        text.push_str(&format!("{check}: {evidence}"));
    }
    cut(text, SUMMARY)
}

/// The whole incident, for people.
fn report(incident: &Incident) -> String {
    cut(incident.to_string(), REPORT)
}

/// So many characters at most.
fn cut(mut text: String, at_most: usize) -> String {
    if text.chars().nth(at_most).is_some() {
        let end = text.char_indices().nth(at_most - 1).map_or(text.len(), |(end, _)| end);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The checks that fail, with what they said.
fn symptoms(incident: &Incident) -> Value {
    let symptoms = incident.symptoms().map(|(check, symptom, evidence)| {
        let evidence = cut(evidence.to_owned(), EVIDENCE);
        (check.to_owned(), json!({ "symptom": symptom.as_str(), "evidence": evidence }))
    });
    Value::Object(symptoms.collect::<Map<_, _>>())
}

/// RFC 3339.
fn date(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
