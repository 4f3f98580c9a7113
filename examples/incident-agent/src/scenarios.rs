//! Each scenario that ships, on a paused clock and without sockets: what it cost, and that nothing happened twice.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use buttress::core::Rng;
use buttress::store::Memory;
use tokio::time::sleep;

use crate::agent::Outcome;
use crate::args::Targets;
use crate::chaos::Chaos;
use crate::clients::{Pace, Reach};
use crate::console::Console;
use crate::crash::{Crash, Edge, Point};
use crate::incident::Incident;
use crate::patience::Patience;
use crate::report::Run;
use crate::run::{worker, workflow};
use crate::servers::ledger::{Ledger, State};
use crate::servers::{Site, World};
use crate::shield::{Kit, Shield};
use crate::steps::{Name, Status};
use crate::timeline::{Moment, Timeline, What};
use crate::vendors::{Base, Vendor};

/// How an incident is to be handled.
struct Scenario {
    chaos: &'static str,
    seed: u64,
    patience: Patience,
    /// How often the restart has to be looked at.
    looks: Option<u32>,
    killed: Vec<Point>,
    /// After so long each process dies, one after the other, wherever it is.
    lives: Vec<Duration>,
}

struct Seen {
    run: Run,
    state: State,
    moments: Vec<Moment>,
    /// How often a process has died.
    deaths: u32,
}

impl Scenario {
    fn of(chaos: &'static str) -> Self {
        let patience = Patience::of(Pace::Demonstration);
        Self { chaos, seed: 7, patience, looks: None, killed: Vec::new(), lives: Vec::new() }
    }

    /// Handles the incident. A kill drops the run with all that it has in memory; its store and its vendors stay.
    async fn handle(&self) -> Seen {
        let incident = Arc::new(Incident::load(None).unwrap());
        let chaos = Chaos::load(Path::new(self.chaos)).unwrap();
        let world = match self.looks {
            Some(looks) => World::slow(&incident, looks),
            None => World::new(&incident, Ledger::in_memory(&incident.key), false),
        };
        let sites = Vendor::ALL.map(|vendor| Site::new(vendor, &chaos, &world)).to_vec();
        let timeline = Arc::new(Timeline::start(Console::silent()));
        let crash = Arc::new(Crash::dropped_at(self.killed.iter().chain(chaos.killed()).copied()));
        let (targets, store) = (Targets::default(), Memory::new());
        let kit = Kit {
            incident: &incident,
            targets: &targets,
            bases: &vec![Base::nowhere(); Vendor::ALL.len()],
            reach: &Reach::Here(sites),
            patience: self.patience,
            timeline: &timeline,
            crash: &crash,
        };
        let (mut probes, mut levels, mut lives, mut deaths) = (0, Vec::new(), self.lives.iter(), 0);
        loop {
            let life = lives.next().copied();
            let shield = Shield::new(|_| Pace::Demonstration, Some(self.seed), &timeline).unwrap();
            let agent = shield.agent(&kit).unwrap();
            let config = worker(Pace::Demonstration, Some(self.seed)).unwrap();
            let over = tokio::select! {
                over = workflow(store.clone(), config, "test", &incident, agent) => Some(over.unwrap()),
                _ = crash.struck() => None,
                () = sleep(life.unwrap_or_default()), if life.is_some() => None,
            };
            let counts = shield.tally.counts();
            probes += counts.probes;
            levels.extend(counts.levels.clone());
            let Some(over) = over else {
                deaths += 1;
                continue;
            };
            let state = world.state();
            let mut run = Run::new(over, timeline.elapsed(), &state, &targets);
            run.count(counts, shield.states());
            (run.probes, run.levels) = (probes, levels);
            return Seen { run, state, moments: timeline.moments(), deaths };
        }
    }
}

impl Seen {
    /// What holds in every scenario: the calls that were made are at most 1.1 × those of a run without faults, beside probes and
    /// what is allowed for; nothing was done twice; at most one person was paged, once; and no level was jumped over.
    #[track_caller]
    fn check(&self, fault_free: u64, allowed: u64) {
        let Run { calls, probes, duplicates, levels, paged, .. } = &self.run;
        let bound = fault_free * 11 / 10 + probes + allowed;
        println!(
            "{calls} calls (fault-free {fault_free}, {probes} probes, bound {bound}), {duplicates} duplicates"
        );
        let all = &self.moments;
        assert!(*calls <= bound, "{calls} calls, {bound} at most: {all:#?}");
        assert_eq!(*duplicates, 0);
        assert!(paged.unwrap().people_paged <= 1, "{paged:?}");
        let mut before = (0, 0);
        for level in levels {
            assert!(before.0 != 0 || level.instant != 4, "{levels:?}");
            assert!(level.declared.abs_diff(before.1) <= 1, "{levels:?}");
            before = (level.instant, level.declared);
        }
    }

