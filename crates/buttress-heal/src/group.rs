use buttress_core::observe::PageKind;

use crate::chart::Chart;
use crate::siblings::{Leave, Member, Relief, Siblings};

/// One supervisor's place among its siblings.
pub(crate) struct Group {
    pub(crate) member: Member,
}

impl Group {
    pub(crate) fn join(siblings: &Siblings) -> Self {
        Self { member: siblings.join() }
    }

    /// Whether restarts are still held now that it has asked. One member pages for all.
    pub(crate) fn hold(&mut self, chart: &mut Chart) -> bool {
        // Whoever really restarts nothing and calls nobody holds nobody back, and leaves the page to one that does.
        if chart.silent {
            return self.member.would_be_held();
        }
        if self.member.ask() == Leave::Granted {
            return false;
        }
        if let Some(incident) = self.member.page() {
            chart.pages.push(PageKind::Trigger, incident, chart.span());
        }
        true
    }

    /// Resolves the page that it has sent for all, or one that has left, when the hold is over. Whether there is one that it will
    /// have to resolve.
    pub(crate) fn relieve(&mut self, chart: &mut Chart) -> bool {
        resolve(self.member.relieve(), chart)
    }

    /// It leaves the others to themselves.
    pub(crate) fn leave(self, chart: &mut Chart) {
        resolve(self.member.leave(), chart);
    }
}

fn resolve(relief: Relief, chart: &mut Chart) -> bool {
    match relief {
        Relief::None => false,
        Relief::Later => true,
        Relief::Now(incident) => {
            chart.pages.push(PageKind::Resolve, *incident, chart.span());
            false
        }
    }
}
