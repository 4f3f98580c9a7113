use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::{BoxError, Classify, Elapsed, Event, Level, Verdict, within};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Shared;
use crate::error::{SharedFailure, TooLarge};
use crate::fallen::cause_of;
use crate::grade::IntoAnswer;
use crate::primary::{Ended, Primary};
use crate::recall::{Keep, Recall, Renewal};
use crate::served::Cause;
use crate::store::{Entry, Flight, Outcome};

/// For so long others wait for a body that somebody else reads.
const READING: Duration = Duration::from_secs(1);

/// What the one who made the call hears of it.
pub(super) enum Live<A, V> {
    /// The response itself; whether it is a failure.
    Answer(A, Result<(), Cause>),
    /// What was kept is still good; how good.
    Renewed(Arc<Entry<V>>, Level),
    Failed(Cause, BoxError),
}

/// The call itself. It goes on when those who wait for it have gone; dropped or panicking, it lets them know.
pub(super) async fn fly<F, T, E, P, Req, A, L, R>(
    shared: Shared<P, Req, A, L, R>,
    flight: Flight<Outcome<R::Record>>,
    asked: R::Asked,
    old: Option<Arc<Entry<R::Record>>>,
    primary: Primary<F>,
    live: Option<oneshot::Sender<Live<A, R::Record>>>,
) where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    T: IntoAnswer<A>,
    P: Classify<T>,
    R: Recall<Req, T, Answer = A>,
{
    let in_background = live.is_none();
    let ended = within(shared.limits.bound(), run(primary)).await;
    let failed = match ended {
        Some(Ended::Outcome(Ok(response))) => {
            return land(&shared, flight, asked, old, response, live).await;
        }
        Some(Ended::NotReady(error)) => (Cause::NotReady, error),
        Some(Ended::Outcome(Err(error))) => {
            (cause_of(shared.policy.classify(Err(&*error)), Some(&error)), error)
        }
        None => {
            let elapsed = Elapsed::new(Arc::clone(&shared.told.name), shared.limits.bound());
            (Cause::Elapsed, elapsed.into())
        }
    };
    let (cause, error) = failed;
    // What is the fault of one request says nothing of the service, nor of the others' requests.
    let rejected = cause == Cause::Rejected;
    if let Some(old) = old.as_ref().filter(|_| !rejected) {
        old.fails(Instant::now());
    }
    // Whoever asked alone gets the error as it is.
    let (error, outcome) = if flight.close() == 0 || rejected {
        (error, Outcome::Alone)
    } else {
        let error = Arc::new(error);
        (SharedFailure(Arc::clone(&error)).into(), Outcome::Failed(cause, error))
    };
    if let Some(live) = live {
        // It may have gone.
        let _ = live.send(Live::Failed(cause, error));
    }
    flight.land(outcome);
    if in_background {
        shared.told.emit(|| Event::Refreshed { success: false });
    }
}

/// What is done with the response of a call.
async fn land<T, P, Req, A, L, R>(
    shared: &Shared<P, Req, A, L, R>,
    flight: Flight<Outcome<R::Record>>,
    asked: R::Asked,
    old: Option<Arc<Entry<R::Record>>>,
    response: T,
    live: Option<oneshot::Sender<Live<A, R::Record>>>,
) where
    T: IntoAnswer<A>,
    P: Classify<T>,
    R: Recall<Req, T, Answer = A>,
{
    let store = &shared.chain.store;
    let (rules, key) = (&store.rules, Arc::clone(flight.key()));
    let in_background = live.is_none();
    let tell = |answer| live.map(|live| live.send(answer));
    let refreshed = |success| {
        if in_background {
            shared.told.emit(|| Event::Refreshed { success });
        }
    };
    let verdict = shared.policy.classify(Ok(&response));
    let (mut level, lifetime) = (rules.level(&response), store.lifetime());
    if !verdict.is_failure() {
        level = level.min(Level::Minimal);
    }
    if let Some(old) = old.as_ref().filter(|_| !verdict.is_failure()) {
        let (entry, for_all) = match rules.renewed(&asked, &old.record, &response, lifetime) {
            Renewal::Not => (None, true),
            // What is degraded itself renews nothing.
            _ if level.is_degraded() => (Some(Arc::clone(old)), true),
            Renewal::Kept(record, lifetime) => (Some(store.insert(&flight, record, lifetime)), true),
            Renewal::Once => {
                store.forget(&key);
                (Some(Arc::clone(old)), false)
            }
        };
        if let Some(entry) = entry {
            tell(Live::Renewed(Arc::clone(&entry), level));
            flight.land(if for_all { Outcome::Kept(entry, level) } else { Outcome::Alone });
            return refreshed(level == Level::Full);
        }
    }
    let good = verdict == Verdict::Success && level == Level::Full;
    let keep = rules.keep(&asked, &response, good, lifetime);
    let grade = if verdict.is_failure() { Err(cause_of(verdict, None)) } else { Ok(level) };
    if let (Err(_), Some(old)) = (grade, &old) {
        old.fails(Instant::now());
    }
    if matches!(keep, Keep::Forget | Keep::Withdraw) {
        store.forget(&key);
    }
    if matches!(keep, Keep::Alone | Keep::Withdraw) {
        tell(Live::Answer(response.into_answer(), grade.map(drop)));
        flight.land(Outcome::Alone);
        return refreshed(grade.is_ok());
    }
    let (answer, recording) = rules.capture(asked, response);
    tell(Live::Answer(answer, grade.map(drop)));
    let (mut flight, recorded) = read(flight, recording, shared.limits.bound()).await;
    let outcome = match (recorded, keep) {
        (Some(Ok(record)), Keep::Store(lifetime)) if good => {
            Outcome::Kept(store.insert(&flight, record, lifetime), level)
        }
        (Some(Ok(record)), _) => Outcome::Shared(Arc::new(record), grade),
        (Some(Err(error)), Keep::Store(_)) if error.is::<TooLarge>() => {
            store.forget(&key);
            Outcome::Alone
        }
        // It did not arrive as a whole.
        _ => Outcome::Alone,
    };
    refreshed(matches!(outcome, Outcome::Kept(..)));
    if flight.released().is_none() {
        flight.release(outcome);
    }
}

/// Waits for the body, which the one who made the call reads. The others do not wait for a slow reader: they call themselves.
async fn read<T, V>(
    mut flight: Flight<Outcome<V>>,
    recording: impl Future<Output = T>,
    bound: Duration,
) -> (Flight<Outcome<V>>, Option<T>) {
    let mut recording = pin!(recording);
    if let Some(recorded) = within(READING.min(bound / 2), recording.as_mut()).await {
        return (flight, Some(recorded));
    }
    flight.release(Outcome::Alone);
    let recorded = within(bound, recording).await;
    (flight, recorded)
}

pub(super) async fn run<F, T, E>(primary: Primary<F>) -> Ended<T>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    let mut primary = pin!(primary);
    std::future::poll_fn(|cx| primary.as_mut().poll(cx)).await
}
