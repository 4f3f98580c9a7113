//! The agent: what it does about an incident. It does not know what its clients are made of.

use buttress::core::clock::Seconds;
use buttress::degrade::{Degraded, Gather, Level, Need};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::console::Tone;
use crate::incident::Incident;
use crate::journal::{Journal, Name, Step};
use crate::patience::Patience;
use crate::timeline::Timeline;
use crate::vendors::aws::{Ecs, Rollout};
use crate::vendors::datadog::{Datadog, Logs};
use crate::vendors::pagerduty::{Event, PagerDuty};
use crate::vendors::{Api, CallError, Vendor};

/// Handles one incident with these clients.
pub(crate) struct Agent<'a, S> {
    pub(crate) incident: &'a Incident,
    pub(crate) datadog: Datadog<S>,
    pub(crate) ecs: Ecs<S>,
    pub(crate) pagerduty: PagerDuty<S>,
    pub(crate) patience: Patience,
    pub(crate) timeline: &'a Timeline,
}

/// What became of the incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Resolved,
    /// A person has been told.
    Escalated,
    /// It goes on, and nobody has been told.
    Lost,
}

impl Outcome {
    /// Whether the incident is in good hands.
    pub(crate) fn is_handled(self) -> bool {
        self != Self::Lost
    }
}

/// What is known so far, for whoever reads the incident.
#[derive(Debug, Default)]
struct Findings {
    before: Option<f64>,
    logs: Option<Logs>,
    restarted: bool,
    after: Option<f64>,
}

/// One of the things that are good to know.
enum Part {
    Logs(Logs),
    Tasks(Rollout),
}

/// Why the agent cannot go on by itself.
type Stuck = String;