    fn status(&self, name: Name) -> Option<Status> {
        self.run.steps.iter().find(|step| step.name == name).map(|step| step.status)
    }

    fn worst_level(&self) -> u8 {
        self.run.levels.iter().map(|change| change.instant).max().unwrap_or(0)
    }

    fn detail(&self, name: Name) -> &str {
        self.run.steps.iter().find(|step| step.name == name).map_or("", |step| &step.detail)
    }
}

/// What a run without faults costs.
async fn fault_free() -> u64 {
    let seen = Scenario::of("none").handle().await;
    assert_eq!((seen.run.outcome, seen.run.probes, seen.worst_level()), (Outcome::Resolved, 0, 0));
    assert!(seen.run.steps.iter().all(|step| step.status == Status::Done));
    seen.check(seen.run.calls, 0);
    seen.run.calls
}

#[tokio::test(start_paused = true)]
async fn without_chaos_each_thing_is_done_once() {
    assert_eq!(fault_free().await, 17);
    let seen = Scenario::of("none").handle().await;
    let done = ["restart", "clear_cache", "scale"].map(|what| seen.state.applied(what));
    assert_eq!((done, seen.state.tasks(), seen.state.pages()), ([1; 3], 9, 0));
}

#[tokio::test(start_paused = true)]
async fn datadog_is_down_for_all_of_it() {
    let seen = Scenario::of("datadog-down").handle().await;
    seen.check(fault_free().await, 0);
    assert_eq!(seen.run.outcome, Outcome::Resolved);
    assert_eq!((seen.status(Name::Gather), seen.worst_level() <= 3), (Some(Status::Degraded), true));
    assert!(
        seen.detail(Name::Gather).contains("metric at 1840 ms (level 1)"),
        "{}",
        seen.detail(Name::Gather)
    );
    assert_eq!(seen.state.applied("restart"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_logs_are_slow() {
    let seen = Scenario::of("logs-slow").handle().await;
    seen.check(fault_free().await, 0);
    assert_eq!(seen.run.outcome, Outcome::Resolved);
    assert!(seen.detail(Name::Gather).contains("; no logs, it timed out"), "{}", seen.detail(Name::Gather));
    // Nobody knows that the cache is well.
    assert_eq!(seen.state.applied("clear_cache"), 1);
}

#[tokio::test(start_paused = true)]
async fn pagerduty_throttles() {
    let seen = Scenario::of("pagerduty-throttled").handle().await;
    seen.check(fault_free().await, 0);
    assert_eq!((seen.run.outcome, seen.state.events()), (Outcome::Resolved, 2));
}

#[tokio::test(start_paused = true)]
async fn aws_resets_after_it_has_begun_the_restart() {
    let seen = Scenario::of("aws-lost-ack").handle().await;
    seen.check(fault_free().await, 0);
    assert_eq!((seen.run.outcome, seen.state.applied("restart")), (Outcome::Resolved, 1));
    assert!(seen.detail(Name::Restart).starts_with("begun before"), "{}", seen.detail(Name::Restart));
}

#[tokio::test(start_paused = true)]
async fn everything_is_down_and_one_person_is_paged_once() {
    let seen = Scenario::of("all-down").handle().await;
    seen.check(fault_free().await, 0);
    assert_eq!((seen.run.outcome, seen.state.pages()), (Outcome::Escalated, 1));
    assert_eq!(seen.worst_level(), 3, "{:?}", seen.run.levels);
    assert_eq!(["restart", "clear_cache", "scale"].map(|what| seen.state.applied(what)), [0; 3]);
    // No loop: each step was begun once.
    let names: Vec<Name> = seen.run.steps.iter().map(|step| step.name).collect();
    assert_eq!(names, [Name::Gather, Name::Analyse, Name::Escalate]);
}

#[tokio::test(start_paused = true)]
async fn the_agent_is_killed_ten_times() {
    let points = Chaos::load(Path::new("killed-ten-times")).unwrap().killed().len();
    let seen = Scenario::of("killed-ten-times").handle().await;
    // What a step that was cut off had asked is asked again: four in `gather`, one look in `restart` each time, one or two
    // calls in the others, and three in `verify`.
    seen.check(fault_free().await, 4 + 2 + 2 + 1 + 3 + 1 + 1);
    assert_eq!((points, seen.deaths, seen.run.outcome), (10, 10, Outcome::Resolved));
    let done = ["restart", "clear_cache", "scale"].map(|what| seen.state.applied(what));
    assert_eq!((done, seen.state.pages()), ([1; 3], 0));
}

#[tokio::test(start_paused = true)]
async fn dependencies_flap_for_an_hour() {
    let patience = Patience {
        treat: Duration::from_secs(7200),
        look: Duration::from_secs(10),
        ..Scenario::of("none").patience
    };
    let hour = |chaos| Scenario { patience, looks: Some(360), ..Scenario::of(chaos) };
    let calm = hour("none").handle().await;
    let seen = hour("flapping").handle().await;
    let took = seen.moments.last().unwrap().at;
    assert!(took >= Duration::from_secs(3600), "{took:?}: {:?}", seen.run.steps.last_chunk::<2>());
    seen.check(calm.run.calls, 0);
    assert_eq!((seen.run.outcome, seen.state.applied("restart")), (Outcome::Resolved, 1));
    // Calls that fail one after the other may be those of a client that is broken: it was built anew. Others were not.
    let generation = |vendor: &str| seen.run.generations[vendor];
    assert!(generation("aws") > 1 && generation("service") == 1, "{:?}", seen.run.generations);
}

#[tokio::test(start_paused = true)]
async fn a_seed_makes_a_run_repeatable() {
    let moments = async |seed| Scenario { seed, ..Scenario::of("default") }.handle().await.moments;
    let first = moments(7).await;
    assert_eq!(first, moments(7).await);
    assert_ne!(first, moments(8).await);
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_point_a_run_goes_on_and_nothing_happens_twice() {
    for chaos in ["none", "default"] {
        let mut outcomes = BTreeSet::new();
        for step in &Name::ALL[..Name::TREATMENT] {
            for edge in [Edge::Before, Edge::After] {
                let killed = vec![Point { step: *step, edge }];
                let seen = Scenario { killed, ..Scenario::of(chaos) }.handle().await;
                assert_eq!((seen.run.duplicates, seen.state.applied("restart")), (0, 1), "{step:?} {edge:?}");
                outcomes.insert(format!("{:?}", seen.run.outcome));
            }
        }
        assert_eq!(outcomes, BTreeSet::from(["Resolved".to_owned()]));
    }
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_moment_a_run_goes_on_and_nothing_happens_twice() {
    for seed in 0..40 {
        let mut rng = Rng::seeded(seed);
        let lives = (0..4).map(|_| rng.up_to(Duration::from_secs(9))).collect();
        let seen = Scenario { seed, lives, ..Scenario::of("default") }.handle().await;
        assert_eq!(
            (seen.run.duplicates, seen.run.outcome),
            (0, Outcome::Resolved),
            "{seed}: {:#?}",
            seen.moments
        );
        let done = ["restart", "clear_cache", "scale"].map(|what| seen.state.applied(what));
        assert_eq!((done, seen.state.pages()), ([1; 3], 0), "{seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_agent_heals_its_datadog_client() {
    let seen = Scenario::of("default").handle().await;
    assert_eq!((seen.run.outcome, seen.run.generations["datadog"]), (Outcome::Resolved, 2));
    let healed =
        seen.moments.iter().position(|moment| moment.what == What::Generation(Vendor::Datadog, 2)).unwrap();
    let answers = |well| What::Answer(Vendor::Datadog, well);
    assert!(seen.moments[healed..].iter().any(|moment| moment.what == answers(true)), "{:?}", seen.moments);
    // The metric is Datadog's own, and the alerts are from before.
    let verified = seen.detail(Name::Verify);
    assert!(
        verified.contains("metric at 277.2 ms; 1 alerts (level 2, ") && verified.ends_with(" s old)"),
        "{verified}"
    );
    seen.check(fault_free().await, 6);
}

/// The agent leaves a service alone that has become well by itself.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_well_again_is_not_restarted() {
    let incident = Arc::new(Incident::load(None).unwrap());
    let world = World::new(&incident, Ledger::in_memory(&incident.key), false);
    world.recover();
    let chaos = Chaos::load(Path::new("none")).unwrap();
    let timeline = Arc::new(Timeline::start(Console::silent()));
    let kit = Kit {
        incident: &incident,
        targets: &Targets::default(),
        bases: &vec![Base::nowhere(); Vendor::ALL.len()],
        reach: &Reach::Here(Vendor::ALL.map(|vendor| Site::new(vendor, &chaos, &world)).to_vec()),
        patience: Patience::of(Pace::Demonstration),
        timeline: &timeline,
        crash: &Arc::default(),
    };
    let config = worker(Pace::Demonstration, None).unwrap();
    let over = workflow(Memory::new(), config, "well", &incident, kit.unprotected()).await.unwrap();
    assert_eq!(over.outcome, Outcome::Resolved);
    let skipped = over.steps.iter().filter(|step| step.status == Status::Skipped).map(|step| step.name);
    let acts = [Name::Analyse, Name::Restart, Name::ClearCache, Name::Scale, Name::Verify];
    assert_eq!(skipped.collect::<Vec<_>>(), acts);
    assert_eq!(world.state().received(Vendor::Aws), 1, "it has only looked");
}
