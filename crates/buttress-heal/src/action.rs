use std::borrow::Cow;
use std::time::Duration;

use buttress_core::{Backoff, BoxError};

use crate::BoxFuture;
use crate::check::Symptom;
use crate::incident::Incident;

/// Does something against an illness.
///
/// It should be idempotent: it may be dropped where it stands (its time is over, the supervisor shuts down) and run again. It
/// may hang, fail or panic, which is a failed attempt. Whether it helped is not its own to say: its attempt counts as
/// successful only if the symptom is gone by the end of [`Limits::verify`].
pub trait Action: Send + Sync {
    /// What it is called in events, incidents, pages and metrics.
    fn name(&self) -> &str;

    /// What it can help against; default [`Fixes::Any`]. For anything else it is passed over.
    fn fixes(&self) -> Fixes {
        Fixes::Any
    }

    /// How long and how often it may be tried, unless its rung says otherwise.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Acts, and says what the supervisor has to do after it.
    fn heal<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Result<Then, BoxError>>;
}

/// What an action is told.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The illness: its key, its symptoms, what has been tried.
    pub incident: Incident,
    /// The generation that calls use; 0 while there is none.
    pub generation: u64,
    /// The target that it talks to, from 0 on.
    pub target: usize,
    /// 1 for the first attempt of this rung in this incident.
    pub number: u32,
}

/// What the supervisor does after an action has ended well, still within its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Then {
    /// Nothing more.
    #[default]
    Nothing,
    /// It builds a new service for the same target: before the old one goes, unless nothing is left to lose.
    Rebuild,
    /// It lets go of the old service first and builds a new one for the same target.
    Restart,
    /// It builds a service for the next target.
    FailOver,
}

/// Which symptoms an action can help against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fixes {
    /// All of them.
    #[default]
    Any,
    /// These.
    Only(Cow<'static, [Symptom]>),
}

impl Fixes {
    /// Whether it helps against this one.
    pub fn helps(&self, symptom: &Symptom) -> bool {
        match self {
            Self::Any => true,
            Self::Only(symptoms) => symptoms.contains(symptom),
        }
    }
}

/// How long and how often an action may be tried in one incident.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// It has failed when it takes longer. Default 5 s.
    pub timeout: Duration,
    /// After so long the symptom must be gone. Default 5 s.
    pub verify: Duration,
    /// At least so long from the start of one attempt to the start of the next; a growing one begins anew when an
    /// incident is over. Default 10 s each time.
    pub cooldown: Backoff,
    /// So many attempts in one incident. Default 3.
    pub max_attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            verify: Duration::from_secs(5),
            cooldown: Backoff::constant(Duration::from_secs(10)),
            max_attempts: 3,
        }
    }
}

impl Limits {
    pub(crate) fn seconds(timeout: u64, verify: u64, cooldown: u64, max_attempts: u32) -> Self {
        let [timeout, verify, cooldown] = [timeout, verify, cooldown].map(Duration::from_secs);
        Self { timeout, verify, cooldown: Backoff::constant(cooldown), max_attempts }
    }
}

/// A new service for the same target: dead connections, a poisoned pool, a stale address.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResetPool;

impl Action for ResetPool {
    fn name(&self) -> &str {
        "reset pool"
    }

    fn fixes(&self) -> Fixes {
        const SYMPTOMS: &[Symptom] =
            &[Symptom::Connectivity, Symptom::ResponseTime, Symptom::Pool, Symptom::CircuitBreaker];
        Fixes::Only(Cow::Borrowed(SYMPTOMS))
    }

    fn heal<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, Result<Then, BoxError>> {
        Box::pin(std::future::ready(Ok(Then::Rebuild)))
    }
}

/// A new service for the next target. Passed over where there is only one.
#[derive(Clone, Copy, Debug, Default)]
pub struct FailOver;

impl Action for FailOver {
    fn name(&self) -> &str {
        "fail over"
    }

    fn fixes(&self) -> Fixes {
        const SYMPTOMS: &[Symptom] =
            &[Symptom::Connectivity, Symptom::ResponseTime, Symptom::CircuitBreaker, Symptom::Credentials];
        Fixes::Only(Cow::Borrowed(SYMPTOMS))
    }

    fn limits(&self) -> Limits {
        Limits::seconds(5, 5, 30, u32::MAX)
    }

    fn heal<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, Result<Then, BoxError>> {
        Box::pin(std::future::ready(Ok(Then::FailOver)))
    }
}

/// Lets go of the service, and builds a new one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restart;

impl Action for Restart {
    fn name(&self) -> &str {
        "restart"
    }

    fn limits(&self) -> Limits {
        Limits::seconds(30, 10, 60, 3)
    }

    fn heal<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, Result<Then, BoxError>> {
        Box::pin(std::future::ready(Ok(Then::Restart)))
    }
}
