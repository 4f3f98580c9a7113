//! The alerts and the dashboard of `docs/metrics` ask for what the code counts.

#![cfg(feature = "metrics")]

use std::collections::BTreeSet;
use std::time::Duration;

use buttress::core::observe::{CallResult, Event, HealResult, HealState, Health, Metrics, Observe};
use buttress::core::{Level, Stop};
use metrics_util::MetricKind;
use metrics_util::debugging::DebuggingRecorder;

const ALERTS: &str = include_str!("../../../docs/metrics/alerts.yml");
const DASHBOARD: &str = include_str!("../../../docs/metrics/dashboard.json");
const PAGE: &str = include_str!("../../../docs/metrics.md");

/// What is registered, with its labels: of histograms what an exporter makes of them.
fn registered() -> BTreeSet<String> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let observer = Metrics::new("api");
        observer.event("api", &Event::Call(CallResult::Success));
        observer.event("api", &Event::SystemLevel { instant: Level::Full, declared: Level::Full });
        let (elapsed, result) = (Duration::ZERO, HealResult::Cured);
        let attempt =
            Event::HealAttempt { action: "reset pool".into(), result, elapsed, incident: "1".into() };
        observer.event("api", &attempt);
        observer.event("api", &Event::Healed { incident: "1".into(), mttr: elapsed, attempts: 1 });
        let (from, to, health) = (HealState::Healthy, HealState::Healthy, Health::Healthy);
        let (cause, generation, incident, attempts) = ("", 1, None, 0);
        observer.event("api", &Event::Heal { from, to, health, cause, generation, incident, attempts });
    });
    let rows = snapshotter.snapshot().into_vec();
    let named = rows.iter().flat_map(|(key, ..)| {
        let name = key.key().name().to_owned();
        match key.kind() {
            MetricKind::Histogram => {
                [format!("{name}_bucket"), format!("{name}_count"), format!("{name}_sum"), name].to_vec()
            }
            _ => vec![name],
        }
    });
    named.collect()
}

/// The metrics that an expression asks for: its words that are neither functions, nor labels, nor numbers.
fn asked_for(expression: &str) -> BTreeSet<&str> {
    const WORDS: [&str; 15] = [
        "sum",
        "max",
        "min",
        "by",
        "and",
        "rate",
        "increase",
        "changes",
        "histogram_quantile",
        "label_values",
        "service",
        "action",
        "success",
        "le",
        "result",
    ];
    let mut depth = 0;
    let outside = expression.split_inclusive(['{', '}', '[', ']']).filter(|part| {
        let before = depth;
        match part.chars().last() {
            Some('{' | '[') => depth += 1,
            Some('}' | ']') => depth -= 1,
            _ => {}
        }
        before == 0
    });
    let words = outside.flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    words
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter(|word| !WORDS.contains(word) && !["stop", "level", "outcome"].contains(word))
        .collect()
}

/// Every `expr` of the file, whether in one line or in a block.
fn alerts() -> Vec<String> {
    let mut expressions: Vec<String> = Vec::new();
    let mut block = false;
    for line in ALERTS.lines() {
        if let Some(expression) = line.trim().strip_prefix("expr:") {
            block = expression.trim() == "|";
            expressions.push(if block { String::new() } else { expression.trim().to_owned() });
        } else if line.starts_with("          ") && block {
            let last = expressions.last_mut().expect("a block has begun");
            last.push_str(line.trim());
            last.push(' ');
        } else {
            block = false;
        }
    }
    expressions
}

fn panels() -> Vec<String> {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().expect("a target asks for something").to_owned()).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let (known, alerts, panels) = (registered(), alerts(), panels());
    assert!(alerts.len() >= 12 && panels.len() >= 15, "{} alerts, {} panels", alerts.len(), panels.len());
    for expression in alerts.iter().chain(&panels) {
        let asked = asked_for(expression);
        assert!(!asked.is_empty(), "{expression}");
        for name in asked {
            assert!(known.contains(name), "`{name}` is counted nowhere: {expression}");
        }
    }
}

#[test]
fn every_metric_is_explained_and_on_the_dashboard() {
    let panels = panels().join(" ");
    for name in registered() {
        let name = name.trim_end_matches("_bucket").trim_end_matches("_count").trim_end_matches("_sum");
        assert!(PAGE.contains(&format!("| `{name}` |")), "`{name}` is not on the page");
        assert!(panels.contains(name), "`{name}` is on no panel");
    }
}

#[test]
fn the_reasons_that_alerts_single_out_are_reasons() {
    for stop in ["budget", "not_idempotent"] {
        assert!(Stop::ALL.iter().any(|reason| reason.label() == stop), "{stop}");
        assert!(ALERTS.contains(&format!("stop=\"{stop}\"")), "{stop}");
    }
}
