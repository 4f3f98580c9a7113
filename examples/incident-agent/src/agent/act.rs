//! What the agent changes, and how it sees that it helped.

use buttress::core::own_verdict;
use buttress::degrade::{Degraded, Gather, Need};
use tokio::time::{Instant, sleep};

use super::context::{Plan, is_fresh};
use super::{Agent, within};
use crate::console::Tone;
use crate::facts::{Fact, Question};
use crate::incident::Incident;
use crate::patience::Patience;
use crate::steps::{Found, Stuck};
use crate::vendors::aws::Rollout;
use crate::vendors::{CallError, Vendor};

impl Agent {
    /// Begins a restart. ECS knows no repetition: where it is not known whether it was begun, this looks, and does not ask
    /// again.
    pub(super) async fn restart(&self, plan: &Plan, by: Instant) -> Result<Found<()>, Stuck> {
        let Incident { cluster, ecs_service, .. } = &*self.incident;
        loop {
            let error = match within(by, Vendor::Aws, self.ecs.restart(cluster, ecs_service)).await {
                Ok(()) => return Ok(Found::whole((), format!("begun, in cluster {cluster}"))),
                Err(error) => error,
            };
            let stuck = || Stuck::for_good(error.to_string());
            let wait = if is_in_doubt(&error) {
                if let Some(found) = self.restarted(plan, by).await? {
                    return Ok(found);
                }
                Some(self.patience.pause)
            } else {
                self.patience.before_another_try(&error)
            };
            self.wait(by, Vendor::Aws, wait).await.ok_or_else(stuck)?;
        }
    }

    /// Whether a restart was begun: then the latest deployment is another one than before.
    pub(super) async fn restarted(&self, plan: &Plan, by: Instant) -> Result<Option<Found<()>>, Stuck> {
        let Incident { cluster, ecs_service, .. } = &*self.incident;
        self.timeline.say("agent", Tone::Waiting, "    restart: was it begun? looks before it acts");
        let deploys = self.patiently(by, Vendor::Aws, || self.ecs.deploys(cluster, ecs_service)).await?;
        let begun = deploys.latest != plan.before;
        Ok(begun.then(|| Found::whole((), format!("begun before, as deployment {}", deploys.latest))))
    }

    /// Empties the cache, under the step's own key.
    pub(super) async fn clear_cache(&self, by: Instant) -> Result<Found<()>, Stuck> {
        match within(by, Vendor::Service, self.service.clear_cache()).await {
            Ok(()) => Ok(Found::whole((), "cleared")),
            Err(error) => {
                let again = error.error().is_some_and(|error| own_verdict(&**error).is_some());
                Err(Stuck::for_good(error.to_string()).again(again))
            }
        }
    }

    /// Says how many tasks there are to be.
    pub(super) async fn scale(&self, tasks: u64, by: Instant) -> Result<Found<()>, Stuck> {
        let Incident { cluster, ecs_service, .. } = &*self.incident;
        self.patiently(by, Vendor::Aws, || self.ecs.scale(cluster, ecs_service, tasks)).await?;
        Ok(Found::whole((), format!("{tasks} tasks are wanted")))
    }

    /// Waits until the new tasks have taken over, and then until the metric is as it should be.
    pub(super) async fn verify(&self, plan: &Plan, by: Instant) -> Result<Found<f64>, Stuck> {
        let Incident { cluster, ecs_service, threshold, .. } = &*self.incident;
        loop {
            let look = || self.ecs.deploys(cluster, ecs_service);
            let deploys = self.patiently(by, Vendor::Aws, look).await?;
            match deploys.rollout {
                _ if deploys.latest == plan.before => return Err(Stuck::for_good("the restart was undone")),
                Rollout::Completed => break,
                Rollout::Failed => return Err(Stuck::for_good("the restart failed")),
                Rollout::InProgress { running, desired } => {
                    let progress = format_args!("    {running} of {desired} new tasks are running");
                    self.timeline.say("agent", Tone::Plain, progress);
                }
            }
            self.look_again(by, "the restart was not complete in time").await?;
        }
        loop {
            let partial = Gather::new()
                .part("metric", Need::Required, self.fact(Question::Metric))
                .part("alerts", Need::Weight(0), self.fact(Question::Alerts))
                .soft_deadline(self.patience.context)
                .await;
            let detail = self.described(&partial);
            let metric = partial.get("metric").filter(|fact| is_fresh(fact)).map(Degraded::get_ref);
            if let Some(&Fact::Metric(value)) = metric
                && value <= *threshold
            {
                let found = Found::whole(value, format!("all tasks are new; {detail}"));
                return Ok(found.partial(partial.level().is_degraded()));
            }
            self.look_again(by, &format!("after the restart: {detail}")).await?;
        }
    }

    async fn look_again(&self, by: Instant, otherwise: &str) -> Result<(), Stuck> {
        let Patience { look, .. } = self.patience;
        if Instant::now() + look >= by {
            return Err(Stuck::for_good(otherwise));
        }
        sleep(look).await;
        Ok(())
    }
}

/// Whether it is known that it is not known whether a request was carried out: a bare client's error says nothing.
fn is_in_doubt(error: &CallError) -> bool {
    error.is_open() && error.error().is_none_or(|error| own_verdict(&**error).is_some())
}
