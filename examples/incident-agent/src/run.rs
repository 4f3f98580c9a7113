//! One run: servers where the vendors are not real, clients, the agent, and what came of it.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use buttress::BoxError;
use buttress::checkpoint::{Config, Cx, Failure, Workflows};
use buttress::core::Observe;
use buttress::store::{JournalStore, Memory};
use buttress_cli::AnyStore;

use crate::agent::{Agent, Over};
use crate::args::Options;
use crate::chaos::Chaos;
use crate::clients::{Pace, Reach};
use crate::console::Console;
use crate::crash::{Crash, Point};
use crate::incident::Incident;
use crate::input::BadInput;
use crate::patience::Patience;
use crate::report::Run;
use crate::servers::apart::{Apart, Setup, ledger_file};
use crate::servers::ledger::{Entry, Ledger, State, read};
use crate::servers::{Servers, World};
use crate::shield::{Kit, Shield};
use crate::timeline::{Moment, Timeline};
use crate::vendors::{Base, Vendor};

/// What a run is about.
pub(crate) struct Plan<'a> {
    pub(crate) incident: &'a Arc<Incident>,
    pub(crate) chaos: &'a Chaos,
    pub(crate) options: &'a Options,
    pub(crate) console: Console,
}

/// What came of it, and how.
pub(crate) struct Handled {
    pub(crate) run: Run,
    pub(crate) moments: Vec<Moment>,
    pub(crate) state: State,
}

impl Plan<'_> {
    /// Handles the incident with Buttress, or goes on with a run of that name.
    pub(crate) async fn with_buttress(&self) -> Result<Handled, BoxError> {
        let Options { targets, run, seed, .. } = self.options;
        let folder = self.options.folder();
        let apart = self.vendors().await?;
        let timeline = Arc::new(Timeline::start(self.console.with_rows()));
        let shield = Shield::new(|vendor| targets.pace(vendor), *seed, &timeline)?;
        shield.show(&timeline);
        let nowhere = || vec![Base::nowhere(); Vendor::ALL.len()];
        let bases = apart.as_ref().map_or_else(nowhere, Apart::bases);
        let crash = Arc::new(self.crash());
        let kit = Kit {
            incident: self.incident,
            targets,
            bases: &bases,
            reach: &Reach::Network,
            patience: Patience::of(self.pace()),
            timeline: &timeline,
            crash: &crash,
        };
        let agent = shield.agent(&kit)?;
        let store = self.store().await?;
        let observers: Vec<Arc<dyn Observe>> = vec![Arc::<Timeline>::clone(&timeline)];
        let config = worker(self.pace(), *seed)?.observe(Arc::new(observers));
        let over = workflow(store.clone(), config, run, self.incident, agent).await;
        timeline.end();
        let over = over?;
        let state = read(&ledger_file(&folder), &self.incident.key)?;
        store.close().await;
        if let Some(apart) = apart {
            apart.end().await;
        }
        let mut handled = Run::new(over, timeline.elapsed(), &state, targets);
        handled.count(shield.tally.counts(), shield.states());
        Ok(Handled { run: handled, moments: timeline.moments(), state })
    }

    /// The same with bare clients, and a journal that ends with its process: killed where the other one was killed, it begins
    /// anew.
    pub(crate) async fn without_buttress(&self, killed: &[Point]) -> Result<Handled, BoxError> {
        let targets = &self.options.targets;
        let ledger = Ledger::in_memory(&self.incident.key);
        let world = World::new(self.incident, ledger, targets.is_real(Vendor::Aws));
        let servers = Servers::start(self.chaos, &world).await?;
        let timeline = Arc::new(Timeline::start(self.console.clone()));
        let crash = Arc::new(Crash::dropped_at(killed.iter().copied()));
        let kit = Kit {
            incident: self.incident,
            targets,
            bases: &servers.bases(),
            reach: &Reach::Network,
            patience: Patience::of(self.pace()),
            timeline: &timeline,
            crash: &crash,
        };
        let over = loop {
            let agent = kit.unprotected();
            let config = worker(self.pace(), None)?;
            tokio::select! {
                over = workflow(Memory::new(), config, "unprotected", self.incident, agent) => break over?,
                point = crash.struck() => {
                    world.note(&Entry::Killed { at: point.to_string() });
                    timeline.died();
                }
            }
        };
        let state = world.state();
        let run = Run::new(over, timeline.elapsed(), &state, targets);
        Ok(Handled { run, moments: timeline.moments(), state })
    }

    /// The embedded vendors, in a process that outlives this one; `None` if all are real.
    async fn vendors(&self) -> Result<Option<Apart>, BoxError> {
        let folder = self.options.folder();
        std::fs::create_dir_all(&folder).map_err(|error| {
            let problem = format!("{} cannot be made: {error}", folder.display());
            BadInput::new("--folder", problem, "give --folder a folder that can be written to")
        })?;
        let targets = &self.options.targets;
        if Vendor::ALL.iter().all(|vendor| targets.is_real(*vendor)) {
            return Ok(None);
        }
        let setup = Setup {
            incident: Incident::clone(self.incident),
            chaos: self.chaos.clone(),
            restarts_elsewhere: targets.is_real(Vendor::Aws),
        };
        Apart::of(&folder, &setup).await.map(Some)
    }

    /// Where the journal is.
    async fn store(&self) -> Result<AnyStore, BoxError> {
        let url = self.options.store_url();
        AnyStore::create(&url).await.map_err(|error| {
            let fix = "give sqlite:PATH, postgres://… or redis://… of a store that can be reached";
            // The URL may hold a password.
            BoxError::from(BadInput::new("--store", error, fix))
        })
    }

    fn crash(&self) -> Crash {
        let ledger: PathBuf = ledger_file(&self.options.folder());
        match (self.options.crash_at, self.options.crash_in) {
            (Some(point), _) => Crash::at(point, ledger),
            (None, Some(points)) => Crash::after(points, ledger),
            (None, None) => Crash::default(),
        }
    }

    /// Chaos for a real vendor would do nothing, and whoever wrote it should know.
    pub(crate) fn check(&self) -> Result<(), BadInput> {
        let is_own = self.chaos.is_own();
        let concerned =
            |vendor: &Vendor| is_own && self.options.targets.is_real(*vendor) && self.chaos.concerns(*vendor);
        let Some(vendor) = Vendor::ALL.into_iter().find(concerned) else { return Ok(()) };
        let vendor = vendor.as_str();
        let problem =
            format!("`layers.{vendor}` has rules, but --{vendor}-url points at a server that follows none");
        Err(BadInput::new(self.chaos.name(), problem, format!("remove `layers.{vendor}` or --{vendor}-url")))
    }

    /// Says what is about to happen.
    pub(crate) fn introduce(&self) {
        let Incident { title, id, cluster, ecs_service, .. } = &**self.incident;
        self.console.line(&format!("incident   {title}"));
        self.console
            .line(&format!("           PagerDuty {id}, ECS service {ecs_service} in cluster {cluster}"));
        self.console.line(&format!("run        {}", self.options.run));
        for vendor in Vendor::ALL {
            let name = vendor.as_str();
            self.console.line(&match (self.options.targets.is_real(vendor), self.chaos.describe(vendor)) {
                (true, _) => format!("{name:<9}  yours"),
                (false, None) => format!("{name:<9}  embedded server, no chaos"),
                (false, Some(chaos)) => format!("{name:<9}  embedded server: {chaos}"),
            });
        }
        if !self.chaos.killed().is_empty() {
            let points: Vec<String> = self.chaos.killed().iter().map(ToString::to_string).collect();
            self.console.line(&format!("agent      killed at {}", points.join(", ")));
        }
    }

    fn pace(&self) -> Pace {
        if self.options.targets.all_embedded() { Pace::Demonstration } else { Pace::Production }
    }
}

