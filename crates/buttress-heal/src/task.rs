use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::observe::Health;
use buttress_core::{Clock, Observer, within};
use tokio::time::Instant;

use crate::BoxFuture;
use crate::action::{Action, Attempt, Then};
use crate::body::{Body, Busy, Order};
use crate::chart::Chart;
use crate::check::Answer;
use crate::checks::evidence;
use crate::connection::Connection;
use crate::factory::Factory;
use crate::failback::WayBack;
use crate::findings::Findings;
use crate::generations::{Generations, SwapError, SwapOrder, WarmUp};
use crate::group::Group;
use crate::handle::{Shared, SupervisorHandle};
use crate::incident::Tried;
use crate::ladder::{Ladder, Rung};
use crate::pages::Pages;
use crate::rounds::{OneAtATime, Patient, Rounds, run};
use crate::service::Heal;
use crate::settings::SwapSettings;
use crate::signals::Signals;
use crate::state::State;
use crate::supervisor::Supervisor;
use crate::unwind::{Foreign, Panicked, caught};

/// How long pages that are on their way may take when nobody has the service any more.
const PAGE_WITHIN: Duration = Duration::from_secs(60);

/// The one task of a supervisor: it alone has the factory.
struct Task<F: Factory> {
    generations: Generations<F>,
    body: Body<F::Service>,
    warm: Warm<F::Service>,
    /// The target of the last fail-over, whatever came of it.
    last_target: usize,
}

/// The checks that say something about a service that takes no calls yet.
struct Warm<S> {
    checks: Box<[Arc<OneAtATime<S>>]>,
    passes: u32,
    target: usize,
}

/// Why a work was not carried out to its end.
enum Cut {
    /// Within this time; or calls end in their own.
    Stop(Option<Duration>),
    For(Order),
}

pub(crate) fn spawn<F: Factory>(
    supervisor: Supervisor<F>,
    rungs: Arc<[Rung]>,
) -> (Heal<F::Service>, SupervisorHandle) {
    let Supervisor { name, factory, targets, checks, pager, observer, .. } = supervisor;
    let targets = targets.unwrap_or_default();
    let observer = observer.map_or_else(Observer::default, Observer::from);
    let (mut generations, service) = Generations::new(name, factory, supervisor.swap, observer);
    if let Some(retire) = supervisor.retire {
        generations.retire_with(retire);
    }
    let view = generations.view();
    let shared = Arc::new(Shared::new(Arc::clone(&view.hub), supervisor.mode));
    let ladder = Ladder::new(rungs, supervisor.intensity, supervisor.patience, targets.len().max(1));
    let checks: Vec<_> = checks.into_iter().map(OneAtATime::new).map(Arc::new).collect();
    let probing = checks.iter().filter(|one| one.check().probes()).map(Arc::clone).collect();
    let warm = Warm { checks: probing, passes: supervisor.warm_up, target: 0 };
    let mut body = Body {
        clock: Clock::start(),
        chart: Chart::new(Arc::clone(&shared), pager),
        state: State::new(
            ladder,
            supervisor.stable_for,
            supervisor.page_after,
            supervisor.page_after_failures,
        ),
        rounds: Rounds::new(&checks),
        connection: Connection::default(),
        way_back: WayBack::new(supervisor.failback, targets.len()),
        targets: targets.into(),
        policy: supervisor.policy,
        siblings: supervisor.siblings.as_ref().map(Group::join),
        seen: Findings::default(),
        trial: None,
        generation: 0,
        target: 0,
        has_begun: false,
        timer: Default::default(),
        view,
    };
    body.change_mode();
    let task = Box::new(Task { generations, body, warm, last_target: 0 });
    let task = tokio::spawn(task.run()).abort_handle();
    (service, SupervisorHandle { shared, task })
}

impl<F: Factory> Task<F> {
    async fn run(mut self: Box<Self>) {
        let mut next = None;
        let limit = loop {
            let order = match next.take() {
                Some(order) => order,
                None => poll_fn(|cx| self.body.poll(cx, Busy::No)).await,
            };
            // Seldom, and large.
            match Box::pin(self.carry_out(order)).await {
                None => {}
                Some(Cut::For(order)) => next = Some(order),
                Some(Cut::Stop(limit)) => break limit,
            }
        };
        Box::pin(self.stop(limit)).await;
    }

