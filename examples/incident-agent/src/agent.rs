//! The agent: what it does about an incident. It does not know what its clients are made of.

mod act;
mod context;

use std::sync::Arc;

use buttress::checkpoint::Cx;
use buttress::core::clock::Seconds;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::console::Tone;
use crate::crash::Crash;
use crate::facts::Ask;
use crate::incident::Incident;
use crate::patience::Patience;
use crate::steps::{Found, Journal, Name, Step, Stuck, Weight};
use crate::timeline::Timeline;
use crate::vendors::aws::Ecs;
use crate::vendors::pagerduty::{Event, PagerDuty};
use crate::vendors::service::Service;
use crate::vendors::{CallError, Vendor};

use Weight::{Optional, Required};
use context::{Context, Plan};

/// Handles one incident with these clients.
pub(crate) struct Agent {
    pub(crate) incident: Arc<Incident>,
    pub(crate) ask: Ask,
    pub(crate) ecs: Ecs,
    pub(crate) service: Service,
    pub(crate) pagerduty: PagerDuty,
    pub(crate) patience: Patience,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) crash: Arc<Crash>,
}

/// What became of the incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// What a run ends with, and every later look at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Over {
    pub(crate) outcome: Outcome,
    pub(crate) steps: Vec<Step>,
}

/// What is known so far, for whoever reads the incident.
#[derive(Debug, Default)]
struct Findings {
    context: Option<Context>,
    done: Vec<&'static str>,
    after: Option<f64>,
}

impl Agent {
    /// The workflow: everything that it does is a step, and a step whose result is recorded is not done again.
    pub(crate) async fn handle(self: Arc<Self>, cx: Cx) -> Over {
        let mut journal = Journal::new(&cx, &self.timeline, &self.crash);
        let mut found = Findings::default();
        let by = Instant::now() + self.patience.treat;
        let outcome = match self.treat(&mut journal, &mut found, by).await {
            Ok(()) => Outcome::Resolved,
            Err(why) => self.escalate(&mut journal, &found, &why).await,
        };
        Over { outcome, steps: journal.into_steps() }
    }

    async fn treat(
        &self,
        journal: &mut Journal<'_>,
        found: &mut Findings,
        by: Instant,
    ) -> Result<(), String> {
        let Incident { service, threshold, .. } = &*self.incident;
        let what = format!("what is known of {service}: its metric, logs, alerts, deploys?");
        let result = journal.step(Name::Gather, Required, &what, || self.gather(by)).await;
        let context = journal.ended(Name::Gather, Required, result)?;
        found.context = Some(context.clone());
        if context.metric.is_some_and(|metric| metric <= *threshold) {
            let unneeded = [Name::Analyse, Name::Restart, Name::ClearCache, Name::Scale, Name::Verify];
            journal.skip(&unneeded, "the service is well again");
        } else {
            let result = journal
                .step(Name::Analyse, Required, "what has to be done?", || self.analyse(&context, by))
                .await;
            let plan = journal.ended(Name::Analyse, Required, result)?;
            self.act(journal, found, &plan, by).await?;
            let limit = self.incident.reading(*threshold);
            let what = format!("have the new tasks taken over, and is the metric below {limit}?");
            let result = journal.step(Name::Verify, Required, &what, || self.verify(&plan, by)).await;
            found.after = Some(journal.ended(Name::Verify, Required, result)?);
        }
        let payload = self.payload("info", "handled by incident-agent", found);
        let what = "tell PagerDuty what was found and done";
        let result = journal.step(Name::Note, Optional, what, || self.note(&payload, by)).await;
        let _ = journal.ended(Name::Note, Optional, result);
        let resolve = || self.page(Event::Resolve, self.incident.key.clone(), &payload, by);
        let result = journal.step(Name::Resolve, Required, "tell PagerDuty that it is over", resolve).await;
        journal.ended(Name::Resolve, Required, result)
    }

