//! One run: servers where the vendors are not real, clients, the agent, and what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use buttress::core::Observe;
use buttress::{BoxError, HttpLayer};

use crate::agent::Agent;
use crate::args::Targets;
use crate::chaos::Chaos;
use crate::clients::{Pace, bare, protected, stack};
use crate::console::Console;
use crate::incident::Incident;
use crate::input::BadInput;
use crate::patience::Patience;
use crate::report::Run;
use crate::servers::Servers;
use crate::tally::Tally;
use crate::timeline::Timeline;
use crate::vendors::aws::{self, Ecs};
use crate::vendors::datadog::{self, Datadog};
use crate::vendors::pagerduty::{self, PagerDuty};
use crate::vendors::{Api, Vendor};

/// What a run is about.
pub(crate) struct Plan<'a> {
    pub(crate) incident: &'a Incident,
    pub(crate) chaos: &'a Chaos,
    pub(crate) targets: &'a Targets,
    pub(crate) console: Console,
}

impl Plan<'_> {
    /// Handles the incident with Buttress.
    pub(crate) async fn with_buttress(&self) -> Result<Run, BoxError> {
        let timeline = Arc::new(Timeline::start(self.console));
        let tally = Arc::new(Tally::start());
        let mut stacks = BTreeMap::new();
        for vendor in Vendor::ALL {
            let observers: [Arc<dyn Observe>; 2] = [timeline.clone(), tally.clone()];
            stacks.insert(vendor, stack(vendor, self.targets.pace(vendor), observers)?);
        }
        let client = |vendor| protected(vendor, &stacks[&vendor], &timeline);
        let mut run = self.handle(client, &timeline).await?;
        run.count(tally.counts(), states(&stacks));
        Ok(run)
    }

    /// The same with the bare client.
    pub(crate) async fn without_buttress(&self) -> Result<Run, BoxError> {
        let timeline = Arc::new(Timeline::start(self.console));
        self.handle(|vendor| bare(vendor, &timeline), &timeline).await
    }

    /// The code of both runs.
    async fn handle<S: Api>(
        &self,
        client: impl Fn(Vendor) -> S,
        timeline: &Timeline,
    ) -> Result<Run, BoxError> {
        let servers = Servers::start(self.incident, self.chaos, self.targets.is_real(Vendor::Aws)).await?;
        let Targets { datadog, aws, pagerduty } = self.targets;
        let local = |vendor| servers.base(vendor);
        let datadog = datadog.clone().unwrap_or_else(|| datadog::Access::embedded(local(Vendor::Datadog)));
        let aws = aws.clone().unwrap_or_else(|| aws::Access::embedded(local(Vendor::Aws)));
        let pagerduty =
            pagerduty.clone().unwrap_or_else(|| pagerduty::Access::embedded(local(Vendor::PagerDuty)));
        let agent = Agent {
            incident: self.incident,
            datadog: Datadog::new(client(Vendor::Datadog), datadog),
            ecs: Ecs::new(client(Vendor::Aws), aws),
            pagerduty: PagerDuty::new(client(Vendor::PagerDuty), pagerduty),
            patience: Patience::of(self.pace()),
            timeline,
        };
        let (outcome, steps) = agent.handle().await;
        Ok(Run::new(outcome, steps, timeline.elapsed(), &servers, self.targets))
    }

    /// Chaos for a real vendor would do nothing, and whoever wrote it should know.
    pub(crate) fn check(&self) -> Result<(), BadInput> {
        let is_own = !matches!(self.chaos.name(), "none" | "default");
        let concerned =
            |vendor: &Vendor| is_own && self.targets.is_real(*vendor) && self.chaos.concerns(*vendor);
        let Some(vendor) = Vendor::ALL.into_iter().find(concerned) else { return Ok(()) };
        let vendor = vendor.as_str();
        let problem =
            format!("`layers.{vendor}` has rules, but --{vendor}-url points at a server that follows none");
        Err(BadInput::new(self.chaos.name(), problem, format!("remove `layers.{vendor}` or --{vendor}-url")))
    }

    /// Says what is about to happen.
    pub(crate) fn introduce(&self) {
        let Incident { title, id, cluster, ecs_service, .. } = self.incident;
        self.console.line(&format!("incident   {title}"));
        self.console
            .line(&format!("           PagerDuty {id}, ECS service {ecs_service} in cluster {cluster}"));
        for vendor in Vendor::ALL {
            let name = vendor.as_str();
            self.console.line(&match (self.targets.is_real(vendor), self.chaos.describe(vendor)) {
                (true, _) => format!("{name:<9}  yours"),
                (false, None) => format!("{name:<9}  embedded server, no chaos"),
                (false, Some(chaos)) => format!("{name:<9}  embedded server: {chaos}"),
            });
        }
    }

    fn pace(&self) -> Pace {
        if self.targets.all_embedded() { Pace::Demonstration } else { Pace::Production }
    }
}

fn states(stacks: &BTreeMap<Vendor, HttpLayer>) -> BTreeMap<&'static str, &'static str> {
    let state = |stack: &HttpLayer| stack.circuit_breaker().handle().state().as_str();
    stacks.iter().map(|(vendor, stack)| (vendor.as_str(), state(stack))).collect()
}
