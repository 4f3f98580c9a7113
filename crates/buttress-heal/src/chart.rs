use std::sync::Arc;
use std::time::Duration;

use buttress_core::Event;
use buttress_core::observe::{HealState, Health, PageKind};
use tracing::{Span, info_span};

use crate::check::Symptom;
use crate::findings::Finding;
use crate::handle::{Shared, Status};
use crate::incident::{Happened, Incident, Tried};
use crate::pager::Pager;
use crate::pages::{Pages, Sent};

/// What is written down about a patient, and who is told: the incident, its pages, the ledger, events, the status.
pub(crate) struct Chart {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pages: Pages,
    incident: Option<Box<Open>>,
    /// Pages are decided and not sent.
    pub(crate) silent: bool,
}

/// Whoever watches learns that there is nothing more to come, however it ends.
impl Drop for Chart {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// The incident under way.
struct Open {
    key: Arc<str>,
    opened: u64,
    span: Span,
    attempts: u32,
    /// The pager was told.
    paged: bool,
}

impl Chart {
    pub(crate) fn new(shared: Arc<Shared>, pager: Arc<dyn Pager>) -> Self {
        Self { shared, pages: Pages::new(pager), incident: None, silent: false }
    }

    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        let hub = &self.shared.hub;
        hub.observer.emit(&hub.name, event);
    }

    pub(crate) fn key(&self) -> Option<Arc<str>> {
        self.incident.as_ref().map(|open| Arc::clone(&open.key))
    }

    pub(crate) fn span(&self) -> Span {
        self.incident.as_ref().map_or_else(Span::none, |open| open.span.clone())
    }

    /// The incident as it is.
    pub(crate) fn snapshot(&self) -> Option<Incident> {
        self.shared.record().current.as_deref().cloned()
    }

    pub(crate) fn open(&mut self, now: u64) {
        let incident = Incident::open(&self.shared.hub.name);
        let (service, key) = (&*self.shared.hub.name, Arc::clone(&incident.key));
        let span = info_span!(target: "buttress", parent: None, "incident", service, incident = &*key);
        self.incident = Some(Box::new(Open { key, opened: now, span, attempts: 0, paged: false }));
        self.shared.record().current = Some(Box::new(incident));
    }

    /// What fails now.
    pub(crate) fn examine(&mut self, health: Health, findings: Vec<Finding>) {
        self.change(|incident| {
            incident.is_now(health);
            incident.symptoms = findings;
        });
    }

    pub(crate) fn note(&mut self, now: u64, happened: Happened) {
        let Some(open) = &self.incident else { return };
        let after = Duration::from_nanos(now.saturating_sub(open.opened));
        open.span.in_scope(|| tracing::info!(target: "buttress", "{happened}"));
        self.change(|incident| incident.note(after, happened));
    }

    pub(crate) fn begin(&mut self, now: u64, action: &Arc<str>) {
        if let Some(open) = &mut self.incident {
            open.attempts += 1;
        }
        self.note(now, Happened::Acted { action: Arc::clone(action) });
    }

    /// An attempt was decided: `symptoms` are what it was for.
    pub(crate) fn tried(
        &mut self,
        now: u64,
        started: u64,
        (action, symptoms): (&Arc<str>, &[Symptom]),
        (tried, cured_at): (Tried, Option<u64>),
    ) {
        let after = |at: u64| Duration::from_nanos(at.saturating_sub(started));
        {
            let mut record = self.shared.record();
            symptoms.iter().for_each(|symptom| record.ledger.record(symptom, action, cured_at.map(after)));
        }
        let (result, elapsed) = (tried.result(), after(cured_at.unwrap_or(now)));
        self.note(now, Happened::Tried { action: Arc::clone(action), tried });
        let Some(incident) = self.key() else { return };
        self.emit(|| Event::HealAttempt { action: Arc::clone(action), result, elapsed, incident });
    }

    pub(crate) fn escalate(&mut self, now: u64, why: &str, failing: &[Symptom]) {
        if self.silent {
            self.note(now, Happened::WouldEscalate(why.into()));
        }
        {
            let mut record = self.shared.record();
            let entries = record.ledger.entries().iter();
            let known = entries.filter(|entry| failing.contains(entry.symptom()));
            let lines = known.map(ToString::to_string).collect();
            if let Some(incident) = &mut record.current {
                incident.ledger = lines;
            }
        }
    }

    /// All symptoms have been gone since then, or are back.
    pub(crate) fn recovered(&mut self, now: u64, since: Option<u64>) {
        let Some(open) = &self.incident else { return };
        let after = since.map(|since| Duration::from_nanos(since.saturating_sub(open.opened)));
        self.change(|incident| incident.recovered_after = after);
        if since.is_some() {
            self.note(now, Happened::Recovered);
        }
    }

    pub(crate) fn close(&mut self, mttr: Option<u64>) {
        self.change(|incident| incident.over = true);
        self.follow_up(PageKind::Resolve);
        self.shared.record().close();
        let Some(open) = self.incident.take() else { return };
        if let Some(mttr) = mttr {
            let (incident, mttr, attempts) = (open.key, Duration::from_nanos(mttr), open.attempts);
            self.emit(|| Event::Healed { incident, mttr, attempts });
        }
    }

    /// Calls a human for this reason, unless nothing is to be done or somebody was called. Whether that is news.
    pub(crate) fn page(&mut self, now: u64, why: &str) -> bool {
        let Some(open) = self.incident.as_mut().filter(|open| !open.paged && !self.silent) else {
            return false;
        };
        open.paged = true;
        self.note(now, Happened::Escalated(why.into()));
        self.change(|incident| incident.escalated = true);
        if let Some(incident) = self.snapshot() {
            self.pages.push(PageKind::Trigger, incident, self.span());
        }
        true
    }

    /// Tells more to a human who was called, and to nobody else.
    pub(crate) fn follow_up(&mut self, kind: PageKind) {
        let is_paged = self.incident.as_ref().is_some_and(|open| open.paged);
        if let Some(incident) = self.snapshot().filter(|_| is_paged) {
            self.pages.push(kind, incident, self.span());
        }
    }

    pub(crate) fn sent(&self, sent: Sent) {
        let Sent { key, kind, success } = sent;
        self.emit(|| Event::Paged { incident: key, kind, success });
    }

    /// Shows how things are, and reports a change of the state.
    pub(crate) fn show(&mut self, status: Status, cause: &'static str) {
        let Some(before) = self.shared.show(&status) else { return };
        if (before.state, before.health) == (status.state, status.health) {
            return;
        }
        let attempts = self.incident.as_ref().map_or(0, |open| open.attempts);
        let (from, to): (HealState, HealState) = (before.state, status.state);
        let Status { health, generation, incident, .. } = status;
        self.emit(|| Event::Heal { from, to, health, cause, generation, incident, attempts });
    }

    fn change(&self, change: impl FnOnce(&mut Incident)) {
        if let Some(incident) = &mut self.shared.record().current {
            change(incident);
        }
    }
}