    /// What changes something: each of these does no more if it is done again.
    async fn act(
        &self,
        journal: &mut Journal<'_>,
        found: &mut Findings,
        plan: &Plan,
        by: Instant,
    ) -> Result<(), String> {
        let what = format!("new tasks for ECS service {}", self.incident.ecs_service);
        // Whoever was killed in the middle of it looks before it acts.
        let step = journal.step(Name::Restart, Required, &what, || self.restart(plan, by));
        let result = step.reconcile(|| self.restarted(plan, by)).await;
        journal.ended(Name::Restart, Required, result)?;
        found.done.push("restarted");
        if plan.clear_cache {
            let step = journal.step(Name::ClearCache, Optional, "an empty cache", || self.clear_cache(by));
            // A further attempt of the same step has the same key.
            let step = step.retry(self.patience.again(), 3).retry_if(|stuck| stuck.again);
            let result = step.await;
            if journal.ended(Name::ClearCache, Optional, result).is_ok() {
                found.done.push("cache cleared");
            }
        } else {
            journal.skip(&[Name::ClearCache], "nothing in the logs speaks of a cache");
        }
        let Some(tasks) = plan.scale_to else {
            journal.skip(&[Name::Scale], "there are tasks enough");
            return Ok(());
        };
        let what = format!("{tasks} tasks in place of {}", plan.tasks);
        let result = journal.step(Name::Scale, Optional, &what, || self.scale(tasks, by)).await;
        if journal.ended(Name::Scale, Optional, result).is_ok() {
            found.done.push("scaled");
        }
        Ok(())
    }

    async fn escalate(&self, journal: &mut Journal<'_>, found: &Findings, why: &str) -> Outcome {
        let Incident { key, title, .. } = &*self.incident;
        let payload = self.payload("critical", &format!("{title}; incident-agent is stuck: {why}"), found);
        // A key of its own: PagerDuty adds an event with the incident's key to that incident and pages nobody.
        let key = format!("{key}/escalation");
        let by = Instant::now() + self.patience.tell;
        let page = || self.page(Event::Trigger, key.clone(), &payload, by);
        let result = journal.step(Name::Escalate, Required, "a person has to look at this", page).await;
        match journal.ended(Name::Escalate, Required, result) {
            Ok(()) => Outcome::Escalated,
            Err(_) => Outcome::Lost,
        }
    }

    /// Events have no notes; an acknowledgement may have details, and opens nothing if the incident is over already.
    async fn note(&self, payload: &Value, by: Instant) -> Result<Found<()>, Stuck> {
        let note = self.pagerduty.tell(Event::Acknowledge, &self.incident.key, payload);
        within(by, Vendor::PagerDuty, note).await.map_err(|error| Stuck::for_good(error.to_string()))?;
        Ok(Found::whole((), "noted"))
    }

    async fn page(
        &self,
        event: Event,
        key: String,
        payload: &Value,
        by: Instant,
    ) -> Result<Found<()>, Stuck> {
        self.patiently(by, Vendor::PagerDuty, || self.pagerduty.tell(event, &key, payload)).await?;
        Ok(Found::whole((), format!("told, under the key {key}")))
    }

    /// Calls again for as long as the error says that it is worth it and safe, and there is time.
    async fn patiently<T, Fut>(
        &self,
        by: Instant,
        vendor: Vendor,
        call: impl Fn() -> Fut + Send,
    ) -> Result<T, Stuck>
    where
        Fut: Future<Output = Result<T, CallError>> + Send,
    {
        loop {
            let error = match within(by, vendor, call()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let wait = self.patience.before_another_try(&error);
            self.wait(by, vendor, wait).await.ok_or_else(|| Stuck::for_good(error.to_string()))?;
        }
    }

    /// Waits, if it may and there is time.
    async fn wait(&self, by: Instant, vendor: Vendor, wait: Option<std::time::Duration>) -> Option<()> {
        let wait = wait.filter(|wait| Instant::now() + *wait < by)?;
        let what = format!("    waits {} for {}", Seconds(wait), vendor.as_str());
        self.timeline.say("agent", Tone::Waiting, what);
        sleep(wait).await;
        Some(())
    }

    /// An event's payload in PagerDuty's common event format.
    fn payload(&self, severity: &str, summary: &str, found: &Findings) -> Value {
        let Incident { id, service, cluster, ecs_service, .. } = &*self.incident;
        let reading = |value: Option<f64>| value.map(|value| self.incident.reading(value));
        let context = found.context.as_ref();
        let logs = context.and_then(|context| context.logs.as_ref());
        // PagerDuty takes 1024 characters.
        let summary: String = summary.chars().take(1024).collect();
        json!({
            "summary": summary, "source": service, "severity": severity,
            "component": ecs_service, "group": cluster, "class": "automation",
            "custom_details": {
                "incident": id,
                "level": context.map(|context| context.level),
                "metric_before": reading(context.and_then(|context| context.metric)),
                "metric_after": reading(found.after),
                "log_events": logs.map(|logs| logs.events),
                "commonest_message": logs.and_then(|logs| logs.commonest.as_deref()),
                "done": found.done,
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
