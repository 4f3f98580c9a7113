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
/// Everything that the code does beside pure computation belongs into an operation: steps, sleeps, races. The time and random
/// numbers are no exception: `cx.step("now", async || Ok::<_, Failure>(SystemTime::now()))` is the same in each replay. Whatever the
/// code awaits outside of them is awaited anew in each replay. Operations are awaited in the workflow's own task, with `.await`,
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
    /// Its identity is its name with its number among those of the same name, and is fixed here, when the step is built. What
    /// exchanges two steps of one name is found only where they have [inputs](Step::input).
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

    /// Sleeps for so long, on the store's clock, from when the sleep was first recorded. Sleeps have no names: where two of them
    /// were exchanged in the code, a replay does not see it. A run that sleeps for longer than
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

    /// Awaits several futures and gives the first result, with its number. Both are recorded, so that a replay has the same
    /// ones, whatever the futures come to then; the others are dropped. The futures may be operations, or anything else.
    ///
    /// They are polled in their order. `select!` polls its branches in random order, and so builds what they build in random
    /// order too: use it with `biased;`, or on operations that were built before.
    ///
    /// ```
    /// use std::time::Duration;
    /// use buttress_checkpoint::{Cx, Failure};
    ///
    /// async fn answer_within_a_day(cx: &Cx, answer: impl Future<Output = String> + Send) -> Result<Option<String>, Failure> {
    ///     let deadline = async {
    ///         cx.sleep(Duration::from_secs(86_400)).await.ok();
    ///         None
    ///     };
    ///     let (_, answer) = cx.race("answer", vec![Box::pin(async { Some(answer.await) }), Box::pin(deadline)]).await?;
    ///     Ok(answer)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StepError::NotStored`](crate::StepError) if the result is too large or cannot be encoded, and
    /// [`Elsewhere`](crate::StepError) or [`InsideStep`](crate::StepError) where it cannot be awaited.
    pub fn race<'a, T>(&self, name: impl Into<Arc<str>>, futures: Vec<BoxFuture<'a, T>>) -> Race<'a, T>
    where
        T: Serialize + DeserializeOwned,
    {
        Race::new(&self.core, &name.into(), futures)
    }

    /// Whether the code after this point is the one with this change: `true` in runs that come here for the first time, and
    /// from then on, `false` in runs that were past this point before the change was deployed.
    ///
    /// Once no run is left that has recorded `false`, that is once all are over that began before it, the call and the old code
    /// can go: runs that have recorded `true` pass over their record.
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

    /// The idempotency key of a step: the same in every attempt and after every crash, and another one in every run. In the
    /// step's own body, reconciliation or compensation it is its key; everywhere else that of the step of this name that is
    /// built next. Inside of a body, [`StepKey`](buttress_core::StepKey) gives it without a `Cx`.
    ///
    /// # Errors
    ///
    /// [`Misplaced`] in a spawned task, where it is not known which step it is in: ask before it is spawned.
    pub fn key(&self, step: &str) -> Result<Arc<str>, Misplaced> {
        if self.core.is_here() { Ok(self.core.key(step)) } else { Err(Misplaced) }
    }

    /// The idempotency key of one of several steps of the same name, from 0 on, wherever it is asked for.
    pub fn key_of(&self, step: &str, occurrence: u32) -> Arc<str> {
        self.core.key_of(step, occurrence)
    }
}

impl Cx {
    /// The run that this task is in, outside of its steps.
    #[inline]
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
