//! What stands between the agent and its vendors: with Buttress, and without.

use std::collections::BTreeMap;
use std::sync::Arc;

use buttress::core::Observe;
use buttress::degrade::{Component, DegradationRegistry, Need};
use buttress::{BoxError, ConfigError, HttpLayer};

use crate::agent::Agent;
use crate::args::Targets;
use crate::board::Board;
use crate::clients::{Pace, Reach, bare, protected, stack};
use crate::crash::Crash;
use crate::incident::Incident;
use crate::patience::Patience;
use crate::tally::Tally;
use crate::timeline::Timeline;
use crate::vendors::aws::{self, Ecs};
use crate::vendors::datadog::{self, Datadog};
use crate::vendors::pagerduty::{self, PagerDuty};
use crate::vendors::service::{self, Service};
use crate::vendors::{Base, Client, Vendor};
use crate::{facts, healed};

/// What the agent needs, whatever its clients are made of.
pub(crate) struct Kit<'a> {
    pub(crate) incident: &'a Arc<Incident>,
    pub(crate) targets: &'a Targets,
    /// Where the embedded vendors are, in the order of [`Vendor::ALL`].
    pub(crate) bases: &'a [Base],
    pub(crate) reach: &'a Reach,
    pub(crate) patience: Patience,
    pub(crate) timeline: &'a Arc<Timeline>,
    pub(crate) crash: &'a Arc<Crash>,
}

/// The agent's stacks, and what is counted about them.
pub(crate) struct Shield {
    stacks: BTreeMap<Vendor, HttpLayer>,
    components: BTreeMap<Vendor, Component>,
    /// The components report to it for as long as it lives.
    _registry: DegradationRegistry,
    pub(crate) tally: Arc<Tally>,
}

impl Kit<'_> {
    fn at_datadog(&self) -> datadog::Access {
        let embedded = || datadog::Access::embedded(self.base(Vendor::Datadog));
        self.targets.datadog.clone().unwrap_or_else(embedded)
    }

    fn service(&self, client: Client) -> Service {
        let embedded = || service::Access::embedded(self.base(Vendor::Service));
        Service::new(client, self.targets.service.clone().unwrap_or_else(embedded))
    }

    fn base(&self, vendor: Vendor) -> Base {
        self.bases[vendor as usize].clone()
    }

    fn agent(
        &self,
        ask: facts::Ask,
        service: Service,
        aws: Client,
        pagerduty: Client,
        has_stacks: bool,
    ) -> Arc<Agent> {
        let at_aws = || aws::Access::embedded(self.base(Vendor::Aws));
        let at_pagerduty = || pagerduty::Access::embedded(self.base(Vendor::PagerDuty));
        Arc::new(Agent {
            incident: Arc::clone(self.incident),
            ask,
            ecs: Ecs::new(aws, self.targets.aws.clone().unwrap_or_else(at_aws)),
            service,
            pagerduty: PagerDuty::new(pagerduty, self.targets.pagerduty.clone().unwrap_or_else(at_pagerduty)),
            patience: Patience { has_stacks, ..self.patience },
            timeline: Arc::clone(self.timeline),
            crash: Arc::clone(self.crash),
        })
    }

    /// The agent with bare clients.
    pub(crate) fn unprotected(&self) -> Arc<Agent> {
        let client = |vendor| bare(vendor, self.reach, self.timeline);
        let ask = facts::bare(Datadog::new(client(Vendor::Datadog), self.at_datadog()), self.incident);
        let service = self.service(client(Vendor::Service));
        self.agent(ask, service, client(Vendor::Aws), client(Vendor::PagerDuty), false)
    }
}

impl Shield {
    /// A stack for each vendor, at the pace that it is to have.
    pub(crate) fn new(
        pace: impl Fn(Vendor) -> Pace,
        seed: Option<u64>,
        timeline: &Arc<Timeline>,
    ) -> Result<Self, ConfigError> {
        let tally = Arc::new(Tally::start());
        let observers = Self::observers(timeline, &tally);
        let registry = DegradationRegistry::new("agent").observe(Arc::new(observers.clone()));
        let (mut stacks, mut components) = (BTreeMap::new(), BTreeMap::new());
        for vendor in Vendor::ALL {
            stacks.insert(vendor, stack(vendor, pace(vendor), seed, observers.clone())?);
            components.insert(vendor, registry.component(vendor.as_str(), Need::Weight(1)));
        }
        Ok(Self { stacks, components, _registry: registry, tally })
    }

    fn observers(timeline: &Arc<Timeline>, tally: &Arc<Tally>) -> Vec<Arc<dyn Observe>> {
        vec![Arc::<Timeline>::clone(timeline), Arc::<Tally>::clone(tally)]
    }

    /// The agent behind these stacks.
    pub(crate) fn agent(&self, kit: &Kit<'_>) -> Result<Arc<Agent>, BoxError> {
        let component = |vendor| self.components[&vendor].clone();
        let observers = Self::observers(kit.timeline, &self.tally);
        let pace = |vendor| kit.targets.pace(vendor);
        let client = |vendor: Vendor| {
            let healed = healed::client(vendor, kit.reach, pace(vendor), observers.clone())?;
            let component = Some(component(vendor));
            Ok::<_, BoxError>(protected(vendor, healed, &self.stacks[&vendor], kit.timeline, component))
        };
        let service = kit.service(client(Vendor::Service)?);
        let access = kit.at_datadog();
        let healed = healed::datadog(&access, kit.reach, pace(Vendor::Datadog), observers.clone())?;
        // How good Datadog's answers are is for those who answer in its place to say.
        let datadog = protected(Vendor::Datadog, healed, &self.stacks[&Vendor::Datadog], kit.timeline, None);
        let datadog = Datadog::new(datadog, access);
        // An embedded service knows nothing of the one that a real Datadog watches.
        let same = kit.targets.is_real(Vendor::Datadog) == kit.targets.is_real(Vendor::Service);
        let own = same.then(|| service.clone());
        let ask =
            facts::protected(datadog, own, kit.incident, component(Vendor::Datadog), observers.clone())?;
        Ok(kit.agent(ask, service, client(Vendor::Aws)?, client(Vendor::PagerDuty)?, true))
    }

    /// Shows on a board how the stacks are.
    pub(crate) fn show(&self, timeline: &Timeline) {
        let components: Vec<Component> = self.components.values().cloned().collect();
        timeline.show_on(Board::new(timeline.console(), &components));
    }

    /// The states in which the circuits are now.
    pub(crate) fn states(&self) -> BTreeMap<&'static str, &'static str> {
        let state = |stack: &HttpLayer| stack.circuit_breaker().handle().state().as_str();
        self.stacks.iter().map(|(vendor, stack)| (vendor.as_str(), state(stack))).collect()
    }
}
