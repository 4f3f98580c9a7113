use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use buttress_core::clock::nanos;
use buttress_store::RunId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Misplaced;
use crate::race::Race;
use crate::replay::Patched;
use crate::run::{BoxFuture, Core};
use crate::sleep::{Mark, Sleep};
use crate::step::Step;

/// What the code of a workflow makes its operations with.
///
/// Everything that the code does beside pure computation belongs into an operation: steps, sleeps, races. Whatever the code
/// awaits outside of them is awaited anew in each replay. Operations are awaited in the workflow's own task, with `.await`,
/// `join!` or `select!`.
#[derive(Clone)]
pub struct Cx {
    core: Arc<Core>,
}

impl Cx {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// The identity of the run.
    pub fn run_id(&self) -> &RunId {
        &self.core.id
    }

    /// A step: what its body gives is recorded, and its body is not entered again once it is.
    ///
    /// Its identity is its name with its number among those of the same name, and is fixed here, when the step is built.
    /// The body is entered when the step is first awaited, at least once; see [`Step`] for retries, time limits and the rest.
    pub fn step<'a, T, E, F, Fut>(&self, name: impl Into<Arc<str>>, mut body: F) -> Step<'a, T, E>
    where
        T: Serialize + DeserializeOwned + 'a,
        E: Serialize + DeserializeOwned + 'a,
        F: FnMut() -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
    {
        Step::new(Arc::clone(&self.core), &name.into(), Box::new(move || Box::pin(body())))
    }

    /// Sleeps for so long, on the store's clock, from when the sleep was first recorded. A run that sleeps for longer than
    /// [`Config::suspend_after`](crate::Config::suspend_after) is put down until then, and holds nothing.
    ///
    /// # Errors
    ///
    /// [`Misplaced`] if it is awaited in a step, in another workflow or in a spawned task.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(&self.core, &"sleep".into(), Mark::For(nanos(duration) / 1000))
    }

    /// Sleeps until this time on the store's clock; the time that was recorded first counts.
    ///
    /// # Errors
    ///
    /// See [`sleep`](Cx::sleep).
    pub fn sleep_until(&self, time: SystemTime) -> Sleep {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Sleep::new(&self.core, &"sleep".into(), Mark::Until(nanos(since) / 1000))
    }

    /// Awaits several futures and gives the first result, with its number; the winner is recorded, so that a replay has the
    /// same one. The others are dropped. For futures that are operations, `select!` does the same.
    ///
    /// # Errors
    ///
    /// See [`sleep`](Cx::sleep).
    pub fn race<'a, T>(&self, name: impl Into<Arc<str>>, futures: Vec<BoxFuture<'a, T>>) -> Race<'a, T> {
        Race::new(&self.core, &name.into(), futures)
    }

    /// Whether the code after this point is the one with this change: `true` in runs that come here for the first time, and
    /// from then on, `false` in runs that were past this point before the change was deployed.
    ///
    /// # Errors
    ///
    /// See [`sleep`](Cx::sleep).
    pub async fn patched(&self, change: impl Into<Arc<str>>) -> Result<bool, Misplaced> {
        match self.core.patched(&change.into()) {
            None => Err(Misplaced),
            Some(Patched::Known(known)) => Ok(known),
            Some(Patched::New(id)) => Sleep::patch(&self.core, id, false).await.map(|()| true),
            Some(Patched::Recorded(id)) => Sleep::patch(&self.core, id, true).await.map(|()| true),
        }
    }

    /// The idempotency key of the step of this name that is being run, or else was built last: the same in every attempt
    /// and after every crash. Inside of a step, [`StepKey`](buttress_core::StepKey) gives it without a `Cx`.
    pub fn key(&self, step: &str) -> Arc<str> {
        self.core.key(step)
    }

    /// The idempotency key of one of several steps of the same name, from 0 on.
    pub fn key_of(&self, step: &str, occurrence: u32) -> Arc<str> {
        self.core.key_of(step, occurrence)
    }
}

impl Cx {
    /// The run that this task is in, outside of its steps.
    pub(crate) fn here() -> Option<Self> {
        let core = Core::here(|core| (!core.is_in_step()).then(|| Arc::clone(core)));
        core.flatten().map(Self::new)
    }
}

impl fmt::Debug for Cx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx").field("run", &self.core.id).finish_non_exhaustive()
    }
}
