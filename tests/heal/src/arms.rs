//! Three clients that meet the same fault at the same time.

mod healed;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tokio::time::{interval, timeout};
use tower::ServiceExt;

use crate::Client;
use crate::fault::Fault;
use crate::goals::Bounds;
use crate::journal::{Journal, Mark};
use crate::world::World;

/// Who looks after a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arm {
    /// Nobody.
    Alone,
    /// A supervisor that asks once a second, and restarts the server and the client after three failures in a row, for ever.
    Restarted,
    /// Buttress.
    Healed,
}

impl Arm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Alone, Self::Restarted, Self::Healed];

    /// Its name on the command line and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Restarted => "restarted",
            Self::Healed => "healed",
        }
    }

    /// The arm of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arm| arm.name() == name)
    }
}

/// A client, and who looks after it until this is dropped.
pub struct Running {
    current: Arc<RwLock<Client>>,
    /// What was done.
    pub journal: Journal,
    looking_after: Option<AbortHandle>,
    healing: Option<healed::Healing>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("journal", &self.journal).finish_non_exhaustive()
    }
}

impl Running {
    /// The client of each moment.
    pub fn client(&self) -> impl Fn() -> Client + Send + 'static {
        let current = Arc::clone(&self.current);
        move || current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends what looks after it.
    pub async fn end(mut self) {
        if let Some(healing) = self.healing.take() {
            healing.end().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(looking_after) = &self.looking_after {
            looking_after.abort();
        }
    }
}

/// A new client in this world.
///
/// # Panics
///
/// If it cannot be built.
pub async fn start(arm: Arm, fault: Fault, world: &Arc<dyn World>, bounds: Bounds) -> Running {
    let journal = Journal::default();
    if arm == Arm::Healed {
        let (client, healing) = healed::start(fault, world, &journal, bounds.slack());
        let current = Arc::new(RwLock::new(client));
        return Running { current, journal, looking_after: None, healing: Some(healing) };
    }
    let client = world.client(0).await.expect("a client can be built");
    let current = Arc::new(RwLock::new(client));
    let looking_after = (arm == Arm::Restarted).then(|| {
        let restarting = restart(Arc::clone(world), Arc::clone(&current), journal.clone());
        tokio::spawn(restarting).abort_handle()
    });
    Running { current, journal, looking_after, healing: None }
}

/// The shortest that Kubernetes allows for a liveness probe, and its own number of failures.
const ASK_EVERY: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const FAILURES: u32 = 3;

async fn restart(world: Arc<dyn World>, current: Arc<RwLock<Client>>, journal: Journal) {
    let (mut tick, mut failures) = (interval(ASK_EVERY), 0);
    loop {
        tick.tick().await;
        let client = current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = timeout(ANSWER_WITHIN, client.oneshot(())).await;
        if matches!(answer, Ok(Ok(_))) {
            failures = 0;
            continue;
        }
        journal.mark(Mark::CheckFailed("alive".to_owned()));
        failures += 1;
        if failures < FAILURES {
            continue;
        }
        failures = 0;
        journal.mark(Mark::Detected);
        journal.mark(Mark::Acted("restart".to_owned()));
        world.restart().await;
        if let Ok(client) = world.client(0).await {
            *current.write().unwrap_or_else(PoisonError::into_inner) = client;
        }
    }
}
