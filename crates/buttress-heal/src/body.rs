use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::clock::nanos;
use buttress_core::observe::{HealResult, Health, PageKind};
use buttress_core::{Backoff, Clock, Delays, Event, Jitter, Mode, Timer};

use crate::BoxFuture;
use crate::action::{Attempt, Limits};
use crate::chart::{Chart, Finding};
use crate::check::{Answer, CheckSettings, Symptom};
use crate::failback::Hysteresis;
use crate::handle::{Command, Explanation, NoSuchRung, Status};
use crate::health::Policy;
use crate::incident::{Happened, Incident, Tried};
use crate::judge::{Change, Judge};
use crate::ladder::{Fit, Kind};
use crate::rounds::{Pace, Patient, Rounds};
use crate::siblings::{Leave, Member};
use crate::state::{Seen, State, Step};
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
    pub(crate) hysteresis: Hysteresis,
    pub(crate) probe_every: u64,
    pub(crate) probe_at: u64,
    pub(crate) targets: Vec<Arc<str>>,
    pub(crate) policy: Policy,
    pub(crate) siblings: Option<Box<Group>>,
    pub(crate) seen: Findings,
    pub(crate) trial: Vec<Symptom>,
    pub(crate) generation: u64,
    pub(crate) target: usize,
    /// There has been a service: before, there is nothing to look at.
    pub(crate) has_begun: bool,
    pub(crate) suspected: BoxFuture<'static, ()>,
    pub(crate) unused: BoxFuture<'static, ()>,
    pub(crate) timer: (u64, Timer),
}

/// What the task has to do.
pub(crate) enum Order {
    /// There is no service: one attempt to build one.
    Connect,
    Act {
        rung: usize,
        attempt: Box<Attempt>,
        limits: Limits,
    },
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

/// What the checks come to.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) health: Health,
    /// The symptoms of the checks that fail.
    pub(crate) failing: Vec<Symptom>,
    /// A check has failed, and not yet often enough to be believed.
    pub(crate) suspect: bool,
    pub(crate) paused: bool,
}

/// That there is a service at all.
pub(crate) struct Connection {
    name: Arc<str>,
    judge: Judge,
    evidence: Option<Arc<str>>,
    /// While it fails.
    delays: Option<Box<Delays>>,
    due: u64,
}

/// The group of siblings, and the page that this one has sent for all.
pub(crate) struct Group {
    pub(crate) member: Member,
    /// And when.
    pub(crate) paged: Option<(Incident, u64)>,
}

impl Connection {
    pub(crate) fn new() -> Self {
        let settings = CheckSettings { fall: 2, rise: 1, ..CheckSettings::default() };
        Self { name: "connection".into(), judge: Judge::new(&settings), evidence: None, delays: None, due: 0 }
    }

    /// 100 ms, doubled up to 10 s.
    fn delay(&mut self) -> u64 {
        let delays = self.delays.get_or_insert_with(|| {
            let [base, cap] = [100, 10_000].map(Duration::from_millis);
            let backoff = Backoff::exponential(base, 2.0, cap).unwrap_or_default();
            Box::new(backoff.jitter(Jitter::Equal).delays())
        });
        delays.next().map_or(0, nanos)
    }
}

