use std::time::Duration;

use buttress_core::clock::nanos;
use buttress_core::observe::{HealState, Health};

use crate::check::Symptom;
use crate::ladder::{Choice, Ladder};

/// What the checks come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) health: Health,
    /// The symptoms of the checks that fail.
    pub(crate) failing: &'a [Symptom],
    /// Most siblings are in trouble too.
    pub(crate) held: bool,
    /// By an operator.
    pub(crate) paused: bool,
    /// How often in a row the check has failed that did so most often.
    pub(crate) failures: u32,
    /// Nothing fails any more, and nothing has passed yet.
    pub(crate) unproven: bool,
}

impl Seen<'_> {
    fn is_ill(&self) -> bool {
        !self.failing.is_empty()
    }
}

/// What is to be done. Everything but `Wait` and `Act` is news, after which one asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing, until something is seen or this time has come.
    Wait(Option<u64>),
    /// An incident begins.
    Open,
    /// The symptoms are back before it was over.
    Relapse,
    /// This rung is to be tried: [`State::begin`], then [`State::acted`].
    Act(usize),
    /// Restarts are held.
    Hold,
    /// It is known whether an attempt has helped, and when its symptoms were gone.
    Decide { rung: usize, started: u64, cured_at: Option<u64> },
    /// A human is to be called.
    Escalate(Cause),
    /// A human was called, and it got worse.
    Worse,
    /// All symptoms are gone, since then.
    Recover(u64),
    /// They have been gone for long enough. `mttr`: the time until they were; none if there were none.
    Close { mttr: Option<u64> },
}

/// Why a human is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    NothingHelped,
    TooLong,
    TooOften,
}

impl Cause {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NothingHelped => "nothing that may be tried has helped",
            Self::TooLong => "it has lasted too long",
            Self::TooOften => "a check has failed too often",
        }
    }
}

