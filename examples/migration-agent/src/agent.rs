//! The workflow: a run is a list of migrations, each a step that is journaled, and at most one run is open at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use buttress::checkpoint::{Config, Cx, Handle, RunError, StartError, StepError, Workflow, Workflows};
use buttress::core::Observe;
use buttress::store::{JournalStore, Query, RunInfo, StatusKind, StoreError};
use serde::{Deserialize, Serialize};

use crate::console::Console;
use crate::crash::Crash;
use crate::database::{Change, Direction, Done, Settings};
use crate::files::Migration;
use crate::monitor::{Monitor, Notice};
use crate::problem::{Exit, Problem};
use crate::stack::Stack;

/// What a run is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) direction: Direction,
    pub(crate) steps: Vec<Planned>,
}

/// One step of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Planned {
    pub(crate) id: String,
    /// Of the file that is run.
    pub(crate) hash: String,
    /// What it requires, or what requires it.
    pub(crate) others: Vec<String>,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stepped {
    pub(crate) id: String,
    /// `None` if the file is not the one that was planned: nothing was done, and there is to be a new plan.
    pub(crate) done: Option<Done>,
}

/// All that a step needs.
#[derive(Debug)]
pub(crate) struct Hands {
    pub(crate) stack: Stack,
    pub(crate) migrations: BTreeMap<String, Arc<Migration>>,
    pub(crate) settings: Settings,
    pub(crate) console: Arc<Console>,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) crash: Crash,
}

/// Runs plans, one at a time among all agents that share its store.
pub(crate) struct Agent<S> {
    workflows: Workflows<S>,
    up: Flow<S>,
    down: Flow<S>,
    console: Arc<Console>,
    wait: bool,
    resume: bool,
}

type Flow<S> = Workflow<S, Plan, Vec<Stepped>, Problem>;
pub(crate) type Run<S> = Handle<S, Vec<Stepped>, Problem>;

/// The runs of one store are numbered, and have this before their number.
const RUN: &str = "run-";

impl<S: JournalStore> Agent<S> {
    pub(crate) fn new(
        store: S,
        hands: &Arc<Hands>,
        lease: std::time::Duration,
        observer: Arc<dyn Observe>,
        (wait, resume): (bool, bool),
    ) -> Result<Self, Problem> {
        let wrong = |error: buttress::ConfigError| Problem::input(format!("--lease: {error}"));
        let config = Config::default()
            .worker(worker())
            .lease(lease, lease / 4)
            .and_then(|config| config.poll_interval((lease / 20).min(std::time::Duration::from_millis(500))))
            .map_err(wrong)?
            .observe(observer);
        let workflows = Workflows::with(store, config);
        let register = |name| {
            let hands = Arc::clone(hands);
            workflows
                .register(name, 1, move |cx: Cx, plan: Plan| work(cx, plan, Arc::clone(&hands)))
                .map_err(wrong)
        };
        let (up, down) = (register("migrate up")?, register("migrate down")?);
        Ok(Self { up, down, workflows, console: Arc::clone(&hands.console), wait, resume })
    }

    /// The run that is not over, if there is one, with its direction. It is gone on with before anything else is done.
    pub(crate) async fn open(&self) -> Result<Option<(Direction, Run<S>)>, Problem> {
        let statuses =
            vec![StatusKind::Running, StatusKind::Sleeping, StatusKind::Paused, StatusKind::Parked];
        let page = self.list(statuses, 10).await?;
        let ours = |info: &&RunInfo| info.id.as_str().starts_with(RUN);
        let Some(info) = page.iter().find(ours) else { return Ok(None) };
        let direction = if *info.name == *"migrate up" { Direction::Up } else { Direction::Down };
        if !info.status.kind().is_open() {
            self.halted(info).await?;
        }
        if let Some(lease) = info.lease.filter(|lease| !lease.is_zero()) {
            let (id, worker, seconds) = (&info.id, &info.worker, lease.as_secs() + 1);
            if !self.wait {
                let what = format!("{id} belongs to {worker}, for {seconds} s more at least");
                return Err(Problem::new(Exit::Busy, what).fix("if that process has gone, wait so long"));
            }
            self.console.line(&format!(
                "{id} belongs to {worker}: waiting until it has ended, or {seconds} s if it has gone"
            ));
        }
        Ok(Some((direction, self.flow(direction).handle(info.id.clone()))))
    }

    /// A run that waits for an operator goes on if this one says so.
    async fn halted(&self, info: &RunInfo) -> Result<(), Problem> {
        if !self.resume {
            let what = format!("{} is halted: {:?}", info.id, info.status);
            return Err(Problem::new(Exit::Stuck, what).fix("find out why, and give --resume to go on"));
        }
        self.workflows.resume(&info.id).await.map(drop).map_err(|error| store(&error))
    }