impl<S: Clone + Send + 'static> Body<S> {
    /// Looks around until something has to be done.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, busy: Busy) -> Poll<Order> {
        loop {
            let now = self.clock.now();
            if let Some(limit) = self.obey(cx, now) {
                return Poll::Ready(Order::Stop(limit));
            }
            if self.unused.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Order::End);
            }
            self.notice(now);
            let next_check = self.look(cx, now);
            while let Poll::Ready(sent) = self.chart.pages.poll(cx) {
                self.chart.sent(sent);
            }
            let (order, deadline) = self.decide(now, busy);
            if let Some(order) = order {
                return Poll::Ready(order);
            }
            // What was decided may have changed what is due.
            let deadline = deadline.min(next_check).min(self.rounds_due());
            if self.sleep(cx, deadline).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn sleep(&mut self, cx: &mut Context<'_>, deadline: u64) -> Poll<()> {
        if deadline == u64::MAX {
            self.timer = (deadline, Timer::default());
            return Poll::Pending;
        }
        if self.timer.0 != deadline || !self.timer.1.is_set() {
            match Timer::at(self.clock.instant(deadline)) {
                Ok(timer) => self.timer = (deadline, timer),
                Err(_) => return Poll::Pending,
            }
        }
        let fired = self.timer.1.poll(cx);
        if fired.is_ready() {
            self.timer = (u64::MAX, Timer::default());
        }
        fired
    }

    fn mode(&self) -> Mode {
        self.chart.shared.mode.get()
    }

    fn looks(&self) -> bool {
        self.has_begun && self.mode() != Mode::Off
    }

    fn rounds_due(&self) -> u64 {
        if self.looks() { self.rounds.next_due() } else { u64::MAX }
    }

    /// Runs the checks that are due, and believes what has been seen often enough. Says when the next one is due.
    fn look(&mut self, cx: &mut Context<'_>, now: u64) -> u64 {
        if self.suspected.as_mut().poll(cx).is_ready() {
            let view = self.view.clone();
            self.suspected = Box::pin(async move { view.suspected().await });
            cx.waker().wake_by_ref();
            self.rounds.hurry();
        }
        if !self.looks() {
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
            let check = Arc::clone(&slot.name);
            if answered.is_news {
                self.chart.emit(|| Event::Checked { check: Arc::clone(&check), answer: answered.answer });
            }
            let evidence = slot.evidence.clone().unwrap_or_default();
            self.reassess();
            match answered.change {
                Some(Change::Fell) => self.chart.note(now, Happened::Fell { check, evidence }),
                Some(Change::Rose) => self.chart.note(now, Happened::Rose { check }),
                None => {}
            }
        }
        self.rounds.next_due()
    }

    /// What the checks come to.
    fn reassess(&mut self) {
        if self.mode() == Mode::Off {
            self.seen = Findings { paused: self.seen.paused, ..Findings::default() };
            return;
        }
        let slots = &self.rounds.slots;
        let severity =
            |slot: &crate::rounds::Slot<S>| slot.settings.severity.unwrap_or(slot.symptom.severity());
        let checks = slots.iter().map(|slot| (severity(slot), slot.judge.is_down()));
        let connection = self.connection.judge.is_down().then_some((Health::Critical, true));
        self.seen.health = self.policy.judge(checks.chain(connection));
        let findings = self.findings();
        self.seen.failing.clear();
        self.seen.failing.extend(findings.iter().map(|(_, symptom, _)| symptom.clone()));
        self.seen.suspect = self.connection.judge.is_turning()
            || self.rounds.slots.iter().any(|slot| slot.judge.is_turning());
        if self.chart.key().is_some() {
            self.chart.examine(self.seen.health, findings);
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let down = self.rounds.slots.iter().filter(|slot| slot.judge.is_down());
        let harmless = |slot: &&crate::rounds::Slot<S>| slot.settings.severity == Some(Health::Healthy);
        let checks = down.filter(|slot| !harmless(slot)).map(|slot| {
            (Arc::clone(&slot.name), slot.symptom.clone(), slot.evidence.clone().unwrap_or_default())
        });
        let Connection { name, judge, evidence, .. } = &self.connection;
        let connection = judge
            .is_down()
            .then(|| (Arc::clone(name), Symptom::Connectivity, evidence.clone().unwrap_or_default()));
        checks.chain(connection).collect()
    }

    /// Whether calls use another generation than before.
    fn notice(&mut self, now: u64) {
        let generation = self.view.signals().map_or(0, |signals| signals.generation());
        if generation == self.generation {
            return;
        }
        self.generation = generation;
        let Some((_, target, _)) = self.view.current() else { return };
        (self.target, self.has_begun) = (target, true);
        self.hysteresis.moved(now, target);
        self.probe_at = now.saturating_add(self.probe_every);
        self.rounds.new_generation(now);
        self.connected(&Ok(()), now);
        self.chart.emit(|| Event::Swapped { generation, target });
        let target = self.targets.get(target).cloned().unwrap_or_default();
        self.chart.note(now, Happened::Swapped { generation, target });
    }

    /// An attempt to build a service has ended.
    pub(crate) fn connected(&mut self, result: &Result<(), Tried>, now: u64) {
        let connection = &mut self.connection;
        let answer = match result {
            Ok(()) => Answer::Pass,
            Err(Tried::Failed(why)) => Answer::Fail(Arc::clone(why)),
            Err(tried) => Answer::fail(tried.result().as_str()),
        };
        if let Answer::Fail(why) = &answer {
            connection.evidence = Some(Arc::clone(why));
            connection.due = now.saturating_add(connection.delay());
        } else {
            connection.delays = None;
        }
        let check = Arc::clone(&connection.name);
        let evidence = connection.evidence.clone().unwrap_or_default();
        let change = connection.judge.answer(&answer);
        self.reassess();
        match change {
            Some(Change::Fell) => self.chart.note(now, Happened::Fell { check, evidence }),
            Some(Change::Rose) => self.chart.note(now, Happened::Rose { check }),
            None => {}
        }
    }

    /// What is to be done now, and when to ask again.
    fn decide(&mut self, now: u64, busy: Busy) -> (Option<Order>, u64) {
        let mut cause = "what the checks say";
        let wait = loop {
            let held = self.is_held();
            let seen = self.seen.seen(held);
            let step = self.state.step(now, seen);
            match step {
                Step::Wait(until) => break until.unwrap_or(u64::MAX),
                Step::Act(_) if busy == Busy::Yes => break u64::MAX,
                Step::Act(rung) => match self.begin(now, rung) {
                    Begun::Order(order) => {
                        self.show("an action begins");
                        return (Some(order), 0);
                    }
                    Begun::Would => {}
                    Begun::Held => break now + SECOND,
                },
                Step::Hold if self.hold(now) => break now + SECOND,
                Step::Hold => {}
                step => cause = self.record(now, step),
            }
            self.show(cause);
        };
        self.show(cause);
        let relief = self.relieve(now);
        let (order, deadline) = self.errands(now, busy);
        (order, wait.min(deadline).min(relief))
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
        if !self.hysteresis.probes() || self.seen.paused || self.mode() != Mode::Enforce {
            return (None, u64::MAX);
        }
        if self.hysteresis.is_due(now, !self.seen.failing.is_empty()) {
            return (Some(Order::FailBack), 0);
        }
        if self.probe_at <= now {
            self.probe_at = now.saturating_add(self.probe_every);
            return (Some(Order::Probe), 0);
        }
        (None, self.probe_at)
    }

    /// Writes down what has happened. Says what caused the change.
    fn record(&mut self, now: u64, step: Step) -> &'static str {
        match step {
            Step::Open => {
                self.chart.open(now);
                if self.state.is_forced() {
                    self.chart.note(now, Happened::Operator("an action is forced".into()));
                }
                let findings = self.findings();
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
                let tried = if cured_at.is_some() { Tried::Cured } else { Tried::NoEffect };
                self.tried(now, rung, started, tried, cured_at);
                if cured_at.is_some() { "the action has helped" } else { "the action has not helped" }
            }
            Step::Escalate(cause) => {
                self.chart.escalate(now, cause.as_str(), &self.seen.failing);
                self.view.escalate(self.chart.key());
                cause.as_str()
            }
            Step::Worse => {
                self.chart.page(PageKind::Update);
                "it got worse"
            }
            Step::Recover(since) => {
                self.chart.recovered(now, Some(since));
                if let Some(group) = &self.siblings {
                    group.member.well();
                }
                "all symptoms are gone"
            }
            Step::Close { mttr, escalated } => {
                self.chart.close(mttr, escalated);
                self.view.escalate(None);
                "it has been well for long enough"
            }
            Step::Wait(_) | Step::Act(_) | Step::Hold => "",
        }
    }

    fn tried(&mut self, now: u64, rung: usize, started: u64, tried: Tried, cured_at: Option<u64>) {
        let name = Arc::clone(&self.state.ladder().rung(rung).name);
        let symptoms = std::mem::take(&mut self.trial);
        self.chart.tried(now, started, (&name, &symptoms), (tried, cured_at));
    }

    fn begin(&mut self, now: u64, rung: usize) -> Begun {
        let forced = self.state.is_forced();
        let restarts = self.state.ladder().rung(rung).kind == Kind::Restart;
        if let (Some(group), true, false) = (&self.siblings, restarts, forced) {
            if group.member.ask() == Leave::Held {
                return Begun::Held;
            }
        }
        let seen = self.seen.seen(false);
        self.trial = self.state.begin(rung, now, seen);
        let name = Arc::clone(&self.state.ladder().rung(rung).name);
        self.chart.begin(now, &name);
        if self.mode() == Mode::Observe && !forced {
            self.state.acted(now, true);
            let incident = self.chart.key().unwrap_or_default();
            let (result, elapsed) = (HealResult::WouldAct, Duration::ZERO);
            self.chart.emit(|| Event::HealAttempt { action: name, result, elapsed, incident });
            return Begun::Would;
        }
        let Some(incident) = self.chart.snapshot() else { return Begun::Would };
        let (generation, target) = (self.generation, self.target);
        let number = self.state.ladder().attempts(rung);
        let limits = self.state.ladder().rung(rung).limits.clone();
        let attempt = Box::new(Attempt { incident, generation, target, number });
        Begun::Order(Order::Act { rung, attempt, limits })
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

    fn show(&mut self, cause: &'static str) {
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

    fn is_held(&self) -> bool {
        let group = self.siblings.as_ref().filter(|_| !self.seen.failing.is_empty());
        group.is_some_and(|group| group.member.would_be_held())
    }

    /// Whether restarts are still held now that it has asked. One member pages for all.
    fn hold(&mut self, now: u64) -> bool {
        let Some(group) = &mut self.siblings else { return false };
        if group.member.ask() == Leave::Granted {
            return false;
        }
        let Some((hold, in_trouble, members)) = group.member.pages() else { return true };
        let name = group.member.siblings().name();
        let key = group.member.siblings().key(hold);
        let evidence = format!(
            "{in_trouble} of {members} want to restart: restarts are held, what they depend on is ill"
        );
        let incident = Incident::new(key, Arc::clone(name), Health::Critical);
        let incident = incident.with_symptom(Arc::clone(name), Symptom::Connectivity, evidence);
        group.paged = Some((incident.clone(), now));
        if !self.chart.silent {
            self.chart.pages.push(PageKind::Trigger, incident, self.chart.span());
        }
        true
    }

    /// Resolves the page that it has sent for all, when the hold is over. Says when to look again.
    fn relieve(&mut self, now: u64) -> u64 {
        let Some(group) = &mut self.siblings else { return u64::MAX };
        if group.paged.is_none() {
            return u64::MAX;
        }
        if !group.member.is_relieved() {
            return now + SECOND;
        }
        if let (Some((incident, since)), false) = (group.paged.take(), self.chart.silent) {
            let lasted = Duration::from_nanos(now.saturating_sub(since));
            self.chart.pages.push(PageKind::Resolve, incident.ended(lasted), tracing::Span::none());
        }
        u64::MAX
    }

    /// Does what an operator wants. `Some` if that is the end.
    fn obey(&mut self, cx: &mut Context<'_>, now: u64) -> Option<Duration> {
        let shared = Arc::clone(&self.chart.shared);
        let mut stop = None;
        for command in shared.receive(cx) {
            match command {
                Command::Stop(limit) => stop = Some(limit),
                Command::Pause(paused) => {
                    self.seen.paused = paused;
                    let what = if paused { "paused" } else { "resumed" };
                    self.chart.note(now, Happened::Operator(what.into()));
                }
                Command::ModeChanged => self.change_mode(),
                Command::Force(rung, answer) => {
                    let found = self.state.ladder().find(&rung);
                    if let Some(rung) = found {
                        self.state.force(rung);
                    }
                    let known = || self.state.ladder().names();
                    let _ = answer
                        .send(found.map(drop).ok_or_else(|| NoSuchRung { asked: rung, known: known() }));
                }
                Command::Explain(answer) => drop(answer.send(self.explain(now))),
            }
        }
        stop
    }

    pub(crate) fn change_mode(&mut self) {
        self.chart.silent = self.mode() != Mode::Enforce;
        if self.mode() == Mode::Off {
            self.rounds.stop();
            self.reassess();
        }
    }

    fn explain(&mut self, now: u64) -> Explanation {
        self.show("an operator asks");
        let rungs = self.state.ladder().explain(now, &self.seen.failing, self.is_held());
        let ready = rungs.iter().find(|(_, fit)| *fit == Fit::Runs);
        let next = ready.filter(|_| !self.seen.failing.is_empty()).map(|(name, _)| Arc::clone(name));
        Explanation { status: self.chart.shared.status(), next, rungs }
    }
}

/// What became of the intention to act.
enum Begun {
    Order(Order),
    /// Nothing is really done.
    Would,
    Held,
}

impl Findings {
    fn seen(&self, held: bool) -> Seen<'_> {
        Seen { health: self.health, failing: &self.failing, held, paused: self.paused }
    }
}