    async fn carry_out(&mut self, order: Order) -> Option<Cut> {
        match order {
            Order::Stop(limit) => Some(Cut::Stop(Some(limit))),
            Order::End => Some(Cut::Stop(None)),
            Order::Connect => self.connect().await,
            Order::Act(rung, attempt) => self.act(rung, attempt).await,
            Order::Probe => self.probe().await,
            Order::FailBack => self.fail_back().await,
        }
    }

    async fn connect(&mut self) -> Option<Cut> {
        let Self { generations, body, warm, .. } = self;
        let (target, limit) = (body.target, body.view.hub.settings.connect_within);
        let work = Box::pin(async move {
            let connect = async {
                match target {
                    0 => generations.first().await,
                    _ => generations.swap(SwapOrder::BreakBeforeMake, target, warm).await,
                }
            };
            within(limit, connect).await.map_or(Err(Tried::TimedOut), swapped)
        });
        match beside(body, Busy::Yes, work).await {
            Ok(result) => {
                let now = body.clock.now();
                body.connected(&result.unwrap_or(Err(Tried::Panicked)), now);
                None
            }
            Err(cut) => Some(cut),
        }
    }

    async fn act(&mut self, rung: usize, attempt: Box<Attempt>) -> Option<Cut> {
        let Self { generations, body, warm, last_target } = self;
        let started = body.clock.now();
        let tried = body.state.ladder().rung(rung);
        let (action, limit) = (Arc::clone(&tried.action), tried.limits.timeout);
        let is_critical = body.seen.health == Health::Critical && !body.state.is_escalated();
        let gentle = if is_critical { SwapOrder::BreakBeforeMake } else { SwapOrder::MakeBeforeBreak };
        let targets = body.targets.len().max(1);
        let work = async move {
            let then = heal(&*action, &attempt).await?;
            let (order, target) = match then {
                Then::Nothing => return Ok(()),
                Then::Rebuild => (gentle, attempt.target),
                Then::Restart => (SwapOrder::BreakBeforeMake, attempt.target),
                Then::FailOver => {
                    let from = if attempt.number == 1 { attempt.target } else { *last_target };
                    let mut next = (from + 1..=from + targets).map(|target| target % targets);
                    *last_target = next.find(|target| *target != attempt.target).unwrap_or(attempt.target);
                    (gentle, *last_target)
                }
            };
            warm.target = target;
            swapped(generations.swap(order, target, warm).await)
        };
        let span = body.chart.span();
        let work = tracing::Instrument::instrument(within(limit, work), span);
        let result = match beside(body, Busy::Yes, Box::pin(work)).await {
            Ok(Ok(result)) => result.unwrap_or(Err(Tried::TimedOut)),
            Ok(Err(_)) => Err(Tried::Panicked),
            Err(cut) => {
                body.acted(rung, started, Err(Tried::Cancelled));
                return Some(cut);
            }
        };
        body.acted(rung, started, result);
        None
    }

    async fn probe(&mut self) -> Option<Cut> {
        let Self { generations, body, warm, .. } = self;
        warm.target = 0;
        let work = async move {
            let Ok(candidate) = generations.candidate(0).await else { return false };
            let Some(service) = candidate.service() else { return false };
            warm.look(service, 0).await
        };
        match beside(body, Busy::Aside, Box::pin(work)).await {
            Ok(passed) => {
                body.probed(passed.unwrap_or(false));
                None
            }
            Err(cut) => Some(cut),
        }
    }

    async fn fail_back(&mut self) -> Option<Cut> {
        let Self { generations, body, warm, .. } = self;
        warm.target = 0;
        let SwapSettings { exclusive, connect_within, .. } = *generations.settings();
        // Where the service had to go first, another one is all that matters; else whatever is urgent goes first.
        let (busy, limit) = match exclusive {
            true => (Busy::Yes, connect_within),
            false => (Busy::Aside, Duration::MAX),
        };
        let work = within(limit, generations.swap(SwapOrder::MakeBeforeBreak, 0, warm));
        match beside(body, busy, Box::pin(work)).await {
            Ok(result) => {
                if !matches!(result, Ok(Some(Ok(_)))) {
                    body.probed(false);
                }
                None
            }
            Err(cut) => Some(cut),
        }
    }

