//! What is done for a pool that has no connection to give: it is reset, and if that does not help, a person is called.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::fault::Fault;
use crate::monitor::{Monitor, Notice};
use crate::postgres::Pool;
use crate::problem::Exit;
use crate::tally::Tally;

/// Watches a pool by what those come to who want a connection.
#[derive(Debug)]
pub(crate) struct Care {
    tally: Arc<Tally>,
    monitor: Arc<Monitor>,
    /// How often in a row there was no connection.
    starved: AtomicU32,
}

/// So often in a row, and it is no accident.
const SYMPTOM: u32 = 2;

/// So many resets that have not helped.
const RESETS: u32 = 2;

impl Care {
    pub(crate) fn new(tally: Arc<Tally>, monitor: Arc<Monitor>) -> Self {
        Self { tally, monitor, starved: AtomicU32::new(0) }
    }

    /// Hears what came of asking for a connection, and passes it on.
    pub(crate) fn watch<T>(&self, pool: &Pool, lent: Result<T, Fault>) -> Result<T, Fault> {
        match lent {
            Err(mut fault) if fault.starved => {
                let times = self.starved.fetch_add(1, Relaxed) + 1;
                if times.is_multiple_of(SYMPTOM) && times <= SYMPTOM * RESETS {
                    pool.clear_statements();
                    self.tally.healed(format!("reset, generation {}", pool.reset()));
                } else if times > SYMPTOM * RESETS {
                    self.escalate(&fault);
                    // It is tried again all the same: what is wrong may pass.
                    fault.problem.exit = Exit::Stuck;
                }
                Err(fault)
            }
            Ok(lent) => {
                self.starved.store(0, Relaxed);
                Ok(lent)
            }
            other => other,
        }
    }

    /// Once for all who want a connection.
    fn escalate(&self, fault: &Fault) {
        let detail = format!("no connection after {RESETS} resets of the pool: {}", fault.problem);
        if self.tally.escalate(&detail) {
            self.monitor.tell(&Notice { detail: Some(detail), ..Notice::new("escalated") });
        }
    }
}
