use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{BoxError, Classify, ErrorsAreFailures, Level, Timer};
use tokio::time::Instant;

use crate::fallen::{cause_of, is_failure};
use crate::grade::Grade;
use crate::registry::DegradationRegistry;
use crate::score::{Need, level};
use crate::served::{Cause, Served, Shortfall, sort};

/// Asks several services at once, and goes on with what has come when the time is over.
///
/// Each part is a call of a service with a stack of its own. What is missing is listed, with the cause; weights and required parts
/// decide the [level](Partial::level). A part that has not answered at the soft deadline is cut off: its future is dropped, with
/// whatever its own chain would have answered. So give it less time than that, by the [`budget`](crate::DegradeLayer::budget) of its layer,
/// or by a time limit of its request
/// (`with_time_limit` of `buttress_http::RequestExt`): then it falls by itself, to its last good answer for instance, and
/// that is in time. Where its stack keeps [last good answers](crate::LastGood), the call below goes on all the same and its late answer is kept
/// for the next time.
///
/// What counts is the level that a part's answer has, or that the next hop has said. It takes a policy to judge a status: an
/// `Ok` with an HTTP 500 is complete, but not out of a [`DegradeLayer`](crate::DegradeLayer), nor of a
/// [part that is judged](Gather::judged_part).
///
/// A part that panics is missing, and takes no other with it. It ends as soon as all parts have answered. With each wake-up all parts that are still out are polled, so it is meant for a
/// handful, not for thousands.
///
/// ```
/// use std::time::Duration;
/// use buttress_core::Level;
/// use buttress_degrade::{Degraded, Gather, Need};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let context = Gather::new()
///     .soft_deadline(Duration::from_millis(200))
///     .part("metrics", Need::Required, async { Ok::<_, std::io::Error>(Degraded::full("cpu 93 %")) })
///     .part("deploys", Need::Weight(1), async { Err::<Degraded<&str>, _>("connection refused") })
///     .part("runbook", Need::Weight(1), std::future::pending::<Result<Degraded<&str>, std::io::Error>>())
///     .await;
/// assert_eq!(context.level(), Level::Minimal);
/// assert_eq!(context.get("metrics").unwrap().get_ref(), &"cpu 93 %");
/// let missing: Vec<_> = context.shortfalls().iter().map(|part| format!("{} {}", part.component(), part.cause())).collect();
/// assert_eq!(missing, ["deploys failed", "runbook did not answer in time"]);
/// # }
/// ```
pub struct Gather<'a, A> {
    parts: BTreeMap<Arc<str>, (Need, Asked<'a, A>)>,
    soft_deadline: Option<Duration>,
    registry: Option<DegradationRegistry>,
}

type PartFuture<'a, A> = std::pin::Pin<Box<dyn Future<Output = Result<A, Cause>> + Send + 'a>>;

enum Asked<'a, A> {
    Out(PartFuture<'a, A>),
    Back(Result<A, Cause>),
}

impl<A> fmt::Debug for Gather<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Gather");
        debug.field("parts", &self.parts.keys()).field("soft_deadline", &self.soft_deadline).finish()
    }
}

impl<A> Default for Gather<'_, A> {
    fn default() -> Self {
        Self { parts: BTreeMap::new(), soft_deadline: None, registry: None }
    }
}

impl<'a, A: Grade + Send + 'a> Gather<'a, A> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part: its name, how much it matters, and the call. One of the same name takes the place of the one before.
    #[must_use]
    pub fn part<F, E>(self, name: impl Into<Arc<str>>, need: Need, call: F) -> Self
    where
        F: Future<Output = Result<A, E>> + Send + 'a,
        E: Into<BoxError>,
    {
        self.judged_part(name, need, ErrorsAreFailures, call)
    }

    /// The same, of a client that takes every response for a success: what is a failure by this policy is missing, and dropped.
    #[must_use]
    pub fn judged_part<P, F, E>(mut self, name: impl Into<Arc<str>>, need: Need, policy: P, call: F) -> Self
    where
        P: Classify<A> + Send + 'a,
        F: Future<Output = Result<A, E>> + Send + 'a,
        E: Into<BoxError>,
    {
        let call: PartFuture<'a, A> = Box::pin(async move {
            let outcome = call.await.map_err(Into::into);
            let verdict = policy.classify(outcome.as_ref().map_err(|error: &BoxError| &**error));
            match outcome {
                Ok(answer) if !is_failure(&verdict) => Ok(answer),
                Ok(_) => Err(cause_of(verdict, None)),
                Err(error) => Err(cause_of(verdict, Some(&error))),
            }
        });
        self.parts.insert(name.into(), (need, Asked::Out(call)));
        self
    }

    /// From when on parts that have not answered are left out. Without one, all are waited for.
    #[must_use]
    pub fn soft_deadline(self, time: Duration) -> Self {
        Self { soft_deadline: Some(time), ..self }
    }

    /// Tells the components of the same names how good each part was, those that were cut off included: for parts whose layers do not
    /// [do so themselves](crate::DegradeLayer::report_to). A component that is not there yet is made, with the need of the part.
    #[must_use]
    pub fn report_to(self, registry: &DegradationRegistry) -> Self {
        Self { registry: Some(registry.clone()), ..self }
    }

    fn poll(&mut self, timer: &mut Timer, end: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let mut out = false;
        for (_, asked) in self.parts.values_mut() {
            let Asked::Out(call) = asked else { continue };
            let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx)));
            match polled {
                Ok(Poll::Ready(Ok(mut answer))) => {
                    answer.note_next_hop();
                    *asked = Asked::Back(Ok(answer));
                }
                Ok(Poll::Ready(Err(cause))) => *asked = Asked::Back(Err(cause)),
                Ok(Poll::Pending) => out = true,
                // Its future is dropped here, and never polled again.
                Err(_) => *asked = Asked::Back(Err(Cause::Panicked)),
            }
        }
        let Some(end) = end.filter(|_| out) else {
            return if out { Poll::Pending } else { Poll::Ready(()) };
        };
        if !timer.is_set() {
            match Timer::at(end) {
                Ok(set) => *timer = set,
                // Without a timer there is no time to wait for.
                Err(_) => return Poll::Ready(()),
            }
        }
        timer.poll(cx)
    }
}

