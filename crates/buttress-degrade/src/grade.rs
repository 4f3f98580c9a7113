use std::fmt;
use std::time::Duration;

use buttress_core::Level;

use crate::served::{Served, Shortfall};

/// An answer that says how good it is.
///
/// [`Degraded`] for values, and `http::Response`, which says it in its extensions and header fields.
pub trait Grade {
    /// What is known of it; nothing of one that is complete and comes from the service itself.
    fn served(&self) -> Option<&Served>;

    /// Notes this on the answer, in the place of what was there.
    fn grade(&mut self, served: Served);

    /// Takes in what the next hop has said of the answer, where no layer of this process has done so.
    fn note_next_hop(&mut self) {}

    /// The level: full where nothing else is known.
    fn level(&self) -> Level {
        self.served().map_or(Level::Full, Served::level)
    }
}

/// An answer that is no failure is of level 3 at worst, whatever it says of itself.
#[inline(always)]
pub(crate) fn no_failure<A: Grade>(answer: A) -> A {
    if answer.level() == Level::Failed { at_worst_minimal(answer) } else { answer }
}

/// Takes the answer and not a reference to it, which would have it in memory where it is better, too.
#[cold]
#[inline(never)]
fn at_worst_minimal<A: Grade>(mut answer: A) -> A {
    if let Some(mut served) = answer.served().cloned() {
        served.set_level(Level::Minimal);
        answer.grade(served);
    }
    answer
}

/// What becomes an answer of the kind `A` as it is: a value becomes a [`Degraded`] of level 0, and one that is graded already
/// stays what it is; an HTTP response keeps the level that the next hop has given it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not become an answer of type `{A}`",
    note = "over HTTP answers are `http::Response<Answer<B>>`, where `B` is the body of the client's responses",
    note = "a fixed answer of HTTP is `StoredResponse::from(http::Response::new(\"…\"))`"
)]
pub trait IntoAnswer<A> {
    /// The answer.
    fn into_answer(self) -> A;

    /// Takes away what the next hop has said of it, where that is not to be believed
    /// ([`DegradeLayer::foreign`](crate::DegradeLayer::foreign)); what a layer of this process has noted stays.
    fn disbelieve(&mut self) {}
}

/// A value with the level of its answer, which only the layers of this crate can set.
///
/// ```
/// use buttress_core::Level;
/// use buttress_degrade::Degraded;
///
/// let answer = Degraded::full(7);
/// assert_eq!((answer.level(), *answer.get_ref(), answer.into_inner()), (Level::Full, 7, 7));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Degraded<T> {
    value: T,
    served: Option<Served>,
}

impl<T> Degraded<T> {
    /// A complete answer of the service itself.
    pub fn full(value: T) -> Self {
        Self { value, served: None }
    }

    #[inline]
    pub(crate) fn graded(value: T, served: Served) -> Self {
        Self { value, served: Some(served) }
    }

    /// How good it is.
    pub fn level(&self) -> Level {
        Grade::level(self)
    }

    /// How old it is, if it was stored.
    pub fn age(&self) -> Option<Duration> {
        self.served.as_ref().and_then(Served::age)
    }

    /// What fell short: sorted by name, each once.
    pub fn shortfalls(&self) -> &[Shortfall] {
        self.served.as_ref().map_or(&[], |served| served.shortfalls())
    }

    /// The value.
    pub fn get_ref(&self) -> &T {
        &self.value
    }

    /// The value alone.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// The value and what is known of it.
    pub fn into_parts(self) -> (T, Option<Served>) {
        (self.value, self.served)
    }

    /// Another value of the same level.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Degraded<U> {
        Degraded { value: f(self.value), served: self.served }
    }
}

impl<T: fmt::Debug> fmt::Debug for Degraded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Degraded").field("value", &self.value).field("served", &self.served).finish()
    }
}

impl<T> Grade for Degraded<T> {
    fn served(&self) -> Option<&Served> {
        self.served.as_ref()
    }

    fn grade(&mut self, served: Served) {
        self.served = Some(served);
    }
}

impl<T> IntoAnswer<Degraded<T>> for T {
    fn into_answer(self) -> Degraded<T> {
        Degraded::full(self)
    }
}

impl<T> IntoAnswer<Degraded<T>> for Degraded<T> {
    fn into_answer(self) -> Degraded<T> {
        self
    }
}
