use std::sync::Arc;
use std::time::Duration;

use buttress_core::{Event, Observe};
use buttress_heal::{
    Answer, BoxFuture, Build, Check, CheckSettings, Fixes, HealState, Incident, Pager, Reload, Rung, Subject,
    Supervisor, SupervisorHandle, Symptom,
};
use deadpool_postgres::PoolError;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tower::ServiceExt;

use crate::fault::Fault;
use crate::journal::{Journal, Mark};
use crate::world::World;
use crate::{BoxError, Client};

/// The supervisor of a client.
pub(super) struct Healing(SupervisorHandle);

impl Healing {
    pub(super) async fn end(self) {
        self.0.shutdown(Duration::from_secs(1)).await;
    }
}

/// A check that takes longer has failed, on a machine that does nothing else.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);
/// So many failures in a row and a human is called, whatever there is still to be tried against what has no cure.
const NO_CURE: u32 = 5;
/// Sooner than the default of a minute, so that an end is seen.
const STABLE_FOR: Duration = Duration::from_secs(2);

/// On a machine that does other things there is `slack`, by which all limits are longer.
pub(super) fn start(
    fault: Fault,
    world: &Arc<dyn World>,
    journal: &Journal,
    slack: u32,
) -> (Client, Healing) {
    let made_in = Arc::clone(world);
    let factory = move |build: Build| {
        let world = Arc::clone(&made_in);
        async move { world.client(build.target).await }
    };
    let targets = (0..world.targets()).map(|target| format!("target {target}"));
    let mut supervisor = Supervisor::new(fault.name(), factory)
        .targets(targets)
        .stable_for(STABLE_FOR)
        .pager(Marking(journal.clone()))
        .observe(Arc::new(Marking(journal.clone())));
    if fault == Fault::Password {
        supervisor = supervisor.page_after_failures(NO_CURE);
    }
    for symptom in symptoms(fault) {
        supervisor =
            supervisor.check(Asks { symptom, journal: journal.clone(), within: ANSWER_WITHIN * slack });
    }
    for rung in ladder(fault, world, slack) {
        supervisor = supervisor.rung(rung);
    }
    let (client, handle) = supervisor.spawn().expect("the settings are good");
    (Client::new(client), Healing(handle))
}

/// What a client looks out for.
fn symptoms(fault: Fault) -> Vec<Symptom> {
    match fault {
        _ if fault.needs_postgres() => vec![Symptom::Connectivity, Symptom::Pool, Symptom::Credentials],
        Fault::FullDisk => vec![disk()],
        _ => vec![Symptom::Connectivity],
    }
}

fn disk() -> Symptom {
    Symptom::Other("disk".into())
}

/// What it may do then. Times are those of loopback: an attempt takes a second at most, and is given another half to show.
fn ladder(fault: Fault, world: &Arc<dyn World>, slack: u32) -> Vec<Rung> {
    let limited = |rung: Rung, attempts| {
        let (second, half) = (Duration::from_secs(1), Duration::from_millis(500));
        rung.timeout(second * slack).verify(half * slack).cooldown(second).max_attempts(attempts)
    };
    let cure = |name: &str, symptom: Symptom| {
        let world = Arc::clone(world);
        let action = Reload::new(name, move || {
            let world = Arc::clone(&world);
            async move { world.cure().await }
        });
        Rung::new(action).fixes(Fixes::Only(vec![symptom].into()))
    };
    match fault {
        _ if fault.needs_postgres() => vec![
            limited(cure("end leaked sessions", Symptom::Pool), 3),
            limited(cure("reload credentials", Symptom::Credentials), 1)
                .verify(Duration::from_millis(300) * slack),
            limited(Rung::reset_pool(), 8),
        ],
        Fault::FullDisk => vec![limited(cure("clear the cache", disk()), 3)],
        // A new connection while the link is cut is as good as any: what counts is that it is not the old one.
        Fault::Cut => vec![Rung::reset_pool()],
        _ => vec![limited(Rung::reset_pool(), 1), limited(Rung::fail_over(), 1)],
    }
}