    /// Begins a run; `None` if another agent was faster.
    pub(crate) async fn start(&self, plan: Plan) -> Result<Option<Run<S>>, Problem> {
        let numbers = self.list(Vec::new(), 20).await?;
        let numbers =
            numbers.iter().filter_map(|info| info.id.as_str().strip_prefix(RUN)?.parse::<u64>().ok());
        let id = format!("{RUN}{}", numbers.max().unwrap_or_default() + 1);
        match self.flow(plan.direction).start(id.as_str(), plan).await {
            Ok(run) => Ok(Some(run)),
            Err(StartError::ConflictingWorkflow { .. }) => Ok(None),
            Err(StartError::Store(error)) => Err(store(&error)),
            Err(error) => Err(Problem::new(Exit::Stuck, error.to_string())),
        }
    }

    /// Works until the run is over, whoever ends it.
    pub(crate) async fn drive(&self, run: &Run<S>) -> Result<Vec<Stepped>, Problem> {
        let result = tokio::select! {
            () = self.workflows.run_until(interrupted()) => {
                let what = format!("interrupted; {} is given back", run.id());
                return Err(Problem::new(Exit::Interrupted, what).fix("run the same again, and it goes on"));
            }
            result = run.result() => result,
        };
        result.map_err(|error| match error {
            RunError::Failed(problem) => problem,
            RunError::Store(error) => store(&error),
            other => Problem::new(Exit::Stuck, format!("{}: {other}", run.id())),
        })
    }

    async fn list(&self, statuses: Vec<StatusKind>, limit: u32) -> Result<Vec<RunInfo>, Problem> {
        let query = Query { statuses, limit, ..Query::default() };
        self.workflows.store().list(&query).await.map(|page| page.runs).map_err(|error| store(&error))
    }

    fn flow(&self, direction: Direction) -> &Flow<S> {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}

/// The code of a run.
async fn work(cx: Cx, plan: Plan, hands: Arc<Hands>) -> Result<Vec<Stepped>, Problem> {
    let (verb, run) = (plan.direction.verb(), Arc::<str>::from(cx.run_id().as_str()));
    hands.console.begin(plan.steps.len());
    let mut stepped = Vec::new();
    for planned in &plan.steps {
        let body = async || hands.step(plan.direction, planned, &run).await;
        let step = cx.step(format!("{verb} {}", planned.id), body).input(planned);
        let done = step.await.map_err(|error| match error {
            StepError::Failed(problem) => problem,
            other => Problem::new(Exit::Stuck, other.to_string()).of(&planned.id),
        })?;
        hands.console.done();
        stepped.push(Stepped { id: planned.id.clone(), done });
        if done.is_none() {
            break;
        }
    }
    Ok(stepped)
}

impl Hands {
    /// Applies or undoes one migration: the body of a step, which may be entered again.
    async fn step(
        &self,
        direction: Direction,
        planned: &Planned,
        run: &Arc<str>,
    ) -> Result<Option<Done>, Problem> {
        let Some(change) = self.change(direction, planned, run) else { return Ok(None) };
        self.console.step(&planned.id);
        let asked = self.stack.ask(change.limit(self.settings), |database| {
            let change = change.clone();
            async move { database.change(change).await }
        });
        let done = asked.await.map_err(|problem| problem.of(&planned.id));
        self.tell(direction, planned, run, &done);
        done.map(Some)
    }

    fn change(&self, direction: Direction, planned: &Planned, run: &Arc<str>) -> Option<Change> {
        let migration = Arc::clone(self.migrations.get(&planned.id)?);
        let others = planned.others.iter().map(|id| Arc::from(id.as_str())).collect();
        let (run, crash) = (Arc::clone(run), self.crash.clone());
        let change = Change { migration, direction, others, run, crash };
        (change.source().hash == planned.hash).then_some(change)
    }

    fn tell(&self, direction: Direction, planned: &Planned, run: &str, done: &Result<Done, Problem>) {
        let (id, past) = (&planned.id, direction.past());
        let (event, ms, detail) = match done {
            Ok(Done::Now { ms }) => {
                self.console.line(&format!("  {id} {past} in {ms} ms"));
                (past, Some(*ms), None)
            }
            Ok(Done::Before) => {
                self.console.line(&format!("  {id} was {past} before"));
                (past, None, None)
            }
            Err(problem) => {
                self.console.line(&format!("  {id} failed"));
                ("failed", None, Some(problem.to_string()))
            }
        };
        let (migration, run) = (Some(id.clone()), Some(run.to_owned()));
        self.monitor.tell(&Notice { event, migration, run, ms, detail });
    }
}

fn store(error: &StoreError) -> Problem {
    let mut text = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        text = format!("{text}: {cause}");
    }
    Problem::new(Exit::Unavailable, format!("the journal: {text}")).fix("run it again when the store is well")
}

/// This process, as others are told of it.
fn worker() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!(
        "process {} on {}",
        std::process::id(),
        if host.trim().is_empty() { "this machine" } else { host.trim() }
    )
}

/// Somebody wants this process to end.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = tokio::signal::ctrl_c() => return,
            }
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