impl<'a, A: Grade + Send + 'a> IntoFuture for Gather<'a, A> {
    type Output = Partial<A>;
    type IntoFuture = std::pin::Pin<Box<dyn Future<Output = Partial<A>> + Send + 'a>>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move {
            let end = self.soft_deadline.map(|time| after(Instant::now(), time));
            let mut timer = Timer::default();
            std::future::poll_fn(|cx| self.poll(&mut timer, end, cx)).await;
            let parts = self.parts.into_iter().map(|(name, (need, asked))| {
                let outcome = match asked {
                    Asked::Back(outcome) => outcome,
                    Asked::Out(_) => Err(Cause::Elapsed),
                };
                (name, Part { need, outcome })
            });
            let parts: BTreeMap<Arc<str>, Part<A>> = parts.collect();
            if let Some(registry) = &self.registry {
                // Where the caller is at fault, the service is well.
                let told = |part: &Part<A>| !part.outcome.as_ref().is_err_and(|cause| cause.is_answer());
                for (name, part) in parts.iter().filter(|(_, part)| told(part)) {
                    registry.component(Arc::clone(name), part.need).report(part.level());
                }
            }
            Partial::of(parts)
        })
    }
}

/// What a [`Gather`] has brought.
#[derive(Debug)]
pub struct Partial<A> {
    parts: BTreeMap<Arc<str>, Part<A>>,
    level: Level,
    score: f64,
    shortfalls: Vec<Shortfall>,
}

#[derive(Debug)]
struct Part<A> {
    need: Need,
    outcome: Result<A, Cause>,
}

impl<A: Grade> Part<A> {
    fn level(&self) -> Level {
        self.outcome.as_ref().map_or(Level::Failed, Grade::level)
    }
}

impl<A: Grade> Partial<A> {
    fn of(parts: BTreeMap<Arc<str>, Part<A>>) -> Self {
        let (level, score) = level(parts.values().map(|part| (part.need, part.level())));
        let mut shortfalls = Vec::new();
        for (name, part) in &parts {
            let cause = match &part.outcome {
                Err(cause) => *cause,
                Ok(answer) if answer.level().is_degraded() => {
                    // Its own cause, if it has one, says more than that it was degraded.
                    let own = answer.served().and_then(|served| served.shortfalls().first());
                    own.map_or(Cause::Upstream, Shortfall::cause)
                }
                Ok(_) => continue,
            };
            shortfalls.push(Shortfall::new(Arc::clone(name), part.level(), cause));
        }
        sort(&mut shortfalls);
        Self { parts, level, score, shortfalls }
    }

    /// The level of the whole: *failed* if a required part is missing or all are, *full* if nothing is degraded, else by the
    /// score: *slight* from 85 % on, *moderate* from 50 % on, *minimal* below.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The weighted mean of what the parts are worth, in percent: 100 for a full answer, 90, 60 and 30 for degraded ones, 0 for a
    /// missing one.
    pub fn score(&self) -> f64 {
        self.score
    }

    /// What is missing or degraded, and why: sorted by name, each once.
    pub fn shortfalls(&self) -> &[Shortfall] {
        &self.shortfalls
    }

    /// The age of the oldest part, if any was stored.
    pub fn age(&self) -> Option<Duration> {
        let ages = self.parts.values().filter_map(|part| part.outcome.as_ref().ok()?.served()?.age());
        ages.max()
    }

    /// The answer of a part; `None` if it is missing.
    pub fn get(&self, name: &str) -> Option<&A> {
        self.parts.get(name)?.outcome.as_ref().ok()
    }

    /// Takes the answer of a part; it then counts as missing for [`get`](Partial::get), and nothing else changes.
    pub fn take(&mut self, name: &str) -> Option<A> {
        let outcome = &mut self.parts.get_mut(name)?.outcome;
        std::mem::replace(outcome, Err(Cause::Nothing)).ok()
    }

    /// All answers, by name.
    pub fn into_answers(self) -> impl Iterator<Item = (Arc<str>, A)> {
        self.parts.into_iter().filter_map(|(name, part)| Some((name, part.outcome.ok()?)))
    }

    /// What is to be noted on an answer that is made of these parts; nothing if all are complete.
    pub fn served(&self) -> Option<Served> {
        let served = Served::of_parts(self.level, self.age(), &self.shortfalls);
        (self.level.is_degraded() || self.age().is_some()).then_some(served)
    }
}
