use std::sync::Arc;
use std::time::Duration;

use buttress_core::observe::{Health, PageKind};

use crate::chart::Chart;
use crate::check::Symptom;
use crate::incident::Incident;
use crate::siblings::{Leave, Member, Siblings};

/// One supervisor's place among its siblings, and the page that it has sent for all of them.
pub(crate) struct Group {
    pub(crate) member: Member,
    /// And when.
    paged: Option<(Incident, u64)>,
}

impl Group {
    pub(crate) fn join(siblings: &Siblings) -> Box<Self> {
        Box::new(Self { member: siblings.join(), paged: None })
    }

    /// Whether restarts are still held now that it has asked. One member pages for all.
    pub(crate) fn hold(&mut self, now: u64, chart: &mut Chart) -> bool {
        if self.member.ask() == Leave::Granted {
            return false;
        }
        // Whoever calls nobody leaves the page to one that does.
        if chart.silent {
            return true;
        }
        let Some((hold, in_trouble, members)) = self.member.pages() else { return true };
        let siblings = self.member.siblings();
        let name = siblings.name();
        let evidence = format!(
            "{in_trouble} of {members} want to restart: restarts are held, what they depend on is ill"
        );
        let incident = Incident::new(siblings.key(hold), Arc::clone(name), Health::Critical);
        let incident = incident.with_symptom(Arc::clone(name), Symptom::Connectivity, evidence);
        self.paged = Some((incident.clone(), now));
        chart.pages.push(PageKind::Trigger, incident, chart.span());
        true
    }

    /// Resolves the page that it has sent for all, when the hold is over. Whether there is one that it will have to resolve.
    pub(crate) fn relieve(&mut self, now: u64, chart: &mut Chart) -> bool {
        if self.paged.is_none() || !self.member.is_relieved() {
            return self.paged.is_some();
        }
        if let Some((incident, since)) = self.paged.take() {
            let lasted = Duration::from_nanos(now.saturating_sub(since));
            chart.pages.push(PageKind::Resolve, incident.ended(lasted), chart.span());
        }
        false
    }
}