    /// Sends the pages that are on their way, and lets the calls end: in their own time, until it is said how long they may take.
    async fn stop(self: Box<Self>, limit: Option<Duration>) {
        let Self { mut generations, mut body, .. } = *self;
        if let Some(group) = body.siblings.take() {
            group.leave(&mut body.chart);
        }
        let Chart { shared, pages, .. } = &mut body.chart;
        let mut until = limit.map(|limit| after(Instant::now(), limit));
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let ended = async {
                match left {
                    Some(left) => generations.shutdown(left).await,
                    None => generations.finish().await,
                }
            };
            let mut ending = pin!(last_things(pages, left.unwrap_or(PAGE_WITHIN), ended));
            // Of several limits, the first to be over counts.
            let earlier = poll_fn(|cx| {
                let told = shared.told_to_stop(cx).map(|limit| after(Instant::now(), limit));
                match told.filter(|told| until.is_none_or(|until| *told < until)) {
                    Some(told) => Poll::Ready(Some(told)),
                    None => ending.as_mut().poll(cx).map(|()| None),
                }
            });
            match earlier.await {
                Some(told) => until = Some(told),
                None => return,
            }
        }
    }
}

/// Sends the pages that are on their way, within this time, while this ends.
async fn last_things(pages: &mut Pages, limit: Duration, ended: impl Future<Output = ()>) {
    let send = poll_fn(|cx| {
        while !pages.is_empty() {
            ready!(pages.poll(cx));
        }
        Poll::Ready(())
    });
    let (mut sent, mut ended) = (pin!(within(limit, send)), pin!(ended));
    let (mut is_sent, mut has_ended) = (false, false);
    poll_fn(|cx| {
        is_sent = is_sent || sent.as_mut().poll(cx).is_ready();
        has_ended = has_ended || ended.as_mut().poll(cx).is_ready();
        if is_sent && has_ended { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Does a work while the body goes on looking around, unless it has to stop, or to do something that is more urgent. A panic in
/// the work is no other end of it than being dropped where it stands.
async fn beside<S, T>(
    body: &mut Body<S>,
    busy: Busy,
    work: Pin<Box<impl Future<Output = T>>>,
) -> Result<Result<T, Panicked>, Cut>
where
    S: Clone + Send + 'static,
{
    let mut work = caught(|| work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = Pin::new(&mut work).poll(cx) {
            return Poll::Ready(Ok(done));
        }
        match body.poll(cx, busy) {
            Poll::Ready(Order::Stop(limit)) => Poll::Ready(Err(Cut::Stop(Some(limit)))),
            Poll::Ready(Order::End) => Poll::Ready(Err(Cut::Stop(None))),
            Poll::Ready(order) => Poll::Ready(Err(Cut::For(order))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn heal(action: &dyn Action, attempt: &Attempt) -> Result<Then, Tried> {
    match caught(|| action.heal(attempt)).await {
        Ok(Ok(then)) => Ok(then),
        Ok(Err(error)) => Err(Tried::Failed(evidence(&*error).into())),
        Err(_) => Err(Tried::Panicked),
    }
}

fn swapped(result: Result<u64, SwapError>) -> Result<(), Tried> {
    result.map(drop).map_err(|error| match error {
        SwapError::TimedOut(_) => Tried::TimedOut,
        SwapError::Panicked(_) => Tried::Panicked,
        SwapError::Failed(error) => Tried::Failed(evidence(&*error).into()),
        error => Tried::Failed(error.to_string().into()),
    })
}

impl<S: Clone + Send + 'static> Warm<S> {
    /// Whether no check that probes has anything against this service.
    async fn look(&self, service: Foreign<S>, generation: u64) -> bool {
        for one in &self.checks {
            let patient = || {
                let (service, target) = (Some(service.clone()), self.target);
                Patient { service, generation, target, traffic: Arc::new(Signals::default()) }
            };
            let answer = run(Arc::clone(one), one.check().settings().timeout, patient).await;
            if !matches!(answer, Answer::Pass | Answer::Skipped) {
                return false;
            }
        }
        true
    }
}

impl<S: Clone + Send + 'static> WarmUp<S> for Warm<S> {
    fn warm(&self, service: Foreign<S>, generation: u64) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            for _ in 0..self.passes {
                if !self.look(service.clone(), generation).await {
                    return false;
                }
            }
            true
        })
    }
}
