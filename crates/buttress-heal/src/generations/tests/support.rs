//! Factories and services for these tests.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::{BoxError, Observer, find};
use buttress_testkit::{ReadinessProbe, ScriptError, Scripted, ScriptedFuture, Step};
use tower::{Service, ServiceExt};

use crate::generations::{Generations, SwapOrder, WarmUp};
use crate::view::View;
use crate::{BoxFuture, Build, Factory, Heal, SwapSettings, Unavailable};

pub(super) const MS: fn(u64) -> Duration = Duration::from_millis;

/// A service of one generation, which says when it is there and gone. It checks that only ready instances are called.
#[derive(Debug)]
pub(super) struct Client {
    inner: ReadinessProbe<Scripted<u64>>,
    alive: Arc<Alive>,
}

#[derive(Debug)]
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Clone for Client {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), alive: Arc::clone(&self.alive) }
    }
}

impl Service<u64> for Client {
    type Response = u64;
    type Error = ScriptError;
    type Future = ScriptedFuture<u64>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ScriptError>> {
        Service::<u64>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: u64) -> Self::Future {
        self.inner.call(request)
    }
}

/// What a factory does next.
pub(super) enum Make {
    /// Builds a client that follows these steps, after this time.
    After(Duration, Vec<Step<u64>>),
    Fail(&'static str),
    Hang,
    Panic,
}

pub(super) fn at_once(steps: impl IntoIterator<Item = Step<u64>>) -> Make {
    Make::After(Duration::ZERO, steps.into_iter().collect())
}

/// A factory that follows a plan, and what can be seen of its work.
#[derive(Clone, Default)]
pub(super) struct Works {
    plan: Arc<Mutex<VecDeque<Make>>>,
    alive: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
    pub(super) builds: Arc<Mutex<Vec<Build>>>,
    pub(super) scripts: Arc<Mutex<Vec<Scripted<u64>>>>,
}

impl Works {
    pub(super) fn new(plan: impl IntoIterator<Item = Make>) -> Self {
        let works = Self::default();
        works.then(plan);
        works
    }

    pub(super) fn then(&self, plan: impl IntoIterator<Item = Make>) {
        self.plan.lock().unwrap().extend(plan);
    }

    /// Clients of which there is still a clone, and how many there have been at once.
    pub(super) fn alive(&self) -> (usize, usize) {
        (self.alive.load(Relaxed), self.peak.load(Relaxed))
    }

    /// The script of the client that was built as this one, from 0 on.
    pub(super) fn script(&self, number: usize) -> Scripted<u64> {
        self.scripts.lock().unwrap()[number].clone()
    }

    pub(super) fn generations(
        &self,
        settings: SwapSettings,
    ) -> (Generations<impl Factory<Service = Client>>, Heal<Client>) {
        let works = self.clone();
        let factory = move |build| works.clone().make(build);
        Generations::new("db".into(), factory, settings, Observer::default())
    }

    async fn make(self, build: Build) -> Result<Client, io::Error> {
        self.builds.lock().unwrap().push(build);
        let next = self.plan.lock().unwrap().pop_front().expect("the plan says what is built");
        let steps = match next {
            Make::After(time, steps) => {
                if !time.is_zero() {
                    tokio::time::sleep(time).await;
                }
                steps
            }
            Make::Fail(why) => return Err(io::Error::other(why)),
            Make::Hang => std::future::pending().await,
            Make::Panic => panic!("a factory's own fault"),
        };
        let script = Scripted::new(steps);
        self.scripts.lock().unwrap().push(script.clone());
        self.peak.fetch_max(self.alive.fetch_add(1, Relaxed) + 1, Relaxed);
        Ok(Client { inner: ReadinessProbe::new(script), alive: Arc::new(Alive(self.alive)) })
    }
}

/// Passes.
pub(super) struct Warm;

impl<S: Send> WarmUp<S> for Warm {
    fn warm(&self, _: crate::unwind::Foreign<S>, _: u64) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }
}

pub(super) const MAKE_FIRST: SwapOrder = SwapOrder::MakeBeforeBreak;
pub(super) const BREAK_FIRST: SwapOrder = SwapOrder::BreakBeforeMake;

/// A call by a clone of its own.
pub(super) async fn call(service: &Heal<Client>, request: u64) -> Result<u64, BoxError> {
    service.clone().oneshot(request).await
}

pub(super) fn unavailable(outcome: Result<u64, BoxError>) -> Unavailable {
    let error = outcome.expect_err("nothing to make a call with");
    find::<Unavailable>(&*error).unwrap_or_else(|| panic!("it is unavailable, and not: {error}")).clone()
}

/// Resolves when the calls give reason to look.
pub(super) async fn suspected<S: Clone>(view: &View<S>) {
    poll_fn(|cx| if view.is_suspected(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// All at once in the runtime's tasks, and their outcomes in order.
pub(super) async fn calls(service: &Heal<Client>, number: u64) -> Vec<Result<u64, BoxError>> {
    let tasks: Vec<_> = (0..number)
        .map(|request| {
            let service = service.clone();
            tokio::spawn(async move { call(&service, request).await })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}
