//! What came of the runs: a table for people, an object for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use buttress::core::Kind;
use buttress::core::clock::Seconds;
use serde::Serialize;

use crate::agent::{Outcome, Over};
use crate::args::Targets;
use crate::clients::BARE_LIMIT;
use crate::console::{Console, Tone};
use crate::servers::ledger::State;
use crate::steps::{Name, Status, Step};
use crate::tally::{Counts, LevelChange, Transition};
use crate::timeline::{failure, millis};
use crate::vendors::Vendor;

/// One run, measured.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) outcome: Outcome,
    pub(crate) steps: Vec<Step>,
    /// Where its process was killed, in order.
    killed: Vec<String>,
    /// Requests that the vendors received, in all processes: counted by the servers where they are embedded, else by the
    /// clients of this process.
    pub(crate) calls: u64,
    calls_by_vendor: BTreeMap<&'static str, u64>,
    retries: u64,
    retries_by_cause: BTreeMap<&'static str, u64>,
    rejected_by_breaker: u64,
    pub(crate) probes: u64,
    breaker_transitions: Vec<Transition>,
    breaker_states: BTreeMap<&'static str, &'static str>,
    pub(crate) levels: Vec<LevelChange>,
    /// Of the clients that are supervised, the one that calls used last.
    pub(crate) generations: BTreeMap<String, u64>,
    /// How often their supervisors asked how a vendor is.
    checks: u64,
    /// Changes and pages that were made again.
    pub(crate) duplicates: u64,
    /// Changes that were asked for again under the same key, and not made again.
    recognised: u64,
    /// What PagerDuty knows, if it is embedded.
    #[serde(flatten)]
    pub(crate) paged: Option<Pages>,
    elapsed_ms: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Pages {
    /// Events that it took.
    pages_sent: u64,
    incidents_seen: u64,
    /// How often a person's telephone rang.
    pub(crate) people_paged: u64,
    duplicate_pages: u64,
}

impl From<&State> for Pages {
    fn from(state: &State) -> Self {
        Self {
            pages_sent: state.events(),
            incidents_seen: state.incidents(),
            people_paged: state.pages(),
            duplicate_pages: state.duplicate_pages(),
        }
    }
}

/// Both runs; the second is missing where it would have acted on real systems.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) with: Run,
    #[serde(rename = "unprotected")]
    pub(crate) without: Option<Run>,
}

impl Run {
    /// What the agent and the vendors' ledger know.
    pub(crate) fn new(over: Over, elapsed: Duration, state: &State, targets: &Targets) -> Self {
        let embedded = Vendor::ALL.into_iter().filter(|vendor| !targets.is_real(*vendor));
        let mut run = Self {
            outcome: over.outcome,
            steps: over.steps,
            killed: state.killed().to_vec(),
            calls: 0,
            calls_by_vendor: embedded.map(|vendor| (vendor.as_str(), state.received(vendor))).collect(),
            retries: 0,
            retries_by_cause: BTreeMap::new(),
            rejected_by_breaker: 0,
            probes: 0,
            breaker_transitions: Vec::new(),
            breaker_states: BTreeMap::new(),
            levels: Vec::new(),
            generations: BTreeMap::new(),
            checks: state.checks(),
            duplicates: state.duplicates(),
            recognised: state.recognised(),
            paged: (!targets.is_real(Vendor::PagerDuty)).then(|| state.into()),
            elapsed_ms: millis(elapsed),
        };
        run.calls = run.calls_by_vendor.values().sum();
        run
    }

    /// Adds what Buttress did, and the states in which it left its breakers.
    pub(crate) fn count(&mut self, counts: Counts, states: BTreeMap<&'static str, &'static str>) {
        let Counts { sent, refused, probes, retries, transitions, levels, generations } = counts;
        for vendor in Vendor::ALL.map(Vendor::as_str) {
            self.calls_by_vendor.entry(vendor).or_insert_with(|| sent.get(vendor).copied().unwrap_or(0));
        }
        self.calls = self.calls_by_vendor.values().sum();
        self.retries = retries.values().sum();
        self.retries_by_cause = retries;
        self.rejected_by_breaker = refused;
        self.probes = probes;
        self.levels = levels;
        self.generations = generations;
        self.breaker_transitions = transitions;
        self.breaker_states = states;
    }