impl<S: Api> Agent<'_, S> {
    pub(crate) async fn handle(self) -> (Outcome, Vec<Step>) {
        let mut journal = Journal::new(self.timeline);
        let mut findings = Findings::default();
        let by = Instant::now() + self.patience.treat;
        let outcome = match self.treat(&mut journal, &mut findings, by).await {
            Ok(()) => Outcome::Resolved,
            Err(why) => self.escalate(&mut journal, &findings, &why, by + self.patience.tell).await,
        };
        (outcome, journal.into_steps())
    }

    async fn treat(&self, journal: &mut Journal<'_>, found: &mut Findings, by: Instant) -> Result<(), Stuck> {
        let Incident { service, threshold, .. } = self.incident;
        let limit = self.incident.reading(*threshold);
        let question = format!("is the metric of {service} still above {limit}?");
        let value = journal.required(Name::Metrics, &question, self.metrics(by)).await?;
        found.before = Some(value);
        if value > *threshold {
            // Good to know, and nothing that a sick service should wait for.
            let question = "what do its logs say, and do its tasks run?";
            found.logs = journal.partial(Name::Context, question, self.context(by)).await;
            let restart = format!("new tasks for ECS service {}", self.incident.ecs_service);
            journal.required(Name::Restart, &restart, self.restart(by)).await?;
            found.restarted = true;
            let well = format!("have the new tasks taken over, and is the metric below {limit}?");
            found.after = Some(journal.required(Name::Verify, &well, self.verify(by)).await?);
        } else {
            journal.skip(&[Name::Context, Name::Restart, Name::Verify], "the service is well again");
        }
        let payload = self.payload("info", "handled by incident-agent", found);
        journal.optional(Name::Note, "tell PagerDuty what was found and done", self.note(&payload, by)).await;
        let resolve = self.page(Event::Resolve, &self.incident.key, &payload, by);
        journal.required(Name::Resolve, "tell PagerDuty that it is over", resolve).await
    }

    async fn escalate(&self, journal: &mut Journal<'_>, found: &Findings, why: &str, by: Instant) -> Outcome {
        let Incident { key, title, .. } = self.incident;
        let payload = self.payload("critical", &format!("{title}; incident-agent is stuck: {why}"), found);
        // A key of its own: PagerDuty adds an event with the incident's key to that incident and pages nobody.
        let key = format!("{key}/escalation");
        let page = self.page(Event::Trigger, &key, &payload, by);
        match journal.required(Name::Escalate, "a person has to look at this", page).await {
            Ok(()) => Outcome::Escalated,
            Err(_) => Outcome::Lost,
        }
    }

    async fn metrics(&self, by: Instant) -> Result<(f64, String), Stuck> {
        let value = self.latest(by).await?;
        let verdict = if value > self.incident.threshold { "too high" } else { "well again" };
        Ok((value, format!("{}, {verdict}", self.incident.reading(value))))
    }

    /// What is to be known beside the metric: all parts at once, each through its own vendor's stack, and what is late is left
    /// out.
    async fn context(&self, by: Instant) -> (Option<Logs>, Level, String) {
        let Incident { cluster, ecs_service, logs_query, .. } = self.incident;
        let logs = async {
            let logs = within(by, Vendor::Datadog, self.datadog.logs(logs_query)).await?;
            Ok::<_, CallError>(Degraded::full(Part::Logs(logs)))
        };
        let tasks = async {
            let tasks = within(by, Vendor::Aws, self.ecs.rollout(cluster, ecs_service)).await?;
            Ok::<_, CallError>(Degraded::full(Part::Tasks(tasks)))
        };
        let mut context = Gather::new()
            .part("logs", Need::Weight(2), logs)
            .part("tasks", Need::Weight(1), tasks)
            .soft_deadline(self.patience.context)
            .await;
        let mut said = vec![format!("level {}", context.level())];
        let taken = |part: Option<Degraded<Part>>| part.map(Degraded::into_inner);
        if let Some(Part::Tasks(tasks)) = taken(context.take("tasks")) {
            said.push(tasks.to_string());
        }
        let mut found = None;
        if let Some(Part::Logs(logs)) = taken(context.take("logs")) {
            let commonest = logs.commonest.as_ref().map(|message| format!(", most of them \"{message}\""));
            said.push(format!("{} events{}", logs.events, commonest.unwrap_or_default()));
            found = Some(logs);
        }
        said.extend(
            context.shortfalls().iter().map(|part| format!("no {}, it {}", part.component(), part.cause())),
        );
        (found, context.level(), said.join("; "))
    }

    async fn restart(&self, by: Instant) -> Result<((), String), Stuck> {
        let Incident { cluster, ecs_service, .. } = self.incident;
        self.patiently(by, Vendor::Aws, async || self.ecs.restart(cluster, ecs_service).await).await?;
        Ok(((), format!("begun, in cluster {cluster}")))
    }

    async fn verify(&self, by: Instant) -> Result<(f64, String), Stuck> {
        let Incident { cluster, ecs_service, threshold, .. } = self.incident;
        loop {
            let look = async || self.ecs.rollout(cluster, ecs_service).await;
            match self.patiently(by, Vendor::Aws, look).await? {
                Rollout::Completed => break,
                Rollout::Failed => return Err("the restart failed".to_owned()),
                Rollout::InProgress { running, desired } => {
                    let progress = format_args!("    {running} of {desired} new tasks are running");
                    self.timeline.say("agent", Tone::Plain, progress);
                }
            }
            self.look_again(by, "the restart was not complete in time").await?;
        }
        loop {
            let value = self.latest(by).await?;
            let reading = self.incident.reading(value);
            if value <= *threshold {
                return Ok((value, format!("all tasks are new, and the metric is at {reading}")));
            }
            self.look_again(by, &format!("after the restart the metric is still at {reading}")).await?;
        }
    }

    /// Events have no notes; an acknowledgement may have details, and opens nothing if the incident is over already.
    async fn note(&self, payload: &Value, by: Instant) -> Result<((), String), CallError> {
        let note = self.pagerduty.tell(Event::Acknowledge, &self.incident.key, payload);
        within(by, Vendor::PagerDuty, note).await?;
        Ok(((), "noted".to_owned()))
    }

    async fn page(
        &self,
        event: Event,
        key: &str,
        payload: &Value,
        by: Instant,
    ) -> Result<((), String), Stuck> {
        let page = async || self.pagerduty.tell(event, key, payload).await;
        self.patiently(by, Vendor::PagerDuty, page).await?;
        Ok(((), format!("told, under the key {key}")))
    }

    async fn latest(&self, by: Instant) -> Result<f64, Stuck> {
        let latest = async || self.datadog.latest(&self.incident.query).await;
        self.patiently(by, Vendor::Datadog, latest).await
    }

    /// Calls again for as long as the error says that it is worth it and safe, and there is time.
    async fn patiently<T>(
        &self,
        by: Instant,
        vendor: Vendor,
        call: impl AsyncFn() -> Result<T, CallError>,
    ) -> Result<T, Stuck> {
        loop {
            let error = match within(by, vendor, call()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let wait = error.error().and_then(|error| self.patience.before_another_try(error));
            let Some(wait) = wait.filter(|wait| Instant::now() + *wait < by) else {
                return Err(error.to_string());
            };
            let vendor = vendor.as_str();
            self.timeline.say(
                "agent",
                Tone::Waiting,
                format_args!("    waits {} for {vendor}", Seconds(wait)),
            );
            sleep(wait).await;
        }
    }

    async fn look_again(&self, by: Instant, otherwise: &str) -> Result<(), Stuck> {
        let Patience { look, .. } = self.patience;
        if Instant::now() + look >= by {
            return Err(otherwise.to_owned());
        }
        sleep(look).await;
        Ok(())
    }

    /// An event's payload in PagerDuty's common event format.
    fn payload(&self, severity: &str, summary: &str, found: &Findings) -> Value {
        let Incident { id, service, cluster, ecs_service, .. } = self.incident;
        let reading = |value: Option<f64>| value.map(|value| self.incident.reading(value));
        let Findings { before, logs, restarted, after } = found;
        // PagerDuty takes 1024 characters.
        let summary: String = summary.chars().take(1024).collect();
        json!({
            "summary": summary, "source": service, "severity": severity,
            "component": ecs_service, "group": cluster, "class": "automation",
            "custom_details": {
                "incident": id,
                "metric_before": reading(*before),
                "metric_after": reading(*after),
                "log_events": logs.as_ref().map(|logs| logs.events),
                "commonest_message": logs.as_ref().and_then(|logs| logs.commonest.as_deref()),
                "restarted": restarted,
            },
        })
    }
}