/// The course of an illness, without a clock, a lock or a task: it is told what is seen, and says what to do.
#[derive(Debug)]
pub(crate) struct State {
    ladder: Ladder,
    stable_for: u64,
    page_after: u64,
    /// So many failures in a row.
    page_after_failures: Option<u32>,
    phase: Phase,
    incident: Option<Box<Course>>,
    /// By an operator: what is tried next, whatever speaks against it, in order.
    forced: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// No incident.
    Well,
    Ill,
    Healing(Box<Trial>),
    Verifying {
        trial: Box<Trial>,
        until: u64,
    },
    Recovering {
        since: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Trial {
    rung: usize,
    started: u64,
    symptoms: Vec<Symptom>,
}

#[derive(Clone, Debug)]
struct Course {
    opened: u64,
    /// Since when there is no symptom.
    clear_since: Option<u64>,
    was_ill: bool,
    /// The health that a human knows of.
    paged: Option<Health>,
    /// An attempt after which nothing fails, and nothing has passed yet: nobody knows whether it has helped.
    unproven: Option<Box<Trial>>,
}

impl State {
    pub(crate) fn new(
        ladder: Ladder,
        stable_for: Duration,
        page_after: Duration,
        page_after_failures: Option<u32>,
    ) -> Self {
        let (stable_for, page_after) = (nanos(stable_for), nanos(page_after));
        Self {
            ladder,
            stable_for,
            page_after,
            page_after_failures,
            phase: Phase::Well,
            incident: None,
            forced: Vec::new(),
        }
    }

    pub(crate) fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    pub(crate) fn is_escalated(&self) -> bool {
        self.incident.as_ref().is_some_and(|course| course.paged.is_some())
    }

    /// Whether something was seen in this incident.
    pub(crate) fn was_ill(&self) -> bool {
        self.incident.as_ref().is_some_and(|course| course.was_ill)
    }

    /// Whether the next answers of the checks matter more than usual.
    pub(crate) fn verifies(&self) -> bool {
        matches!(self.phase, Phase::Verifying { .. })
    }

    pub(crate) fn name(&self, suspect: bool) -> HealState {
        match self.phase {
            Phase::Well if suspect => HealState::Suspect,
            Phase::Well => HealState::Healthy,
            Phase::Ill if self.is_escalated() => HealState::Escalated,
            Phase::Ill => HealState::Ill,
            Phase::Healing(_) => HealState::Healing,
            Phase::Verifying { .. } => HealState::Verifying,
            Phase::Recovering { .. } => HealState::Recovering,
        }
    }

    pub(crate) fn is_forced(&self) -> bool {
        !self.forced.is_empty()
    }

    /// An operator wants this rung to be tried, whatever speaks against it, after those that already wait for that.
    pub(crate) fn force(&mut self, rung: usize) {
        if !self.forced.contains(&rung) {
            self.forced.push(rung);
        }
    }

    /// What is to be done. To be asked again after each answer but [`Step::Wait`].
    pub(crate) fn step(&mut self, now: u64, seen: Seen<'_>) -> Step {
        self.watch(now, seen);
        if let Some(step) = self.operator_or_page(now, seen).or_else(|| self.proven(now, seen)) {
            return step;
        }
        match &self.phase {
            Phase::Well if seen.is_ill() => self.open(now),
            Phase::Well => Step::Wait(None),
            Phase::Healing(_) => self.wait_or_page(now, seen, None),
            Phase::Ill if !seen.is_ill() => {
                let since = self.incident.as_ref().and_then(|course| course.clear_since).unwrap_or(now);
                self.phase = Phase::Recovering { since };
                Step::Recover(since)
            }
            Phase::Ill if seen.paused => Step::Wait(None),
            Phase::Ill => self.choose(now, seen),
            Phase::Verifying { until, .. } if now < *until => {
                let until = *until;
                self.wait_or_page(now, seen, Some(until))
            }
            Phase::Verifying { trial, .. } => {
                let trial = trial.clone();
                self.phase = Phase::Ill;
                match &mut self.incident {
                    Some(course) if seen.unproven && !seen.is_ill() => {
                        course.unproven = Some(trial);
                        self.step(now, seen)
                    }
                    _ => self.decide(&trial, now, seen),
                }
            }
            Phase::Recovering { .. } if seen.is_ill() => {
                self.phase = Phase::Ill;
                Step::Relapse
            }
            // Where there are no calls, it is not over.
            Phase::Recovering { .. } if seen.unproven => {
                self.phase = Phase::Recovering { since: now };
                Step::Wait(None)
            }
            Phase::Recovering { since } => {
                let over = since.saturating_add(self.stable_for);
                if now < over { Step::Wait(Some(over)) } else { self.close() }
            }
        }
    }

    /// The rung that [`Step::Act`] named is tried from now on. Says which symptoms it is for.
    pub(crate) fn begin(&mut self, rung: usize, now: u64, seen: Seen<'_>) -> Vec<Symptom> {
        self.ladder.begin(rung, now);
        self.forced.retain(|forced| *forced != rung);
        if let Some(course) = &mut self.incident {
            course.unproven = None;
        }
        let fixes = &self.ladder.rung(rung).fixes;
        let symptoms: Vec<_> = seen.failing.iter().filter(|symptom| fixes.helps(symptom)).cloned().collect();
        let trial = Trial { rung, started: now, symptoms: symptoms.clone() };
        self.phase = Phase::Healing(Box::new(trial));
        symptoms
    }

    /// The action has ended. Whether it helped is seen later; if it failed, that is decided.
    pub(crate) fn acted(&mut self, now: u64, ended_well: bool) {
        let Phase::Healing(trial) = std::mem::replace(&mut self.phase, Phase::Ill) else { return };
        if ended_well {
            let verify = nanos(self.ladder.rung(trial.rung).limits.verify);
            self.phase = Phase::Verifying { trial, until: now.saturating_add(verify) };
        }
    }

    /// Whether an attempt has helped is known now.
    fn decide(&self, trial: &Trial, now: u64, seen: Seen<'_>) -> Step {
        let Trial { rung, started, symptoms } = trial;
        let cured = !symptoms.iter().any(|symptom| seen.failing.contains(symptom));
        let clear_since = self.incident.as_ref().and_then(|course| course.clear_since);
        let cured_at = cured.then(|| clear_since.unwrap_or(now));
        Step::Decide { rung: *rung, started: *started, cured_at }
    }

    /// Of an attempt of which that was not known, it is known now.
    fn proven(&mut self, now: u64, seen: Seen<'_>) -> Option<Step> {
        let is_known = seen.is_ill() || !seen.unproven;
        let trial = self.incident.as_mut()?.unproven.take_if(|_| is_known)?;
        Some(self.decide(&trial, now, seen))
    }

    fn watch(&mut self, now: u64, seen: Seen<'_>) {
        let Some(course) = &mut self.incident else { return };
        if seen.is_ill() {
            (course.clear_since, course.was_ill) = (None, true);
        } else if !seen.unproven {
            course.clear_since.get_or_insert(now);
        }
    }

    fn operator_or_page(&mut self, now: u64, seen: Seen<'_>) -> Option<Step> {
        let is_free = !matches!(self.phase, Phase::Healing(_) | Phase::Verifying { .. });
        match self.forced.first() {
            Some(_) if is_free && self.incident.is_none() => Some(self.open(now)),
            Some(&rung) if is_free => Some(Step::Act(rung)),
            _ if seen.paused => None,
            _ => self.worse(seen),
        }
    }

    fn worse(&mut self, seen: Seen<'_>) -> Option<Step> {
        let paged = self.incident.as_mut()?.paged.as_mut()?;
        if seen.health <= *paged {
            return None;
        }
        *paged = seen.health;
        Some(Step::Worse)
    }

    fn open(&mut self, now: u64) -> Step {
        self.phase = Phase::Ill;
        let course = Course { opened: now, clear_since: None, was_ill: false, paged: None, unproven: None };
        self.incident = Some(Box::new(course));
        Step::Open
    }

    /// When it will have lasted too long. While restarts are held, the group's page speaks for all.
    pub(crate) fn page_at(&self, seen: Seen<'_>) -> Option<u64> {
        let waits = seen.is_ill() && !seen.paused && !seen.held;
        let course = self.incident.as_ref().filter(|course| waits && course.paged.is_none())?;
        Some(course.opened.saturating_add(self.page_after))
    }

    /// Why a human is to be called now, whatever the ladder still has to offer.
    fn why_page(&self, now: u64, seen: Seen<'_>) -> Option<Cause> {
        let page_at = self.page_at(seen)?;
        let too_often = self.page_after_failures.is_some_and(|most| seen.failures >= most);
        let too_long = (page_at <= now).then_some(Cause::TooLong);
        if too_often { Some(Cause::TooOften) } else { too_long }
    }

    /// An action is under way, or it is seen whether it has helped: a human does not wait for that.
    fn wait_or_page(&mut self, now: u64, seen: Seen<'_>, until: Option<u64>) -> Step {
        let (page_at, cause) = (self.page_at(seen), self.why_page(now, seen));
        match (&mut self.incident, cause) {
            (Some(course), Some(cause)) => {
                course.paged = Some(seen.health);
                Step::Escalate(cause)
            }
            _ => Step::Wait(until.into_iter().chain(page_at).min()),
        }
    }

    fn choose(&mut self, now: u64, seen: Seen<'_>) -> Step {
        let choice = self.ladder.choose(now, seen.failing, seen.held);
        let (page_at, due) = (self.page_at(seen).unwrap_or(u64::MAX), self.why_page(now, seen));
        let Some(course) = &mut self.incident else { return Step::Wait(None) };
        let cause = match (due, choice) {
            (Some(cause), _) => cause,
            (None, Choice::Nothing(_)) if course.paged.is_none() => Cause::NothingHelped,
            (None, Choice::Nothing(next)) => {
                let is_news = self.ladder.give_up(now);
                return if is_news { self.choose(now, seen) } else { Step::Wait(next) };
            }
            (None, Choice::Run(rung)) => return Step::Act(rung),
            (None, Choice::Wait(until)) => return Step::Wait(Some(until.min(page_at))),
            (None, Choice::Held) => return Step::Hold,
        };
        course.paged = Some(seen.health);
        if cause == Cause::NothingHelped {
            self.ladder.give_up(now);
        }
        Step::Escalate(cause)
    }

    fn close(&mut self) -> Step {
        self.phase = Phase::Well;
        self.ladder.reset();
        let Some(course) = self.incident.take() else { return Step::Wait(None) };
        let clear_since = course.clear_since.unwrap_or(course.opened);
        let mttr = course.was_ill.then(|| clear_since.saturating_sub(course.opened));
        Step::Close { mttr }
    }
}

#[cfg(test)]
mod tests;