    fn outcome(&self) -> &'static str {
        match self.outcome {
            Outcome::Resolved => "resolved",
            Outcome::Escalated => "a person was paged",
            Outcome::Lost => "lost: nobody was told",
        }
    }

    /// So many of so many that were needed.
    fn steps_done(&self) -> String {
        let count = |status| {
            let steps = self.steps.iter().filter(|step| step.name != Name::Escalate);
            steps.filter(|step| step.status == status).count()
        };
        format!("{} of {}", count(Status::Done), Name::TREATMENT - count(Status::Skipped))
    }

    /// What a vendor's circuit breaker went through, and how it ended.
    fn breaker(&self, vendor: &str) -> String {
        let Some(state) = self.breaker_states.get(vendor) else { return "none".to_owned() };
        let opened = |change: &&Transition| change.vendor == vendor && change.to == "open";
        match self.breaker_transitions.iter().filter(opened).count() {
            0 => (*state).to_owned(),
            1 => format!("opened once, now {state}"),
            n => format!("opened {n} times, now {state}"),
        }
    }
}

impl Report {
    /// One object, on one line.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("a report has nothing that JSON lacks")
    }

    /// The table, and what to make of it.
    pub(crate) fn print(&self, console: &Console) {
        console.heading("Summary");
        let head = [String::new(), "with Buttress".to_owned(), "without".to_owned()];
        let rows: Vec<[String; 3]> = std::iter::once(head).chain(self.rows()).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (first, second) = (width(0), width(1));
        for (number, [what, with, without]) in rows.iter().enumerate() {
            let without = if self.without.is_some() { without } else { "" };
            let line = format!("  {what:<first$}   {with:<second$}   {without}");
            let tone = if number == 0 { Tone::Heading } else { Tone::Plain };
            console.line(&console.paint(tone, line.trim_end()));
        }
        console.line("");
        console.line(&match &self.without {
            Some(_) => format!(
                "  without: the same client and call sites, one try a call, at most {}",
                Seconds(BARE_LIMIT)
            ),
            None => "  The run without Buttress was left out: it would act on your systems a second time."
                .to_owned(),
        });
    }

    fn rows(&self) -> Vec<[String; 3]> {
        let row = |what: &str, cell: &dyn Fn(&Run) -> String| {
            let without = self.without.as_ref().map(cell).unwrap_or_default();
            [what.to_owned(), cell(&self.with), without]
        };
        let mut rows = vec![
            row("outcome", &|run| run.outcome().to_owned()),
            row("steps done", &Run::steps_done),
            row("calls made", &|run| run.calls.to_string()),
            row("calls spared by the breaker", &|run| run.rejected_by_breaker.to_string()),
            row("retries", &|run| run.retries.to_string()),
        ];
        if !self.with.killed.is_empty() {
            rows.insert(2, row("killed", &|run| run.killed.len().to_string()));
        }
        for kind in [Kind::Transient, Kind::Timeout, Kind::Throttled] {
            let count = |run: &Run| run.retries_by_cause.get(kind.as_str()).copied().unwrap_or(0);
            if count(&self.with) > 0 {
                rows.push(row(&format!("  {}", failure(kind)), &|run| count(run).to_string()));
            }
        }
        for vendor in Vendor::ALL.map(Vendor::as_str) {
            rows.push(row(&format!("circuit of {vendor}"), &|run| run.breaker(vendor)));
        }
        // The first generation is no news.
        for (vendor, _) in self.with.generations.iter().filter(|(_, last)| **last > 1) {
            let generation = |run: &Run| run.generations.get(vendor).copied().unwrap_or(1);
            rows.push(row(&format!("client of {vendor}"), &|run| format!("generation {}", generation(run))));
        }
        if self.with.paged.is_some() {
            let pages = |run: &Run, f: fn(Pages) -> String| run.paged.map(f).unwrap_or_default();
            rows.push(row("pages sent / incidents seen", &|run| {
                pages(run, |pages| format!("{} / {}", pages.pages_sent, pages.incidents_seen))
            }));
            rows.push(row("people paged", &|run| pages(run, |pages| pages.people_paged.to_string())));
            rows.push(row("duplicate pages", &|run| pages(run, |pages| pages.duplicate_pages.to_string())));
        }
        rows.push(row("asked twice, known by its key", &|run| run.recognised.to_string()));
        rows.push(row("done twice", &|run| run.duplicates.to_string()));
        let worst = |run: &Run| run.levels.iter().map(|change| change.instant).max().unwrap_or(0).to_string();
        rows.push(row("worst level", &|run| {
            if run.breaker_states.is_empty() { String::new() } else { worst(run) }
        }));
        let seconds = |run: &Run| Seconds(Duration::from_millis(run.elapsed_ms)).to_string();
        rows.push(row("time to finish", &seconds));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let transition = |to| Transition {
            at_ms: 1,
            vendor: "datadog".to_owned(),
            from: "closed",
            to,
            cause: "probe failed",
            open_for_ms: None,
        };
        let step = |name, status| Step { name, status, detail: String::new(), elapsed_ms: 1 };
        Run {
            outcome: Outcome::Escalated,
            steps: vec![
                step(Name::Gather, Status::Done),
                step(Name::Analyse, Status::Skipped),
                step(Name::Note, Status::Degraded),
                step(Name::Escalate, Status::Done),
            ],
            killed: Vec::new(),
            calls: 7,
            calls_by_vendor: BTreeMap::from([("datadog", 7)]),
            retries: 2,
            retries_by_cause: BTreeMap::from([("timeout", 2)]),
            rejected_by_breaker: 1,
            probes: 1,
            levels: vec![LevelChange { at_ms: 1, instant: 2, declared: 1 }],
            generations: BTreeMap::from([("datadog".to_owned(), 2)]),
            checks: 9,
            duplicates: 0,
            recognised: 1,
            breaker_transitions: vec![transition("open"), transition("half-open"), transition("open")],
            breaker_states: BTreeMap::from([("aws", "closed"), ("datadog", "open")]),
            paged: Some(Pages { pages_sent: 2, incidents_seen: 1, people_paged: 1, duplicate_pages: 0 }),
            elapsed_ms: 1500,
        }
    }

    #[test]
    fn a_run_is_summed_up_in_words() {
        let report = Report { with: run(), without: None };
        let rows: Vec<[String; 2]> = report.rows().into_iter().map(|[what, with, _]| [what, with]).collect();
        let expected = [
            ["outcome", "a person was paged"],
            ["steps done", "1 of 7"],
            ["calls made", "7"],
            ["calls spared by the breaker", "1"],
            ["retries", "2"],
            ["  no answer in time", "2"],
            ["circuit of datadog", "opened 2 times, now open"],
            ["circuit of aws", "closed"],
            ["circuit of service", "none"],
            ["circuit of pagerduty", "none"],
            ["client of datadog", "generation 2"],
            ["pages sent / incidents seen", "2 / 1"],
            ["people paged", "1"],
            ["duplicate pages", "0"],
            ["asked twice, known by its key", "1"],
            ["done twice", "0"],
            ["worst level", "2"],
            ["time to finish", "1.5 s"],
        ];
        assert_eq!(rows, expected.map(|row| row.map(str::to_owned)));
    }

    #[test]
    fn a_report_is_one_object_with_both_runs() {
        let report = Report { with: run(), without: Some(run()) }.json();
        assert!(!report.contains('\n'));
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        let mut without = report.clone();
        let unprotected = without.as_object_mut().unwrap().remove("unprotected").unwrap();
        assert_eq!(without, unprotected);
        for key in ["outcome", "steps", "calls", "retries", "rejected_by_breaker", "breaker_transitions"] {
            assert!(!report[key].is_null(), "{key} in {report}");
        }
        let alone = Report { with: run(), without: None }.json();
        assert!(alone.contains("\"unprotected\":null"), "{alone}");
    }
}
