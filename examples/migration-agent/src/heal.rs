//! The pool of connections, supervised: where the server, or the pool itself, has no connection to give, it is built anew, and
//! if that does not help, a person is called.

use std::sync::Arc;
use std::time::Duration;

use buttress::BoxError;
use buttress::core::observe::Health;
use buttress::heal::{
    Answer, BoxFuture, Check, Heal, Incident, Monitor, Pager, Rung, SpawnError, Subject, Supervisor, Symptom,
};

use crate::fault::ByFault;
use crate::monitor::{self, Notice};
use crate::postgres::{Connections, Server};
use crate::tally::Tally;

/// A pool that is looked after.
pub(crate) type Pool = Heal<Connections, ByFault>;

/// Starts to look after the connections to a server, for as long as somebody has the pool.
pub(crate) fn supervised(
    server: Server,
    tally: &Arc<Tally>,
    monitor: &Arc<monitor::Monitor>,
) -> Result<Pool, SpawnError> {
    // Somebody waits: what takes minutes is a person's.
    let starvation =
        Monitor::new(Starvation).every(Duration::from_millis(500)).timeout(Duration::from_secs(2));
    let starvation = starvation.fall(2).rise(1).severity(Health::Unhealthy);
    let reset =
        Rung::reset_pool().verify(Duration::from_secs(1)).cooldown(Duration::from_secs(1)).max_attempts(2);
    let human = Human { tally: Arc::clone(tally), monitor: Arc::clone(monitor) };
    let supervisor = Supervisor::new("pool", Connections::factory(server))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Console;
    use buttress::degrade::{DegradationRegistry, Need};
    use tower::ServiceExt;

    /// Who has all connections may never give them back.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_pool_that_is_exhausted_is_replaced_and_nothing_stays_prepared() {
        let server = services::Postgres::start();
        let url = format!("postgres://buttress@127.0.0.1:{}/postgres", server.port());
        let monitoring = DegradationRegistry::new("test").component("monitoring", Need::Weight(1));
        let monitor = Arc::new(monitor::Monitor::start(None, None, &monitoring).unwrap());
        let tally = Arc::new(Tally::new(Arc::new(Console::new(true))));
        let pool = supervised(Server::parse(&url).unwrap(), &tally, &monitor).unwrap();
        let lend = || pool.clone().oneshot(());
        let kept = [lend().await.unwrap(), lend().await.unwrap()];
        kept[0].prepare_cached("SELECT 1").await.unwrap();
        assert_eq!(kept[0].statement_cache.size(), 1);
        lend().await.map(drop).unwrap_err();
        let fresh = loop {
            if let Ok(fresh) = lend().await {
                break fresh;
            }
        };
        assert_eq!(kept[0].statement_cache.size(), 0, "whoever still has it prepares anew");
        let prepared = fresh.query("SELECT FROM pg_prepared_statements WHERE statement = 'SELECT 1'", &[]);
        assert!(prepared.await.unwrap().is_empty());
        while tally.counts().healed.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(
            (tally.counts().healed, tally.counts().escalated),
            (vec!["reset pool: cured".to_owned()], false)
        );
    }
}
