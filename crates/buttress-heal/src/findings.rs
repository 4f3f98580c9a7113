use std::sync::Arc;

use buttress_core::observe::Health;

use crate::check::Symptom;
use crate::connection::{self, Connection};
use crate::health::Policy;
use crate::rounds::{Rounds, Slot};
use crate::state::Seen;

/// A check that fails: its name, its symptom, what it said last.
pub(crate) type Finding = (Arc<str>, Symptom, Arc<str>);

/// What the checks come to.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) health: Health,
    /// The symptoms of the checks that fail.
    pub(crate) failing: Vec<Symptom>,
    /// A check has failed, and not yet often enough to be believed.
    pub(crate) suspect: bool,
    pub(crate) paused: bool,
    /// How often in a row the check has failed that did so most often.
    pub(crate) failures: u32,
    /// Nothing fails, but of something that did, it is not known yet whether it works.
    pub(crate) unproven: bool,
}

impl Findings {
    /// Nothing is looked at.
    pub(crate) fn clear(&mut self) {
        *self = Self { paused: self.paused, ..Self::default() };
    }

    /// Takes in what the checks say.
    pub(crate) fn assess<S>(&mut self, rounds: &Rounds<S>, connection: &Connection, policy: Policy) {
        let checks = rounds.slots.iter().map(|slot| (slot.severity, slot.judge.is_down()));
        let no_connection = connection.is_down().then_some((Health::Critical, true));
        self.health = policy.judge(checks.chain(no_connection));
        self.failing.clear();
        self.failing.extend(down(rounds).map(|slot| slot.symptom.clone()));
        self.failing.extend(no_connection.map(|_| Symptom::Connectivity));
        let failures = down(rounds).map(|slot| slot.judge.failures_in_a_row());
        self.failures = failures.chain([connection.failures_in_a_row()]).max().unwrap_or(0);
        self.unproven = rounds.slots.iter().any(|slot| slot.judge.is_unproven());
        let is_turning = |slot: &Slot<S>| slot.judge.is_turning();
        self.suspect = connection.is_turning() || rounds.slots.iter().any(is_turning);
    }

    pub(crate) fn seen(&self, held: bool) -> Seen<'_> {
        Seen {
            health: self.health,
            failing: &self.failing,
            held,
            paused: self.paused,
            failures: self.failures,
            unproven: self.unproven,
        }
    }
}

/// All that fails, with the evidence.
pub(crate) fn list<S>(rounds: &Rounds<S>, connection: &Connection) -> Vec<Finding> {
    let finding =
        |slot: &Slot<S>| (slot.name(), slot.symptom.clone(), slot.evidence.clone().unwrap_or_default());
    let mut findings: Vec<_> = down(rounds).map(finding).collect();
    if connection.is_down() {
        let evidence = connection.evidence().cloned().unwrap_or_default();
        findings.push((connection::NAME.into(), Symptom::Connectivity, evidence));
    }
    findings
}

/// The checks that fail, but for those that do no harm.
fn down<S>(rounds: &Rounds<S>) -> impl Iterator<Item = &Slot<S>> {
    rounds.slots.iter().filter(|slot| slot.judge.is_down() && slot.severity != Health::Healthy)
}
