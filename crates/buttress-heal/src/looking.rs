use std::task::Context;

use buttress_core::{Event, Mode};

use crate::body::{Body, Busy};
use crate::connection;
use crate::findings;
use crate::incident::{Happened, Tried};
use crate::rounds::{Pace, Patient};

/// What is seen.
impl<S: Clone + Send + 'static> Body<S> {
    /// Whether there is anything to look at. That there is no service while one is replaced is no finding.
    pub(crate) fn looks(&self, busy: Busy) -> bool {
        let is_replaced = self.generation == 0 && busy == Busy::Yes;
        self.has_begun && !is_replaced && self.mode() != Mode::Off
    }

    pub(crate) fn rounds_due(&self, busy: Busy) -> u64 {
        if self.looks(busy) { self.rounds.next_due() } else { u64::MAX }
    }

    /// Runs the checks that are due, and believes what has been seen often enough. Says when the next one is due.
    pub(crate) fn look(&mut self, cx: &mut Context<'_>, now: u64, busy: Busy) -> u64 {
        if self.view.is_suspected(cx) {
            self.rounds.hurry();
        }
        if !self.looks(busy) {
            return u64::MAX;
        }
        let heals = !self.seen.failing.is_empty() && !self.state.is_escalated();
        let pace = if heals || self.state.verifies() { Pace::InDoubt } else { Pace::Usual };
        let view = self.view.clone();
        let patient = || {
            let (generation, target, service) = match view.current() {
                Some((generation, target, service)) => (generation, target, Some(service)),
                None => (0, 0, None),
            };
            Patient { service, generation, target, traffic: view.signals().unwrap_or_default() }
        };
        while let Some(answered) = self.rounds.poll(cx, now, pace, patient) {
            let slot = &self.rounds.slots[answered.slot];
            if answered.is_news {
                self.chart.emit(|| Event::Checked { check: slot.name(), answer: answered.answer });
            }
            let happened = answered.change.map(|change| change.of(slot.name(), slot.evidence.as_ref()));
            self.changed(now, happened);
        }
        self.rounds.next_due()
    }

    fn changed(&mut self, now: u64, happened: Option<Happened>) {
        self.reassess();
        if let Some(happened) = happened {
            self.chart.note(now, happened);
        }
    }

    /// What the checks come to.
    pub(crate) fn reassess(&mut self) {
        if self.mode() == Mode::Off {
            return self.seen.clear();
        }
        self.seen.assess(&self.rounds, &self.connection, self.policy);
        if self.chart.key().is_some() {
            self.chart.examine(self.seen.health, findings::list(&self.rounds, &self.connection));
        }
    }

    /// Whether calls use another generation than before.
    pub(crate) fn notice(&mut self, now: u64) {
        let generation = self.view.signals().map_or(0, |signals| signals.generation());
        if generation == self.generation {
            return;
        }
        self.generation = generation;
        let Some(target) = self.view.target() else { return };
        (self.target, self.has_begun) = (target, true);
        if let Some(way_back) = &mut self.way_back {
            way_back.moved(now, target);
        }
        self.rounds.new_generation(now);
        self.connected(&Ok(()), now);
        self.chart.emit(|| Event::Swapped { generation, target });
        let target = self.targets.get(target).cloned().unwrap_or_else(|| "its target".into());
        self.chart.note(now, Happened::Swapped { generation, target });
    }

    /// An attempt to build a service has ended.
    pub(crate) fn connected(&mut self, result: &Result<(), Tried>, now: u64) {
        let change = self.connection.tried(result, now);
        let evidence = self.connection.evidence();
        let happened = change.map(|change| change.of(connection::NAME.into(), evidence));
        self.changed(now, happened);
    }
}
