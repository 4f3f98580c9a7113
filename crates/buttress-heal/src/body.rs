use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::observe::{HealResult, PageKind};
use buttress_core::{Clock, Event, Mode, Timer};

use crate::action::Attempt;
use crate::chart::Chart;
use crate::check::Symptom;
use crate::connection::Connection;
use crate::failback::{Errand, WayBack};
use crate::findings::{self, Findings};
use crate::group::Group;
use crate::handle::Status;
use crate::health::Policy;
use crate::incident::{Happened, Incident, Tried};
use crate::ladder::Kind;
use crate::rounds::Rounds;
use crate::siblings::Leave;
use crate::state::{State, Step};
use crate::view::View;

const SECOND: u64 = 1_000_000_000;

/// What a supervisor knows and decides. It acts on nothing but its records: what has to be done with the factory is an
/// [`Order`] to the task.
pub(crate) struct Body<S> {
    pub(crate) clock: Clock,
    pub(crate) chart: Chart,
    pub(crate) state: State,
    pub(crate) rounds: Rounds<S>,
    pub(crate) view: View<S>,
    pub(crate) connection: Connection,
    /// Where there is more than one target.
    pub(crate) way_back: Option<Box<WayBack>>,
    pub(crate) targets: Box<[Arc<str>]>,
    pub(crate) policy: Policy,
    pub(crate) siblings: Option<Group>,
    pub(crate) seen: Findings,
    /// What the attempt under way is for; none if it is only said that it would be made.
    pub(crate) trial: Option<Vec<Symptom>>,
    pub(crate) generation: u64,
    pub(crate) target: usize,
    /// There has been a service: before, there is nothing to look at.
    pub(crate) has_begun: bool,
    pub(crate) timer: Timer,
}

/// What the task has to do.
pub(crate) enum Order {
    /// There is no service: one attempt to build one.
    Connect,
    Act(usize, Box<Attempt>),
    /// Is the first target well?
    Probe,
    FailBack,
    Stop(Duration),
    /// Nobody has the service any more.
    End,
}

/// What the task is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    No,
    /// With something that gives way to an action.
    Aside,
    Yes,
}

