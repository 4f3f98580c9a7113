use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use buttress_core::{BoxError, ConfigError, Event, Level};

use crate::error::{Tried, Unanswered};
use crate::fallen::{Failure, Fallen};
use crate::grade::{Grade, IntoAnswer, no_failure};
use crate::rung::Rung;
use crate::served::{Cause, Served, Shortfall, Source};
use crate::shared::Told;

/// What answers when the service has failed, best first.
///
/// Rungs are asked in the order of their levels, and of one level in the order in which they were added: nothing falls
/// further than it has to. A chain that [`finally`](Chain::finally) closes always has an answer: its service's error type is
/// [`Infallible`], so that level 4 cannot be written down.
///
/// ```
/// use buttress_core::Level;
/// use buttress_degrade::{Chain, Closed, Degraded};
///
/// let chain: Chain<u64, Degraded<&str>, Closed<u64, Degraded<&str>>> =
///     Chain::new().finally(Level::Minimal, "static", |_| "the search is down; try the index page");
/// # let _ = chain;
/// ```
pub struct Chain<Req, A, L = Open> {
    pub(crate) rungs: Vec<Arc<Rung<Req, A>>>,
    pub(crate) copy: Option<fn(&Req) -> Req>,
    last: L,
}

/// The end of a chain that may have no answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

/// The end of a chain that always has one.
pub struct Closed<Req, A> {
    name: Arc<str>,
    level: Level,
    answer: Arc<Always<Req, A>>,
}

type Always<Req, A> = dyn Fn(&Fallen<Req, A>) -> A + Send + Sync;

impl<Req, A> Clone for Closed<Req, A> {
    fn clone(&self) -> Self {
        Self { name: Arc::clone(&self.name), level: self.level, answer: Arc::clone(&self.answer) }
    }
}

impl<Req, A> fmt::Debug for Closed<Req, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closed").field("name", &self.name).field("level", &self.level).finish_non_exhaustive()
    }
}

impl<Req, A, L: Clone> Clone for Chain<Req, A, L> {
    fn clone(&self) -> Self {
        Self { rungs: self.rungs.clone(), copy: self.copy, last: self.last.clone() }
    }
}

impl<Req, A, L: fmt::Debug> fmt::Debug for Chain<Req, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("rungs", &self.rungs).field("last", &self.last).finish_non_exhaustive()
    }
}

/// The rungs with their levels: ``1 `replica`, 3 `static` (always)``.
impl<Req, A, L: Last<Req, A>> fmt::Display for Chain<Req, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for rung in &self.rungs {
            write!(f, "{separator}{} `{}`", rung.level.as_u8(), rung.name)?;
            separator = ", ";
        }
        match self.last.name() {
            Some((name, level)) => write!(f, "{separator}{} `{name}` (always)", level.as_u8()),
            None if self.rungs.is_empty() => f.write_str("no fallback"),
            None => Ok(()),
        }
    }
}

impl<Req, A> Default for Chain<Req, A> {
    fn default() -> Self {
        Self { rungs: Vec::new(), copy: None, last: Open }
    }
}

impl<Req, A> Chain<Req, A> {
    /// A chain without a rung.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rung.
    #[must_use]
    pub fn rung(mut self, rung: Rung<Req, A>) -> Self {
        self.copy = self.copy.or(rung.copy);
        let at = self.rungs.partition_point(|other| other.level <= rung.level);
        self.rungs.insert(at, Arc::new(rung));
        self
    }

    /// Keeps a copy of each request, so that rungs can see it ([`Fallen::request`]). A chain with an alternate service does so by
    /// itself; others need none, and requests need not be `Clone`.
    #[must_use]
    pub fn keep_requests(self) -> Self
    where
        Req: Clone,
    {
        Self { copy: Some(Req::clone), ..self }
    }

    /// Closes the chain: this always has an answer, of this level. It is also asked where the service's error is the caller's
    /// fault ([`Cause::Rejected`]) or a conflict, since there is no other way left to answer; responses of that kind pass as they are.
    #[must_use]
    pub fn finally<F, T>(
        self,
        level: Level,
        name: impl Into<Arc<str>>,
        answer: F,
    ) -> Chain<Req, A, Closed<Req, A>>
    where
        F: Fn(&Fallen<Req, A>) -> T + Send + Sync + 'static,
        T: IntoAnswer<A>,
    {
        let answer = Arc::new(move |fallen: &Fallen<Req, A>| answer(fallen).into_answer());
        let last = Closed { name: name.into(), level, answer };
        Chain { rungs: self.rungs, copy: self.copy, last }
    }
}

impl<Req, A, L: Last<Req, A>> Chain<Req, A, L> {
    /// Whether the rung of this name is a service.
    pub(crate) fn has_service(&self, name: &str) -> bool {
        self.rungs.iter().any(|rung| rung.copy.is_some() && *rung.name == *name)
    }

    /// Whether there is anything that may answer.
    pub(crate) fn has_answers(&self) -> bool {
        !self.rungs.is_empty() || self.last.name().is_some()
    }
}

impl<Req: 'static, A: Send + 'static, L: Last<Req, A>> Chain<Req, A, L> {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.rungs.iter().try_for_each(|rung| rung.check())?;
        self.last.check()
    }
}

