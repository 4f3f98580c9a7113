use std::error::Error;
use std::fmt;
use std::sync::Arc;

use buttress_core::Refused;
use buttress_core::clock::Seconds;

use crate::signals::Signals;

/// A supervised service has nothing to make a call with. The request was not sent.
///
/// Its [`source`](Error::source) is a [`Refused`], so that other layers treat it as that.
#[derive(Clone, Debug)]
pub struct Unavailable {
    pub(crate) refused: Refused,
    pub(crate) why: Why,
    pub(crate) incident: Option<Arc<str>>,
    pub(crate) cause: Option<Cause>,
}

/// What went wrong when a service was built last.
pub(crate) type Cause = Arc<dyn Error + Send + Sync>;

/// Why there is nothing to make a call with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// The first service is being built.
    Starting,
    /// Another service is being built, or takes only a few calls yet.
    Replacing,
    /// The last attempt to build one failed.
    NoService,
    /// It did not become ready in time.
    NotReady,
    /// The instance that was ready belongs to a service that is gone.
    Gone,
    /// The supervisor has been shut down.
    ShutDown,
    /// The call was made without readiness.
    NotAsked,
}

impl Why {
    /// The reason in a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "its first connection is being made",
            Self::Replacing => "its connection is being replaced",
            Self::NoService => "its connection could not be made",
            Self::NotReady => "it did not become ready in time",
            Self::Gone => "its connection was replaced after it had become ready",
            Self::ShutDown => "its supervisor has been shut down",
            Self::NotAsked => "it was called without having become ready",
        }
    }
}

impl Unavailable {
    /// Why.
    pub fn why(&self) -> Why {
        self.why
    }

    /// When to try again, and the name of the service.
    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    /// The key of the incident that a human has been told of, if there is one.
    pub fn incident(&self) -> Option<&str> {
        self.incident.as_deref()
    }

    /// What went wrong when a service was built last.
    pub fn cause(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        self.cause.as_deref()
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is unavailable: {}", self.refused.name(), self.why.as_str())?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        if let Some(incident) = &self.incident {
            write!(f, " (incident {incident})")?;
        }
        if let Some(after) = self.refused.retry_after() {
            write!(f, "; try again in {}", Seconds(after))?;
        }
        Ok(())
    }
}

impl Error for Unavailable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.refused)
    }
}

/// A call was still under way when the time was over that its generation had after it was replaced. The request may have been
/// applied.
#[derive(Clone, Debug)]
pub struct CutOff {
    pub(crate) name: Arc<str>,
    pub(crate) generation: u64,
}

impl CutOff {
    pub(crate) fn of(signals: &Signals) -> Self {
        Self { name: Arc::clone(&signals.hub.name), generation: signals.generation() }
    }

    /// The name of the service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The generation that the call was made with.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, generation } = self;
        write!(
            f,
            "the call of `{name}` was cut off: its connection (generation {generation}) was replaced and the time to finish is over; \
             the request may have been applied"
        )
    }
}

impl Error for CutOff {}
