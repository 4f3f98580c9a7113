//! What the agent finds out, and what it makes of that.

use std::time::Duration;

use buttress::BoxError;
use buttress::core::clock::Seconds;
use buttress::degrade::{Degraded, Gather, Level, Need, Partial};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tower::ServiceExt;

use super::{Agent, within};
use crate::facts::{Fact, Question};
use crate::incident::Incident;
use crate::steps::{Found, Stuck};
use crate::vendors::Vendor;
use crate::vendors::aws::Deploys;
use crate::vendors::datadog::Logs;

/// What is known of the service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Context {
    /// `None` if nobody could say.
    pub(super) metric: Option<f64>,
    pub(super) logs: Option<Logs>,
    pub(super) alerts: Option<Vec<String>>,
    pub(super) deploys: Option<Deploys>,
    /// How good all of this is, from 0 to 4.
    pub(super) level: u8,
}

/// What is to be done: fixed once, so that whoever goes on with the run means the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The deployment before the restart: as long as it is the latest one, nobody has restarted anything.
    pub(super) before: String,
    /// How many tasks there are.
    pub(super) tasks: u64,
    /// How many there are to be. A number, and no difference: to say it twice changes nothing.
    pub(super) scale_to: Option<u64>,
    pub(super) clear_cache: bool,
}

/// How good an answer is, and how old, where that is worth a word.
fn quality(part: &Degraded<Fact>) -> String {
    let level = part.level();
    match part.age() {
        Some(age) => format!(" (level {}, {} old)", level.as_u8(), Seconds(age)),
        None if level.is_degraded() => format!(" (level {})", level.as_u8()),
        None => String::new(),
    }
}

impl Agent {
    /// All that is to be known, at once, each through its own vendor's stack. What is late is left out.
    pub(super) async fn gather(&self, by: Instant) -> Result<Found<Context>, Stuck> {
        let Incident { cluster, ecs_service, .. } = &*self.incident;
        let deploys = async {
            let deploys = within(by, Vendor::Aws, self.ecs.deploys(cluster, ecs_service)).await;
            deploys.map(|deploys| Degraded::full(Fact::Deploys(deploys))).map_err(BoxError::from)
        };
        let partial = Gather::new()
            .part("metric", Need::Required, self.fact(Question::Metric))
            .part("logs", Need::Weight(2), self.fact(Question::Logs))
            .part("alerts", Need::Weight(1), self.fact(Question::Alerts))
            .part("deploys", Need::Weight(1), deploys)
            .soft_deadline(self.patience.context)
            .await;
        if partial.level() == Level::Failed {
            return Err(Stuck::for_good(format!("nothing is known of the service: {}", missing(&partial))));
        }
        let detail = self.described(&partial);
        let (level, is_partial) = (partial.level().as_u8(), partial.level().is_degraded());
        let mut context = Context { level, ..Context::default() };
        for (_, fact) in partial.into_answers() {
            match fact.into_inner() {
                Fact::Metric(value) => context.metric = Some(value),
                Fact::Logs(logs) => context.logs = Some(logs),
                Fact::Alerts(alerts) => context.alerts = Some(alerts),
                Fact::Deploys(deploys) => context.deploys = Some(deploys),
                Fact::Unknown => {}
            }
        }
        Ok(Found::whole(context, detail).partial(is_partial))
    }

    pub(super) async fn fact(&self, question: Question) -> Result<Degraded<Fact>, BoxError> {
        self.ask.clone().oneshot(question).await
    }

    pub(super) fn described(&self, partial: &Partial<Degraded<Fact>>) -> String {
        let mut said = vec![format!("level {}", partial.level())];
        for part in ["metric", "logs", "alerts", "deploys"] {
            let Some(fact) = partial.get(part) else { continue };
            let words = match fact.get_ref() {
                Fact::Metric(value) => format!("metric at {}", self.incident.reading(*value)),
                Fact::Logs(Logs { events, commonest: Some(message), .. }) => {
                    format!("{events} log events, most of them \"{message}\"")
                }
                Fact::Logs(logs) => format!("{} log events", logs.events),
                Fact::Alerts(alerts) => format!("{} alerts", alerts.len()),
                Fact::Deploys(deploys) => format!("deployment {}, {}", deploys.latest, deploys.rollout),
                Fact::Unknown => continue,
            };
            said.push(words + &quality(fact));
        }
        let missing = missing(partial);
        if !missing.is_empty() {
            said.push(missing);
        }
        said.join("; ")
    }

    /// What to do, from what is known. The deployment before is needed in any case: it is asked for once more if it is missing.
    pub(super) async fn analyse(&self, context: &Context, by: Instant) -> Result<Found<Plan>, Stuck> {
        let Incident { cluster, ecs_service, .. } = &*self.incident;
        let deploys = match &context.deploys {
            Some(deploys) => deploys.clone(),
            None => {
                let by = by.min(Instant::now() + self.patience.context);
                self.patiently(by, Vendor::Aws, || self.ecs.deploys(cluster, ecs_service)).await?
            }
        };
        let (plan, why) = self.planned(context, &deploys);
        Ok(Found::whole(plan, why.join("; ")))
    }

    fn planned(&self, context: &Context, deploys: &Deploys) -> (Plan, Vec<String>) {
        let mut why = vec![match context.metric {
            Some(metric) => format!("restart, since the metric is at {}", self.incident.reading(metric)),
            None => {
                "restart, since the incident says that the metric is too high, and nobody else says anything"
                    .to_owned()
            }
        }];
        let clear_cache = match &context.logs {
            Some(logs) if logs.of_cache > 0 => {
                why.push(format!("clear the cache, which {} log events speak of", logs.of_cache));
                true
            }
            Some(_) => false,
            None => {
                why.push(
                    "clear the cache, since no logs say that it is well, and that does no harm".to_owned(),
                );
                true
            }
        };
        let tasks = deploys.desired;
        let is_far_above = context.metric.is_some_and(|metric| metric >= 2.0 * self.incident.threshold);
        let scale_to = is_far_above.then_some(tasks + tasks.div_ceil(2));
        if let Some(more) = scale_to {
            why.push(format!(
                "{more} tasks in place of {tasks}, since that is more than twice the threshold"
            ));
        }
        (Plan { before: deploys.latest.clone(), tasks, scale_to, clear_cache }, why)
    }
}

/// Which parts nobody could give.
fn missing(partial: &Partial<Degraded<Fact>>) -> String {
    let lacks = |name: &str| partial.get(name).is_none_or(|fact| *fact.get_ref() == Fact::Unknown);
    let missing = partial.shortfalls().iter().filter(|part| lacks(part.component()));
    let words = missing.map(|part| format!("no {}, it {}", part.component(), part.cause()));
    words.collect::<Vec<_>>().join("; ")
}

/// Whether this is the metric as it is now, and not as it was once.
pub(super) fn is_fresh(fact: &Degraded<Fact>) -> bool {
    fact.level() <= Level::Slight && fact.age().is_none_or(|age| age < Duration::from_secs(1))
}