/// How the run is held. A kill delays it by one lease, so that of a demonstration is short.
pub(crate) fn worker(pace: Pace, seed: Option<u64>) -> Result<Config, BoxError> {
    let config = match pace {
        Pace::Production => Config::default(),
        Pace::Demonstration => Config::default()
            .lease(Duration::from_secs(3), Duration::from_secs(1))?
            .poll_interval(Duration::from_millis(200))?,
    };
    // Somebody who kills a run in the same step again and again means it.
    let config = config.max_recoveries(1000);
    Ok(seed.into_iter().fold(config, Config::seed))
}

/// Handles an incident as the run of this name, or goes on with it; if it is over, says what it came to.
pub(crate) async fn workflow<S: JournalStore>(
    store: S,
    config: Config,
    run: &str,
    incident: &Arc<Incident>,
    agent: Arc<Agent>,
) -> Result<Over, BoxError> {
    let workflows = Workflows::with(store, config);
    // This process has the clients of this incident only, and leaves others' runs alone.
    let code = move |cx: Cx, _incident: Incident| {
        let agent = Arc::clone(&agent);
        async move { Ok::<_, Failure>(agent.handle(cx).await) }
    };
    let flow = workflows.register(format!("incident {run}"), 1, code)?;
    let handle = flow.start(run, Incident::clone(incident)).await.map_err(|error| match error {
        buttress::checkpoint::StartError::ConflictingWorkflow { .. } => {
            let fix = "give that incident, or a run of another name";
            BoxError::from(BadInput::new("--run", format!("\"{run}\" is about another incident"), fix))
        }
        other => other.into(),
    })?;
    tokio::select! {
        () = workflows.run_until(pending()) => unreachable!("it runs until it is told to stop"),
        result = handle.result() => result.map_err(|error| Failure::from(error).into_error()),
    }
}

/// The points at which a run was killed, as its ledger has them.
pub(crate) fn points(state: &State) -> Vec<Point> {
    state.killed().iter().filter_map(|at| Point::parse("ledger", at).ok()).collect()
}
