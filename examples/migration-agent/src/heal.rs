//! The pool of connections, supervised: where the server, or the pool itself, has no connection to give, it is built anew, and
//! if that does not help, a person is called.

use std::sync::Arc;
use std::time::Duration;

use buttress::BoxError;
use buttress::core::observe::Health;
use buttress::heal::{
    Answer, BoxFuture, Check, Heal, Incident, Monitor, Pager, Rung, SpawnError, Subject, Supervisor, Symptom,
};
use tokio_postgres::Config;

use crate::fault::ByFault;
use crate::monitor::{self, Notice};
use crate::postgres::Connections;
use crate::tally::Tally;

/// A pool that is looked after.
pub(crate) type Pool = Heal<Connections, ByFault>;

/// Starts to look after the connections to a server, for as long as somebody has the pool.
pub(crate) fn supervised(
    config: Config,
    tally: &Arc<Tally>,
    monitor: &Arc<monitor::Monitor>,
) -> Result<Pool, SpawnError> {
    // Somebody waits: what takes minutes is a person's.
    let starvation =
        Monitor::new(Starvation).every(Duration::from_millis(500)).timeout(Duration::from_secs(6));
    let starvation = starvation.fall(2).rise(1).severity(Health::Unhealthy);
    let reset =
        Rung::reset_pool().verify(Duration::from_secs(1)).cooldown(Duration::from_secs(1)).max_attempts(2);
    let human = Human { tally: Arc::clone(tally), monitor: Arc::clone(monitor) };
    let supervisor = Supervisor::new("pool", Connections::factory(config))
        .check(starvation)
        .rung(reset)
        .pager(human)
        .patience(Duration::from_secs(2))
        .stable_for(Duration::from_secs(5))
        .retire(|connections: Connections| async move { connections.close() })
        .observe(Arc::clone(tally) as _);
    let (pool, _) = supervisor.spawn()?;
    Ok(pool.policy(ByFault))
}

/// Fails while whoever asks for a connection gets none; asks for one itself only then.
#[derive(Clone, Copy, Debug)]
struct Starvation;

impl Check<Connections> for Starvation {
    fn name(&self) -> &str {
        "starvation"
    }

    fn symptom(&self) -> Symptom {
        Symptom::Pool
    }

    fn run<'a>(&'a self, subject: Subject<'a, Connections>) -> BoxFuture<'a, Answer> {
        let Some(connections) = subject.service.cloned() else {
            return Box::pin(std::future::ready(Answer::Skipped));
        };
        Box::pin(async move {
            if !connections.is_starving() {
                return Answer::Pass;
            }
            match connections.lend().await {
                Ok(lent) => {
                    lent.give_back();
                    Answer::Pass
                }
                Err(fault) => Answer::fail(fault.to_string()),
            }
        })
    }
}

/// Whoever reads the output, and whoever listens to monitoring.
struct Human {
    tally: Arc<Tally>,
    monitor: Arc<monitor::Monitor>,
}

impl Human {
    fn tell(&self, event: &'static str, incident: &Incident) -> BoxFuture<'_, Result<(), BoxError>> {
        let why =
            incident.symptoms().map(|(_, _, evidence)| evidence.to_owned()).collect::<Vec<_>>().join("; ");
        if event == "escalated" {
            self.tally.escalate(&why);
        }
        self.monitor.tell(&Notice { detail: Some(why), ..Notice::new(event) });
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Pager for Human {
    fn trigger<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        self.tell("escalated", incident)
    }

    fn resolve<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        self.tell("recovered", incident)
    }
}
