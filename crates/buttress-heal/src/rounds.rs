use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::clock::nanos;
use buttress_core::observe::Health;
use buttress_core::{Rng, within};
use tokio::sync::Mutex;

use crate::BoxFuture;
use crate::check::{Answer, Check, Subject, Symptom};
use crate::incident::cut;
use crate::judge::{Change, Judge};
use crate::signals::Signals;
use crate::unwind::{Foreign, attempt, caught};

/// As much of a check's reason is kept.
const LONGEST: usize = 1024;

/// The checks of one supervisor: when each is run, and what has come of it. No check is run twice at once.
pub(crate) struct Rounds<S> {
    pub(crate) slots: Box<[Slot<S>]>,
    rng: Rng,
}

/// A check that is run once at a time, whoever runs it.
pub(crate) struct OneAtATime<S> {
    check: Arc<dyn Check<S>>,
    turn: Mutex<()>,
}

pub(crate) struct Slot<S> {
    check: Arc<OneAtATime<S>>,
    pub(crate) symptom: Symptom,
    pub(crate) severity: Health,
    pub(crate) judge: Judge,
    every: u64,
    in_doubt_every: u64,
    jitter_percent: u8,
    timeout: Duration,
    /// What it said last, if that was not that all is well.
    pub(crate) evidence: Option<Arc<str>>,
    last: Discriminant<Answer>,
    started: u64,
    due: u64,
    running: Option<BoxFuture<'static, Answer>>,
}

/// An answer, and what it has changed.
pub(crate) struct Answered {
    pub(crate) slot: usize,
    pub(crate) answer: &'static str,
    /// The answer before was another one.
    pub(crate) is_news: bool,
    pub(crate) change: Option<Change>,
}

/// What the checks look at.
pub(crate) struct Patient<S> {
    pub(crate) service: Option<Foreign<S>>,
    pub(crate) generation: u64,
    pub(crate) target: usize,
    pub(crate) traffic: Arc<Signals>,
}

/// Why the checks are in a hurry, if they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Usual,
    /// An attempt is verified, or something is wrong that is being healed.
    InDoubt,
}

impl<S: Clone + Send + 'static> Rounds<S> {
    pub(crate) fn new(checks: &[Arc<OneAtATime<S>>]) -> Self {
        let slot = |one: &Arc<OneAtATime<S>>| {
            let (symptom, settings) = (one.check.symptom(), one.check.settings());
            Slot {
                severity: settings.severity.unwrap_or_else(|| symptom.severity()),
                symptom,
                judge: Judge::new(&settings),
                every: nanos(settings.every),
                in_doubt_every: nanos(settings.in_doubt_every.min(settings.every)),
                jitter_percent: settings.jitter_percent,
                timeout: settings.timeout,
                check: Arc::clone(one),
                evidence: None,
                last: discriminant(&Answer::Pass),
                started: 0,
                due: 0,
                running: None,
            }
        };
        Self { slots: checks.iter().map(slot).collect(), rng: Rng::from_system() }
    }

    /// The next answer, if there is one. Starts what is due.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        now: u64,
        pace: Pace,
        patient: impl Fn() -> Patient<S>,
    ) -> Option<Answered> {
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if slot.running.is_none() && slot.due <= now {
                slot.started = now;
                slot.running = Some(run(Arc::clone(&slot.check), slot.timeout, &patient));
            }
            let Some(running) = &mut slot.running else { continue };
            let Poll::Ready(answer) = running.as_mut().poll(cx) else { continue };
            slot.running = None;
            let (change, is_news) = slot.settle(&answer);
            slot.plan(now, pace, &mut self.rng);
            return Some(Answered { slot: at, answer: answer.as_str(), is_news, change });
        }
        None
    }

    /// When the next check is due that does not run.
    pub(crate) fn next_due(&self) -> u64 {
        self.slots.iter().filter(|slot| slot.running.is_none()).map(|slot| slot.due).min().unwrap_or(u64::MAX)
    }

    /// All that is planned for later than the pace allows is brought forward.
    pub(crate) fn hurry(&mut self) {
        for slot in &mut self.slots {
            slot.due = slot.due.min(slot.started.saturating_add(slot.in_doubt_every));
        }
    }

    /// What is seen of the old generation says nothing about the new one, which is looked at now.
    pub(crate) fn new_generation(&mut self, now: u64) {
        for slot in &mut self.slots {
            slot.running = None;
            slot.due = now;
            slot.judge.new_generation();
        }
    }

    /// Nothing is known, and nothing is run.
    pub(crate) fn stop(&mut self) {
        for slot in &mut self.slots {
            slot.running = None;
            slot.judge.forget();
            slot.evidence = None;
        }
    }
}

impl<S> Slot<S> {
    /// Asked for when there is something to say.
    pub(crate) fn name(&self) -> Arc<str> {
        attempt(|| self.check.check.name().into()).unwrap_or_else(|_| "a check whose name panics".into())
    }

    fn settle(&mut self, answer: &Answer) -> (Option<Change>, bool) {
        let said = discriminant(answer);
        let is_news = std::mem::replace(&mut self.last, said) != said;
        match answer {
            Answer::Pass => self.evidence = None,
            Answer::Fail(why) if why.len() > LONGEST => self.evidence = Some(cut(why, LONGEST).into()),
            Answer::Fail(why) => self.evidence = Some(Arc::clone(why)),
            Answer::TimedOut => {
                let limit = buttress_core::clock::Seconds(self.timeout);
                self.evidence = Some(format!("no answer within {limit}").into());
            }
            Answer::Panicked => self.evidence = Some("the check panicked".into()),
            Answer::Skipped => {}
        }
        (self.judge.answer(answer), is_news)
    }

    fn plan(&mut self, now: u64, pace: Pace, rng: &mut Rng) {
        let is_quick = match pace {
            Pace::InDoubt => true,
            Pace::Usual => self.judge.is_turning(),
        };
        let every = if is_quick { self.in_doubt_every } else { self.every };
        let spread = (u128::from(every) * u128::from(self.jitter_percent) / 100) as u64;
        let every = rng.between(every - spread, every.saturating_add(spread));
        self.due = self.started.saturating_add(every).max(now);
    }
}

impl<S> OneAtATime<S> {
    pub(crate) fn new(check: Arc<dyn Check<S>>) -> Self {
        Self { check, turn: Mutex::const_new(()) }
    }

    pub(crate) fn check(&self) -> &dyn Check<S> {
        &*self.check
    }
}

/// One run, within its time; a panic in it, or in a clone of its service, is an answer.
pub(crate) fn run<S: Send + 'static>(
    one: Arc<OneAtATime<S>>,
    limit: Duration,
    patient: impl FnOnce() -> Patient<S>,
) -> BoxFuture<'static, Answer> {
    let looked = caught(|| {
        let Patient { service, generation, target, traffic } = patient();
        async move {
            let _turn = one.turn.lock().await;
            // The service need not be `Sync`: no reference to it is kept here.
            let running = {
                let service = service.as_ref().map(Foreign::get);
                one.check.run(Subject { service, generation, target, traffic: &traffic })
            };
            within(limit, running).await
        }
    });
    Box::pin(async move {
        match looked.await {
            Ok(Some(answer)) => answer,
            Ok(None) => Answer::TimedOut,
            Err(_) => Answer::Panicked,
        }
    })
}