/// The answer, if it comes in time.
async fn within<T>(
    by: Instant,
    vendor: Vendor,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    timeout_at(by, call).await.unwrap_or(Err(CallError::OutOfTime(vendor)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::Chaos;
    use crate::clients::{Pace, bare};
    use crate::console::Console;
    use crate::incident::tests::checkout;
    use crate::journal::Status;
    use crate::servers::Servers;
    use crate::vendors::{aws, datadog, pagerduty};
    use std::path::Path;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_service_that_is_well_again_is_not_restarted() {
        let (incident, chaos) = (checkout(), Chaos::load(Path::new("none")).unwrap());
        let servers = Servers::start(&incident, &chaos, false).await.unwrap();
        servers.recover();
        let timeline = Arc::new(Timeline::start(Console::silent()));
        let client = |vendor| (bare(vendor, &timeline), servers.base(vendor));
        let ((one, at_datadog), (two, at_aws)) = (client(Vendor::Datadog), client(Vendor::Aws));
        let (three, at_pagerduty) = client(Vendor::PagerDuty);
        let agent = Agent {
            incident: &incident,
            datadog: Datadog::new(one, datadog::Access::embedded(at_datadog)),
            ecs: Ecs::new(two, aws::Access::embedded(at_aws)),
            pagerduty: PagerDuty::new(three, pagerduty::Access::embedded(at_pagerduty)),
            patience: Patience::of(Pace::Demonstration),
            timeline: &timeline,
        };
        let (outcome, steps) = agent.handle().await;
        assert_eq!(outcome, Outcome::Resolved);
        let skipped = steps.iter().filter(|step| step.status == Status::Skipped).map(|step| step.name);
        assert_eq!(skipped.collect::<Vec<_>>(), [Name::Context, Name::Restart, Name::Verify]);
        assert_eq!(servers.received(Vendor::Aws), 0);
    }
}