/// A check that makes a call, and answers for one symptom: what fails for another reason is another's.
struct Asks {
    symptom: Symptom,
    journal: Journal,
    within: Duration,
}

impl Check<Client> for Asks {
    fn name(&self) -> &str {
        self.symptom.as_str()
    }

    fn symptom(&self) -> Symptom {
        self.symptom.clone()
    }

    fn settings(&self) -> CheckSettings {
        // Asked twice a second, and again after a quarter of a second once in doubt; believed after three failures in a row,
        // as by default, or after one answer.
        let (every, timeout) = (Duration::from_millis(500), self.within);
        CheckSettings { every, timeout, rise: 1, ..CheckSettings::default() }
    }

    fn run<'a>(&'a self, subject: Subject<'a, Client>) -> BoxFuture<'a, Answer> {
        let Some(client) = subject.service.cloned() else {
            let alone = Answer::fail("there is no client");
            let answer = if self.is(&Symptom::Connectivity) { alone } else { Answer::Skipped };
            return Box::pin(std::future::ready(answer));
        };
        // A service that takes no calls yet is only tried out.
        let is_in_use = subject.traffic.generation() != 0;
        let start = Instant::now();
        Box::pin(async move {
            // It is dropped when its time is over.
            let mut failing = Failing(is_in_use.then_some((self, start)));
            let answer = match client.oneshot(()).await {
                Ok(_) => {
                    if is_in_use {
                        self.journal.mark(Mark::CheckPassed(self.symptom.as_str().to_owned()));
                    }
                    Answer::Pass
                }
                Err(error) if self.is(&symptom(&error)) => {
                    failing.failed();
                    Answer::fail(error.to_string())
                }
                Err(_) => Answer::Skipped,
            };
            failing.0 = None;
            answer
        })
    }
}

impl Asks {
    /// Whether this is what it looks out for. A disk has but one symptom.
    fn is(&self, symptom: &Symptom) -> bool {
        self.symptom == *symptom || self.symptom == disk()
    }
}

/// Notes a check that does not end well, unless it is cut off before its time because there is another client.
struct Failing<'a>(Option<(&'a Asks, Instant)>);

impl Failing<'_> {
    fn failed(&mut self) {
        if let Some((asks, _)) = self.0.take() {
            asks.journal.mark(Mark::CheckFailed(asks.symptom.as_str().to_owned()));
        }
    }
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if self.0.is_some_and(|(asks, start)| start.elapsed() >= asks.within) {
            self.failed();
        }
    }
}

/// What an error is a symptom of.
fn symptom(error: &BoxError) -> Symptom {
    let code = match error.downcast_ref::<PoolError>() {
        Some(PoolError::Timeout(_)) => return Symptom::Pool,
        Some(PoolError::Backend(error)) => error.code(),
        _ => None,
    };
    match code {
        Some(code) if *code == SqlState::INVALID_PASSWORD => Symptom::Credentials,
        Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => Symptom::Pool,
        _ => Symptom::Connectivity,
    }
}

/// Notes what the supervisor does.
struct Marking(Journal);

impl Observe for Marking {
    fn event(&self, _: &str, event: &Event) {
        match event {
            Event::Heal { from: HealState::Healthy | HealState::Suspect, to, .. }
                if !matches!(to, HealState::Healthy | HealState::Suspect) =>
            {
                self.0.mark(Mark::Detected);
            }
            Event::HealAttempt { action, result, .. } => {
                self.0.mark(Mark::Acted(format!("{action}: {}", result.as_str())));
            }
            Event::Healed { .. } => self.0.mark(Mark::Over),
            _ => {}
        }
    }
}

impl Pager for Marking {
    fn trigger<'a>(&'a self, _: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        self.0.mark(Mark::Paged);
        Box::pin(std::future::ready(Ok(())))
    }

    fn resolve<'a>(&'a self, _: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        self.0.mark(Mark::Resolved);
        Box::pin(std::future::ready(Ok(())))
    }
}