impl<S: Clone + Send + 'static> Body<S> {
    /// Looks around until something has to be done.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, busy: Busy) -> Poll<Order> {
        loop {
            let now = self.clock.now();
            if let Some(limit) = self.obey(cx, now) {
                return Poll::Ready(Order::Stop(limit));
            }
            if self.view.is_unused(cx) {
                return Poll::Ready(Order::End);
            }
            self.notice(now);
            let next_check = self.look(cx, now, busy);
            let (order, deadline) = self.decide(now, busy);
            // Those that were just decided too.
            while let Poll::Ready(sent) = self.chart.pages.poll(cx) {
                self.chart.sent(sent);
            }
            if let Some(order) = order {
                return Poll::Ready(order);
            }
            // What was decided may have changed what is due.
            let deadline = deadline.min(next_check).min(self.rounds_due(busy));
            if self.sleep(cx, deadline).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn sleep(&mut self, cx: &mut Context<'_>, deadline: u64) -> Poll<()> {
        if deadline == u64::MAX {
            self.timer = Timer::default();
            return Poll::Pending;
        }
        let deadline = self.clock.instant(deadline);
        if self.timer.deadline() != Some(deadline) {
            match Timer::at(deadline) {
                Ok(timer) => self.timer = timer,
                Err(_) => return Poll::Pending,
            }
        }
        let fired = self.timer.poll(cx);
        if fired.is_ready() {
            self.timer = Timer::default();
        }
        fired
    }

    pub(crate) fn mode(&self) -> Mode {
        self.chart.shared.mode.get()
    }

    /// What is to be done now, and when to ask again.
    fn decide(&mut self, now: u64, busy: Busy) -> (Option<Order>, u64) {
        let mut cause = "what the checks say";
        let wait = loop {
            if self.is_blind() {
                break u64::MAX;
            }
            let held = self.is_held();
            let seen = self.seen.seen(held);
            let step = self.state.step(now, seen);
            match step {
                Step::Wait(until) => break until.unwrap_or(u64::MAX),
                Step::Act(_) if busy == Busy::Yes => {
                    break self.state.page_at(seen).filter(|at| *at > now).unwrap_or(u64::MAX);
                }
                Step::Act(rung) => match self.begin(now, rung) {
                    Begun::Order(order) => {
                        self.show("an action begins");
                        return (Some(order), 0);
                    }
                    Begun::Would => {}
                    Begun::Held => break now + SECOND,
                },
                Step::Hold if self.siblings.as_mut().is_some_and(|group| group.hold(&mut self.chart)) => {
                    break now + SECOND;
                }
                Step::Hold => {}
                step => cause = self.record(now, step),
            }
            self.show(cause);
        };
        self.page(now, "nobody has been called yet");
        self.show(cause);
        let holds = self.siblings.as_mut().is_some_and(|group| group.relieve(&mut self.chart));
        let relief = if holds { now + SECOND } else { u64::MAX };
        let (order, deadline) = self.errands(now, busy);
        (order, wait.min(deadline).min(relief))
    }

    /// Nothing is looked at, so that an incident neither ends nor goes on; what an operator forces is carried out.
    fn is_blind(&self) -> bool {
        let is_free = !self.state.is_forced() && !self.state.verifies();
        self.mode() == Mode::Off && is_free && self.state.was_ill()
    }

    /// What is done beside the ladder.
    fn errands(&mut self, now: u64, busy: Busy) -> (Option<Order>, u64) {
        if busy != Busy::No || self.state.verifies() && self.generation != 0 {
            return (None, u64::MAX);
        }
        if self.view.signals().is_none() {
            let due = self.connection.due;
            return if due <= now { (Some(Order::Connect), 0) } else { (None, due) };
        }
        let Some(way_back) = &mut self.way_back else { return (None, u64::MAX) };
        if self.seen.paused || self.chart.silent {
            return (None, u64::MAX);
        }
        match way_back.errand(now, !self.seen.failing.is_empty()) {
            Errand::GoBack => (Some(Order::FailBack), 0),
            Errand::Probe => (Some(Order::Probe), 0),
            Errand::Wait(until) => (None, until),
        }
    }

    /// Writes down what has happened. Says what caused the change.
    fn record(&mut self, now: u64, step: Step) -> &'static str {
        match step {
            Step::Open => {
                self.chart.open(now);
                if self.state.is_forced() {
                    self.chart.note(now, Happened::Operator("an action is forced".into()));
                }
                let findings = findings::list(&self.rounds, &self.connection);
                for (check, _, evidence) in &findings {
                    let (check, evidence) = (Arc::clone(check), Arc::clone(evidence));
                    self.chart.note(now, Happened::Fell { check, evidence });
                }
                self.chart.examine(self.seen.health, findings);
                "a check fails"
            }
            Step::Relapse => {
                self.chart.recovered(now, None);
                "a check fails again"
            }
            Step::Decide { rung, started, cured_at } => {
                // When nothing is looked at, nobody knows.
                let cured_at = cured_at.filter(|_| self.mode() != Mode::Off);
                let tried = match cured_at {
                    Some(_) => Tried::Cured,
                    None if self.mode() == Mode::Off => Tried::Cancelled,
                    None => Tried::NoEffect,
                };
                self.tried(now, rung, started, tried, cured_at);
                if cured_at.is_some() {
                    "the action has helped, and it is decided anew"
                } else {
                    "the action has not helped, and it is decided anew"
                }
            }
            Step::Escalate(cause) => {
                self.chart.escalate(now, cause.as_str(), &self.seen.failing);
                self.page(now, cause.as_str());
                cause.as_str()
            }
            Step::Worse => {
                self.chart.follow_up(PageKind::Update);
                "it got worse"
            }
            Step::Recover(since) => {
                self.chart.recovered(now, Some(since));
                if let Some(group) = &self.siblings {
                    group.member.well();
                }
                "all symptoms are gone"
            }
            Step::Close { mttr } => {
                self.chart.close(mttr);
                self.view.escalate(None);
                "it has been well for long enough"
            }
            Step::Wait(_) | Step::Act(_) | Step::Hold => "",
        }
    }

    /// Calls the human that was to be called, as soon as nothing speaks against it.
    fn page(&mut self, now: u64, why: &str) {
        let waits = self.seen.paused || self.seen.failing.is_empty();
        if self.state.is_escalated() && !waits && self.chart.page(now, why) {
            self.view.escalate(self.chart.key());
        }
    }

    fn tried(&mut self, now: u64, rung: usize, started: u64, tried: Tried, cured_at: Option<u64>) {
        let name = Arc::clone(&self.state.ladder().rung(rung).name);
        let Some(symptoms) = self.trial.take() else { return };
        self.chart.tried(now, started, (&name, &symptoms), (tried, cured_at));
    }

    fn begin(&mut self, now: u64, rung: usize) -> Begun {
        let forced = self.state.is_forced();
        let restarts = self.state.ladder().rung(rung).kind == Kind::Restart;
        if let (Some(group), true, false) = (&self.siblings, restarts, forced) {
            // What is not really done is no restart of the group's.
            let held = match self.mode() {
                Mode::Enforce => group.member.ask() == Leave::Held,
                _ => group.member.would_be_held(),
            };
            if held {
                return Begun::Held;
            }
        }
        let symptoms = self.state.begin(rung, now, self.seen.seen(false));
        let name = Arc::clone(&self.state.ladder().rung(rung).name);
        if self.mode() != Mode::Enforce && !forced {
            self.would_act(now, name);
            return Begun::Would;
        }
        self.trial = Some(symptoms);
        self.chart.begin(now, &name);
        let incident = self.chart.snapshot().unwrap_or_else(|| Incident::open(&self.chart.shared.hub.name));
        let (generation, target) = (self.generation, self.target);
        let number = self.state.ladder().attempts(rung);
        let attempt = Box::new(Attempt { incident, generation, target, number });
        Begun::Order(Order::Act(rung, attempt))
    }

    fn would_act(&mut self, now: u64, action: Arc<str>) {
        self.state.acted(now, true);
        self.rounds.hurry();
        self.chart.note(now, Happened::WouldAct { action: Arc::clone(&action) });
        let incident = self.chart.key().unwrap_or_default();
        let (result, elapsed) = (HealResult::WouldAct, Duration::ZERO);
        self.chart.emit(|| Event::HealAttempt { action, result, elapsed, incident });
    }

    /// A probe of the first target has ended.
    pub(crate) fn probed(&mut self, passed: bool) {
        if let Some(way_back) = &mut self.way_back {
            way_back.probed(passed);
        }
    }

    /// The action has ended, or failed.
    pub(crate) fn acted(&mut self, rung: usize, started: u64, result: Result<(), Tried>) {
        let now = self.clock.now();
        self.notice(now);
        match result {
            Ok(()) => {
                self.state.acted(now, true);
                self.rounds.hurry();
            }
            Err(tried) => {
                self.tried(now, rung, started, tried, None);
                self.state.acted(now, false);
            }
        }
        self.show("an action has ended");
    }

    pub(crate) fn show(&mut self, cause: &'static str) {
        let status = Status {
            health: self.seen.health,
            state: self.state.name(self.seen.suspect),
            generation: self.generation,
            target: self.target,
            incident: self.chart.key(),
            paused: self.seen.paused,
        };
        self.chart.show(status, cause);
    }

    pub(crate) fn is_held(&self) -> bool {
        let group = self.siblings.as_ref().filter(|_| !self.seen.failing.is_empty());
        group.is_some_and(|group| group.member.would_be_held())
    }
}

/// What became of the intention to act.
enum Begun {
    Order(Order),
    /// Nothing is really done.
    Would,
    Held,
}