/// What answers when nothing else did: [`Open`] or [`Closed`].
pub trait Last<Req, A>: sealed::Sealed + Clone + Send + Sync + 'static {
    /// What a service with such a chain fails with.
    type Error: Send + 'static;

    #[doc(hidden)]
    fn check(&self) -> Result<(), ConfigError>;

    #[doc(hidden)]
    fn name(&self) -> Option<(&str, Level)>;

    /// The answer, what it is worth and where it comes from, and the failed response that it stands for; or the error.
    #[doc(hidden)]
    fn last(
        &self,
        name: &Arc<str>,
        fallen: Fallen<Req, A>,
        tried: Vec<Tried>,
    ) -> Result<(A, Served, Option<A>), Self::Error>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Open {}
    impl<Req, A> Sealed for super::Closed<Req, A> {}
}

impl<Req, A> Last<Req, A> for Open {
    type Error = BoxError;

    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn name(&self) -> Option<(&str, Level)> {
        None
    }

    fn last(
        &self,
        name: &Arc<str>,
        fallen: Fallen<Req, A>,
        tried: Vec<Tried>,
    ) -> Result<(A, Served, Option<A>), BoxError> {
        match fallen.failure {
            // An HTTP 503 stays one.
            Failure::Response(response) => Ok((response, Served::new(Level::Failed, Source::Nothing), None)),
            Failure::Error(error) if tried.is_empty() => Err(error),
            Failure::Error(source) => Err(Box::new(Unanswered { name: Arc::clone(name), tried, source })),
        }
    }
}

impl<Req: 'static, A: 'static> Last<Req, A> for Closed<Req, A> {
    type Error = Infallible;

    fn check(&self) -> Result<(), ConfigError> {
        if matches!(self.level, Level::Full | Level::Failed) {
            let rule = "must be 1 to 3: 0 is the service itself, and 4 is no answer";
            return Err(ConfigError::new("level", self.level, rule));
        }
        Ok(())
    }

    fn name(&self) -> Option<(&str, Level)> {
        Some((&self.name, self.level))
    }

    fn last(
        &self,
        _: &Arc<str>,
        fallen: Fallen<Req, A>,
        _: Vec<Tried>,
    ) -> Result<(A, Served, Option<A>), Infallible> {
        let source = Source::Rung(Arc::clone(&self.name));
        Ok(((self.answer)(&fallen), Served::new(self.level, source), fallen.failure.into_response()))
    }
}

/// What a stored answer is worth, asked for when its turn comes.
pub(crate) type LastGood<A> = (Level, Box<dyn FnOnce() -> Option<(A, Served)> + Send>);

/// An operator wants to see how the rungs below do.
pub(crate) const DRILL: Cause = Cause::Skipped("was left out by a drill");

/// Asks one rung after the other.
pub(crate) async fn descend<Req, A, L>(
    chain: &Chain<Req, A, L>,
    told: &Told,
    fallen: Fallen<Req, A>,
    mut last_good: Option<LastGood<A>>,
    discard: impl FnOnce(Option<A>),
) -> Result<A, L::Error>
where
    Req: 'static,
    A: Grade + Send + 'static,
    L: Last<Req, A>,
{
    let cause = fallen.cause;
    let answered = |mut answer: A, served: Served| {
        let level = served.level();
        let short = Shortfall::new(Arc::clone(&told.name), level, cause);
        let served = if level.is_degraded() { served.because(short) } else { served };
        let served = served.on_top_of(answer.served());
        // Where the caller is at fault, the service is well.
        if !cause.is_answer() {
            told.answered(served.level(), || served.source().name());
        }
        answer.grade(served);
        answer
    };
    let mut tried = Vec::new();
    // The caller's fault, and the program's, is neither for the rungs nor for the store.
    let rungs = if cause.passes() { &[][..] } else { &chain.rungs };
    last_good = last_good.filter(|_| !cause.passes());
    let drill = told.drill();
    let mut stored = |worst: Level| {
        let (_, stored) = last_good.take_if(|(level, _)| (drill..=worst).contains(level))?;
        stored()
    };
    for rung in rungs {
        if let Some((answer, served)) = stored(rung.level) {
            discard(fallen.failure.into_response());
            return Ok(answered(answer, served));
        }
        let asked = match rung.begin(&fallen, drill) {
            Ok(asked) => asked.answer().await,
            Err(failed) => Err(failed),
        };
        match asked {
            Ok(answer) => {
                let answer = no_failure(answer);
                let served = Served::new(rung.level, Source::Rung(Arc::clone(&rung.name)));
                discard(fallen.failure.into_response());
                return Ok(answered(answer, served));
            }
            Err(failed) => {
                told.emit(|| Event::Rung { rung: Arc::clone(&failed.rung), cause: failed.cause.as_str() });
                tried.push(failed);
            }
        }
    }
    if let Some((answer, served)) = stored(Level::Failed) {
        discard(fallen.failure.into_response());
        return Ok(answered(answer, served));
    }
    match chain.last.last(&told.name, fallen, tried) {
        Ok((answer, served, failed)) => {
            discard(failed);
            Ok(answered(answer, served))
        }
        Err(error) => {
            if !cause.is_answer() {
                told.answered(Level::Failed, || "none".into());
            }
            Err(error)
        }
    }
}
